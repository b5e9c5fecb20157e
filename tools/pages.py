"""Writes the tables in README.md and in the pages of docs from the files in docs/results, or checks that they agree.

    python tools/pages.py
    python tools/pages.py --check   # as `nox -s pages` does: changes nothing

docs/results/README.md has the commands that write those files. NumPy is all that is needed here.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from levers import tables as levers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results"
HORIZONS = {"100": "steps 1-100", "500": "1-500", "2000": "1-2000", "last_100": "1901-2000"}
SMALLEST_LOSS = 1e-8
"""Losses below it count as it where logarithms are compared."""
PAPER_INNER_STEPS = 100_000 * 2 * 32 * 50
"""Of a phase: iterations, members, pairs, truncation."""


def quickstart_table(results: dict[str, Any]) -> str:
    """One row per task and optimizer of the quickstart's report.json."""
    lines = [
        "| task | optimizer | learning rate | final training loss | held-out loss | speed-up over Adam | time per step, x Adam |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in results["tasks"]:
        rate, _, _ = one["setting"].partition(" ")
        rate = f"{float(rate):g}{'*' if one['at_edge'] else ''}" if rate != "none" else rate
        bound, factor = "> " if any(one["speedup_is_lower_bound"]) else "", mean(one["speedup_by_seed"])
        speedup = "1" if one["optimizer"] == "adam" else f"{bound}{factor:.2f}"
        lines.append(
            f"| {one['task'].removeprefix('quickstart_')} | {one['optimizer']} | {rate} "
            f"| {mean(one['final_loss_by_seed']):.3g} | {one['held_out']['loss']:.3g} | {speedup} "
            f"| {one['time_over_adam']:.2f} |"
        )
    return "\n".join(lines)


def yardstick_table(results: dict[str, Any]) -> str:
    """One row per set of weights of yardstick.json."""
    horizons = ("100", "500", "2000", "last_100")
    lines = ["| weights | steps 1-100 | 1-500 | 1-2000 | 1901-2000 |", "|---|---:|---:|---:|---:|"]
    for name, one in results["results"].items():
        lines.append(f"| {name} | " + " | ".join(f"{one['mean'][h]:.3f}" for h in horizons) + " |")
    return "\n".join(lines)


def evaluation_table(*reports: dict[str, Any]) -> str:
    """One row per optimizer of evaluations' report.json, the best first; of one that is in several, that of the first."""
    interval = lambda x: f"{x['value']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"
    lines = [
        "| optimizer | final-loss ratio, IQM | speed-up, IQM | optimality gap of the ratio | diverged |",
        "|---|---:|---:|---:|---:|",
    ]
    found: dict[str, Any] = {}
    for report in reports:
        found |= {one["optimizer"]: one for one in report["aggregates"] if one["optimizer"] not in found}
    for one in sorted(found.values(), key=lambda one: -one["ratio"]["iqm"]["value"]):
        bound = "> " if one["lower_bound"] else ""
        lines.append(
            f"| {one['optimizer']} | {interval(one['ratio']['iqm'])} | {bound}{interval(one['speedup']['iqm'])} "
            f"| {one['ratio']['optimality_gap']['value']:.2f} | {one['diverged']} of {one['runs']} |"
        )
    return "\n".join(lines)


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
        "many by the others. In units of the true gradient's norm; an estimate is the mean over one trajectory of each problem. "
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


def choice_by_task(record: dict[str, Any]) -> str:
    """As `choice_table`, with a column for each of the weights and a row for each task at the longest length."""
    longest = list(record["adam"])[-1]
    weights = record["weights"]
    lines = ["| | " + " | ".join(weights) + " |", "|---|" + "---:|" * len(weights)]
    shown = lambda x: "" if x is None else f"{x:.2f}"
    row = lambda label, values: lines.append(f"| {label} | " + " | ".join(map(shown, values)) + " |")
    for length in record["adam"]:
        of = [one["lengths"].get(length) for one in weights.values()]
        row(f"{int(length):,} steps: IQM", [one and one["iqm"] for one in of])
        row(f"{int(length):,} steps: geometric mean", [one and one["ratio"] for one in of])
        row(f"{int(length):,} steps: lowest", [one and min(one["tasks"].values()) for one in of])
    for task in record["adam"][longest]["tasks"]:
        row(f"{task}, {int(longest):,} steps", [one["lengths"][longest]["tasks"][task] for one in weights.values()])
    return "\n".join(lines)


def ablation_table(record: dict[str, Any]) -> str:
    """The logarithm of the final loss without an input of the scheduler over that with all of them, over tasks."""
    final = record["final_losses"].values()
    variants = [name for name in next(iter(final)) if name != "whole"]
    labels = {
        "all": "all: the cosine decay alone",
        "noise": "the rule that follows the decay where gradients are noise",
    }
    lines = ["| without | mean | median | least | greatest |", "|---|---:|---:|---:|---:|"]
    for name in variants:
        found = [np.log(max(of[name], SMALLEST_LOSS) / max(of["whole"], SMALLEST_LOSS)) for of in final]
        numbers = (np.mean(found), np.median(found), min(found), max(found))
        lines.append(f"| {labels.get(name, name)} | " + " | ".join(f"{x:+.3f}" for x in numbers) + " |")
    return "\n".join(lines)


def averages_table(record: dict[str, Any]) -> str:
    """The logarithm of the loss of averaged parameters over that of the last ones: medians over tasks, and the least."""
    lengths = list(dict.fromkeys(label.rsplit(", ", 1)[1] for label in record["losses"]))
    moments = record["moments"]
    lines = ["| | average over | " + " | ".join(f"at {100 * x:.0f} %" for x in moments) + " |"]
    lines.append("|---|---:|" + "---:|" * len(moments))
    for length in lengths:
        of = [losses for label, losses in record["losses"].items() if label.endswith(f", {length}")]
        for share in record["shares"]:
            logs = np.array([np.log(np.divide(losses[f"{share:g}"], losses["parameters"])) for losses in of])
            cells = (f"{np.median(x):+.3f} ({min(x):+.2f})" for x in logs.T)
            lines.append(f"| {length} | {100 * share:.2f} % | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def schedule_table(record: dict[str, Any], part: str = "schedule", label: str = "planned steps") -> str:
    """The multiplier at shares of trainings of a part of a behaviour.json, such as several lengths."""
    shares = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9)
    lines = [
        f"| {label} | " + " | ".join(f"at {100 * share:.0f} %" for share in shares) + " |",
        "|---:|" + "---:|" * len(shares),
    ]
    for setting, curves in record[part].items():
        values = curves["multiplier"]
        row = [f"{values[round(share * (len(values) - 1))]:.2f}" for share in shares]
        lines.append(f"| {float(setting):,g} | " + " | ".join(row) + " |")
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


def first_call_table(results: dict[str, Any]) -> str:
    """One row per network and optimizer of first-call.json."""
    lines = ["| network | parameters | optimizer | init, s | first step, s |", "|---|---:|---|---:|---:|"]
    for one in results["measured"]:
        lines.append(
            f"| {one['network']} | {one['parameters']:,} | {one['optimizer']} | {one['init']:.1f} | {one['step']:.1f} |"
        )
    said = (
        f"{results['machine']}, JAX {results['versions']['jax']}: medians of {results.get('processes', 3)} processes."
    )
    return "\n".join([*lines, "", said])


def section(
    quickstart: dict[str, Any],
    evaluation: dict[str, Any],
    paper: dict[str, Any],
    others: dict[str, Any],
    stress: dict[str, Any],
    yardstick: dict[str, Any],
    run: dict[str, Any],
) -> str:
    """The README's section between its markers."""
    with np.load(RESULTS / "schedule-learning/theta.npz", allow_pickle=False) as archive:
        values = sum(archive[name].size for name in archive.files if name != "metadata")
    cost = {name: stage["seconds"] / 3600 for name, stage in run["cost"].items()}
    scheduler = sum(hours for name, hours in cost.items() if name.startswith("schedule"))
    rule = sum(cost.values()) - scheduler
    seeds = max(len(one["final_loss_by_seed"]) for one in quickstart["tasks"])
    rates = max(one["settings"] for one in quickstart["tasks"])
    return f"""\
The weights are {values:,} numbers, meta-trained from scratch: an update rule in {rule:.1f} hours on two CPU cores
([how](docs/results/celo/README.md)), and a scheduler that adapts a cosine decay to the task, in {scheduler:.1f} hours of one core
([how](docs/results/schedule-learning/README.md)). [What they have learned](docs/learned.md).

What `nox -s quickstart` measured ({"; ".join(quickstart["machines"])}; {quickstart["steps"]} steps, {seeds} seed(s);
[every number](docs/results/quickstart/report.json)). The images are of Fashion-MNIST's test split at 28x28; meta-training
saw its training split at 8x8, and other text. Adam and AdamW have the best of {rates} learning rates for each
task, a star marking the edge of the grid. Speed-up: the steps that tuned Adam needs to reach the optimizer's final loss,
over the steps taken; above 1, and "> 1.00" (Adam does not get there), the optimizer is the faster one, below 1 Adam is.
A step of Celo costs more time than one of Adam: the last column.

{quickstart_table(quickstart)}

![training curves](docs/results/quickstart/curves.png)

On the suite small-8 (eight tasks, {evaluation["steps"]} steps, three seeds; [report](docs/results/small-8-celo/report.md),
[of the paper's Celo](docs/results/small-8-paper/report.md), [of the others](docs/results/small-8/report.md),
[tasks](docs/tasks.md), [metrics](docs/metrics.md)), against tuned Adam = 1, higher is better. Adam, AdamW, Lion, Muon and
schedule-free AdamW have the best of 11 learning rates by two schedules for each task; the Celos are not tuned. IQM:
interquartile mean over tasks and seeds, in brackets its 95 % interval; ">": Adam did not get there in four times the steps.
"celo", "celo_adam" and "celo_paper", the paper's own Celo ([how](docs/results/celo-paper/README.md)), are those in celo-zoo,
"celo_cosine" is Celo with a cosine decay alone, as it was before, "published" the weights of the paper's authors.

{evaluation_table(evaluation, paper, others)}

On the suite stress-8, of what users do to optimizers (raw pixels and targets, a PINN, a deep network without normalisation,
batches of 1 to 4, rare tokens, fine-tuning, gradients by evolution strategies; [report](docs/results/stress-8/report.md)), Adam
alone is tuned; the others are as people take them without tuning:

{evaluation_table(stress)}

![training curves on stress-8](docs/results/stress-8/curves.png)

On the distribution of its meta-training (8x8 images, MLP 64-32-10, badly scaled by up to a thousand; mean training loss,
lower is better; {yardstick["problems_per_data_set"]} problems of each of four data sets,
[numbers](docs/results/yardstick.json)), against the weights that the paper's authors published:

{yardstick_table(yardstick)}"""


def pages() -> dict[str, dict[str, str]]:
    """By page and mark what stands between its markers."""
    read = lambda name: json.loads((RESULTS / name).read_text())
    performance = (RESULTS / "performance/results.md").read_text().strip()
    plot = "![time against size](results/performance/time_against_size.png)"
    reports = ("quickstart", "small-8-celo", "small-8-paper", "small-8", "stress-8")
    readme = map(read, (*(f"{name}/report.json" for name in reports), "yardstick.json", "schedule-learning/run.json"))
    choices = ("choice", "choice_six_seeds", "choice_lengths")
    return {
        "README.md": {"results": section(*readme)},
        "docs/performance.md": {"results": f"{performance}\n\n{plot}"},
        "docs/meta-training.md": {
            "estimators": estimators_table(read("estimators.json")),
            "bench": bench_table(read("bench-meta.json")),
            "quality": quality_table(read("time-to-quality/run.json")),
            "comparison": comparison_table(read("time-to-quality/comparison.json")),
        },
        "docs/learned.md": {
            "schedule": schedule_table(read("behaviour/behaviour.json")),
            "lengthened": schedule_table(read("behaviour/behaviour.json"), "lengthened", "factor on every step"),
            "inputs": schedule_table(read("behaviour/behaviour.json"), "inputs", "largest pixel"),
            "batches": schedule_table(read("behaviour/behaviour.json"), "noise", "images in a batch"),
            "scale": scale_table(read("behaviour/behaviour.json")),
            "schedule_adam": schedule_table(read("behaviour-adam/behaviour.json")),
            "ablation": ablation_table(read("schedule-learning/ablation.json")),
        },
        "docs/using.md": {
            "first call": first_call_table(read("first-call.json")),
            "averages": averages_table(read("averages.json")),
        },
        "docs/unstable.md": levers.tables(levers.read(RESULTS / "levers")),
        "docs/results/schedule-learning/README.md": {
            "schedules": choice_by_task(read("schedule-learning/choice.json")),
            "longer": choice_table(read("schedule-learning/choice_3000.json")),
        },
        "docs/results/celo-paper/README.md": {"schedules": choice_by_task(read("celo-paper/choice.json"))},
        "docs/results/celo/README.md": {name: choice_table(read(f"celo/{name}.json")) for name in choices},
        "docs/results/celo-adam/README.md": {"choice_lengths": choice_table(read("celo-adam/choice_lengths.json"))},
    }


def filled(text: str, sections: dict[str, str], name: str) -> str:
    """A page with its sections.

    Raises:
      ValueError: it lacks the markers of one, or has them twice.
    """
    for mark, section in sections.items():
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{name} needs the markers {begin} and {end} once each: put them back.")
        text = f"{text.split(begin)[0]}{begin}\n{section}\n{end}{text.split(end)[1]}"
    return text


def main() -> int:
    """Runs the command; with --check returns 1 if a page is not what the results files say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    options = parser.parse_args()
    outdated = []
    for name, sections in pages().items():
        path = ROOT / name
        new = filled(path.read_text(), sections, name)
        if new != path.read_text():
            outdated.append(name)
            if not options.check:
                path.write_text(new)
    if options.check and outdated:
        print(f"{', '.join(outdated)}: not what docs/results says; run python tools/pages.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
