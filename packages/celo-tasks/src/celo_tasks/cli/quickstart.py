"""The part of the command ``celo-tasks`` that gives a first look: a small evaluation with everything chosen."""

import argparse
import time
from pathlib import Path
from typing import Any

from celo_tasks.cli.common import names, numbers
from celo_tasks.cli.evaluation import carry_out, say_what_is_kept
from celo_tasks.spelling import nearest

SUITE = "quickstart"
OPTIMIZERS = ("celo", "adam", "adamw")

_QUICKSTART = """\
Train three networks that meta-training never saw, on real data from inside the package, with the pretrained Celo (which
celo-zoo brings) and with Adam and AdamW, each at the best of six learning rates.

It is an evaluation on the suite quickstart, whose trainings advance in turn so that times per step can be compared. Prints a
table, and writes report.md, report.json and pictures, curves.png among them. Stop at any time: the same command goes on with
the tasks and seeds that are missing.
"""

_QUICKSTART_EXAMPLES = """\
examples:
  celo-tasks quickstart                           # everything, some minutes on 2 cores
  celo-tasks quickstart --tasks mlp --steps 300   # a first look, in half a minute
  celo-tasks quickstart --optimizers celo,adam --seeds 3
"""


def add_commands(commands: Any) -> None:
    """Adds ``quickstart``."""
    parser = commands.add_parser(
        "quickstart",
        help="compare the pretrained Celo with tuned Adam and AdamW on three small networks",
        description=_QUICKSTART,
        epilog=_QUICKSTART_EXAMPLES,
    )
    add = parser.add_argument
    add("--out", default="quickstart-results", metavar="FOLDER", help="folder of the results (quickstart-results)")
    add("--steps", type=int, metavar="N", help="length of every training, in steps (1000)")
    add("--seeds", type=int, metavar="N", help="number of seeds (1)")
    add("--tasks", type=names, metavar="A,B,...", help="out of mlp, convnet and transformer (all)")
    what = "adam, adamw and names of installed pretrained optimizers (celo,adam,adamw)"
    add("--optimizers", type=names, metavar="A,B,...", help=what)
    what = "learning rates at which the baselines are tried (3e-4,1e-3,3e-3,1e-2,3e-2,1e-1)"
    add("--learning-rates", type=numbers, metavar="X,Y,...", help=what)
    parser.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> int:
    say_what_is_kept(options)
    from celo_core.progress import format_seconds
    from celo_tasks.reporting.machine import hardware

    begin, out = time.monotonic(), Path(options.out)
    plan = _plan(options)
    status = carry_out(plan, options.out, brief=True)
    print(f"\n{hardware()}, {format_seconds(time.monotonic() - begin)} in all")
    print("\n".join(str(out / name) for name in ("curves.png", "report.json", "report.md")))
    return status


def _plan(options: argparse.Namespace) -> Any:
    """What the options ask for, as `celo_tasks.evaluation.plan.EvaluationPlan`."""
    from celo_tasks import baselines
    from celo_tasks.evaluation.optimizer_specs import OptimizerSpec
    from celo_tasks.evaluation.plan import BASELINE, EvaluationPlan
    from celo_tasks.tasks import registry

    suite = registry.find_suite(SUITE)
    # A task may be named without the suite.
    known = {name.removeprefix(f"{SUITE}_"): name for name in suite.tasks}
    chosen = suite.tasks if options.tasks is None else options.tasks
    if unknown := next((name for name in chosen if name not in (*known, *suite.tasks)), None):
        raise ValueError(
            f"there is no task {unknown!r} in the quickstart{nearest(unknown, known)}: choose from {', '.join(known)}."
        )
    tasks = tuple(known.get(name, name) for name in chosen)
    specs = tuple(
        OptimizerSpec.parse(text) for text in (OPTIMIZERS if options.optimizers is None else options.optimizers)
    )
    return EvaluationPlan(
        suite=SUITE,
        tasks=tasks,
        specs=specs,
        steps=suite.steps if options.steps is None else options.steps,
        seeds=suite.seeds if options.seeds is None else options.seeds,
        learning_rates=options.learning_rates or baselines.LEARNING_RATES[suite.learning_rates],
        schedules_of=suite.schedules_of,
        longest=suite.longest,
        timing=suite.timing,
        tune_adam=() if any(spec.name == BASELINE for spec in specs) else tasks,
    )
