"""What to do where training is unstable or ends badly: the levers of Celo, measured on small problems against Adam.

    python tools/levers/run.py --out docs/results/levers                  # all experiments, up to an hour on two cores
    python tools/levers/run.py --out levers --only gan,log_alpha --seeds 5  # two of them

Every experiment trains small networks with the Celo of celo-zoo at several values of `step_multiplier`, and with Adam at several
learning rates under a cosine decay to 0, from the same initial parameters and on the same batches. Nothing is downloaded.

What an experiment found is written as FOLDER/NAME.json, with the machine, the versions, the settings and every run, after each
of its cases. Started again, the same command measures what is missing; with `--again`, all once more.
At the end results.md and levers.png are made of all files in the folder; `python tools/pages.py` writes the tables of
docs/unstable.md from them.

Experiments:
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import adversarial
import changing
import jax
import jax.numpy as jnp
import numpy as np
import planned_steps
import plots
import pretrained
import scalar
import supervised
import tables
from experiment import Array, Experiment

import celo_zoo
from celo_core import files
from celo_tasks.cli import console
from celo_tasks.reporting.figures import png
from celo_tasks.reporting.machine import hardware, versions

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "small_batches": supervised.small_batches,
    "pixels": supervised.pixels,
    "bad_batches": supervised.bad_batches,
    "memorisation": supervised.memorisation,
    "fine_tuning": pretrained.fine_tuning,
    "lora": pretrained.lora,
    "changed": changing.changed,
    "bootstrapped": changing.bootstrapped,
    "gan": adversarial.gans,
    "log_alpha": scalar.log_alpha,
    "planned": planned_steps.planned,
}


def measure(name: str, seeds: int, file: Path) -> None:
    """Runs what an experiment's file lacks, which is written anew after every case.

    Raises:
      ValueError: what is there was measured otherwise.
    """
    experiment = EXPERIMENTS[name]()
    record: dict[str, Any] = {
        "experiment": name,
        "title": experiment.title,
        "settings": {**experiment.settings, "seeds": seeds},
        "weights": celo_zoo.load("celo").reference,
        "machine": hardware(),
        "versions": versions(),
        "seconds": 0.0,
        "runs": [],
    }
    if file.exists():
        old = json.loads(file.read_text())
        for field in ("settings", "weights", "machine", "versions"):
            if old[field] != record[field]:
                raise ValueError(f"{file} has other {field} than this run would have: give --again to measure it anew.")
        members = {member[:2] for optimizers in experiment.optimizers for member in optimizers.members}
        still = lambda run: run["case"] in experiment.cases and (run["optimizer"], run["value"]) in members
        record |= {"seconds": old["seconds"], "runs": list(filter(still, old["runs"]))}
    known = {(run["case"], run["optimizer"], run["value"]) for run in record["runs"]}
    keys = jax.random.split(jax.random.key(0), seeds)
    given = None
    for number, (case, run) in enumerate(experiment.cases.items(), start=1):
        for optimizers in experiment.optimizers:
            members = [member for member in optimizers.members if (case, *member[:2]) not in known]
            if not members:
                continue
            begin = time.monotonic()
            names = ", ".join(dict.fromkeys(member[0] for member in members))
            print(f"{name}, case {number} of {len(experiment.cases)}: {case}; {names}", file=sys.stderr, flush=True)
            if given is None:
                given = jax.jit(lambda keys: jax.lax.map(experiment.prepare, keys))(keys)
            numbers = jnp.array([member[2] for member in members])
            found = jax.device_get(_all(run, optimizers.make)(numbers, keys, given))
            for i, (title, value, _) in enumerate(members):
                for seed in range(seeds):
                    one = {
                        key: _plain(values[i, seed])
                        for key, values in found.items()
                        if key != "curve" or name in plots.CURVES
                    }
                    record["runs"].append({"case": case, "optimizer": title, "value": value, "seed": seed, **one})
            record["runs"].sort(key=functools.partial(_place, experiment))
            record["seconds"] = round(record["seconds"] + time.monotonic() - begin, 1)
            _write(file, record)


def _write(file: Path, record: Mapping[str, Any]) -> None:
    """As JSON, with a line for each run."""
    head = json.dumps({**record, "runs": []}, indent=2, allow_nan=False)
    runs = ",\n    ".join(json.dumps(run, allow_nan=False) for run in record["runs"])
    files.write_bytes(file, f"{head[: head.rindex('[]')]}[\n    {runs}\n  ]\n}}\n".encode())


def _place(experiment: Experiment, run: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of a run among all: by case, optimizer and seed."""
    members = [member[:2] for optimizers in experiment.optimizers for member in optimizers.members]
    member = (run["optimizer"], run["value"])
    return list(experiment.cases).index(run["case"]), members.index(member), run["seed"]


def _all(run: Any, make: Callable[..., Any]) -> Any:
    """Of numbers, keys and what was prepared for each key, what ``run`` returns, by numbers and key."""

    def of_numbers(numbers: Array, keys: Array, given: Any) -> Any:
        one = lambda pair: run(lambda num_steps: make(num_steps, *numbers), *pair)
        return jax.lax.map(one, (keys, given))

    return jax.jit(lambda numbers, keys, given: jax.lax.map(lambda some: of_numbers(some, keys, given), numbers))


def _plain(value: np.ndarray, digits: int = 5) -> Any:
    """For JSON, which has neither infinities nor NaN: they become ``None``."""
    if value.ndim:
        return [_plain(one, 4) for one in value]
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            hint = console.nearest(name, EXPERIMENTS)
            raise argparse.ArgumentTypeError(f"there is no experiment {name!r}{hint}: see --help.")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}.")
    return int(text)


def main() -> int:
    """Runs the command."""
    listed = "\n".join(f"  {name:14} {make().title}" for name, make in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write, and to go on")
    parser.add_argument("--only", type=_names, default=list(EXPERIMENTS), metavar="NAME,...", help="these (all)")
    parser.add_argument("--seeds", type=_positive, default=3, help="trainings of each kind (3)")
    parser.add_argument("--again", action="store_true", help="forget what is there already")
    options = parser.parse_args()
    try:
        for name in options.only:
            file = options.out / f"{name}.json"
            if options.again:
                file.unlink(missing_ok=True)
            measure(name, options.seeds, file)
        found = tables.read(options.out)
        files.write_bytes(options.out / "results.md", tables.page(found).encode())
        files.write_bytes(options.out / "levers.png", png(plots.draw(found)))
    except (ValueError, OSError) as error:
        print(f"levers: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
