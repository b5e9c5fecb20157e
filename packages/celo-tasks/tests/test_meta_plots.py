"""The pictures of a meta-training, through their Figures before they are rendered."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from celo_tasks.evaluation.curves import smooth
from celo_tasks.reporting import meta_plots

TASKS = ("mlp", "convnet", "lstm", "autoencoder")


def log_line(iteration: int, inner_steps: int | None = None, **more: Any) -> dict[str, Any]:
    loss = 2.3 * 0.5 ** (iteration / 500) + 0.05 * np.sin(iteration)
    line = {"iteration": iteration, "seconds": 0.1 * iteration, "inner_steps": inner_steps or 320 * iteration}
    return {**line, "meta_loss": loss, "gradient_norm": 10 ** np.sin(iteration), "non_finite": 0.0, **more}


def validation_line(iteration: int, ratio: float = 0.5, **more: Any) -> dict[str, Any]:
    steps = list(range(1, 300, 3))
    sizes = [1e-3 * ratio / step for step in steps]
    task = {"ratio": ratio, "steps": steps, "step_sizes": sizes, "losses": sizes}
    return {"iteration": iteration, "seconds": 1.0, "ratio": ratio, "tasks": dict.fromkeys(TASKS, task), **more}


def write(path: Path, lines: Iterable[dict[str, Any]], end: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)


@pytest.fixture
def phase(tmp_path: Path) -> Path:
    """The folder of a phase of 1000 meta-iterations, validated five times."""
    write(tmp_path / "log.jsonl", [log_line(10 * i) for i in range(1, 101)])
    write(tmp_path / "validation.jsonl", [validation_line(250 * i, 0.3 + 0.2 * i) for i in range(5)])
    return tmp_path


def texts(axes: Axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def test_pictures_are_pngs_with_something_on_them(phase: Path) -> None:
    for draw in (meta_plots.draw_meta_loss, meta_plots.draw_step_sizes):
        png = draw(phase)
        width, height = size(png)
        # A blank picture of this size has below 10 kB.
        assert width >= 700 and height >= 500 and len(png) > 30_000


def test_the_loss_is_drawn_as_logged_and_smoothed(phase: Path) -> None:
    loss, gradient, ratio = meta_plots.meta_loss_figure(phase).axes
    values = [log_line(10 * i)["meta_loss"] for i in range(1, 101)]
    raw, smoothed = loss.lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(10, 1001, 10))
    np.testing.assert_array_equal(raw.get_ydata(), values)
    np.testing.assert_allclose(smoothed.get_ydata(), smooth(np.asarray(values), 0.7))  # over 100 / 30 lines
    assert (raw.get_alpha() or 1) < 0.5 and "over about 33" in texts(loss)
    assert [axes.get_yscale() for axes in (loss, gradient, ratio)] == ["linear", "log", "log"]
    assert all(axes.get_xlim() == loss.get_xlim() for axes in (gradient, ratio))


def test_tuned_adam_is_a_line_at_one_and_in_view(phase: Path) -> None:
    figure = meta_plots.meta_loss_figure(phase)
    lines = {line.get_label(): line for line in figure.axes[-1].lines}
    assert list(np.asarray(lines["tuned Adam = 1 (up is better)"].get_ydata())) == [1, 1]
    np.testing.assert_allclose(lines["geometric mean"].get_ydata(), [0.3, 0.5, 0.7, 0.9, 1.1])
    assert set(TASKS) < set(lines)
    low, high = figure.axes[-1].get_ylim()
    assert low < 0.3 and high > 1.1
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(lines)


def test_inner_steps_are_those_of_the_log_where_their_number_changes(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", [log_line(100, 1000), log_line(200, 2000), log_line(300, 12_000)])
    (above,) = meta_plots.meta_loss_figure(tmp_path).axes[0].child_axes
    forward, back = above._functions  # type: ignore[attr-defined]
    done = np.asarray([0.0, 50.0, 150.0, 300.0, 600.0])
    np.testing.assert_allclose(forward(done), [0, 500, 1500, 12_000, 24_000])
    np.testing.assert_allclose(back(forward(done)), done)


def test_a_log_of_one_line_and_a_damaged_one_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", [log_line(10)], end='{"iteration": 20, "meta_lo')
    write(tmp_path / "validation.jsonl", [validation_line(0)], end='{"iteration": 10')
    figure = meta_plots.meta_loss_figure(tmp_path)
    assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == [1, 1, 1]
    assert size(meta_plots.draw_meta_loss(tmp_path)) and size(meta_plots.draw_step_sizes(tmp_path))
    assert [len(axes.lines) for axes in meta_plots.step_sizes_figure(tmp_path).axes] == [1] * len(TASKS)


def test_a_log_has_no_more_panels_than_it_has_numbers(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", [{"iteration": i, "meta_loss": 1 / i} for i in range(1, 9)])
    (axes,) = meta_plots.meta_loss_figure(tmp_path).axes
    assert not axes.child_axes and axes.get_xlabel() == "meta-iteration"


def test_what_is_not_finite_or_was_repeated_does_not_spoil_the_curves(tmp_path: Path) -> None:
    lines = [log_line(i) for i in range(1, 5)]
    del lines[1]["meta_loss"]  # as a log leaves out what is not finite
    write(tmp_path / "log.jsonl", [*lines, log_line(3, meta_loss=7.0, gradient_norm=0.0)])
    loss, gradient = meta_plots.meta_loss_figure(tmp_path).axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 3, 4])
    assert np.asarray(loss.lines[0].get_ydata())[1] == 7.0  # the later of two lines of one iteration
    np.testing.assert_array_equal(gradient.lines[0].get_xdata(), [1, 4])  # a logarithm of zero has no place


def test_divergences_are_told(phase: Path) -> None:
    write(phase / "log.jsonl", [log_line(10 * i, non_finite=0.25 * (i == 7)) for i in range(1, 101)])
    write(phase / "events.jsonl", [{"iteration": 200, "at": 230, "wrong": "the meta-loss", "action": "rollback"}])
    figure = meta_plots.meta_loss_figure(phase)
    assert "25 % of losses not finite at meta-iteration 70" in texts(figure.axes[0])
    assert "divergence" in texts(figure.axes[0])
    for axes in figure.axes:
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [list(np.asarray(line.get_xdata())) for line in dotted] == [[200, 200]]


def test_notes_stand_above_the_curves(phase: Path) -> None:
    write(phase / "log.jsonl", [log_line(10 * i, meta_loss=2.0 + i / 100, non_finite=0.1) for i in range(1, 101)])
    figure = meta_plots.meta_loss_figure(phase)
    figure.draw_without_rendering()
    loss = figure.axes[0]
    lowest = min(text.get_window_extent().y0 for text in loss.texts)
    assert len(loss.texts) == 2 and loss.transData.transform((1000, 3.0))[1] < lowest


def test_step_sizes_are_those_of_the_first_middle_and_last_measurement(phase: Path) -> None:
    figure = meta_plots.step_sizes_figure(phase)
    assert [axes.get_title() for axes in figure.axes] == list(TASKS)
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        assert [line.get_label() for line in axes.lines] == [f"meta-iteration {i:,}" for i in (0, 500, 1000)]
        np.testing.assert_allclose(axes.lines[2].get_ydata(), [1e-3 * 1.1 / step for step in range(1, 300, 3)])
    assert len(figure.legends[0].get_texts()) == 3


def test_step_sizes_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    task = {"steps": [1, 2, 3], "step_sizes": [0.1, None, 0.0]}
    write(tmp_path / "validation.jsonl", [validation_line(5, tasks={"mlp": task})])
    (axes,) = meta_plots.step_sizes_figure(tmp_path).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.1, np.nan, np.nan])


@pytest.mark.parametrize("content", [None, "", '{"iteration": 1'])
def test_nothing_to_draw_is_told_in_a_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
        (tmp_path / "validation.jsonl").write_text(content)
    with pytest.raises(ValueError, match="log.jsonl has no meta-iterations to draw: meta-train in this folder first"):
        meta_plots.draw_meta_loss(tmp_path)
    with pytest.raises(ValueError, match="validation.jsonl has no measurement to draw"):
        meta_plots.draw_step_sizes(tmp_path)
