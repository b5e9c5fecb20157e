"""Writes the results in README.md, of the pages in docs that have tables, and of meta-trainings.

nox -s bench
nox -s quickstart -- --out results, then celo-tasks report results --out docs/results/quickstart
celo-tasks evaluate --suite small-8 ... --out results, then celo-tasks report results --out docs/results/small-8
python tools/yardstick.py --data-dir arrays --out docs/results/yardstick.json ...
celo-tasks bench-meta --out docs/results/bench-meta.json --plot docs/results/bench-meta.png
python tools/learned_behaviour.py --weights celo --out docs/results/behaviour
python tools/levers.py --out docs/results/levers
python tools/first_call.py
python tools/time_to_quality.py ... and python tools/estimator_comparison.py --out docs/results/estimators.json
python tools/update_readme.py [--check]
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import first_call
import levers_report
import meta_training_tables as meta_training

from celo_core.checks import flatten_theta
from celo_core.meta_training.checkpoints import load_theta

ROOT = Path(__file__).resolve().parents[1]

CELO_2 = ROOT / "docs/results/celo-2"
RULE = [CELO_2 / name for name in ("first_stretch", "update_rule")]
STRETCHES = [*RULE, CELO_2 / "scheduler"]
TRIED = sorted((CELO_2 / "tried").iterdir())


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


def evaluation_table(report: dict[str, Any]) -> str:
    """One row per optimizer of an evaluation's report.json."""
    interval = lambda x: f"{x['value']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"
    lines = [
        "| optimizer | final-loss ratio, IQM | speed-up, IQM | optimality gap of the ratio | diverged |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in report["aggregates"]:
        bound = "> " if one["lower_bound"] else ""
        lines.append(
            f"| {one['optimizer']} | {interval(one['ratio']['iqm'])} | {bound}{interval(one['speedup']['iqm'])} "
            f"| {one['ratio']['optimality_gap']['value']:.2f} | {one['diverged']} of {one['runs']} |"
        )
    return "\n".join(lines)


def section(
    quickstart: dict[str, Any], evaluation: dict[str, Any], yardstick: dict[str, Any], run: dict[str, Any]
) -> str:
    """The README's section between its markers."""
    values = sum(leaf.size for leaf in flatten_theta(load_theta(ROOT / "docs/results/celo/theta.npz")).values())
    hours, steps = run["seconds"] / 3600, run["inner_steps"] / 1e6
    seeds = max(len(one["final_loss_by_seed"]) for one in quickstart["tasks"])
    rates = max(one["settings"] for one in quickstart["tasks"])
    return f"""\
The weights are {values:,} numbers, meta-trained from scratch in {hours:.1f} hours on two CPU cores, {steps:.0f} million
training steps in all ([how](docs/results/celo/README.md), [what they have learned](docs/learned.md)).

What `nox -s quickstart` measured ({"; ".join(quickstart["machines"])}; {quickstart["steps"]} steps, {seeds} seed(s);
[every number](docs/results/quickstart/report.json)). The images are of Fashion-MNIST's test split at 28x28; meta-training
saw its training split at 8x8, and other text. Adam and AdamW have the best of {rates} learning rates for each
task, a star marking the edge of the grid. Speed-up: the steps that tuned Adam needs to reach the optimizer's final loss,
over the steps taken; above 1, and "> 1.00" (Adam does not get there), the optimizer is the faster one, below 1 Adam is.
A step of Celo costs more time than one of Adam: the last column.

{quickstart_table(quickstart)}

![training curves](docs/results/quickstart/curves.png)

On the suite small-8 (eight tasks, {evaluation["steps"]} steps, three seeds; [report](docs/results/small-8/report.md),
[tasks](docs/tasks.md), [metrics](docs/metrics.md)), against tuned Adam = 1, higher is better. Adam, AdamW, Lion, Muon and
schedule-free AdamW have the best of 11 learning rates by two schedules for each task; the Celos are not tuned. IQM:
interquartile mean over tasks and seeds, in brackets its 95 % interval; ">": Adam did not get there in four times the steps.
"celo" and "celo_adam" are those in celo-zoo, "published" the weights of the paper's authors.

{evaluation_table(evaluation)}

![aggregates](docs/results/small-8/intervals.png)

On the distribution of its meta-training (8x8 images, MLP 64-32-10, badly scaled by up to a thousand; mean training loss,
lower is better; {yardstick["problems_per_data_set"]} problems of each of four data sets,
[numbers](docs/results/yardstick.json)), beside the weights that the paper's authors published:

{yardstick_table(yardstick)}"""


def main() -> int:
    """Runs the command; with --check returns 1 if a page is not what the results files say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    options = parser.parse_args()
    read = lambda name: json.loads((ROOT / "docs/results" / name).read_text())
    performance = (ROOT / "docs/results/performance/results.md").read_text().strip()
    picture = "![time against size](results/performance/time_against_size.png)"
    pages = {
        "README.md": {
            "results": section(
                *map(read, ("quickstart/report.json", "small-8/report.json", "yardstick.json", "celo/run.json"))
            )
        },
        "docs/performance.md": {"results": f"{performance}\n\n{picture}"},
        "docs/meta-training.md": {
            "estimators": meta_training.estimators_table(read("estimators.json")),
            "bench": meta_training.bench_table(read("bench-meta.json")),
            "quality": meta_training.quality_table(read("time-to-quality/run.json")),
            "comparison": meta_training.comparison_table(read("time-to-quality/comparison.json")),
        },
        "docs/learned.md": {
            "schedule": meta_training.schedule_table(read("behaviour/behaviour.json")),
            "scale": meta_training.scale_table(read("behaviour/behaviour.json")),
            "schedule_adam": meta_training.schedule_table(read("behaviour-adam/behaviour.json")),
        },
        "docs/using.md": {"first call": first_call.table(read("first-call.json"))},
        "docs/unstable.md": levers_report.tables(levers_report.read(ROOT / "docs/results/levers")),
        "docs/results/celo-2/README.md": {
            "stretches": meta_training.stretches_table(STRETCHES),
            "validation": meta_training.validation_table(STRETCHES),
            "tried": meta_training.validation_table(TRIED),
        },
        "docs/results/celo/README.md": {
            "stretches": meta_training.stretches_table(
                [*RULE, *(ROOT / "docs/results/celo" / name for name in ("joint", "orthogonal"))]
            ),
            "choice": meta_training.choice_table(read("celo/choice.json")),
            "choice_six_seeds": meta_training.choice_table(read("celo/choice_six_seeds.json")),
            "choice_lengths": meta_training.choice_table(read("celo/choice_lengths.json")),
        },
        "docs/results/celo-adam/README.md": {
            "choice_lengths": meta_training.choice_table(read("celo-adam/choice_lengths.json")),
        },
    }
    outdated = []
    for name, sections in pages.items():
        new = old = (ROOT / name).read_text()
        for mark, text in sections.items():
            begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
            whole = f"{begin}\n{text}\n{end}"
            new = re.sub(f"{begin}.*{end}", lambda _, whole=whole: whole, new, flags=re.DOTALL)
        if new != old:
            outdated.append(name)
            if not options.check:
                (ROOT / name).write_text(new)
    if options.check and outdated:
        print(f"{', '.join(outdated)}: not what docs/results says; run python tools/update_readme.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
