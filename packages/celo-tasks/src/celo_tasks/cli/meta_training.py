"""The part of the command ``celo-tasks`` that meta-trains, and shows recipes."""

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from celo_tasks.cli.common import default_cpu_devices, default_datasets, names
from celo_tasks.meta_training import recipe_files

if TYPE_CHECKING:  # with it comes JAX, which help need not wait for
    from celo_tasks.meta_training.recipe import Recipe

_DESCRIPTION = """\
Meta-train a learned optimizer by a recipe: which architecture, on which problems, by which estimator of the meta-gradient, in
which phases. The paper's has two: the update rule with a step-size multiplier of 1, then the scheduler on top of it.

The run's folder holds a checkpoint and a log (JSON lines) per phase, plots of how it goes, and the recipe. A run that was stopped,
by Ctrl-C, by --minutes or by a crash, goes on where its last checkpoint left it when the same command is given again; the
result is the same to the last bit. Ctrl-C or SIGTERM lets it finish the block of meta-iterations that it is in and write a
checkpoint; a second one ends it at once. When all phases are done the folder holds theta.npz and run.json (what was run, on
what, at which cost).

Only --out must be given. `celo-tasks recipe NAME` shows a recipe, to change by --set or in a file of your own.
"""

_EXAMPLES = """\
examples:
  celo-tasks meta-train --out runs/first --recipe fast        # minutes on 2 cores
  celo-tasks meta-train --out runs/paper                      # the paper's: hours on a CPU
  celo-tasks meta-train --out runs/schedule --recipe schedule --minutes 30   # learn a scheduler
  celo-tasks meta-train --out runs/mine --data-dir ~/arrays   # ~/arrays/mnist_8x8.npz and so on
  celo-tasks meta-train --out runs/mine --minutes 10          # ten minutes; again to go on
  celo-tasks meta-train --out runs/mine --set estimator.sigma=0.05 --set problems.families.vit=8 \\
      --set phases.update_rule.training.iterations=500
  celo-tasks recipe fast > mine.toml && celo-tasks meta-train --out runs/mine --recipe mine.toml
  srun celo-tasks meta-train --out /shared/runs/big --set problems.families.mlp=1024 --distributed
"""

_RECIPE = """\
Show a recipe as TOML, to start one of your own from: `celo-tasks meta-train --recipe FILE` takes it. With --whole, or with settings
changed by --set, every field is shown.
"""

_SET = """\
change a setting, e.g. estimator.sigma=0.05; may be repeated. A type, such as estimator.type=noise_reuse_es, comes with its
defaults, and architecture.name with its own and one phase "all": set the rest after it"""


def add_commands(commands: Any) -> None:
    """Adds ``meta-train`` and ``recipe``."""
    parser = commands.add_parser(
        "meta-train",
        help="meta-train a learned optimizer by a recipe",
        usage="%(prog)s --out FOLDER [--recipe NAME|FILE] [--set PATH=VALUE ...] [option ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="folder of the run; an unfinished run in it is resumed")
    _add_reference(add, "--recipe", default="paper")
    add("--phase", action="append", metavar="NAME", help="run this phase alone; may be repeated (all)")
    add("--minutes", type=float, metavar="M", help="stop after M minutes, with a checkpoint")
    add("--iterations", type=int, metavar="N", help="meta-iterations of every phase (the recipe's)")
    add("--seed", type=int, metavar="N", help="seed of everything random (0)")
    what = (
        "begin with the theta of another run: its theta.npz, or the checkpoint.npz of its first phase; or of a pretrained "
        "optimizer by name, such as celo, with celo-zoo"
    )
    add("--warm-start", metavar="FILE|NAME", help=what)
    add("--data-dir", metavar="FOLDER", help="folder of arrays NAME.npz (x_train, y_train, x_test, y_test; uint8)")
    what = "image sets (the recipe's; else the paper's four if they are on this machine, else those in the package)"
    add("--datasets", type=names, metavar="A,B,...", help=what)
    what = "what to do when it diverges: report it, stop, or rollback to the last good state (report)"
    add("--on-divergence", choices=("report", "stop", "rollback"), default="report", help=what)
    _add_reports(parser.add_argument_group("monitoring").add_argument)
    _add_devices(parser.add_argument_group("devices and processes").add_argument)
    parser.set_defaults(run=_run)
    _add_recipe(commands)


def _add_reference(add: Any, name: str, **options: Any) -> None:
    known = ", ".join(recipe_files.names())
    add(name, metavar="NAME|FILE", help=f"one of {known}; a TOML file; or the folder of a run (paper)", **options)
    add("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=_SET)


def _add_recipe(commands: Any) -> None:
    parser = commands.add_parser("recipe", help="show a recipe of meta-training", description=_RECIPE)
    _add_reference(parser.add_argument, "recipe", nargs="?", default="paper")
    parser.add_argument("--whole", action="store_true", help="with every field, those at their defaults included")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    if not options.whole and not options.settings:
        print(recipe_files.text(options.recipe).rstrip())
        return 0
    from celo_tasks.meta_training import recipe

    print(recipe_files.write(recipe.whole(recipe.load(options.recipe, options.settings))).rstrip())
    return 0


def _add_reports(add: Any) -> None:
    what = "meta-iterations between validations on tasks not trained on, against tuned Adam; 0 for none (a tenth of a phase)"
    add("--validate-every", type=int, metavar="N", help=what)
    add("--tensorboard", metavar="FOLDER", help="write for TensorBoard (pip install 'celo-tasks[tensorboard]')")


def _add_devices(add: Any) -> None:
    add("--cpu-devices", type=int, metavar="N", help="on a CPU, split the work over N threads of their own (all cores)")
    what = "join the processes of a job that SLURM, Open MPI or a cloud has started, each of which runs this command"
    add("--distributed", action="store_true", help=what)
    add(
        "--coordinator", metavar="HOST:PORT", help="join --processes processes by hand: where the first of them listens"
    )
    add("--processes", type=int, metavar="N", help="how many there are")
    add("--process", type=int, metavar="I", help="which one this is, from 0")


def _run(options: argparse.Namespace) -> int:
    interrupts = options.interrupts
    # Before the end of the first block there is nothing to be saved.
    interrupts.leave_with(f"stopped before anything new was done; the same command goes on from {options.out}")
    finish = (
        f"stopping at the end of the current block of meta-iterations, with a checkpoint from which the same command goes on "
        f"({options.out})"
    )

    def stop() -> bool:
        interrupts.finish_with(finish)
        return interrupts()

    import jax

    from celo_tasks.meta_training import monitoring
    from celo_tasks.meta_training.run import meta_train

    _join(options)
    interrupts.arm()
    if jax.process_count() > 1:
        stop()  # all processes are to stop at the same block
    # JAX already runs where this is called from a program of one's own; then its devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", options.cpu_devices or default_cpu_devices())
    recipe = _recipe(options)
    monitoring.prepare(options.tensorboard)
    shortest = min(phase.training.iterations for phase in recipe.phases.values())
    every = max(1, shortest // 10) if options.validate_every is None else options.validate_every
    theta = meta_train(
        recipe,
        options.out,
        phases=options.phase or None,
        data_dir=options.data_dir,
        minutes=options.minutes,
        stop=stop,
        # A number that was asked for is held to; the default takes as many as divide the number of problems.
        devices=jax.devices() if options.cpu_devices else None,
        on_divergence=options.on_divergence,
        validate_every=every,
        tensorboard=options.tensorboard,
    )
    if theta is None:
        if jax.process_index() == 0:
            print(f"stopped; the same command goes on from {options.out}", file=sys.stderr)
        return interrupts.status if interrupts() else 0
    last = options.phase[-1] if options.phase else list(recipe.phases)[-1]
    finished = options.out if last == list(recipe.phases)[-1] else os.path.join(options.out, last)
    if jax.process_index() == 0:
        print(os.path.join(finished, "theta.npz"))
    return 0


def _join(options: argparse.Namespace) -> None:
    """Joins the other processes, if there are any; before anything else of JAX."""
    import jax

    by_hand = [options.coordinator, options.processes, options.process]
    if any(one is not None for one in by_hand) and (None in by_hand or options.distributed):
        raise ValueError("give --coordinator, --processes and --process together, or --distributed alone.")
    if options.coordinator or options.distributed:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.coordinator, options.processes, options.process)


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The recipe with what the options change in it."""
    import dataclasses

    from celo_tasks.meta_training import recipe as recipes

    found = recipes.load(options.recipe, options.settings)
    if options.iterations is not None:
        if options.iterations < 1:
            raise ValueError(f"a phase needs at least 1 meta-iteration, not {options.iterations}.")
        found = recipes.with_iterations(found, options.iterations)
    given = {name: getattr(options, name) for name in ("seed", "warm_start") if getattr(options, name) is not None}
    found = dataclasses.replace(found, **given)
    return recipes.with_datasets(found, options.datasets, lambda: default_datasets(options.data_dir))
