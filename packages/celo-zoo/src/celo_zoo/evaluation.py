"""Results of an evaluation, as a compact record that config.json keeps with the weights.

A record has the keys (I is ``{"low", "value", "high"}``, a 95 % interval)

* ``suite``, ``optimizer``, ``identity``: names, and what identified the weights in the evaluation
* ``steps``: training steps of each run
* ``tasks``: list of ``task``, ``dataset``, ``parameters``, ``seeds``, ``diverged`` (runs), ``final_loss`` (mean over seeds),
  ``ratio`` (tuned Adam's final loss over it, mean over seeds), ``speedup`` (steps that tuned Adam needs over the steps
  taken, mean over seeds), ``speedup_is_lower_bound`` (for some seed), and ``adam``: ``setting`` (the best one),
  ``settings`` (how many were tried, or null), ``final_loss``. Without tuned Adam, ratio, speedup and adam are null.
* ``aggregates``: ``tasks``, ``seeds``, ``runs``, ``diverged``, ``speedup_is_lower_bound``, and ``ratio`` and ``speedup`` with
  ``iqm`` and ``optimality_gap``, each an I; null if nothing was compared
* ``machines``: list of names; ``versions``: list of objects from package to version
* ``report_sha256``: of the file that the record was made from, or null

Numbers are defined in docs/metrics.md of the project; ratios and speed-ups are better if higher, and tuned Adam is 1.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celo_zoo import folders
from celo_zoo.errors import FormatError

LARGEST_REPORT = 16 * 2**20  # bytes
MOST_RECORDS = 8
STATISTICS = ("iqm", "optimality_gap")

_Check = Callable[[Any, str], None]


def _expect(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise FormatError(f"{where} is not {what}")


def _is(holds: Callable[[Any], bool], what: str) -> _Check:
    return lambda value, where: _expect(holds(value), where, what)


def _count(least: int) -> _Check:
    return _is(lambda value: type(value) is int and least <= value <= 10**15, f"a whole number of at least {least}")


_text = _is(lambda value: isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable(), "a line of text")
_number = _is(lambda value: type(value) in (int, float) and -1e30 <= value <= 1e30, "a finite number")
_flag = _is(lambda value: isinstance(value, bool), "true or false")
_digest = _is(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)), "a SHA-256")


def _maybe(check: _Check) -> _Check:
    return lambda value, where: None if value is None else check(value, where)


def _list(check: _Check, most: int, least: int = 0) -> _Check:
    def check_all(value: Any, where: str) -> None:
        _expect(isinstance(value, list) and least <= len(value) <= most, where, f"a list of {least} to {most} entries")
        for index, one in enumerate(value):
            check(one, f"{where}[{index}]")

    return check_all


def _table(check: _Check, most: int) -> _Check:
    """An object with any keys, whose values all pass ``check``."""

    def check_all(value: Any, where: str) -> None:
        _expect(isinstance(value, Mapping) and len(value) <= most, where, f"an object of at most {most} entries")
        for key, one in value.items():
            _text(key, f"a key of {where}")
            check(one, f"{where}.{key}")

    return check_all


def _object(checks: Mapping[str, _Check], *, others: bool = False) -> _Check:
    """An object with these keys, and if ``others`` is true, possibly more."""

    def check_all(value: Any, where: str) -> None:
        _expect(isinstance(value, Mapping), where, "an object")
        keys = "all" if others else "exactly"
        fits = checks.keys() <= value.keys() and (others or len(value) == len(checks))
        _expect(fits, where, f"an object that has {keys} of {', '.join(checks)}")
        for key, check in checks.items():
            check(value[key], f"{where}.{key}")

    return check_all


_SHARED: dict[str, _Check] = {
    "suite": _text,
    "steps": _count(1),
    "machines": _list(_text, 64),
    "versions": _list(_table(_text, 32), 64),
}
_TASK: dict[str, _Check] = {"task": _text, "dataset": _text, "parameters": _count(0), "diverged": _count(0)}
_ADAM: dict[str, _Check] = {"setting": _text, "final_loss": _number}
_AGGREGATES: dict[str, _Check] = {"tasks": _count(1), "seeds": _count(1), "runs": _count(1), "diverged": _count(0)}
_SCORES = ("ratio", "speedup")
_INTERVALS = dict.fromkeys(STATISTICS, _object({"low": _number, "value": _number, "high": _number}))

_RECORD_TASK: dict[str, _Check] = {
    **_TASK,
    "seeds": _count(1),
    "final_loss": _number,
    "ratio": _maybe(_number),
    "speedup": _maybe(_number),
    "speedup_is_lower_bound": _flag,
    "adam": _maybe(_object({**_ADAM, "settings": _maybe(_count(1))})),
}
_RECORD_AGGREGATES = {**_AGGREGATES, "speedup_is_lower_bound": _flag, **dict.fromkeys(_SCORES, _object(_INTERVALS))}
_RECORD: dict[str, _Check] = {
    **_SHARED,
    "optimizer": _text,
    "identity": _text,
    "tasks": _list(_object(_RECORD_TASK), 128, 1),
    "aggregates": _maybe(_object(_RECORD_AGGREGATES)),
    "report_sha256": _maybe(_digest),
}

_REPORT_TASK: dict[str, _Check] = {
    **_TASK,
    "optimizer": _text,
    "identity": _text,
    "settings": _count(1),
    "final_loss_by_seed": _list(_number, 10_000, 1),
    "ratio_by_seed": _maybe(_list(_number, 10_000, 1)),
    "speedup_by_seed": _maybe(_list(_number, 10_000, 1)),
    "speedup_is_lower_bound": _list(_flag, 10_000),
}
_REPORT_AGGREGATES: dict[str, _Check] = {
    **_AGGREGATES,
    "optimizer": _text,
    "lower_bound": _flag,
    **dict.fromkeys(_SCORES, _object(_INTERVALS, others=True)),
}
_REPORT: dict[str, _Check] = {
    **_SHARED,
    "aggregates": _list(_object(_REPORT_AGGREGATES, others=True), 1000),
    "tasks": _list(_object(_REPORT_TASK, others=True), 10_000, 1),
    "tuned_adam": _table(_object(_ADAM, others=True), 1000),
}


def check(record: Any) -> None:
    """Checks a record that may be any JSON value: its keys, types, finiteness, and the size of everything in it.

    Raises:
      FormatError: it does not have the form above.
    """
    _object(_RECORD)(record, "the evaluation")
    names = [task["task"] for task in record["tasks"]]
    _expect(len(set(names)) == len(names), "the evaluation", "one with a single entry for each task")
    for task in record["tasks"]:
        fits = task["diverged"] <= task["seeds"] and ((task["ratio"] is None) == (task["adam"] is None))
        _expect(fits and (task["ratio"] is None) == (task["speedup"] is None), f"the entry of {task['task']}", "whole")


def check_all(records: Any) -> None:
    """Checks a list of records, at most `MOST_RECORDS`, each of another suite or number of steps; errors as `check`."""
    _list(lambda value, where: check(value), MOST_RECORDS)(records, "the evaluation")
    which = {(record["suite"], record["steps"]) for record in records}
    _expect(len(which) == len(records), "the evaluation", "a list of one record for each suite and number of steps")


def from_report(report: Mapping[str, Any] | str | os.PathLike[str], optimizer: str = "celo") -> dict[str, Any]:
    """The record of one optimizer in what ``celo-tasks report`` wrote.

    Args:
      report: content or path of a report.json; with content there is no SHA-256.
      optimizer: name of the optimizer in it.

    Raises:
      FormatError: it is not such a report, or does not contain the optimizer.
      NotFoundError: it cannot be read.
    """
    content: Any = report
    where, digest = "the report", None
    if not isinstance(report, Mapping):
        where = os.fspath(report)
        content, digest = _read(where)
    try:
        record = _record(content, optimizer, digest)
    except FormatError as error:
        raise FormatError(f"{where} is no report that `celo-tasks report` wrote: {error}.") from error
    if record is None:
        known = ", ".join(sorted({row["optimizer"] for row in content["tasks"]}))
        raise FormatError(f"{where} has no results of {optimizer!r}: choose from {known}.")
    return record


def _read(path: str) -> tuple[Any, str]:
    try:
        with open(folders.expand(path), "rb") as file:
            data = file.read(LARGEST_REPORT + 1)
    except OSError as error:
        raise folders.unreadable(path, error, "the report") from None
    if len(data) > LARGEST_REPORT:
        raise FormatError(f"{path} is larger than the {LARGEST_REPORT:,} bytes allowed, so it is no report.")
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no report that `celo-tasks report` wrote: it is not JSON ({error}).") from error


def _record(report: Any, optimizer: str, digest: str | None) -> dict[str, Any] | None:
    _object(_REPORT, others=True)(report, "its content")
    rows = [row for row in report["tasks"] if row["optimizer"] == optimizer]
    if not rows:
        return None
    settings = {row["task"]: row["settings"] for row in report["tasks"] if row["optimizer"] == "adam"}
    record = {
        **{key: report[key] for key in _SHARED},
        "optimizer": optimizer,
        "identity": rows[0]["identity"],
        "tasks": [_task(row, report["tuned_adam"].get(row["task"]), settings.get(row["task"])) for row in rows],
        "aggregates": _aggregates([row for row in report["aggregates"] if row["optimizer"] == optimizer]),
        "report_sha256": digest,
    }
    check(record)
    return record


def _mean(values: Sequence[float] | None) -> float | None:
    """With six significant digits, as in the report."""
    return None if values is None else float(f"{sum(values) / len(values):.6g}")


def _task(row: Mapping[str, Any], adam: Mapping[str, Any] | None, settings: int | None) -> dict[str, Any]:
    return {
        **{key: row[key] for key in _TASK},
        "seeds": len(row["final_loss_by_seed"]),
        "final_loss": _mean(row["final_loss_by_seed"]),
        "ratio": _mean(row["ratio_by_seed"]),
        "speedup": _mean(row["speedup_by_seed"]),
        "speedup_is_lower_bound": any(row["speedup_is_lower_bound"]),
        "adam": None if adam is None else {**{key: adam[key] for key in _ADAM}, "settings": settings},
    }


def _aggregates(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    return {
        **{key: rows[0][key] for key in _AGGREGATES},
        "speedup_is_lower_bound": rows[0]["lower_bound"],
        **{score: {name: dict(rows[0][score][name]) for name in STATISTICS} for score in _SCORES},
    }
