"""The parts of the command ``celo-tasks`` that measure tasks and learned optimizers, for this package's tables and for pages."""

import argparse
import pathlib
import sys
from typing import Any

from celo_tasks.cli.common import names

_TASK_COSTS = """\
Measure what the evaluation tasks cost, and write what `celo-tasks list` shows.

Parameters come from shapes, floating-point operations from XLA's analysis of the loss and its gradient, and milliseconds from
training steps with Adam on this machine. Tasks that are not measured keep what the file has of them.
"""

_TASK_COSTS_EXAMPLES = """\
examples:
  taskset -c 0 celo-tasks task-costs --data-dir arrays   # all tasks, on one core
  celo-tasks task-costs --task small_mlp --out costs.json
"""

_TUNED_ADAM = """\
Put tuned Adam from an evaluation's folder into this package, so that later evaluations of the suite need not tune Adam again.

Only tasks whose Adam has as many seeds as the suite asks for are written; what the file has of other tasks stays.
"""

_TUNED_ADAM_EXAMPLES = """\
examples:
  celo-tasks evaluate --suite small-8 --optimizer adam --tune-adam --out results
  celo-tasks tuned-adam results
"""

_YARDSTICK = """\
Measure learned optimizers on the distribution that Celo is meta-trained on: mean training loss over the first 100, 500 and 2,000
steps, and over the last 100.

Four 8x8 image sets, MLP 64-32-10, batch 64, reparametrised at the level of the whole task with scales log-uniform in [0.001, 1000],
four problems of each set, losses clipped at 5.
"""

_WEIGHTS = """\
weights:
  celo                 pretrained optimizers of installed packages (pip install celo-zoo)
  runs/mine            the folder of a meta-training run, or its theta.npz
  weights/mine         a folder of weights, as `celo-zoo fetch` and `celo-zoo convert` write them
"""

_VALIDATE = """\
Compare weights on the validation tasks at several lengths of training: tuned Adam's final loss over theirs, above 1 where they
are better.

The tasks are neither trained on nor in an evaluation suite, so that nothing is chosen by what it is judged by later. Five, "few",
are small and well scaled; thirteen are larger, of other kinds, badly scaled or noisy. Adam is tuned for each task and length. With
--out the results are kept, and the same command measures only what is missing.
"""

_VALIDATE_EXAMPLES = f"""\
{_WEIGHTS}
examples:
  celo-tasks validate celo mine=runs/mine --out validation.json   # minutes on 2 cores
  celo-tasks validate celo mine=runs/mine --lengths 300,1000,3000 --seeds 6 --out validation.json
  celo-tasks validate celo mine=runs/mine --tasks few
"""

_YARDSTICK_EXAMPLES = f"""\
{_WEIGHTS}
examples:
  celo-tasks yardstick --data-dir arrays celo mine=runs/mine
  celo-tasks yardstick --data-dir arrays --out yardstick.json celo published=weights/published
"""

_BEHAVIOUR = """\
Measure what a learned optimizer has learned: its multiplier over trainings of several lengths, after the loss is tripled for a
while, and under gradient noise; and its final loss where parameters and gradients are scaled, against Adam's.

Writes behaviour.json and behaviour.png: medians over seeds, on an MLP with tanh on 8x8 images from inside the package.
"""

_BEHAVIOUR_EXAMPLES = f"""\
{_WEIGHTS}
examples:
  celo-tasks behaviour --weights celo --out behaviour   # minutes on 2 cores
"""


def add_commands(commands: Any) -> None:
    """Adds ``task-costs``, ``tuned-adam``, ``validate``, ``yardstick`` and ``behaviour``."""
    _add_task_costs(commands)
    _add_tuned_adam(commands)
    _add_validate(commands)
    _add_yardstick(commands)
    _add_behaviour(commands)


def _package(*parts: str) -> pathlib.Path:
    return pathlib.Path(__file__).parents[1].joinpath(*parts)


def _add_task_costs(commands: Any) -> None:
    parser = commands.add_parser(
        "task-costs",
        help="measure what a step of each task costs",
        description=_TASK_COSTS,
        epilog=_TASK_COSTS_EXAMPLES,
    )
    add = parser.add_argument
    add("--task", action="append", default=[], metavar="NAME", help="only this task; may be repeated")
    add("--data-dir", metavar="FOLDER", help="folder of prepared arrays")
    add("--seconds", type=float, default=3.0, metavar="S", help="time for each task (3)")
    add("--skip-above", type=float, default=1e9, metavar="GFLOP", help="do not time tasks whose step takes more")
    out = _package("tasks", "costs.json")
    add("--out", type=pathlib.Path, default=out, metavar="FILE", help="JSON file (the one in this package)")
    parser.set_defaults(run=_task_costs)


def _task_costs(options: argparse.Namespace) -> int:
    options.interrupts.leave_with(f"stopped; the tasks that were measured are in {options.out}")
    from celo_tasks.evaluation import task_costs

    task_costs.measure(
        options.out,
        options.task,
        data_dir=options.data_dir,
        seconds=options.seconds,
        skip_above=options.skip_above,
        report=lambda name, cost: print(name, cost, flush=True),
    )
    return 0


def _add_tuned_adam(commands: Any) -> None:
    parser = commands.add_parser(
        "tuned-adam",
        help="keep an evaluation's tuned Adam, for later evaluations",
        description=_TUNED_ADAM,
        epilog=_TUNED_ADAM_EXAMPLES,
    )
    add = parser.add_argument
    add("folder", type=pathlib.Path, metavar="DIR", help="folder that `celo-tasks evaluate` wrote")
    out = _package("evaluation", "references")
    add(
        "--out", type=pathlib.Path, default=out, metavar="FOLDER", help="folder of SUITE.json (the one in this package)"
    )
    parser.set_defaults(run=_tuned_adam)


def _tuned_adam(options: argparse.Namespace) -> int:
    from celo_tasks.evaluation import tuned_references
    from celo_tasks.evaluation.store import Store

    written = tuned_references.write(Store.read(options.folder), options.out)
    for task, seeds in written.left_out.items():
        print(f"celo-tasks: {task} is left out, its Adam has {seeds} of {written.seeds} seeds", file=sys.stderr)
    print(f"{written.path}: {len(written.tasks)} tasks")
    return 0


def _labelled(references: list[str]) -> dict[str, str]:
    """References of weights by label, as [LABEL=]WEIGHTS gives them."""
    pairs = [text.partition("=") if "=" in text else (text, "", text) for text in references]
    return {label: reference for label, _, reference in pairs}


def _add_validate(commands: Any) -> None:
    parser = commands.add_parser(
        "validate",
        help="compare learned optimizers on the validation tasks",
        description=_VALIDATE,
        epilog=_VALIDATE_EXAMPLES,
    )
    add = parser.add_argument
    add("weights", nargs="+", metavar="[LABEL=]WEIGHTS", help="names, folders or theta.npz, see below")
    add("--lengths", type=names, default=("300", "1000"), metavar="N,...", help="steps of the trainings (300,1000)")
    add("--seeds", type=int, default=2, metavar="N", help="trainings of each task and length (2)")
    add("--tasks", type=names, default=("all",), metavar="NAME,...", help='tasks, "few" for the cheap ones (all)')
    add("--out", type=pathlib.Path, metavar="FILE", help="JSON file for the results, kept up to date")
    parser.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> int:
    if options.seeds < 1 or not all(text.isdigit() and int(text) for text in options.lengths):
        raise ValueError("--seeds and --lengths must be whole numbers of at least 1.")
    options.interrupts.leave_with(
        "stopped; the same command goes on" if options.out else "stopped; with --out the results would be kept"
    )
    from celo_core import files
    from celo_tasks.evaluation import weights_comparison

    references, lengths = _labelled(options.weights), [int(text) for text in options.lengths]
    result = weights_comparison.read(options.out, options.seeds) if options.out else {}
    tasks = weights_comparison.GROUPS.get(",".join(options.tasks), options.tasks)
    for label, length, found in weights_comparison.compare(references, lengths, options.seeds, result, tasks):
        result = found
        print(f"celo-tasks: {label}, {length:,} steps: measured", file=sys.stderr, flush=True)
        if options.out:
            files.write_json(options.out, result)
    print(weights_comparison.table(result, references, lengths))
    return 0


def _add_yardstick(commands: Any) -> None:
    parser = commands.add_parser(
        "yardstick",
        help="measure learned optimizers on meta-training's own distribution",
        description=_YARDSTICK,
        epilog=_YARDSTICK_EXAMPLES,
    )
    add = parser.add_argument
    add("weights", nargs="+", metavar="[LABEL=]WEIGHTS", help="names, folders or theta.npz, see below")
    add("--data-dir", metavar="FOLDER", help="folder of prepared arrays NAME.npz")
    add("--datasets", type=names, metavar="A,B,...", help="8x8 image sets (the four of the paper)")
    add("--problems", type=int, default=4, metavar="N", help="problems of each data set (4)")
    add("--steps", type=int, default=2000, metavar="N", help="length of every training (2000)")
    add("--seed", type=int, default=0, metavar="N", help="of the problems (0)")
    add("--out", type=pathlib.Path, metavar="FILE", help="JSON file for the results")
    parser.set_defaults(run=_yardstick)


def _yardstick(options: argparse.Namespace) -> int:
    if options.problems < 1 or options.steps < 1:
        raise ValueError("--problems and --steps must be at least 1.")
    from celo_core import files
    from celo_tasks.evaluation import yardstick
    from celo_tasks.evaluation.learned import load_learned
    from celo_tasks.reporting.machine import hardware, versions

    found = {label: load_learned(reference) for label, reference in _labelled(options.weights).items()}
    sets = options.datasets or yardstick.DATASETS
    problems = {"problems": options.problems, "steps": options.steps, "seed": options.seed}
    measured = yardstick.Yardstick(options.data_dir, datasets=sets, **problems)
    results = {}
    for label, learned in found.items():
        results[label] = measured.measure(learned.architecture, learned.theta)
        print(label, results[label]["mean"], flush=True)
    if options.out:
        record = {
            "steps": options.steps,
            "problems_per_data_set": options.problems,
            "seed": options.seed,
            "machine": hardware(),
            "versions": versions(),
            "results": results,
        }
        files.write_json(options.out, record)
    return 0


def _add_behaviour(commands: Any) -> None:
    parser = commands.add_parser(
        "behaviour",
        help="measure what a learned optimizer has learned",
        description=_BEHAVIOUR,
        epilog=_BEHAVIOUR_EXAMPLES,
    )
    add = parser.add_argument
    add("--weights", default="celo", metavar="WEIGHTS", help="a name, a folder or a theta.npz, see below (celo)")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each kind (3)")
    add("--steps", type=int, default=1000, metavar="N", help="of a training, where not said otherwise (1000)")
    add("--out", type=pathlib.Path, default="behaviour", metavar="FOLDER", help="folder of the results (behaviour)")
    parser.set_defaults(run=_behaviour)


def _behaviour(options: argparse.Namespace) -> int:
    options.interrupts.leave_with("stopped; nothing was written")
    from celo_core import files
    from celo_tasks.evaluation import behaviour
    from celo_tasks.evaluation.behaviour_plot import draw
    from celo_tasks.evaluation.learned import load_learned
    from celo_tasks.reporting.figures import png

    settings = behaviour.BehaviourSettings(seeds=options.seeds, steps=options.steps)
    report = lambda what: print(f"measuring: {what}", file=sys.stderr, flush=True)
    result = behaviour.measure(load_learned(options.weights), settings, report)
    files.write_json(options.out / "behaviour.json", result)
    files.write_bytes(options.out / "behaviour.png", png(draw(result)))
    print(options.out)
    return 0
