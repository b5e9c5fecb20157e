"""Pictures of training curves."""

from collections.abc import Sequence

import numpy as np

from celo_tasks.comparison import Comparison, Outcome
from celo_tasks.reporting.figures import Axes, Figure, png, ticker
from celo_tasks.reporting.palette import colors


def draw(comparisons: Sequence[Comparison]) -> bytes:
    """Draws smoothed training losses, one panel a task, and returns the PNG.

    Bold lines are the best learning rate of each optimizer, thin light ones the others.
    """
    figure = Figure(figsize=(5.2 * len(comparisons), 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
    for axes, comparison in zip(panels, comparisons, strict=True):
        _panel(axes, comparison)
    figure.suptitle("Smoothed training loss (bold: best learning rate, thin: the others tried)", fontsize=11)
    return png(figure)


def _panel(axes: Axes, comparison: Comparison) -> None:
    palette = colors(outcome.contestant.name for outcome in comparison.outcomes)
    for outcome in comparison.outcomes:
        _lines(axes, outcome, palette[outcome.contestant.name])
    axes.set_title(f"{comparison.task} ({comparison.num_parameters:,} parameters)", fontsize=10)
    axes.set_xlabel("training step")
    axes.set_ylabel("training loss (nats)")
    axes.set_xlim(0, comparison.num_steps)
    _scale(axes, comparison)
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _lines(axes: Axes, outcome: Outcome, color: str) -> None:
    steps = np.arange(1, outcome.candidates[0].losses.shape[-1] + 1)
    tuned = bool(outcome.contestant.learning_rates)
    for candidate, curve in zip(outcome.candidates, outcome.smoothed(), strict=True):
        if candidate is outcome.best:
            label = f"{outcome.contestant.name}, {f'best at {candidate.learning_rate:g}' if tuned else 'not tuned'}"
            axes.plot(steps, curve, color=color, linewidth=1.8 if tuned else 2.6, zorder=3 if tuned else 4, label=label)
        else:
            axes.plot(steps, curve, color=color, linewidth=0.7, alpha=0.35, zorder=2)


def _scale(axes: Axes, comparison: Comparison) -> None:
    """Axis limits from the best curves, since hopeless ones would squeeze them; logarithmic where it pays."""
    best = np.stack([outcome.best_curve() for outcome in comparison.outcomes])
    # The first steps, from the loss of guessing downwards, are steep everywhere and tell little.
    settled = best[:, comparison.num_steps // 20 :]
    low, high = settled.min(), settled.max()
    if low > 0 and high / low > 3:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, best.max() * 1.25)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        margin = 0.06 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
