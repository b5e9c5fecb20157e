"""The part of the command ``celo-tasks`` that meta-trains."""

import argparse
import contextlib
import os
import sys
from typing import Any

from celo_tasks.cli.common import default_cpu_devices, default_datasets, names
from celo_tasks.meta_training.recipe import ARCHITECTURES, RECIPES, Recipe

_DESCRIPTION = """\
Meta-train Celo in two phases: first the update rule with a step-size multiplier of 1, then the scheduler on top of it.

The run's folder holds a checkpoint and a log (JSON lines) per phase, and pictures of how it goes. A run that was stopped,
by Ctrl-C, by --minutes or by a crash, goes on where its last checkpoint left it when the same command is given again; the
result is the same to the last bit. Ctrl-C or SIGTERM lets it finish the block of meta-iterations that it is in and write a
checkpoint; a second one ends it at once. When both phases are done the folder holds theta.npz and run.json (what was run, on
what, at which cost).

Only --out must be given: settings are those of the paper, --recipe fast takes a fiftieth of its cost, and the options of the
groups "the learned optimizer" to "the meta-optimizer" each change one setting. In parentheses: what holds without the option.
"""

_EXAMPLES = """\
examples:
  celo-tasks meta-train --out runs/first --recipe fast        # minutes on 2 cores
  celo-tasks meta-train --out runs/paper                      # the paper's: hours on a CPU
  celo-tasks meta-train --out runs/mine --data-dir ~/arrays   # ~/arrays/mnist_8x8.npz and so on
  celo-tasks meta-train --out runs/mine --minutes 10          # ten minutes; again to go on
  celo-tasks meta-train --out runs/long --max-length 20000 --first-length 500 --curriculum 20000 \\
      --resume-probability 0.5
  srun celo-tasks meta-train --out /shared/runs/big --pairs 1024 --distributed
"""

_LEVELS = """\
levels of reparametrisation, out of global, tensor, parameter and none, or published, VeLO's mixture of them; a task picks
one (global,tensor,parameter)"""


def add_commands(commands: Any) -> None:
    """Adds ``meta-train``."""
    parser = commands.add_parser(
        "meta-train",
        help="meta-train Celo's update rule and scheduler",
        usage="%(prog)s --out FOLDER [--recipe NAME] [option ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="folder of the run; an unfinished run in it is resumed")
    add("--recipe", choices=tuple(RECIPES), default="paper", help="settings that the groups below change (paper)")
    add("--phase", choices=("both", "update-rule", "scheduler"), default="both", help="which phase to run (both)")
    add("--minutes", type=float, metavar="M", help="stop after M minutes, with a checkpoint")
    add("--seed", type=int, metavar="N", help="seed of everything random (0)")
    _add_learned(parser.add_argument_group("the learned optimizer").add_argument)
    _add_problems(parser.add_argument_group("the problems").add_argument)
    _add_gradient(parser.add_argument_group("the meta-gradient").add_argument)
    _add_optimizer(parser.add_argument_group("the meta-optimizer").add_argument)
    _add_reports(parser.add_argument_group("what is seen of it").add_argument)
    _add_devices(parser.add_argument_group("devices and processes").add_argument)
    parser.set_defaults(run=_run)


def _add_learned(add: Any) -> None:
    what = "what to train; Celo-Adam has the second phase alone (celo)"
    add("--architecture", choices=ARCHITECTURES, help=what)
    what = "begin with the theta of another run: its theta.npz, or the checkpoint.npz of its first phase"
    add("--warm-start", metavar="FILE", help=what)
    what = (
        "scale of tensors that begin as zeros, in units of the others' smallest; 0 for next to none, as published (0)"
    )
    add("--zero-init-scale", type=float, metavar="X", help=what)
    what = "add Adam's direction to the network's, with learned weights, which tells noise apart"
    add("--adam", action="store_true", default=None, help=what)
    what = "add the momenta of matrices, orthogonalised, to the network's direction, with learned weights"
    add("--orthogonal", action="store_true", default=None, help=what)
    what = "units of the scheduler's LSTM: the fewer, the sooner it learns; 0 for a linear scheduler (64, as published)"
    add("--scheduler-hidden-size", type=int, metavar="N", help=what)
    what = "the scheduler reads the planned length of training too, so that long ones can have other step sizes"
    add("--scheduler-horizon", action="store_true", default=None, help=what)
    what = "what it reads of a training of fewer than N steps is N (1)"
    add("--scheduler-shortest", type=int, metavar="N", help=what)
    what = "constant, linear or cosine: a decay of the step sizes that the scheduler modulates (constant, as published)"
    add("--scheduler-decay", metavar="NAME", help=what)
    what = "the scheduler's phase goes on training the update rule too, which then learns steps that get smaller"
    add("--joint", action="store_true", default=None, help=what)


def _add_problems(add: Any) -> None:
    add("--data-dir", metavar="FOLDER", help="folder of arrays NAME.npz (x_train, y_train, x_test, y_test; uint8)")
    what = "image sets (the paper's four if they are on this machine, else those in the package)"
    add("--datasets", type=names, metavar="A,B,...", help=what)
    what = "problems of several kinds: antithetic pairs of each, e.g. mlp:16,vit:8,gru:4 (the paper's MLPs alone)"
    add("--families", type=_counts, metavar="NAME:N,...", help=what)
    add("--text", metavar="NAME", help="what language models among them read (shakespeare)")
    what = "loss, or log_loss, to which families whose losses differ in size contribute alike (loss)"
    add("--objective", metavar="NAME", help=what)
    add("--augmentation", dest="levels", type=names, metavar="A,B,...", help=_LEVELS)
    add("--min-length", type=int, metavar="N", help="shortest training of a problem, in steps (100)")
    add("--max-length", type=int, metavar="N", help="longest training of a problem, in steps (2000)")
    add(
        "--first-length",
        type=int,
        metavar="N",
        help="begin with a longest training of N steps, growing to --max-length",
    )
    add("--curriculum", type=int, metavar="N", help="meta-iterations until it has grown (10000)")
    what = "share of new problems that begin in the middle of an earlier one's life, for long trainings (0)"
    add("--resume-probability", type=float, metavar="X", help=what)


def _add_gradient(add: Any) -> None:
    what = "pes, noise_reuse_es, es, full_es, truncated_backprop or full_backprop (pes)"
    add("--estimator", metavar="NAME", help=what)
    add("--pairs", dest="num_pairs", type=int, metavar="N", help="antithetic pairs of problems at once (32)")
    add("--sigma", type=float, metavar="X", help="standard deviation of the perturbations (0.01)")
    add("--final-sigma", type=float, metavar="X", help="what sigma goes to over a phase (it stays)")
    add("--truncation", type=int, metavar="N", help="inner steps per meta-iteration (50)")
    what = "change the truncation: from iteration I on it is N, e.g. 1000:100,5000:200"
    add("--truncations", type=_pairs, metavar="I:N,...", help=what)
    what = "loss that is differentiated: training, or held_out, of test images at the same parameters (training)"
    add("--meta-loss", metavar="NAME", help=what)
    what = "k for each phase: a loss after the part x of a training weighs (1+k) x^k, so that its end counts more (0,0)"
    add("--late-weights", type=_weights, metavar="K,K", help=what)
    add("--clip-problem", type=float, metavar="X", help="largest norm of one problem's gradient (none)")


def _add_optimizer(add: Any) -> None:
    add("--iterations", type=int, metavar="N", help="meta-iterations per phase (100000)")
    add("--scheduler-iterations", type=int, metavar="N", help="meta-iterations of the scheduler's phase, if other")
    add("--learning-rate", type=float, metavar="X", help="for the update rule (3e-4)")
    add("--scheduler-learning-rate", type=float, metavar="X", help="for the scheduler (3e-4)")
    add("--final-fraction", type=float, metavar="X", help="learning rates decay to this fraction by a cosine (1)")
    add("--decay-from", type=float, metavar="X", help="share of a phase after which they begin to (0)")
    add("--weight-decay", type=float, metavar="X", help="AdamW's (0)")
    add("--clip-norm", type=float, metavar="X", help="largest norm of the meta-gradient (1)")
    what = "your own in place of AdamW: a function of the number of iterations that returns an Optax optimizer"
    add("--meta-optimizer", metavar="MODULE:FUNCTION", help=what)
    add("--average-decay", type=float, metavar="X", help="decay of the running average of theta that is the result (0)")
    what = "what to do when it diverges: report it, stop, or rollback to the last good state (report)"
    add("--on-divergence", choices=("report", "stop", "rollback"), default="report", help=what)


def _add_reports(add: Any) -> None:
    what = "meta-iterations between validations on tasks not trained on, beside tuned Adam; 0 for none (a tenth of a phase)"
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

    from celo_tasks.meta_training import monitoring as meta_report
    from celo_tasks.meta_training import run as meta_training

    _join(options)
    interrupts.arm()
    if jax.process_count() > 1:
        stop()  # all processes are to stop at the same block
    # JAX already runs where this is called from a program of one's own; then its devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", options.cpu_devices or default_cpu_devices())
    recipe = _recipe(options)
    phases = None if options.phase == "both" else (options.phase.replace("-", "_"),)
    meta_report.prepare(options.tensorboard)
    every = max(1, min(recipe.iterations) // 10) if options.validate_every is None else options.validate_every
    theta = meta_training.meta_train(
        recipe,
        options.out,
        phases=phases,
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
    finished = options.out if set(theta) == set(recipe.phases) else os.path.join(options.out, list(theta)[-1])
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


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with what the options change in it."""
    import dataclasses

    changed = dict(RECIPES[options.recipe])
    given = {name: value for name, value in vars(options).items() if value is not None}
    for field in dataclasses.fields(Recipe):
        if field.name in given and field.name not in ("iterations", "learning_rates", "datasets"):
            changed[field.name] = given[field.name]
    for name, first, second in (
        ("iterations", "iterations", "scheduler_iterations"),
        ("learning_rates", "learning_rate", "scheduler_learning_rate"),
    ):
        before = changed.get(name, getattr(Recipe, name))
        # Iterations given once are for both phases; each phase has a learning rate of its own.
        other = given.get(first, before[1]) if name == "iterations" else before[1]
        changed[name] = (given.get(first, before[0]), given.get(second, other))
    return Recipe(datasets=options.datasets or default_datasets(options.data_dir), **changed)


def _counts(text: str) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((name, int(count)) for name, count in (item.split(":") for item in names(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of NAME:N, such as mlp:16,vit:8") from None


def _weights(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"two numbers, such as 0,2, not {text!r}") from None
    return first, second


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(a), int(b)) for a, b in (item.split(":") for item in names(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"pairs ITERATION:STEPS, such as 1000:100,5000:200, not {text!r}") from error
