"""The command ``celo-tasks``."""

import argparse
import sys
from collections.abc import Sequence

from celo_tasks import __version__, cli_bench, cli_evaluation, cli_meta_training
from celo_tasks.cli_common import names, numbers

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
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
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
    cli_meta_training.add_commands(commands)
    _add_quickstart(commands)
    cli_evaluation.add_commands(commands)
    cli_bench.add_commands(commands)
    _add_prepare(commands)
    return parser


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
    add("--tasks", type=names, metavar="A,B,...", help="out of mlp, convnet and transformer (all)")
    add(
        "--optimizers",
        type=names,
        metavar="A,B,...",
        help="adam, adamw and names of installed pretrained optimizers (celo,adam,adamw)",
    )
    add(
        "--learning-rates",
        type=numbers,
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
