"""What an evaluation found, as Markdown."""

from collections.abc import Sequence

import numpy as np

from celo_tasks import __version__
from celo_tasks.evaluation.aggregates import Aggregate, ordered
from celo_tasks.evaluation.scores import Score, Scores
from celo_tasks.evaluation.statistics import Interval
from celo_tasks.evaluation.store import Store
from celo_tasks.reporting import tables

NOTES = """\
Scores are relative to tuned Adam = 1, higher is better; in brackets 95 % stratified bootstrap intervals over seeds. Tuned
optimizers have the best setting of a grid for each task, by training loss on these very seeds; an optimizer without a
learning rate is taken as it is. Final-loss ratio: Adam's final training loss over the optimizer's. Speed-up: steps that
tuned Adam needs to the optimizer's final loss, over the steps taken; ">" where Adam did not get there in its longest
runs, so that the speed-up is more than that. Gap: how far runs fall short of Adam, lower is better. P(better): probability
that a run of it beats one of Adam. Time per step includes what else the machine did meanwhile; "time x Adam", the time per
step over that of Adam, is of trainings that advanced in turn, which slows both alike. A star marks a learning rate at the
edge of the grid: a better one may lie outside."""


def report(store: Store, found: Scores, rows: Sequence[Aggregate]) -> str:
    """The whole report, without pictures."""
    machines = sorted({run.machine for run in store.runs.values()})
    versions = sorted({" ".join(f"{k} {v}" for k, v in run.versions.items()) for run in store.runs.values()})
    head = [
        f"# Evaluation on {store.header['suite']}",
        f"{len(found.tasks)} tasks, {store.steps} steps, {len(store.runs)} runs on {'; '.join(machines)} ({'; '.join(versions)}).",
    ]
    if found.adam_from_package:
        head.append(f"Tuned Adam on {', '.join(found.adam_from_package)} is that of celo-tasks {__version__}.")
    if lacking := [task for task in found.tasks if task not in found.adam]:
        head.append(f"Without tuned Adam, and so without scores: {', '.join(lacking)}.")
    if incomplete := sorted({row.optimizer for row in rows if row.tasks < len(found.adam)}):
        head.append(f"Not run on every task, so aggregated over fewer: {', '.join(incomplete)}.")
    parts = ["\n\n".join(head)]
    if rows:
        parts += ["## Over all tasks", *_summaries(found, rows)]
    parts += ["## Task by task", task_table(found, rows), NOTES]
    return "\n\n".join(parts)


_SUMMARY = (
    "optimizer",
    "final-loss ratio, IQM",
    "median",
    "mean",
    "gap",
    "speed-up, IQM",
    "median",
    "mean",
    "gap",
    "P(better)",
    "rank",
    "diverged",
    "tasks x seeds",
)

_TASKS = ("task", "optimizer", "setting", "final loss", "ratio", "speed-up", "diverged", "held-out loss", "ms/step")

_TIMED = "time x Adam"


def _summaries(found: Scores, rows: Sequence[Aggregate]) -> list[str]:
    """A table of the optimizers that were taken as they are and one of those that were tuned, with titles if there are both."""
    tuned = {name for (name, _), score in found.by_name.items() if score.setting.learning_rate is not None}
    blocks = {
        "### Without tuning": [row for row in rows if row.optimizer not in tuned],
        "### Tuned for each task": [row for row in rows if row.optimizer in tuned],
    }
    filled = {title: block for title, block in blocks.items() if block}
    made = {title: tables.markdown(_SUMMARY, [_summary(row) for row in block]) for title, block in filled.items()}
    if len(made) == 1:
        return list(made.values())
    return [part for title, table in made.items() for part in (title, table)]


def _summary(row: Aggregate) -> tuple[str, ...]:
    bound = "> " if row.lower_bound else ""
    cells = [row.optimizer]
    for values, mark in ((row.ratio, ""), (row.speedup, bound)):
        cells.append(mark + _interval(values["iqm"]))
        cells += [f"{mark}{values[key].value:.2f}" for key in ("median", "mean")]
        cells.append(f"{values['optimality_gap'].value:.2f}")
    cells.append("-" if row.better_than_adam is None else _interval(row.better_than_adam))
    cells.append("-" if row.rank is None else f"{row.rank:.2f}")
    return (*cells, f"{row.diverged} of {row.runs}", f"{row.tasks} x {row.seeds}")


def _interval(value: Interval) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def task_table(found: Scores, rows: Sequence[Aggregate]) -> str:
    """One row per task and optimizer; with the time per step over Adam's where trainings advanced in turn."""
    chosen = ordered(found, rows)
    timed = any(score.time_over_adam is not None for score in chosen)
    header = (*_TASKS, _TIMED) if timed else _TASKS
    return tables.markdown(header, [_task_row(score)[: len(header)] for score in chosen])


def _task_row(score: Score) -> tuple[str, ...]:
    number = lambda value, form: "-" if value is None else format(value, form)
    speedup = None if score.speedup is None else float(np.mean(score.speedup))
    return (
        score.task,
        score.optimizer,
        f"{score.setting}{'*' if score.at_edge else ''}",
        f"{score.final_loss:.4g}",
        "-" if score.ratio is None else f"{np.mean(score.ratio):.2f}",
        ("> " if any(score.lower_bound) else "") + number(speedup, ".2f"),
        f"{score.diverged} of {len(score.runs)}",
        number(score.held_out("loss"), ".4g"),
        f"{1e3 * score.seconds_per_step:.2f}",
        number(score.time_over_adam, ".2f"),
    )


def sentences(found: Scores) -> list[str]:
    """What the speed-up over Adam of each optimizer without a learning rate means, in words; of one seed or their mean."""
    lines = []
    for task in found.tasks:
        for name in found.optimizers:
            score, adam = found.by_name.get((name, task)), found.adam.get(task)
            if score is None or adam is None or score.speedup is None or score.setting.learning_rate is not None:
                continue
            steps, factor = score.runs[0].key.steps, float(np.mean(score.speedup))
            begin = f"{task}: {name} ends at training loss {score.final_loss:.4g} after {steps} steps;"
            if not any(score.lower_bound):
                lines.append(f"{begin} tuned Adam is there after {factor * steps:.0f}: speed-up {factor:.2f}.")
                continue
            passed = score.steps_to_adam
            more = "" if passed is None else f" ({name} is at Adam's final loss after {passed:.0f})"
            lines.append(f"{begin} tuned Adam does not get there in {adam.horizon}: speed-up > {factor:.2f}{more}.")
    return lines
