"""Compares weights on the validation tasks at several lengths of training: what weights to ship is decided by this alone.

The tasks are neither trained on nor in a suite, so that nothing is chosen by what it is judged by later.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from celo_tasks.evaluation.learned import load_learned
from celo_tasks.meta_training.validation import FEW, VALIDATION_TASKS, MetaValidation
from celo_tasks.reporting import tables
from celo_tasks.reporting.machine import hardware, versions

GROUPS = {"all": tuple(VALIDATION_TASKS), "few": FEW}
"""Groups of validation tasks by name."""


def compare(
    references: Mapping[str, str],
    lengths: Sequence[int],
    seeds: int,
    known: Mapping[str, Any],
    tasks: Sequence[str] = tuple(VALIDATION_TASKS),
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Measures what ``known``, an earlier result, lacks. Adam is tuned for each task and length.

    Args:
      references: of weights, see `celo_tasks.evaluation.learned.load_learned`, by label.
      lengths: steps of the trainings.
      seeds: trainings of each task and length.
      known: an earlier result, or nothing.
      tasks: names in `VALIDATION_TASKS`.

    Yields:
      After everything that was measured its label and length, and the whole so far, for JSON: ``"seeds"``, ``"machine"``,
      ``"versions"``, ``"adam"`` by length, and ``"weights"`` by label: ``"lengths"``, each with ``"ratio"``, ``"iqm"`` and
      ``"tasks"``, as of `MetaValidation.measure`.

    Raises:
      ValueError: weights cannot be read, or settings make no sense.
    """
    weights = {label: load_learned(reference) for label, reference in references.items()}
    adam, found = dict(known.get("adam", {})), dict(known.get("weights", {}))
    about = {"seeds": seeds, "machine": hardware(), "versions": versions()}
    for length in lengths:
        try:
            validation = MetaValidation(length, seeds, tasks, reference=adam.get(str(length)))
        except ValueError as error:
            if str(length) in adam and set(adam[str(length)]["tasks"]) != set(tasks):
                raise ValueError(
                    f"the earlier results of {length} steps are of other tasks: name another --out."
                ) from error
            raise
        adam[str(length)] = validation.tuned_adam()
        for label, one in weights.items():
            measured = found.setdefault(label, {"lengths": {}})["lengths"]
            if str(length) in measured:
                continue
            result = validation.measure(one.architecture, one.theta)
            ratios = {task: task_result["ratio"] for task, task_result in result["tasks"].items()}
            measured[str(length)] = {"ratio": result["ratio"], "iqm": result["iqm"], "tasks": ratios}
            yield label, length, {**about, "adam": adam, "weights": found}


def read(file: pathlib.Path, seeds: int) -> dict[str, Any]:
    """An earlier result; nothing where there is no file.

    Raises:
      ValueError: it is something else, or of another number of seeds.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        same = found["seeds"] == seeds and isinstance(found["adam"], dict) and isinstance(found["weights"], dict)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no comparison of weights: name another --out.") from error
    if not same:
        raise ValueError(f"{file} is of {found['seeds']} seeds: give --seeds {found['seeds']} or another --out.")
    return found


def table(result: Mapping[str, Any], labels: Iterable[str], lengths: Sequence[int]) -> str:
    """Adam's final loss over that of each label at each length, for a terminal: means over the tasks, then every task."""
    measured = [
        (label, length, result["weights"][label]["lengths"][str(length)]) for label in labels for length in lengths
    ]
    tasks = list(measured[0][2]["tasks"])
    rows = [("weights", "steps", "IQM", "geometric mean", *tasks)]
    for label, length, one in measured:
        values = (one["iqm"], one["ratio"], *(one["tasks"][task] for task in tasks))
        rows.append((label, f"{length:,}", *(f"{value:.2f}" for value in values)))
    return tables.plain(rows, right=range(1, len(rows[0])))
