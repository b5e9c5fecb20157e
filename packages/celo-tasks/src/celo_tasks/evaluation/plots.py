"""Pictures of an evaluation: curves per task, aggregates with intervals, performance profiles. Returned as PNG bytes.

Each ``draw_...`` renders the Figure of the ``..._figure`` of its name. Give all pictures of one report the same ``palette``,
`celo_tasks.reporting.palette.colors` of all optimizers, so that each keeps its colour where some are missing.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celo_tasks.evaluation.statistics import Interval
from celo_tasks.reporting.figures import Axes, Figure, Line2D, png, ticker, tidy
from celo_tasks.reporting.palette import BASELINE, Palette, colors

_COLUMNS = 4
_WORTH_A_LOG_AXIS = 3.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""

_POINTS = 400
"""Of a curve at most: a panel has fewer pixels across."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One optimizer's curve on a task.

    Attributes:
      name: of the optimizer.
      steps: training steps, increasing, (points,).
      mean: smoothed loss, mean over seeds, finite, (points,).
      low, high: lowest and highest over seeds, (points,); ``None`` for no band.
    """

    name: str
    steps: NDArray[np.integer]
    mean: NDArray[np.floating]
    low: NDArray[np.floating] | None = None
    high: NDArray[np.floating] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """All curves on a task.

    Attributes:
      title: name of the task.
      lines: one per optimizer.
      envelope: tuned Adam's, ``None`` if there is none; what it has beyond the last step of ``lines`` is not shown.
      ylabel: of the loss.
    """

    title: str
    lines: Sequence[Line]
    envelope: Line | None = None
    ylabel: str = "training loss"


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer's aggregates over the suite.

    Attributes:
      name: of the optimizer.
      final: interval of the final-loss ratio, ``None`` if unknown.
      speedup: interval of the speed-up, ``None`` if unknown.
      lower_bound: whether the speed-up is a lower bound: tuned Adam did not get as far on some task.
    """

    name: str
    final: Interval | None
    speedup: Interval | None
    lower_bound: bool = False


@dataclasses.dataclass(frozen=True)
class Profile:
    """One optimizer's performance profile.

    Attributes:
      name: of the optimizer.
      thresholds: scores, positive and increasing, (points,).
      share: share of runs above each, with its band: arrays (points,).
    """

    name: str
    thresholds: NDArray[np.floating]
    share: Interval


def draw_curves(panels: Sequence[Panel], palette: Palette | None = None) -> bytes:
    """Training curves, a panel a task: means over seeds with a band from lowest to highest, and tuned Adam's envelope."""
    return png(curves_figure(panels, palette))


def draw_intervals(rows: Sequence[Row], palette: Palette | None = None) -> bytes:
    """Aggregates with their intervals, a row an optimizer: final-loss ratio and speed-up side by side; Adam is the line at 1."""
    return png(intervals_figure(rows, palette))


def draw_profiles(
    profiles: Sequence[Profile], score: str = "final-loss ratio", palette: Palette | None = None
) -> bytes:
    """Performance profiles with their bands, over a logarithmic axis of ``score``."""
    return png(profiles_figure(profiles, score, palette))


def curves_figure(panels: Sequence[Panel], palette: Palette | None = None) -> Figure:
    """The Figure of `draw_curves`, with one Axes per panel in their order.

    Raises:
      ValueError: there are no panels, or one is empty.
    """
    if not panels or not all(panel.lines or panel.envelope for panel in panels):
        raise ValueError(
            "A picture needs panels with curves: evaluate one task at least, and leave out those that were not run."
        )
    palette = palette or colors(line.name for panel in panels for line in panel.lines)
    panels = [_prepared(panel) for panel in panels]
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    # A row of two panels at least keeps the legend and a lone panel's title from being squeezed.
    figure = Figure(figsize=(max(3.3 * columns, 6.0), 2.5 * rows + 0.8), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for index, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        _draw_panel(axes, panel, palette)
        if index + columns >= len(panels):  # nothing below it
            axes.set_xlabel("training step", fontsize=8)
        if index % columns == 0 or panel.ylabel != panels[index - 1].ylabel:
            axes.set_ylabel(panel.ylabel, fontsize=8)
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    shown = dict.fromkeys(line.name for panel in panels for line in panel.lines)
    handles = [Line2D([], [], color=palette[name], linewidth=1.8, label=name) for name in shown]
    if any(panel.envelope is not None for panel in panels):
        handles.append(Line2D([], [], color=BASELINE, linewidth=1.3, linestyle="--", label="tuned Adam (envelope)"))
    ncols = math.ceil(len(handles) / math.ceil(len(handles) / (max(columns, 2) + 1)))  # rows of like length
    figure.legend(handles=handles, loc="outside upper center", ncols=ncols, frameon=False, fontsize=9)
    return figure


def _prepared(panel: Panel) -> Panel:
    """The same panel without what the picture cannot show: points too close, and the envelope beyond the lines."""
    envelope, last = panel.envelope, max((line.steps[-1] for line in panel.lines), default=None)
    if envelope is not None and last is not None:
        shown = envelope.steps <= last
        envelope = Line(envelope.name, envelope.steps[shown], envelope.mean[shown])
    return dataclasses.replace(
        panel,
        lines=[_thinned(line) for line in panel.lines],
        envelope=_thinned(envelope) if envelope is not None and envelope.steps.size else None,
    )


def _thinned(line: Line) -> Line:
    kept = np.unique(np.linspace(0, len(line.steps) - 1, _POINTS).round().astype(int))
    low, high = (None if side is None else side[kept] for side in (line.low, line.high))
    return Line(line.name, line.steps[kept], line.mean[kept], low, high)


def _draw_panel(axes: Axes, panel: Panel, palette: Palette) -> None:
    for order, line in enumerate(panel.lines):
        axes.plot(line.steps, line.mean, color=palette[line.name], linewidth=1.3, zorder=4 + order, label=line.name)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.steps, line.low, line.high, color=palette[line.name], alpha=0.18, linewidth=0)
    if panel.envelope is not None:
        steps, best = panel.envelope.steps, panel.envelope.mean
        axes.plot(steps, best, color=BASELINE, linewidth=1.1, linestyle="--", zorder=20, label="envelope")
    # Long names would run into those of the panels next to it.
    axes.set_title(panel.title if len(panel.title) < 36 else panel.title.replace(" (", "\n(", 1), fontsize=9)
    lines = [*panel.lines, *([panel.envelope] if panel.envelope is not None else [])]
    axes.set_xlim(0, max(line.steps[-1] for line in lines))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=7)
    tidy(axes)
    _scale(axes, lines)
    astray = [line for line in panel.lines if line.mean[-1] > axes.get_ylim()[1]]
    for index, line in enumerate(astray):
        text, place = f"{line.name} ends above, at {line.mean[-1]:.3g}", (0.98, 0.96 - 0.09 * index)
        style: dict[str, Any] = {"color": palette[line.name], "fontsize": 7, "zorder": 30}
        axes.annotate(text, place, xycoords="axes fraction", ha="right", va="top", **style)


def _scale(axes: Axes, lines: Sequence[Line]) -> None:
    """Limits that curves gone astray do not squeeze; logarithmic where it pays."""
    # Without the first twentieth of the steps, which is steep everywhere and tells little.
    settled = [line.mean[line.steps >= line.steps[-1] / 20] for line in lines]
    low = min(float(curve.min()) for curve in settled)
    start = float(np.median([line.mean[0] for line in lines]))
    top = min(max(float(curve.max()) for curve in settled), 1.6 * start if start > 0 else math.inf)
    within = [curve[curve <= 0.98 * start] for curve in settled]
    high = max((float(curve.max()) for curve in within if curve.size), default=top)
    if low > 0 and high / low > _WORTH_A_LOG_AXIS:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, top * 1.15)
        _log_ticks(axes, "y", top / low)
    else:
        margin = 0.06 * (top - low) or 0.1
        axes.set_ylim(low - margin, top + margin)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))


def intervals_figure(rows: Sequence[Row], palette: Palette | None = None) -> Figure:
    """The Figure of `draw_intervals`: two Axes, final-loss ratio and speed-up.

    Raises:
      ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("There are no optimizers to draw: evaluate one at least.")
    palette = palette or colors(row.name for row in rows)
    figure = Figure(figsize=(9.5, 1.3 + 0.36 * len(rows)), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_intervals(left, [(row.name, row.final, False) for row in rows], palette)
    _draw_intervals(right, [(row.name, row.speedup, row.lower_bound) for row in rows], palette)
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_title("final-loss ratio, IQM", fontsize=10)
    right.set_title("speed-up, IQM", fontsize=10)
    legend = "dashed: tuned Adam = 1; to the right is better; bars: 95 % intervals over seeds"
    bounds = "; triangles and >: lower bounds" if any(row.lower_bound for row in rows) else ""
    figure.supxlabel(legend + bounds, fontsize=8)
    return figure


def _draw_intervals(axes: Axes, entries: Sequence[tuple[str, Interval | None, bool]], palette: Palette) -> None:
    ends = [end for _, interval, _ in entries if interval is not None for end in interval]
    axes.axvline(1.0, color=BASELINE, linewidth=1.1, linestyle="--", zorder=1)
    for position, (name, interval, lower_bound) in enumerate(entries):
        if interval is None:
            _numbers_right_of(axes, position, "not measured")
            continue
        color = palette[name]
        axes.plot([interval.low, interval.high], [position] * 2, color=color, linewidth=7, alpha=0.4, zorder=2)
        marker = ">" if lower_bound else "o"
        axes.plot([interval.value], [position], color=color, marker=marker, markersize=5.5, zorder=3, label=name)
        text = f"> {interval.value:.2f}" if lower_bound else f"{interval.value:.2f}"
        has_width = interval.low < interval.high  # not with one seed
        _numbers_right_of(axes, position, f"{text} [{interval.low:.2f}, {interval.high:.2f}]" if has_width else text)
    low, high = min([1.0, *ends]), max([1.0, *ends])
    if low > 0 and high / low > _WORTH_A_LOG_AXIS:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * 1.15)
        _log_ticks(axes, "x", high / low)
    else:
        margin = 0.08 * (high - low) or 0.1
        axes.set_xlim(low - margin, high + margin)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", length=0)
    tidy(axes)


def _numbers_right_of(axes: Axes, position: int, text: str) -> None:
    """Numbers in a column of their own, right of the Axes."""
    axes.annotate(text, (1.02, position), xycoords=("axes fraction", "data"), va="center", fontsize=8)


def profiles_figure(
    profiles: Sequence[Profile], score: str = "final-loss ratio", palette: Palette | None = None
) -> Figure:
    """The Figure of `draw_profiles`: one Axes.

    Raises:
      ValueError: there are no profiles, or a threshold is not positive.
    """
    if not profiles or any(np.min(profile.thresholds) <= 0 for profile in profiles):
        raise ValueError("A profile is drawn over positive thresholds on a logarithmic axis: give one at least.")
    palette = palette or colors(profile.name for profile in profiles)
    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color=BASELINE, linewidth=1.1, linestyle="--", zorder=1)
    for profile in profiles:
        color, share = palette[profile.name], profile.share
        axes.plot(profile.thresholds, share.value, color=color, linewidth=1.6, zorder=3, label=profile.name)
        axes.fill_between(profile.thresholds, share.low, share.high, color=color, alpha=0.15, linewidth=0)
    low = min(float(np.min(profile.thresholds)) for profile in profiles)
    high = max(float(np.max(profile.thresholds)) for profile in profiles)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _log_ticks(axes, "x", high / low)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"{score} τ (dashed: tuned Adam = 1)")
    axes.set_ylabel("share of runs above τ")
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def _log_ticks(axes: Axes, which: str, ratio: float) -> None:
    """Ticks with plain numbers, a few whatever the ratio of the axis' ends."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 12 else (1.0, 2.0, 5.0) if ratio < 1000 else (1.0,)
    axis.set_major_locator(ticker.LogLocator(subs=steps))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
