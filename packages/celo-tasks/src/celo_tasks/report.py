"""What a comparison found, as a table, as sentences and as JSON."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from celo_tasks.comparison import Candidate, Comparison, Outcome
from celo_tasks.evaluation import curves
from celo_tasks.reporting import tables

CURVE_POINTS = 200
"""Points to which a curve is thinned out in the JSON file."""

COLUMNS = (
    "task",
    "optimizer",
    "learning rate",
    "training loss",
    "held-out loss",
    "held-out accuracy",
    "speed-up over Adam",
    "ms per step",
    "time x Adam",
)

NOTES = """\
Training loss: mean of the last 5 % of steps, in nats. Held-out: on data never trained on. The sets are small: a network
that comes to fit all of its images overfits, whatever the optimizer.
Learning rate: the best of those tried, by training loss. A star marks the edge of the grid: a better one may lie outside.
Speed-up over Adam, in steps: how many steps tuned Adam needs for the training loss that the optimizer ends at, over the
steps that the optimizer took. Losses are smoothed, and tuned Adam is the lowest so far of all its learning rates at each
step: it is picked in hindsight, and may have been lower than where it ends.
  below 1, e.g. 0.50: Adam is faster, it needs half the steps
  "> 1.00": the optimizer is faster, Adam does not get there in as many steps
Time: median over the run; a step that takes longer must be worth it."""


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table, padded so that it reads well as plain text, with one row per task and optimizer."""
    rows = [_row(comparison, outcome) for comparison in comparisons for outcome in comparison.outcomes]
    return tables.markdown(COLUMNS, rows, right=range(2, len(COLUMNS)))  # words flush left, numbers flush right


def _row(comparison: Comparison, outcome: Outcome) -> tuple[str, ...]:
    best, adam = outcome.best, comparison.outcome("adam")
    rate = "none" if best.learning_rate is None else f"{best.learning_rate:g}{'*' if outcome.at_edge else ''}"
    speedup = comparison.speedup(outcome.contestant.name)
    accuracy = best.held_out_mean("accuracy")
    ratio = time_ratio(outcome, adam)
    return (
        comparison.task,
        outcome.contestant.name,
        rate,
        f"{best.final_loss:.4g}",
        _number(best.held_out_mean("loss"), ".4g"),
        "-" if accuracy is None else f"{100 * accuracy:.1f} %",
        "1 (is Adam)" if outcome is adam else "-" if speedup is None else str(speedup),
        "-" if outcome.seconds_per_step is None else f"{1e3 * outcome.seconds_per_step:.2f}",
        _number(ratio, ".2f"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def time_ratio(outcome: Outcome, adam: Outcome | None) -> float | None:
    """An optimizer's time per step over Adam's, ``None`` where one was not measured."""
    if adam is None or not adam.seconds_per_step or not outcome.seconds_per_step:
        return None
    return outcome.seconds_per_step / adam.seconds_per_step


def sentences(comparison: Comparison) -> list[str]:
    """What the speed-up over Adam of each optimizer without a learning rate means, in words."""
    adam, found = comparison.outcome("adam"), []
    for outcome in comparison.outcomes:
        name = outcome.contestant.name
        speedup = comparison.speedup(name)
        if adam is None or speedup is None or outcome.contestant.learning_rates:
            continue
        begin = f"{comparison.task}: {name} ends at training loss {outcome.best.final_loss:.4g} after {speedup.steps} steps;"
        if speedup.baseline_steps is not None:
            found.append(f"{begin} tuned Adam is there after {speedup.baseline_steps}: speed-up {speedup}.")
            continue
        own = curves.first_step(curves.envelope(outcome.smoothed()), float(adam.best_curve()[-1]))
        more = f" ({name} passes Adam's final loss after {own})" if own is not None else ""
        found.append(f"{begin} tuned Adam does not get there in {comparison.num_steps}: speed-up {speedup}{more}.")
    return found


def results(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Every number of the comparisons, for JSON; what is not finite is ``None``."""
    return [
        {
            "task": comparison.task,
            "parameters": comparison.num_parameters,
            "steps": comparison.num_steps,
            "optimizers": [_optimizer(comparison, outcome) for outcome in comparison.outcomes],
        }
        for comparison in comparisons
    ]


def _optimizer(comparison: Comparison, outcome: Outcome) -> dict[str, Any]:
    speedup = comparison.speedup(outcome.contestant.name)
    index = np.unique(np.linspace(0, comparison.num_steps - 1, CURVE_POINTS).round().astype(int))
    smoothed = outcome.smoothed()
    return {
        "name": outcome.contestant.name,
        "description": outcome.contestant.description,
        "learning_rate": outcome.best.learning_rate,
        "learning_rate_at_edge": outcome.at_edge,
        "final_loss": _finite(outcome.best.final_loss),
        "held_out": _held_out(outcome.best),
        "speedup_over_adam": speedup
        and {
            "factor": speedup.factor,
            "is_lower_bound": speedup.baseline_steps is None,
            "adam_steps": speedup.baseline_steps,
        },
        "seconds_per_step": outcome.seconds_per_step,
        "time_over_adam": time_ratio(outcome, comparison.outcome("adam")),
        "curve_steps": (index + 1).tolist(),
        "candidates": [
            {
                "learning_rate": candidate.learning_rate,
                "final_loss": _finite(candidate.final_loss),
                "final_loss_by_seed": [_finite(x) for x in curves.final_loss(candidate.losses)],
                "held_out": _held_out(candidate),
                "smoothed_curve": [_finite(x) for x in curve[index]],
            }
            for candidate, curve in zip(outcome.candidates, smoothed, strict=True)
        ],
    }


def _held_out(candidate: Candidate) -> dict[str, float | None]:
    names = dict.fromkeys(name for metrics in candidate.held_out for name in metrics)
    return {name: _finite(candidate.held_out_mean(name)) for name in names}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else curves.six_digits(value)
