"""The parts of the command ``celo-tasks`` that evaluate optimizers on tasks, and report."""

import argparse
import sys
from pathlib import Path
from typing import Any

_EVALUATE = """\
Evaluate optimizers on the tasks of a suite, against tuned Adam.

Every optimizer with a learning rate is tried on a grid of learning rates by schedules and gets the best for each task, by
training loss; a learned optimizer is taken as it is. Results are appended to the folder run by run: stop at any time, and
the same command does only what is missing, more seeds or optimizers included. Tuned Adam of the suites comes with the
package where it was run on the same data; else Adam is tuned here.

At the end the folder holds report.md, report.json, curves.png, intervals.png and profiles.png.
"""

_EVALUATE_EXAMPLES = """\
optimizers:
  adam sgd sgdm adamw rmsprop fromage sm3 lars lamb adabelief adafactor adagrad yogi radam nadamw
  lion shampoo muon schedule_free_adamw prodigy
                       baselines, tuned for each task: the paper's fifteen, and five more
  celo                 pretrained optimizers of installed packages (pip install celo-zoo)
  mymodule:make        your own: make(num_steps) or make(learning_rate, num_steps) returns an Optax
                       optimizer; with a parameter learning_rate it is tuned like a baseline, and
                       gets a schedule (count -> rate)
  mine=mymodule:make   the same under a name of your choice

examples:
  celo-tasks evaluate --suite small-8 --optimizer celo --optimizer adamw --out results
  celo-tasks evaluate --suite small-8 --weights runs/mine --jobs 2 --out results
  celo-tasks evaluate --task small_mlp --optimizer mine=mymodule:make --steps 500 --seeds 5
"""


def add_commands(commands: Any) -> None:
    """Adds ``evaluate`` and ``report``."""
    _add_evaluate(commands)
    _add_report(commands)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="evaluate optimizers on a suite of tasks, against tuned Adam",
        usage="%(prog)s (--suite | --task NAME) (--optimizer REF | --weights PATH) [option ...]",
        description=_EVALUATE,
        epilog=_EVALUATE_EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--suite",
        metavar="NAME",
        help="small-8 or stress-8 (minutes per optimizer on 2 cores), ood-17 (wants a GPU) or quickstart",
    )
    add("--task", action="append", default=[], metavar="NAME", help="a single task instead of a suite; may be repeated")
    add(
        "--optimizer",
        action="append",
        default=[],
        metavar="[NAME=]REF",
        help="an optimizer, see below; may be repeated",
    )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a meta-trained theta: folder or theta.npz",
    )
    add(
        "--out",
        metavar="FOLDER",
        default="evaluation",
        help="folder of the results; goes on with what is there (evaluation)",
    )
    add("--steps", type=int, metavar="N", help="length of every training (the suite's: 1000 or 2000)")
    add("--seeds", type=int, metavar="N", help="number of seeds (the suite's: 3, or 1 for quickstart)")
    add("--data-dir", metavar="FOLDER", help="folder of prepared arrays NAME.npz and texts NAME.txt")
    add = parser.add_argument_group("tuning of baselines").add_argument
    rates = (
        "learning rates, comma-separated "
        "(half decades: 1e-5 to 1 for small-8, 1e-7 to 1 for ood-17, 3e-4 to 1e-1 for quickstart)"
    )
    add("--learning-rates", metavar="X,Y,...", help=rates)
    schedules = "out of constant, cosine, with a warm-up of 5 %%, and cosine_decay, without (constant,cosine)"
    add("--schedules", metavar="A,B", help=schedules)
    longest = (
        "extend tuned Adam by runs of up to N times the steps where an optimizer ends below it (4, or 1 for quickstart)"
    )
    add("--longest", type=int, metavar="N", help=longest)
    add("--tune-adam", action="store_true", help="run Adam here even where the package has it")
    add = parser.add_argument_group("how it is run").add_argument
    add("--jobs", type=int, metavar="N", help="processes (one per core on a CPU, one on a GPU)")
    batch = "trainings at once in one program (1 on a CPU, where more are no faster; 8 on a GPU)"
    add("--batch", type=int, metavar="N", help=batch)
    timing = "let the trainings of a task advance in turn, so that times per step can be compared (one process; the quickstart's)"
    add("--time-steps", action="store_true", help=timing)
    add("--minutes", type=float, metavar="M", help="stop after M minutes; the same command goes on")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    say_what_is_kept(options)
    plan = _plan(options)
    return carry_out(plan, options.out, minutes=options.minutes, told_to_tune_adam=options.tune_adam)


def say_what_is_kept(options: argparse.Namespace) -> None:
    """From here on a signal ends the command, which says what is in its folder."""
    options.interrupts.leave_with(
        f"stopped; the finished runs, if any, are in {options.out}: the same command goes on, and `celo-tasks report "
        f"{options.out}` shows them"
    )


def carry_out(
    plan: Any, out: str, *, minutes: float | None = None, told_to_tune_adam: bool = False, brief: bool = False
) -> int:
    """Runs a `celo_tasks.evaluation.plan.EvaluationPlan`, writes the report and prints it; returns the exit status."""
    from celo_tasks.evaluation import report, runner
    from celo_tasks.evaluation.store import Store

    if plan.tune_adam and not told_to_tune_adam:
        print(
            f"celo-tasks: Adam is tuned here on {len(plan.tune_adam)} of {len(plan.tasks)} tasks, since the package does not "
            "have it for these steps and data.",
            file=sys.stderr,
        )
    try:
        failures = runner.evaluate(plan, out, minutes=minutes)
    except runner.TimeIsUp as stopped:
        print(f"celo-tasks: {stopped} The same command goes on.", file=sys.stderr)
        return 0
    try:
        print(report.write(Store.read(out), out, brief=brief))
    finally:  # where all failed there is nothing to report, and what failed is said all the same
        runner.print_failures(failures)
    return 2 if failures else 0


def _plan(options: argparse.Namespace) -> Any:
    """What the options ask for, as `celo_tasks.evaluation.plan.EvaluationPlan`."""
    from celo_tasks import baselines
    from celo_tasks.cli.common import default_cpu_devices
    from celo_tasks.evaluation import runner
    from celo_tasks.evaluation.optimizer_specs import OptimizerSpec
    from celo_tasks.evaluation.plan import BASELINE, EvaluationPlan
    from celo_tasks.tasks import registry

    if bool(options.suite) == bool(options.task):
        raise ValueError("say what to evaluate on: --suite small-8, or one or more --task NAME.")
    tasks = registry.find_suite(options.suite).tasks if options.suite else tuple(dict.fromkeys(options.task))
    for task in tasks:
        registry.find_task(task)
    # Tasks of one suite belong to it even when they are few, so that its tuned Adam serves them.
    name = next((known for known, one in registry.SUITES.items() if set(tasks) <= set(one.tasks)), "custom")
    suite = registry.SUITES.get(name, registry.SUITES["ood-17"])
    steps = options.steps or suite.steps
    specs = [OptimizerSpec.parse(text) for text in options.optimizer]
    specs += [OptimizerSpec.parse(text, is_weights=True) for text in options.weights]
    if not specs:
        raise ValueError("say what to evaluate: --optimizer celo, say, or --weights PATH.")
    timing = options.time_steps or suite.timing
    on_cpu = _platform() == "cpu"
    tuned = tasks if options.tune_adam else runner.needs_adam(name, tasks, steps, options.data_dir)
    return EvaluationPlan(
        suite=name,
        tasks=tasks,
        specs=tuple(specs),
        steps=steps,
        seeds=options.seeds or suite.seeds,
        learning_rates=_numbers(options.learning_rates) or baselines.LEARNING_RATES[suite.learning_rates],
        schedules=tuple(options.schedules.split(",")) if options.schedules else baselines.TUNED_SCHEDULES,
        schedules_of={} if options.schedules else suite.schedules_of,
        longest=options.longest or suite.longest,
        jobs=options.jobs or (default_cpu_devices() if on_cpu and not timing else 1),
        batch=options.batch or (1 if on_cpu or timing else 8),
        timing=timing,
        data_dir=options.data_dir,
        tune_adam=() if any(spec.name == BASELINE for spec in specs) else tuple(tuned),
    )


def _platform() -> str:
    import jax

    return jax.default_backend()


def _numbers(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"learning rates are numbers with commas between them, not {text!r}.") from error


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="write an evaluation's report anew",
        description="Rebuild report.md, report.json and the pictures from the runs in a folder that `celo-tasks evaluate` "
        "wrote, finished or not, and print the report.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the evaluation")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the report (DIR)")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from celo_tasks.evaluation import report
    from celo_tasks.evaluation.store import Store

    print(report.write(Store.read(options.folder), options.out or options.folder))
    return 0
