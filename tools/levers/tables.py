"""Tables of what run.py has measured; they need nothing but NumPy."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Record = Mapping[str, Any]

NAMES = {
    "celo": "Celo",
    "celo_warm_up": "Celo, warm-up",
    "celo_clip": "Celo, clipped",
    "celo_finite": "Celo, apply_if_finite",
    "celo_weight_decay": "Celo, weight decay",
    "adam": "Adam",
    "adam_clip": "Adam, clipped",
    "adam_finite": "Adam, apply_if_finite",
    "adam_b1_0.5": "Adam, b1 = 0.5",
    "adamw": "AdamW, weight decay",
}


def read(folder: Path) -> dict[str, Record]:
    """The experiments in a folder, by name."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return {record["experiment"]: record for record in records}


def over_seeds(record: Record, case: str, optimizer: str, value: float, metric: str) -> list[float]:
    """One number for each seed; infinity where it was not finite."""
    chosen = [
        run for run in record["runs"] if (run["case"], run["optimizer"], run["value"]) == (case, optimizer, value)
    ]
    return [math.inf if run[metric] is None else run[metric] for run in chosen]


def median(record: Record, case: str, optimizer: str, value: float, metric: str) -> float:
    """Over seeds."""
    return float(np.median(over_seeds(record, case, optimizer, value, metric)))


def values(record: Record, optimizer: str, case: str | None = None) -> list[float]:
    """Of an optimizer's number, in the order of the runs."""
    runs = [run for run in record["runs"] if run["optimizer"] == optimizer and case in (None, run["case"])]
    return list(dict.fromkeys(run["value"] for run in runs))


def cases(record: Record) -> list[str]:
    """In the order of the runs."""
    return list(dict.fromkeys(run["case"] for run in record["runs"]))


def best(record: Record, case: str, optimizer: str, metric: str) -> float:
    """The value at which the median of a metric is lowest."""
    return min(values(record, optimizer), key=lambda value: median(record, case, optimizer, value, metric))


def number(x: float, digits: int = 3) -> str:
    """Three significant digits, or what it is instead of a number."""
    if not math.isfinite(x):
        return "not finite"
    if x == 0 or 0.001 <= abs(x) < 10000:
        return f"{x:.{max(0, digits - 1 - math.floor(math.log10(abs(x))))}f}" if x else "0"
    return f"{x:.1e}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _edge(record: Record, optimizer: str, value: float) -> str:
    """A star where the best value is the smallest or largest that was tried."""
    return "*" if value in (min(values(record, optimizer)), max(values(record, optimizer))) else ""


Columns = Sequence[tuple[str, str, float | None]]
"""Title, optimizer, and its number; ``None`` for the best one of each case."""


def _columns(record: Record) -> Columns:
    """Celo at each multiplier, with a warm-up, and Adam at its best and usual rates."""
    columns: list[tuple[str, str, float | None]] = [
        (f"Celo x {value:g}", "celo", value) for value in values(record, "celo")
    ]
    if values(record, "celo_warm_up"):
        columns.append(("Celo, warm-up", "celo_warm_up", 1.0))
    return [*columns, ("Adam at its best", "adam", None), ("Adam at 0.001", "adam", 0.001)]


def by_case(record: Record, first: str, metrics: Sequence[str], columns: Columns | None = None) -> str:
    """One row per case, one column per optimizer; a best value is that of the first metric, in brackets, starred at its edge."""
    columns = _columns(record) if columns is None else columns
    rows = []
    for case in cases(record):
        row = [case]
        for _, optimizer, value in columns:
            which = best(record, case, optimizer, metrics[0]) if value is None else value
            cell = " / ".join(number(median(record, case, optimizer, which, metric)) for metric in metrics)
            row.append(f"{cell} ({which:g}{_edge(record, optimizer, which)})" if value is None else cell)
        rows.append(row)
    return _table([first, *(title for title, *_ in columns)], rows)


def by_optimizer(
    record: Record, columns: Sequence[tuple[str, str, str]], optimizers: Sequence[str], scale: float = 1.0
) -> str:
    """One row per optimizer and its number.

    Args:
      record: of the experiment.
      columns: title, case and metric.
      optimizers: which ones, in this order.
      scale: what "moved" is multiplied by.
    """
    rows = []
    for optimizer in optimizers:
        for value in values(record, optimizer):
            title = NAMES[optimizer] + ("" if optimizer == "celo_warm_up" else f" {_sign(optimizer)} {value:g}")
            cell = lambda case, metric, at=(optimizer, value): number(
                (scale if metric == "moved" else 1.0) * median(record, case, *at, metric)
            )
            rows.append([title, *(cell(case, metric) for _, case, metric in columns)])
    return _table(["", *(title for title, *_ in columns)], rows)


def _sign(optimizer: str) -> str:
    return "x" if optimizer in ("celo", "celo_clip", "celo_finite") else "at"


def _small_batches(record: Record) -> str:
    return by_case(record, "images in a batch", ("training_loss", "held_out_loss"))


def _pixels(record: Record) -> str:
    return by_case(record, "pixels", ("training_loss", "held_out_loss"))


def _bad_batches(record: Record) -> str:
    columns: Columns = [
        ("Celo", "celo", 1.0),
        ("Celo x 0.25", "celo", 0.25),
        ("Celo, clipped", "celo_clip", 1.0),
        ("Celo x 0.25, clipped", "celo_clip", 0.25),
        ("Celo, apply_if_finite", "celo_finite", 1.0),
        ("Adam at its best", "adam", None),
        ("Adam, clipped", "adam_clip", None),
        ("Adam, apply_if_finite", "adam_finite", None),
    ]
    return by_case(record, "one batch in fifty", ("training_loss",), columns)


def _memorisation(record: Record) -> str:
    metrics = ("training_loss", "held_out_loss", "held_out_accuracy")
    longest = max(cases(record), key=int)
    shorter = sorted(set(cases(record)) - {longest}, key=int, reverse=True)
    kinds = [("Celo x {:g}", "celo"), ("Celo, weight_decay={:g}", "celo_weight_decay")]
    named = [(f"{title.format(v)}", longest, name, v) for title, name in kinds for v in values(record, name)]
    named += [(f"Celo, num_steps={steps}", steps, "celo", 1.0) for steps in shorter]
    named += [(f"Adam at {rate:g}", longest, "adam", rate) for rate in values(record, "adam")]
    named += [(f"AdamW at 0.001, weight_decay={w:g}", longest, "adamw", w) for w in values(record, "adamw")]
    named += [(f"Adam at 0.001, {steps} steps", steps, "adam", 0.001) for steps in shorter]
    rows = [[title, *(number(median(record, *at, metric)) for metric in metrics)] for title, *at in named]
    return _table(["", "training loss", "held-out loss", "held-out accuracy"], rows)


def _fine_tuning(record: Record) -> str:
    columns = [
        (f"{case}: {title}", case, metric)
        for case in cases(record)
        for title, metric in (("moved, %", "moved"), ("new loss", "new_loss"), ("old loss", "old_loss"))
    ]
    table = by_optimizer(record, columns, ("celo", "celo_warm_up", "adam"), scale=100.0)
    before = lambda case, metric: (
        "0" if metric == "moved" else number(median(record, case, "adam", 0.001, f"{metric}_before"))
    )
    row = "| " + " | ".join(["before", *(before(case, metric) for _, case, metric in columns)]) + " |"
    head, line, *rest = table.split("\n")
    return "\n".join([head, line, row, *rest])


def _lora(record: Record) -> str:
    return by_case(record, "new data", ("new_loss", "old_loss"))


def _changed(record: Record) -> str:
    return by_case(record, "", ("training_loss", "held_out_loss"))


def _bootstrapped(record: Record) -> str:
    return by_case(record, "target network", ("error",))


def _gan(record: Record) -> str:
    columns = [("of the points near a mode", "ring", "near_a_mode"), ("energy distance", "ring", "energy_distance")]
    optimizers = ("celo", "celo_warm_up", "adam", "adam_b1_0.5")
    head, line, *rest = by_optimizer(record, columns, optimizers).split("\n")
    rows = [f"{head} modes covered, by seed |", f"{line} ---: |"]
    at = [(optimizer, value) for optimizer in optimizers for value in values(record, optimizer)]
    for row, one in zip(rest, at, strict=True):
        modes = sorted(over_seeds(record, "ring", *one, "modes"))
        rows.append(f"{row} {', '.join(f'{count:.0f}' for count in modes)} |")
    return "\n".join(rows)


def _log_alpha(record: Record) -> str:
    return by_case(record, "log alpha", ("error",))


def _planned(record: Record) -> str:
    kinds = list(dict.fromkeys(case.split("; ")[0] for case in cases(record)))
    plans = list(dict.fromkeys(case.split("; ")[1] for case in cases(record)))
    titles = [f"{kind}, {which} loss" for kind in kinds for which in ("training", "held-out")]
    cell = lambda plan, kind, metric: number(median(record, f"{kind}; {plan}", "celo", 1.0, metric))
    metrics = ("training_loss", "held_out_loss")
    rows = [[plan, *(cell(plan, kind, metric) for kind in kinds for metric in metrics)] for plan in plans]
    return _table(["num_steps", *titles], rows)


TABLES: dict[str, Callable[[Record], str]] = {
    "small_batches": _small_batches,
    "pixels": _pixels,
    "bad_batches": _bad_batches,
    "memorisation": _memorisation,
    "fine_tuning": _fine_tuning,
    "lora": _lora,
    "changed": _changed,
    "bootstrapped": _bootstrapped,
    "gan": _gan,
    "log_alpha": _log_alpha,
    "planned": _planned,
}
"""By experiment."""


WARMED_UP = {
    "small_batches": ("batches of {}", "training_loss"),
    "pixels": ("pixels of {}", "training_loss"),
    "fine_tuning": ("fine-tuning, {}", "new_loss"),
    "lora": ("LoRA, {}", "new_loss"),
    "changed": ("labels permuted, {}", "training_loss"),
    "bootstrapped": ("temporal differences, {}", "error"),
    "gan": ("GAN, energy distance", "energy_distance"),
}


def warm_up(found: Mapping[str, Record]) -> str:
    """One row per case that was measured with a warm-up."""
    rows = []
    for name, (title, metric) in WARMED_UP.items():
        for case in cases(found[name]) if name in found else ():
            at = [("celo", 1.0), ("celo_warm_up", 1.0), ("celo", 0.5)]
            rows.append([title.format(case), *(number(median(found[name], case, *one, metric)) for one in at)])
    return _table(["", "Celo x 1", "Celo x 1, warm-up", "Celo x 0.5"], rows)


def tables(found: Mapping[str, Record]) -> dict[str, str]:
    """Those of the experiments found, and `warm_up`."""
    return {name: make(found[name]) for name, make in TABLES.items() if name in found} | {"warm_up": warm_up(found)}


def page(found: Mapping[str, Record]) -> str:
    """All tables, in Markdown."""
    parts = ["# Levers of Celo\n"]
    for name in (name for name in TABLES if name in found):
        record, table = found[name], TABLES[name](found[name])
        said = f"{record['settings']['seeds']} seeds, {record['machine']}, {record['seconds']:.0f} s"
        parts.append(f"## {name}\n\n{record['title'][0].upper()}{record['title'][1:]} ({said}).\n\n{table}\n")
    return "\n".join(parts)
