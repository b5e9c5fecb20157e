"""The command ``celo-tasks``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from celo_tasks import __version__

_META_TRAIN = """\
Meta-train Celo in two phases: first the update rule with a step-size multiplier of 1, then the scheduler on top of it.

The run's folder holds a checkpoint and a log (JSON lines) per phase. A run that was stopped, by Ctrl-C, by --minutes or by a crash,
goes on where its last checkpoint left it when the same command is given again; the result is the same to the last bit.
When both phases are done the folder holds theta.npz and run.json (what was run, on what, at which cost).
"""

_META_TRAIN_EXAMPLES = """\
examples:
  celo-tasks meta-train --out runs/first                      # the data inside the package, about half an hour on 2 cores
  celo-tasks meta-train --out runs/mine --data-dir ~/arrays   # prepared arrays: ~/arrays/mnist_8x8.npz and so on
  celo-tasks meta-train --out runs/mine --minutes 10          # a stretch of ten minutes; again to go on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for a mistake in the input, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"celo-tasks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="celo-tasks", description="Tasks to meta-train learned optimizers on, and to judge them by."
    )
    parser.add_argument("--version", action="version", version=f"celo-tasks {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_meta_train(commands)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _add_meta_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "meta-train",
        help="meta-train Celo's update rule and scheduler",
        description=_META_TRAIN,
        epilog=_META_TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="folder of the run; an unfinished run in it is resumed")
    add("--phase", choices=("both", "update-rule", "scheduler"), default="both", help="which phase to run (both)")
    add("--data-dir", metavar="FOLDER", help="folder of prepared arrays NAME.npz (x_train, y_train, x_test, y_test; uint8)")
    add("--datasets", type=_names, metavar="A,B,...", help="image sets (the paper's four if present, else those in the package)")
    add("--augmentation", type=_names, default=("global", "tensor"), metavar="A,B,...", help="levels of reparametrisation out of global, tensor and parameter; a task picks one at random (global,tensor)")
    add("--iterations", type=int, default=3000, metavar="N", help="meta-iterations per phase (3000; the paper: 100000)")
    add("--minutes", type=float, metavar="M", help="stop after M minutes, with a checkpoint")
    add("--learning-rate", type=float, default=4e-3, metavar="X", help="meta learning rate of the update rule (4e-3; the paper: 3e-4)")
    add("--scheduler-learning-rate", type=float, default=1e-3, metavar="X", help="meta learning rate of the scheduler (1e-3)")
    add("--final-fraction", type=float, default=0.03, metavar="X", help="the meta learning rate decays to this fraction (0.03)")
    add("--average-decay", type=float, default=0.98, metavar="X", help="decay of the running average of theta that is the result (0.98)")
    add("--pairs", type=int, default=32, metavar="N", help="antithetic pairs of problems at once (32)")
    add("--sigma", type=float, default=0.01, metavar="X", help="standard deviation of the perturbations of theta (0.01)")
    add("--truncation", type=int, default=50, metavar="N", help="inner steps per meta-iteration (50)")
    add("--min-length", type=int, default=100, metavar="N", help="shortest training of a problem, in steps (100)")
    add("--max-length", type=int, default=2000, metavar="N", help="longest training of a problem, in steps (2000)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything random (0)")
    add("--cpu-devices", type=int, default=os.cpu_count(), metavar="N", help="on a CPU, split the work over N threads of their own (all cores)")
    parser.set_defaults(run=_meta_train)


def _meta_train(options: argparse.Namespace) -> int:
    import jax

    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    from celo_tasks import meta_training

    names = options.datasets or _default_datasets(options.data_dir)
    recipe = meta_training.Recipe(
        datasets=names,
        levels=options.augmentation,
        iterations=(options.iterations, options.iterations),
        learning_rates=(options.learning_rate, options.scheduler_learning_rate),
        final_fraction=options.final_fraction,
        average_decay=options.average_decay,
        num_pairs=options.pairs,
        sigma=options.sigma,
        truncation=options.truncation,
        min_length=options.min_length,
        max_length=options.max_length,
        seed=options.seed,
    )
    phases = meta_training.PHASES if options.phase == "both" else (options.phase.replace("-", "_"),)
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: interrupted.append(received))
    theta = meta_training.meta_train(
        recipe, options.out, phases=phases, data_dir=options.data_dir, minutes=options.minutes, stop=lambda: bool(interrupted)
    )
    if theta is None:
        print(f"stopped; the same command goes on from {options.out}", file=sys.stderr)
        return 130 if interrupted else 0
    print(f"{options.out}/theta.npz")
    return 0


def _default_datasets(data_dir: str | None) -> tuple[str, ...]:
    """The paper's image sets if all are there, else those inside the package."""
    from celo_tasks import datasets, meta_training

    missing = [name for name in meta_training.PAPER_DATASETS if not datasets.is_available(name, data_dir=data_dir)]
    if not missing:
        return meta_training.PAPER_DATASETS
    names = meta_training.OFFLINE_DATASETS
    print(
        f"celo-tasks: {', '.join(missing)} not found, so {' and '.join(names)} from the package are used; "
        "see celo-tasks prepare --help, or name others by --datasets.",
        file=sys.stderr,
    )
    return names
