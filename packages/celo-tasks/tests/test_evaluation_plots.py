"""The pictures of an evaluation, through their Figures before they are rendered."""

import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes

from celo_tasks.evaluation import plots
from celo_tasks.evaluation.plots import Line, Panel, Profile, Row
from celo_tasks.evaluation.statistics import Interval
from celo_tasks.reporting.palette import colors

PNG = b"\x89PNG\r\n\x1a\n"

STEPS = np.arange(1, 101)


def falling(name: str, end: float, band: bool = True) -> Line:
    mean = end + (2.3 - end) * np.exp(-STEPS / 20)
    return Line(name, STEPS, mean, 0.95 * mean, 1.05 * mean) if band else Line(name, STEPS, mean)


def panel(title: str = "mlp") -> Panel:
    longer = Line("adam", np.arange(1, 401), np.linspace(2.3, 0.01, 400))
    return Panel(title, [falling("celo", 0.2), falling("sgd", 1.0, band=False)], longer, "loss (nats)")


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_curves_have_a_panel_a_task_in_four_columns_at_most() -> None:
    titles = [f"task {i}" for i in range(6)]
    figure = plots.curves_figure([panel(title) for title in titles])
    assert [axes.get_title() for axes in figure.axes] == titles
    specs = [axes.get_subplotspec() for axes in figure.axes]
    places = [(spec.rowspan.start, spec.colspan.start) for spec in specs if spec is not None]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def test_a_panel_has_a_line_an_optimizer_and_the_envelope_as_far_as_they_go() -> None:
    figure = plots.curves_figure([panel()])
    (axes,) = figure.axes
    celo, sgd, envelope = axes.lines
    assert (celo.get_label(), sgd.get_label()) == ("celo", "sgd") and len(
        axes.collections
    ) == 1  # one of two has a band
    np.testing.assert_array_equal(celo.get_ydata(), falling("celo", 0.2).mean)
    assert envelope.get_linestyle() == "--" and np.asarray(envelope.get_xdata()).max() == 100
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["celo", "sgd", "tuned Adam (envelope)"]


def test_long_curves_are_thinned_from_first_to_last_step() -> None:
    steps = np.arange(1, 10_001)
    (axes,) = plots.curves_figure([Panel("long", [Line("celo", steps, 1 / steps, 0 / steps, 2 / steps)])]).axes
    shown = np.asarray(axes.lines[0].get_xdata())
    assert len(shown) <= 1000 and (shown[0], shown[-1]) == (1, 10_000)


def test_losses_are_on_a_log_axis_where_they_span_much() -> None:
    wide, narrow = Panel("wide", [falling("celo", 0.02)]), Panel("narrow", [falling("celo", 2.0)])
    assert [axes.get_yscale() for axes in plots.curves_figure([wide, narrow]).axes] == ["log", "linear"]


def test_curves_gone_astray_do_not_squeeze_the_others_but_are_named() -> None:
    good, flat = falling("celo", 1.5), Line("sgd", STEPS, np.full(100, 3.45))
    wild = Line("lion", STEPS, np.linspace(2.3, 1e6, 100))
    (axes,) = plots.curves_figure([Panel("mlp", [good, flat, wild])]).axes
    assert 3.45 < axes.get_ylim()[1] < 10  # a diverged curve at the normaliser's end is still seen
    assert texts(axes) == ["lion ends above, at 1e+06"]


def test_intervals_show_values_bounds_and_what_is_missing() -> None:
    rows = [
        Row("celo", Interval(1.1, 1.2, 1.3), Interval(3.0, 3.5, 3.9), lower_bound=True),
        Row("adamw", Interval(0.9, 0.9, 0.9), None),
    ]
    left, right = plots.intervals_figure(rows).axes
    assert texts(left) == ["1.20 [1.10, 1.30]", "0.90"]  # without width, as of one seed, there is nothing to bracket
    assert texts(right) == ["> 3.50 [3.00, 3.90]", "not measured"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["celo", "adamw"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row is at the top
    markers = {axes: [line.get_marker() for line in axes.lines if line.get_label() == "celo"] for axes in (left, right)}
    assert markers == {left: ["o"], right: [">"]}
    for axes in (left, right):  # tuned Adam, in view
        assert list(np.asarray(axes.lines[0].get_xdata())) == [1.0, 1.0]
        assert axes.get_xlim()[0] < 1 < axes.get_xlim()[1]
    assert (left.get_xscale(), right.get_xscale()) == ("linear", "log")


def test_profiles_have_a_line_and_a_band_each_over_a_log_axis() -> None:
    thresholds = np.geomspace(0.1, 10, 21)
    share = Interval(*(np.linspace(top, 0, 21) for top in (0.9, 0.95, 1.0)))
    (axes,) = plots.profiles_figure([Profile(name, thresholds, share) for name in ("celo", "sgd")], "speed-up").axes
    assert axes.get_xscale() == "log" and "speed-up" in axes.get_xlabel()
    assert [line.get_label() for line in axes.lines[1:]] == ["celo", "sgd"] and len(axes.collections) == 2
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), share.value)


def test_ten_optimizers_have_ten_colors_and_keep_those_reserved() -> None:
    names = ["sgd", "lion", "celo", "velo", "adamw", "adam", "shampoo", "mine", "muon", "yogi"]
    palette = colors(names)
    assert list(palette) == names and len(set(palette.values())) == 10
    assert {name: colors([name])[name] for name in ("adam", "adamw", "celo")}.items() <= palette.items()
    assert len(colors(map(str, range(20)))) == 20


def test_a_palette_is_kept_where_optimizers_are_missing() -> None:
    palette = colors(["lion", "sgd", "celo"])
    one = dataclasses.replace(panel(), lines=[falling("sgd", 1.0)])
    assert plots.curves_figure([one], palette).axes[0].lines[0].get_color() == palette["sgd"]
    assert palette["sgd"] != colors(["sgd"])["sgd"]


def test_pictures_are_pngs() -> None:
    thresholds = np.geomspace(0.1, 10, 5)
    flat = Interval(*[np.full(5, 0.5)] * 3)
    pictures = [
        plots.draw_curves([panel()]),
        plots.draw_intervals([Row("celo", Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0))]),  # no log axis of zero
        plots.draw_profiles([Profile("celo", thresholds, flat)]),
    ]
    assert all(picture.startswith(PNG) for picture in pictures)


def test_nothing_to_draw_is_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="evaluate one task"):
        plots.draw_curves([])
    with pytest.raises(ValueError, match="evaluate one task"):
        plots.draw_curves([Panel("empty", [])])
    with pytest.raises(ValueError, match="evaluate one at least"):
        plots.draw_intervals([])
    with pytest.raises(ValueError, match="positive thresholds"):
        plots.draw_profiles([Profile("celo", np.zeros(1), Interval(*[np.zeros(1)] * 3))])
