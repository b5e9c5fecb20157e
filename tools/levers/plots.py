"""Plots of what run.py has measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tables import NAMES, Record, best, cases, median, values

from celo_tasks.reporting.figures import Figure, ticker, tidy

CURVES = ("changed", "log_alpha", "planned")
"""Experiments of which curves are drawn: of the others none are kept."""


def curves(record: Record, case: str, optimizer: str, value: float) -> np.ndarray:
    """Median over seeds of the curves; NaN where it is not finite."""
    chosen = [
        run["curve"]
        for run in record["runs"]
        if (run["case"], run["optimizer"], run["value"]) == (case, optimizer, value)
    ]
    return np.median(np.array(chosen, dtype=float), axis=0)


COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def draw(found: Mapping[str, Record]) -> Figure:
    """A panel for each experiment that has a plot."""
    panels = {name: PANELS[name] for name in PANELS if name in found}
    rows = max(1, math.ceil(len(panels) / 3))
    figure = Figure(figsize=(12.6, 4.3 * rows), dpi=110, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
    figure.suptitle(
        "Celo (solid) over its step_multiplier, and Adam (dashed) at the learning rate that is best for it; medians over seeds",
        fontsize="medium",
    )
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, panel) in zip(grid, panels.items(), strict=False):
        panel(axes, found[name])
        tidy(axes)
        axes.legend(
            frameon=False,
            fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.17),
            ncols=2,
            columnspacing=1.0,
            handlelength=2.2,
        )
    return figure


def _over_multipliers(axes: Any, record: Record, metric: str, label: str, first: str | None = None) -> None:
    """A line of Celo and a dashed level of Adam for each case."""
    for colour, case in zip(COLOURS, cases(record), strict=False):
        at = values(record, "celo", case)
        axes.plot(
            at, [median(record, case, "celo", v, metric) for v in at], "o-", color=colour, label=label.format(case)
        )
        rate = best(record, case, "adam", first or metric)
        level = median(record, case, "adam", rate, metric)
        axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=f"Adam at {rate:g}")
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{v:g}" for v in at])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("step_multiplier")


def _logarithmic(axes: Any) -> None:
    axes.set_yscale("log")
    _decimal(axes.yaxis)


def _draw_small_batches(axes: Any, record: Record) -> None:
    _over_multipliers(axes, record, "training_loss", "batch of {}")
    _logarithmic(axes)
    axes.set(title="small batches", ylabel="final training loss (nats)")


def _draw_pixels(axes: Any, record: Record) -> None:
    _over_multipliers(axes, record, "training_loss", "pixels of {}")
    _logarithmic(axes)
    axes.set(title="inputs that are not normalised", ylabel="final training loss (nats)")


def _draw_fine_tuning(axes: Any, record: Record) -> None:
    names = {"classes": "new classes", "turned": "images on their side"}
    for colour, case in zip(COLOURS, cases(record), strict=False):
        for optimizer, style, title in (("celo", "o-", "Celo"), ("adam", "s--", "Adam")):
            at = values(record, optimizer)
            points = [[median(record, case, optimizer, v, metric) for v in at] for metric in ("new_loss", "old_loss")]
            axes.plot(*points, style, color=colour, label=f"{title}, {names.get(case, case)}")
            if (optimizer, case) == ("celo", "classes"):
                for value, *point in zip(at, *points, strict=True):
                    axes.annotate(f"{value:g}", point, xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    _logarithmic(axes)
    _decimal(axes.xaxis)
    axes.set(
        title="fine-tuning",
        xlabel="held-out loss on the new data (nats)",
        ylabel="held-out loss on the old data (nats)",
    )


def _decimal(axis: Any) -> None:
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def _draw_lora(axes: Any, record: Record) -> None:
    _over_multipliers(axes, record, "new_loss", "{}")
    _logarithmic(axes)
    axes.set(title="LoRA", ylabel="held-out loss on the new data (nats)")


def _draw_curves(
    axes: Any, record: Record, case: str, runs: Sequence[tuple[str, str, float, str]], steps: float
) -> None:
    for label, optimizer, value, style in runs:
        curve = curves(record, case, optimizer, value)
        axes.plot((np.arange(len(curve)) + 0.5) * steps / len(curve), curve, style, label=label, linewidth=1.3)
    axes.set_xlabel("step")


def _draw_changed(axes: Any, record: Record) -> None:
    one, anew = cases(record)
    steps = record["settings"]["steps"]
    rate = best(record, one, "adam", "training_loss")
    _draw_curves(axes, record, one, [(f"Celo x {v:g}", "celo", v, "-") for v in (1.0, 0.1)], steps)
    _draw_curves(axes, record, anew, [("Celo, begun anew", "celo", 1.0, "-")], steps)
    _draw_curves(axes, record, one, [(f"Adam at {rate:g}", "adam", rate, "--")], steps)
    _logarithmic(axes)
    axes.set(title="labels permuted in the middle", ylabel="training loss (nats)")


def _draw_bootstrapped(axes: Any, record: Record) -> None:
    _over_multipliers(axes, record, "error", "{}")
    _logarithmic(axes)
    axes.set(title="temporal differences", ylabel="final error (deviations of the values)")


def _draw_gan(axes: Any, record: Record) -> None:
    for optimizer, style, colour in (
        ("celo", "o-", "tab:blue"),
        ("adam", "s--", "tab:orange"),
        ("adam_b1_0.5", "^--", "tab:green"),
    ):
        at = values(record, optimizer)
        axes.plot(
            at,
            [median(record, "ring", optimizer, v, "energy_distance") for v in at],
            style,
            color=colour,
            label=NAMES[optimizer],
        )
    floor = np.median([run["energy_distance_of_data"] for run in record["runs"]])
    axes.axhline(floor, color="grey", linestyle=":", label="the data themselves")
    axes.set_xscale("log")
    _logarithmic(axes)
    axes.set(
        title="GAN of 8 Gaussians",
        xlabel="step_multiplier (Celo), learning rate (Adam)",
        ylabel="energy distance to the data",
    )


def _draw_log_alpha(axes: Any, record: Record) -> None:
    case, steps = cases(record)[0], record["settings"]["steps"]
    rate = best(record, case, "adam", "error")
    runs = [(f"Celo x {v:g}", "celo", v, "-") for v in (4.0, 1.0, 0.25)]
    _draw_curves(axes, record, case, [*runs, (f"Adam at {rate:g}", "adam", rate, "--")], steps)
    axes.axhline(record["runs"][0]["best"], color="grey", linestyle=":", label="the best one")
    axes.set(title="log alpha of soft actor-critic", ylabel="log alpha")


def _draw_planned(axes: Any, record: Record) -> None:
    for case in cases(record):
        kind, plan = case.split("; ")
        if kind == "text" and "taken" not in plan:
            curve, taken = curves(record, case, "celo", 1.0), 1000 if plan.endswith("1,000") else 2000
            parts = 25
            smooth = curve.reshape(parts, -1).mean(axis=1)
            label = plan.removeprefix("planned ").replace(" to 2,000", "")
            axes.plot((np.arange(parts) + 0.5) * taken / parts, smooth, label=label, linewidth=1.3)
    axes.set(
        title="planned for 1,000 or 2,000 steps (text)", xlabel="step", ylabel="training loss (nats)", ylim=(1.75, 2.5)
    )


PANELS: dict[str, Callable[[Any, Record], None]] = {
    "small_batches": _draw_small_batches,
    "pixels": _draw_pixels,
    "fine_tuning": _draw_fine_tuning,
    "lora": _draw_lora,
    "changed": _draw_changed,
    "bootstrapped": _draw_bootstrapped,
    "gan": _draw_gan,
    "log_alpha": _draw_log_alpha,
    "planned": _draw_planned,
}
"""By experiment."""
