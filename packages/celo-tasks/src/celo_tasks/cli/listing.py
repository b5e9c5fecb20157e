"""The part of the command ``celo-tasks`` that lists the tasks."""

import argparse
import json
import sys
from typing import Any

_LIST = """\
Show the tasks: what is trained, how large it is, what a step costs, on which data set, and whether that is on this machine.
"""


def add_commands(commands: Any) -> None:
    """Adds ``list``."""
    parser = commands.add_parser("list", help="show the tasks", description=_LIST)
    parser.add_argument("--suite", metavar="NAME", help="only the tasks of a suite: small-8, stress-8 or ood-17")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of prepared arrays")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    from celo_tasks.reporting import tables
    from celo_tasks.tasks import registry

    names = registry.find_suite(options.suite).tasks if options.suite else tuple(registry.TASKS)
    suite_of = {task: name for name, suite in registry.SUITES.items() for task in suite.tasks}
    rows: list[dict[str, Any]] = []
    for name in names:
        entry, cost = registry.TASKS[name], registry.TASKS[name].cost()
        present = entry.dataset(options.data_dir)
        rows.append(
            {
                "name": name,
                "suite": suite_of.get(name),
                "kind": entry.kind,
                "parameters": cost and cost.parameters,
                "gflop_per_step": cost and cost.gflop,
                "milliseconds_per_step": cost and cost.milliseconds,
                "data": present or entry.datasets[0],
                "data_present": present is not None,
                "published": entry.published,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    number = lambda value, form: "-" if value is None else format(value, form)
    table = [("name", "kind", "parameters", "GFLOP/step", "ms/step", "data set", "here")]
    for row in rows:
        table.append(
            (
                row["name"],
                row["kind"],
                number(row["parameters"], ","),
                number(row["gflop_per_step"], ".2g"),
                number(row["milliseconds_per_step"], ",.0f" if (row["milliseconds_per_step"] or 0) >= 100 else ".3g"),
                row["data"],
                "yes" if row["data_present"] else "no",
            )
        )
    print(tables.plain(table, right=(2, 3, 4)))
    print(
        f"\nCost of a training step with Adam on one core of {registry.measured_on()}. Data that are not here: "
        "`celo-tasks prepare DATASET`, or --data-dir.",
        file=sys.stderr,
    )
    if not options.suite and (others := registry.installed_tasks()):
        print(f"Other tasks that installed packages offer: {', '.join(others)}.", file=sys.stderr)
    return 0
