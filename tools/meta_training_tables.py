"""Tables of docs/meta-training.md, and of the page about a meta-training, from what bench-meta and the like have written."""

import json
from pathlib import Path
from typing import Any

HORIZONS = {"100": "steps 1-100", "500": "1-500", "2000": "1-2000", "last_100": "1901-2000"}

PAPER_INNER_STEPS = 100_000 * 2 * 32 * 50
"""Of a phase: iterations, members, pairs, truncation."""


def bench_table(record: dict[str, Any]) -> str:
    """One row per case of bench-meta."""
    titles = {
        "update_rule": "meta-training, update rule",
        "scheduler": "meta-training, scheduler",
        "gradient_descent": "the same with gradient descent",
        "adam": "plain training with Adam",
    }
    rates = {case["name"]: case["inner_steps_per_second"] for case in record["cases"] if case["pairs"] == 32}
    hours = sum(PAPER_INNER_STEPS / rates[phase] for phase in ("update_rule", "scheduler")) / 3600
    lines = [
        f"{record['machine']}, jax {record['versions']['jax']}; truncation {record['settings']['truncation']}, medians of "
        f"{record['settings']['repeats']} with smallest and largest. Of meta-training's time "
        f"{100 * record['share_of_time_in_inner_gradients']:.0f} % goes to inner gradients and all else that gradient descent "
        f"needs as well, {100 * record['share_of_time_in_update_rule']:.0f} % to the update rule. At these rates the "
        f"paper's recipe, {PAPER_INNER_STEPS / 1e6:.0f} million inner steps per phase, takes {hours:.1f} hours.",
        "",
        "| | pairs | inner steps per second | of Adam's | first call, s | temporary MB per device | state kB per pair |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in record["cases"]:
        temporary = case["temporary_bytes_per_device"]
        lines.append(
            f"| {titles[case['name']]} | {case['pairs']} | {case['inner_steps_per_second']:,.0f} "
            f"[{case['smallest']:,.0f}, {case['largest']:,.0f}] | {case['rate_over_adam']:.2f} "
            f"| {case['first_call_seconds']:.0f} | {'-' if temporary is None else f'{temporary / 1e6:.1f}'} "
            f"| {case['state_bytes_per_pair'] / 1e3:.0f} |"
        )
    return "\n".join(lines)


def estimators_table(record: dict[str, Any]) -> str:
    """One row per estimator."""
    settings, full = record["settings"], record["results"]["full_backprop"]["seconds"]
    lines = [
        f"Unrolls of {settings['length']} steps in windows of {settings['window']}, {settings['pairs']} pairs (or twice as many "
        f"problems), sigma {settings['sigma']:g}; {settings['estimates']} estimates by backpropagation and eight times as "
        "many by the others. In units of the true gradient's norm; an estimate is the mean over one life of each problem. "
        '"<": not told from 0 by this many estimates.',
        "",
        "| estimator | bias | noise of an estimate | cosine with the true gradient | seconds, full backpropagation = 1 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in record["results"].items():
        bias = f"{one['bias']:.2g}" if one["bias"] is not None else f"< {one['bias_below']:.2g}"
        lines.append(f"| `{name}` | {bias} | {one['noise']:.2g} | {one['cosine']:.2f} | {one['seconds'] / full:.2f} |")
    return "\n".join(lines)


def quality_table(record: dict[str, Any]) -> str:
    """The targets, the moments when they are reached, and the end of the run."""
    curve, seconds = record["curve"], record["seconds_to_targets"]
    rows = [(f"published rule, {name}", values) for name, values in record["targets"].items()]
    moments = sorted({value for value in seconds.values() if value} | {curve[-1]["seconds"]})
    for moment in moments:
        point = next(point for point in curve if point["seconds"] == moment)
        rows.append((f"from scratch, after {moment:.0f} s ({point['inner_steps']:,} inner steps)", point))
    said = [
        f"The published rule's values {name} are "
        + (
            f"beaten, over all three horizons at once, after {value:.0f} seconds."
            if value
            else "not all reached at once."
        )
        for name, value in seconds.items()
    ]
    lines = [
        f"{record['machine']}, jax {record['versions']['jax']}; mean training loss of 16 problems (nats), lower is better. "
        + " ".join(said)
        + ' "As published": the values of its authors\' implementation, on 16 problems of another draw.',
        "",
        "| | " + " | ".join(HORIZONS.values()) + " |",
        "|---|" + "---:|" * len(HORIZONS),
    ]
    for name, point in rows:
        lines.append(f"| {name} | " + " | ".join(f"{point[h]:.3f}" if h in point else "" for h in HORIZONS) + " |")
    return "\n".join(lines)


def comparison_table(record: dict[str, Any]) -> str:
    """One row per variant."""
    lines = ["| | " + " | ".join(HORIZONS.values()) + " |", "|---|" + "---:|" * len(HORIZONS)]
    for name, one in record["results"].items():
        last = one["curve"][-1]
        lines.append(f"| {name} | " + " | ".join(f"{last[h]:.3f}" for h in HORIZONS) + " |")
    return "\n".join(lines)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def stretches_table(folders: list[Path]) -> str:
    """What each stretch of a meta-training cost, and their sum: from the logs, which count compilation."""
    ends = [_lines(folder / "log.jsonl")[-1] for folder in folders]
    lines = ["| stretch | meta-iterations | inner steps | seconds |", "|---|---:|---:|---:|"]
    for folder, end in zip(folders, ends, strict=True):
        lines.append(f"| `{folder.name}/` | {end['iteration']:,} | {end['inner_steps']:,} | {end['seconds']:,.0f} |")
    total = {key: sum(end[key] for end in ends) for key in ("inner_steps", "seconds")}
    lines.append(f"| together | | {total['inner_steps']:,} | {total['seconds']:,.0f} |")
    return "\n".join(lines)


def validation_table(folders: list[Path]) -> str:
    """The final-loss ratio over tuned Adam in every validation of every stretch, in all and task by task."""
    rows = [(folder.name, line) for folder in folders for line in _lines(folder / "validation.jsonl")]
    tasks = list(rows[0][1]["tasks"])
    lines = [
        "| stretch | meta-iteration | all | " + " | ".join(tasks) + " |",
        "|---|---:|---:|" + "---:|" * len(tasks),
    ]
    for name, line in rows:
        ratios = " | ".join(f"{line['tasks'][task]['ratio']:.2f}" for task in tasks)
        lines.append(f"| `{name}/` | {line['iteration']:,} | {line['ratio']:.2f} | {ratios} |")
    return "\n".join(lines)


def choice_table(record: dict[str, Any]) -> str:
    """The ratio over tuned Adam of all weights that were compared, best first.

    Interquartile means by length; of the longest the geometric one and all tasks as well.
    """
    lengths = list(record["adam"])
    longest = lengths[-1]
    tasks = list(record["adam"][longest]["tasks"])
    columns = ["weights", *(f"{int(length):,} steps" for length in lengths), "geometric mean", *tasks]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    whole = [item for item in record["weights"].items() if longest in item[1]["lengths"]]
    for name, one in sorted(whole, key=lambda item: -item[1]["lengths"][longest]["iqm"]):
        known = [one["lengths"].get(length) for length in lengths]
        ratios = [f"{found['iqm']:.2f}" if found else "" for found in known]
        ratios.append(f"{one['lengths'][longest]['ratio']:.2f}")
        ratios += [f"{one['lengths'][longest]['tasks'][task]:.2f}" for task in tasks]
        lines.append(f"| {name} | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def schedule_table(record: dict[str, Any]) -> str:
    """The multiplier at shares of trainings of several lengths."""
    shares = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9)
    lines = [
        "| planned steps | " + " | ".join(f"at {100 * share:.0f} %" for share in shares) + " |",
        "|---:|" + "---:|" * len(shares),
    ]
    for steps, curves in record["schedule"].items():
        values = curves["multiplier"]
        row = [f"{values[round(share * (len(values) - 1))]:.2f}" for share in shares]
        lines.append(f"| {int(steps):,} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def scale_table(record: dict[str, Any]) -> str:
    """Final losses where parameters are scaled."""
    scale = record["scale"]
    lines = [
        "| scale | " + " | ".join(f"{one:g}" for one in scale["scales"]) + " |",
        "|---|" + "---:|" * len(scale["scales"]),
    ]
    for title, name in (("Celo", "celo"), (f"Adam at {scale['adam_learning_rate']:g}", "adam")):
        lines.append(f"| {title} | " + " | ".join(f"{loss:.2f}" for loss in scale[name]) + " |")
    return "\n".join(lines)
