"""Compares weights on the validation tasks at several lengths of training: what weights to ship is decided by this alone.

    python tools/choose_weights.py --out docs/results/choice.json celo=celo mine=runs/mine/theta.npz

The five tasks of `celo_tasks.meta_training.validation` are neither trained on nor in a suite, so that nothing is chosen by
what it is judged by later. Adam is tuned for each task and length. The file keeps Adam's part and what was measured before;
the same command measures what is missing. REF is as in `celo-tasks yardstick`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celo_core import files
from celo_tasks.evaluation.learned import load_learned
from celo_tasks.meta_training.validation import MetaValidation
from celo_tasks.reporting.machine import hardware, versions


def compare(named: dict[str, str], lengths: list[int], seeds: int, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measures what ``known``, an earlier result, lacks.

    Args:
      named: references by name.
      lengths: steps of the trainings.
      seeds: trainings of each task and length.
      known: an earlier result, or nothing.

    Yields:
      After everything that was measured, the whole so far, for JSON: ``"adam"`` by length, and ``"weights"`` by name:
      ``"lengths"``, each with ``"ratio"``, ``"iqm"`` and ``"tasks"``.
    """
    adam, found = dict(known.get("adam", {})), dict(known.get("weights", {}))
    about = {"seeds": seeds, "machine": hardware(), "versions": versions()}
    for length in lengths:
        validation = MetaValidation(length, seeds, reference=adam.get(str(length)))
        adam[str(length)] = validation.tuned_adam()
        for name, reference in named.items():
            measured = found.setdefault(name, {"lengths": {}})["lengths"]
            if str(length) in measured:
                continue
            learned = load_learned(reference)
            result = validation.measure(learned.architecture, learned.theta)
            tasks = {task: one["ratio"] for task, one in result["tasks"].items()}
            means = {kind: result[kind] for kind in ("ratio", "iqm")}
            measured[str(length)] = {**means, "tasks": tasks}
            print(f"{name}, {length:,} steps: interquartile mean {means['iqm']:.3f}", file=sys.stderr)
            yield {**about, "adam": adam, "weights": found}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="NAME=REF", help="weights to compare")
    parser.add_argument("--lengths", default="300,1000", metavar="N,...", help="steps of trainings (300,1000)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trainings of each task and length (2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write, and go on")
    options = parser.parse_args()
    try:
        if wrong := [text for text in options.weights if "=" not in text]:
            raise ValueError(f"{wrong[0]!r} has no name: write NAME=REF.")
        known = json.loads(options.out.read_text()) if options.out.exists() else {}
        if known and known["seeds"] != options.seeds:
            raise ValueError(
                f"{options.out} is of {known['seeds']} seeds: give --seeds {known['seeds']} or another file."
            )
        named = dict(text.split("=", 1) for text in options.weights)
        lengths = [int(text) for text in options.lengths.split(",")]
        for result in compare(named, lengths, options.seeds, known):
            files.write_json(options.out, result)
    except (ValueError, OSError) as error:
        print(f"choose_weights: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
