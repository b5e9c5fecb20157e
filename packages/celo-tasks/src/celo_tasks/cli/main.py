"""The command ``celo-tasks``. Until it is known what is to be done, nothing is imported that takes time: no JAX, above all."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from celo_tasks import __version__
from celo_tasks.cli import analysis as cli_analysis
from celo_tasks.cli import bench as cli_bench
from celo_tasks.cli import console
from celo_tasks.cli import evaluation as cli_evaluation
from celo_tasks.cli import listing as cli_listing
from celo_tasks.cli import meta_training as cli_meta_training
from celo_tasks.cli import quickstart as cli_quickstart
from celo_tasks.cli.interrupts import Interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: those of the command; by default the process's, which is taken to be the command's own then: a second signal,
        or one that finds it in a long compilation, ends it.

    Returns:
      Its exit status: 0, 2 for a mistake in the input, 130 or 143 where SIGINT or SIGTERM ended it, and 141 where nobody reads
      its output any more.
    """
    own_process = arguments is None
    try:
        status, interrupted = _run(arguments, own_process)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before or after what `Interrupts` looks after
        return 130
    except BrokenPipeError:
        if not console.nobody_reads():
            print(
                "celo-tasks: a connection was closed by the other side: give the same command again.", file=sys.stderr
            )
            return 2
        return console.PIPE_CLOSED
    except OSError as error:  # what the command itself could not do was said already
        console.nobody_reads()
        print(f"celo-tasks: the output could not be written ({error.strerror}).", file=sys.stderr)
        return 2
    except SystemExit:  # of argparse, after help or a mistake
        if console.nobody_reads():
            return console.PIPE_CLOSED
        raise
    if interrupted and own_process:
        # Without waiting for what XLA still computes in its threads; but semaphores of processes are given back.
        if multiprocessing := sys.modules.get("multiprocessing.util"):
            multiprocessing._run_finalizers(0)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
    return status


def _run(arguments: Sequence[str] | None, own_process: bool) -> tuple[int, bool]:
    """The exit status, and whether a signal ended the command."""
    options = _parser().parse_args(arguments)
    with Interrupts(own_process) as options.interrupts:
        try:
            status = options.run(options)
        except KeyboardInterrupt:
            return options.interrupts.status, True
        except BrokenPipeError:
            raise
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
            print(f"celo-tasks: {text}", file=sys.stderr)
            status = 2
        return status, options.interrupts()


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(
        prog="celo-tasks", description="Tasks to meta-train learned optimizers on, and to evaluate them on."
    )
    parser.add_argument("--version", action="version", version=f"celo-tasks {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cli_meta_training.add_commands(commands)
    cli_quickstart.add_commands(commands)
    cli_listing.add_commands(commands)
    cli_evaluation.add_commands(commands)
    cli_bench.add_commands(commands)
    cli_analysis.add_commands(commands)
    _add_prepare(commands)
    return parser


def _add_prepare(commands: Any) -> None:
    parser = commands.add_parser(
        "prepare",
        help="download a data set through tensorflow-datasets and convert it",
        description="Download a data set through tensorflow-datasets, convert it, and write NAME.npz, which --data-dir "
        "reads: images as arrays, texts as bytes or as subwords of a byte-level BPE. What tensorflow-datasets has prepared "
        "before is not downloaded again. Only this step needs tensorflow (pip install 'celo-tasks[prepare]').",
        epilog="examples:\n  celo-tasks prepare mnist_8x8 --out-dir arrays",
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

    options.interrupts.leave_with(
        "stopped; nothing was written, and the same command goes on with what tensorflow-datasets has prepared"
    )
    print(datasets.prepare(options.name, out_dir=options.out_dir, tfds_data_dir=options.tfds_data_dir))
    return 0
