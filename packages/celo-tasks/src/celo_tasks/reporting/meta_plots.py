"""Pictures of a meta-training, from what a phase leaves in its folder. Returned as PNG bytes.

Each ``draw_...`` renders the Figure of the ``..._figure`` of its name. They can be drawn while the phase still runs: a last
line that is not whole yet is passed over.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celo_tasks.evaluation.curves import smooth
from celo_tasks.reporting import palette
from celo_tasks.reporting.figures import Axes, Figure, png, ticker, tidy

Curve = NDArray[np.float64]
Folder = str | os.PathLike[str]

LOG, VALIDATION, EVENTS = "log.jsonl", "validation.jsonl", "events.jsonl"

_META_LOSS, _GRADIENT, _RATIO = palette.BLUE, palette.GREEN, palette.VERMILION
_TASKS = (palette.BLUE, palette.GREEN, palette.PURPLE, palette.ORANGE, palette.SKY, palette.OLIVE)
_TUNED_ADAM, _DIVERGED = palette.BASELINE, palette.WINE
# Of one measurement in a picture that has two or three, from the first to the last.
_TIMES = {
    1: (palette.VERMILION,),
    2: (palette.LIGHT_GREY, palette.VERMILION),
    3: (palette.LIGHT_GREY, palette.LIGHT_BLUE, palette.VERMILION),
}

_WINDOWS = 30
"""The smoothed curves have a memory of the whole's length over this."""


def draw_meta_loss(folder: Folder) -> bytes:
    """Meta-loss and gradient norm against meta-iterations, and the validation ratio where it was measured.

    Args:
      folder: of a phase: it has a ``log.jsonl``, and may have an ``events.jsonl`` (for both see
        `celo_core.meta_training.run.run_phase`) and a ``validation.jsonl``, whose lines are what
        `celo_tasks.meta_training.validation.MetaValidation.measure` returned, with the fields ``"iteration"`` and ``"seconds"``.

    Raises:
      ValueError: there is no log, or it has no whole line yet.
    """
    return png(meta_loss_figure(folder))


def draw_step_sizes(folder: Folder) -> bytes:
    """Relative step sizes over a training, a panel a validation task: at the first, a middle and the last measurement.

    Args:
      folder: of a phase: it has a ``validation.jsonl``, see `draw_meta_loss`.

    Raises:
      ValueError: there is none, or it has no whole line yet.
    """
    return png(step_sizes_figure(folder))


def meta_loss_figure(folder: Folder) -> Figure:
    """The Figure of `draw_meta_loss`: Axes of the meta-loss, of the gradient norm where it is logged, and of the ratio."""
    log = _read(pathlib.Path(folder) / LOG, ("meta_loss",))
    if not log:
        raise ValueError(
            f"{pathlib.Path(folder) / LOG} has no meta-iterations to draw: meta-train in this folder first."
        )
    validation = _read(pathlib.Path(folder) / VALIDATION, ("ratio", "tasks"))
    events = _read(pathlib.Path(folder) / EVENTS, ("wrong",))
    gradients = [line for line in log if "gradient_norm" in line]
    heights = [2.2] + [1.4] * bool(gradients) + [2.0] * bool(validation)
    figure = Figure(figsize=(8.0, 1.0 + 1.35 * sum(heights)), dpi=130, layout="constrained")
    panels = iter(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    _draw_meta_loss(next(panels), log, bool(events))
    if gradients:
        axes = next(panels)
        _raw_and_smoothed(axes, gradients, "gradient_norm", _GRADIENT, logarithmic=True)
        axes.set_ylabel("norm of the\nmeta-gradient")
    if validation:
        _draw_ratios(next(panels), validation)
    for axes in figure.axes:
        for event in events:
            axes.axvline(event["iteration"], color=_DIVERGED, linewidth=1.0, linestyle=":", zorder=1)
        tidy(axes)
    figure.axes[-1].set_xlabel("meta-iteration")
    iterations = [line["iteration"] for line in (*log, *validation)]
    # From zero on, with a little room so that what stands at the ends is seen.
    figure.axes[0].set_xlim(0, 1.02 * max(iterations))
    figure.axes[0].xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    _add_inner_steps(figure.axes[0], log)
    if validation:
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _draw_meta_loss(axes: Axes, log: Sequence[Mapping[str, Any]], diverged: bool) -> None:
    window = _raw_and_smoothed(axes, log, "meta_loss", _META_LOSS)
    axes.set_ylabel("meta-loss")
    each = log[0]["iteration"] if len(log) == 1 else log[-1]["iteration"] - log[-2]["iteration"]
    text = f"mean of {each} meta-iterations" if each > 1 else "each meta-iteration"
    if window > 1:
        text = f"faint: {text}; bold: running average over about {round(window * each):,}"
    notes = [(text, palette.TEXT)]
    # A meta-gradient may have a bias where trainings diverge: a reader is to know of it.
    worst = max(log, key=lambda line: line.get("non_finite", 0.0))
    if worst.get("non_finite", 0.0) > 0:
        text = f"{100 * worst['non_finite']:.2g} % of losses not finite at meta-iteration {worst['iteration']:,}"
        notes.append((text, _DIVERGED))
    if diverged:
        notes.append(("dotted: a divergence, or where the run was rolled back to", _DIVERGED))
    # In a strip of their own above the curves.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * len(notes) * (high - low))
    for row, (text, color) in enumerate(notes):
        place = (0.99, 0.98 - 0.08 * row)
        axes.annotate(text, place, xycoords="axes fraction", ha="right", va="top", fontsize=8, color=color)


def _raw_and_smoothed(
    axes: Axes, lines: Sequence[Mapping[str, Any]], field: str, color: str, *, logarithmic: bool = False
) -> float:
    """Draws a field of the log, faint as it is and bold smoothed; returns the lines that the average goes over."""
    iterations = np.asarray([line["iteration"] for line in lines])
    values = _floats([line[field] for line in lines])
    window = max(1.0, len(lines) / _WINDOWS)
    positive = values > 0 if logarithmic else np.isfinite(values)
    iterations, values = iterations[positive & np.isfinite(values)], values[positive & np.isfinite(values)]
    if logarithmic:
        axes.set_yscale("log")
    if not len(values):
        return window
    if window > 1:
        smoothed = smooth(np.log(values) if logarithmic else values, 1 - 1 / window)
        axes.plot(iterations, values, color=color, linewidth=0.8, alpha=0.3)
        axes.plot(iterations, np.exp(smoothed) if logarithmic else smoothed, color=color, linewidth=1.8)
    else:
        marker = _marker(len(values), 3.5)
        axes.plot(iterations, values, color=color, linewidth=1.4, **marker)
    if logarithmic:
        _log_ticks(axes, float(values.max() / values.min()))
    return window


def _draw_ratios(axes: Axes, validation: Sequence[Mapping[str, Any]]) -> None:
    iterations = [line["iteration"] for line in validation]
    marker = _marker(len(iterations), 3.0)
    axes.set_yscale("log")
    means = _floats([line["ratio"] for line in validation])
    axes.plot(iterations, means, color=_RATIO, linewidth=2.4, label="geometric mean", zorder=5, **marker)
    axes.axhline(1.0, color=_TUNED_ADAM, linewidth=1.1, linestyle="--", label="tuned Adam = 1 (up is better)", zorder=1)
    shown = [1.0]
    for number, name in enumerate(validation[-1]["tasks"]):
        ratios = _floats([line["tasks"].get(name, {}).get("ratio") for line in validation])
        color = _TASKS[number % len(_TASKS)]
        axes.plot(iterations, ratios, color=color, linewidth=1.0, alpha=0.8, label=name, **marker)
        shown += ratios[ratios > 0].tolist()
    low, high = min(shown), max(shown)
    axes.set_ylim(low / 1.15, high * 1.15)
    _log_ticks(axes, high / low)
    axes.set_ylabel("validation: final loss of\ntuned Adam / learned optimizer")


def _add_inner_steps(axes: Axes, log: Sequence[Mapping[str, Any]]) -> None:
    """A second axis above: the training steps that the meta-iterations took."""
    lines = [line for line in log if line.get("inner_steps")]
    if not lines:
        return
    # Where the truncation changes in the run, a meta-iteration does not take the same number throughout.
    points = np.asarray([(0, 0), *((line["iteration"], line["inner_steps"]) for line in lines)], np.float64)
    # Beyond the log, where only a validation may be, as on the average so far.
    done, taken = np.append(points, 1e6 * points[-1:], axis=0).T
    functions = (lambda x: np.interp(x, done, taken), lambda x: np.interp(x, taken, done))
    above = axes.secondary_xaxis("top", functions=functions)
    above.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    above.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    above.set_xlabel("inner steps: training steps of all problems", fontsize=9)
    above.tick_params(labelsize=8)


def step_sizes_figure(folder: Folder) -> Figure:
    """The Figure of `draw_step_sizes`: Axes for each task of the last measurement."""
    path = pathlib.Path(folder) / VALIDATION
    validation = _read(path, ("tasks",))
    if not validation or not validation[-1]["tasks"]:
        raise ValueError(f"{path} has no measurement to draw: meta-train in this folder with validation first.")
    chosen = [validation[i] for i in sorted({0, len(validation) // 2, len(validation) - 1})]
    names = list(validation[-1]["tasks"])
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(3.3 * columns, 6.0), 2.5 * rows + 0.8), dpi=130, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        _draw_step_sizes(axes, name, chosen)
        if index + columns >= len(names):  # nothing below it
            axes.set_xlabel("training step", fontsize=8)
        if index % columns == 0:
            axes.set_ylabel("|update| / |parameters|", fontsize=8)
    for axes in panels[len(names) :]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _draw_step_sizes(axes: Axes, name: str, measurements: Sequence[Mapping[str, Any]]) -> None:
    axes.set_yscale("log")
    shown: list[float] = []
    for number, (line, color) in enumerate(zip(measurements, _TIMES[len(measurements)], strict=True)):
        task = line["tasks"].get(name, {"steps": [], "step_sizes": []})
        sizes = _floats(task["step_sizes"])
        sizes[~(sizes > 0)] = np.nan  # nothing to show on a logarithmic axis
        label = f"meta-iteration {line['iteration']:,}"
        axes.plot(task["steps"], sizes, color=color, linewidth=1.0 + 0.3 * number, label=label)
        shown += sizes[np.isfinite(sizes)].tolist()
    axes.set_title(name, fontsize=9)
    if shown:
        low, high = min(shown), max(shown)
        axes.set_ylim(low / 1.2, high * 1.2)
        _log_ticks(axes, high / low)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    tidy(axes)


def _read(path: pathlib.Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The whole lines of a log that have these fields, by iteration; of two of one iteration the later."""
    if not path.exists():
        return []
    found: dict[int, dict[str, Any]] = {}
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # cut short by a kill, or still being written
            continue
        if isinstance(line, dict) and all(field in line for field in ("iteration", *fields)):
            found[int(line["iteration"])] = line
    return [found[iteration] for iteration in sorted(found)]


def _marker(points: int, size: float) -> dict[str, Any]:
    """Dots where there are few points: a single one makes no line."""
    return {"marker": "o", "markersize": size} if points < _WINDOWS else {}


def _floats(values: Sequence[float | None]) -> Curve:
    """Numbers, NaN for ``None``."""
    return np.asarray([math.nan if value is None else value for value in values], np.float64)


def _log_ticks(axes: Axes, ratio: float) -> None:
    """Ticks with plain numbers, a few whatever the ratio of the axis' ends."""
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 6 else (1.0, 2.0, 5.0) if ratio < 500 else (1.0,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
