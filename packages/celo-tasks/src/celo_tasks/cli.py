"""The command ``celo-tasks``."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from celo_tasks import __version__, cli_evaluation

_META_TRAIN = """\
Meta-train Celo in two phases: first the update rule with a step-size multiplier of 1, then the scheduler on top of it.

The run's folder holds a checkpoint and a log (JSON lines) per phase. A run that was stopped, by Ctrl-C, by --minutes
or by a crash, goes on where its last checkpoint left it when the same command is given again; the result is the same
to the last bit. When both phases are done the folder holds theta.npz and run.json (what was run, on what, at which
cost).
"""

_META_TRAIN_EXAMPLES = """\
examples:
  celo-tasks meta-train --out runs/first                      # data from the package; half an hour on 2 cores
  celo-tasks meta-train --out runs/mine --data-dir ~/arrays   # prepared arrays: ~/arrays/mnist_8x8.npz and so on
  celo-tasks meta-train --out runs/mine --minutes 10          # a stretch of ten minutes; again to go on
"""

_QUICKSTART = """\
Train three networks that meta-training never saw, on real data from inside the package, with the pretrained Celo (which
celo-zoo brings) and with Adam and AdamW, each at the best of six learning rates.

Prints a table and writes the same as results.md, every number as results.json and the training curves as curves.png.
"""

_QUICKSTART_EXAMPLES = """\
examples:
  celo-tasks quickstart                                          # everything, some minutes on 2 cores
  celo-tasks quickstart --tasks mlp --steps 300                  # a first look, in half a minute
  celo-tasks quickstart --optimizers celo,adam --seeds 3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for a mistake in the input, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
        print(f"celo-tasks: {text}", file=sys.stderr)
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
    _add_quickstart(commands)
    cli_evaluation.add_commands(commands)
    _add_prepare(commands)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in _names(text))


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
    add("--minutes", type=float, metavar="M", help="stop after M minutes, with a checkpoint")
    devices = "on a CPU, split the work over N threads of their own (all cores)"
    add("--cpu-devices", type=int, default=default_cpu_devices(), metavar="N", help=devices)

    add = parser.add_argument_group("the problems").add_argument
    add("--data-dir", metavar="FOLDER", help="folder of arrays NAME.npz (x_train, y_train, x_test, y_test; uint8)")
    names = "image sets (the paper's four if they are on this machine, else those in the package)"
    add("--datasets", type=_names, metavar="A,B,...", help=names)
    levels = (
        "levels of reparametrisation, out of global, tensor, parameter and none, or published, VeLO's mixture of them; "
    )
    levels += "a task picks one (global,tensor)"
    add("--augmentation", type=_names, default=("global", "tensor"), metavar="A,B,...", help=levels)
    add("--min-length", type=int, default=100, metavar="N", help="shortest training of a problem, in steps (100)")
    add("--max-length", type=int, default=2000, metavar="N", help="longest training of a problem, in steps (2000)")

    add = parser.add_argument_group("the meta-gradient").add_argument
    add("--pairs", type=int, default=32, metavar="N", help="antithetic pairs of problems at once (32)")
    add("--sigma", type=float, default=0.01, metavar="X", help="standard deviation of the perturbations (0.01)")
    add("--truncation", type=int, default=50, metavar="N", help="inner steps per meta-iteration (50)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything random (0)")

    add = parser.add_argument_group("the meta-optimizer").add_argument
    add("--iterations", type=int, default=3000, metavar="N", help="meta-iterations per phase (3000; the paper: 100000)")
    add("--scheduler-iterations", type=int, metavar="N", help="meta-iterations of the scheduler's phase, if other")
    add("--learning-rate", type=float, default=4e-3, metavar="X", help="for the update rule (4e-3; the paper: 3e-4)")
    add("--scheduler-learning-rate", type=float, default=1e-3, metavar="X", help="for the scheduler (1e-3)")
    add("--final-fraction", type=float, default=0.03, metavar="X", help="learning rates decay to this fraction (0.03)")
    average = "decay of the running average of theta that is the result (0.98)"
    add("--average-decay", type=float, default=0.98, metavar="X", help=average)
    parser.set_defaults(run=_meta_train)


def _meta_train(options: argparse.Namespace) -> int:
    import jax

    from celo_tasks import meta_training

    # JAX already runs where this is called from a program of one's own; then its devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)

    names = options.datasets or default_datasets(options.data_dir)
    recipe = meta_training.Recipe(
        datasets=names,
        levels=options.augmentation,
        iterations=(options.iterations, options.scheduler_iterations or options.iterations),
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
        recipe,
        options.out,
        phases=phases,
        data_dir=options.data_dir,
        minutes=options.minutes,
        stop=lambda: bool(interrupted),
    )
    if theta is None:
        print(f"stopped; the same command goes on from {options.out}", file=sys.stderr)
        return 130 if interrupted else 0
    finished = options.out if set(theta) == set(meta_training.PHASES) else os.path.join(options.out, phases[-1])
    print(os.path.join(finished, "theta.npz"))
    return 0


def default_cpu_devices() -> int:
    """Devices to simulate on a CPU: one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_datasets(data_dir: str | None) -> tuple[str, ...]:
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


def _add_quickstart(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quickstart",
        help="compare the pretrained Celo with tuned Adam and AdamW on three small networks",
        description=_QUICKSTART,
        epilog=_QUICKSTART_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", default="quickstart-results", metavar="FOLDER", help="folder of the results (quickstart-results)")
    add("--steps", type=int, metavar="N", help="length of every training, in steps (1000)")
    add("--seeds", type=int, metavar="N", help="number of seeds (1)")
    add("--tasks", type=_names, metavar="A,B,...", help="out of mlp, convnet and transformer (all)")
    add(
        "--optimizers",
        type=_names,
        metavar="A,B,...",
        help="adam, adamw and names of installed pretrained optimizers (celo,adam,adamw)",
    )
    add(
        "--learning-rates",
        type=_numbers,
        metavar="X,Y,...",
        help="learning rates at which the baselines are tried (3e-4,1e-3,3e-3,1e-2,3e-2,1e-1)",
    )
    parser.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> int:
    from celo_tasks import quickstart

    names = ("tasks", "optimizers", "steps", "seeds", "learning_rates")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    quickstart.run(quickstart.Settings(**given), options.out)
    return 0


def _add_prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "prepare",
        help="download a data set through tensorflow-datasets and convert it",
        description="Download a data set through tensorflow-datasets, convert it, and write NAME.npz, which --data-dir "
        "reads: images as arrays, texts as bytes or as subwords of a byte-level BPE. What tensorflow-datasets has prepared "
        "before is not downloaded again. Only this step needs tensorflow (pip install 'celo-tasks[prepare]').",
        epilog="example: celo-tasks prepare mnist_8x8 --out-dir arrays",
    )
    add = parser.add_argument
    add(
        "name",
        metavar="NAME",
        help="e.g. mnist_8x8, svhn_cropped_8x8, cifar100_32rgb, lm1b_32k; an unknown name lists them all",
    )
    add("--out-dir", default="arrays", metavar="FOLDER", help="folder for NAME.npz (arrays)")
    add("--tfds-data-dir", metavar="FOLDER", help="folder of tensorflow-datasets (its own default)")
    parser.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> int:
    from celo_tasks import datasets

    print(datasets.prepare(options.name, out_dir=options.out_dir, tfds_data_dir=options.tfds_data_dir))
    return 0
