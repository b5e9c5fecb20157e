"""Writes what schedule_learning.py has learned as the folder of a run: theta.npz, and run.json, which says where it comes from."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import schedule_more_tasks
import schedule_rule
import schedule_tasks

import celo_zoo
from celo_core import Celo, configs, files
from celo_core.meta_training import checkpoints
from celo_core.schedulers import LinearIntegral, SchedulerConfig
from celo_tasks.meta_training.families import describe_family
from celo_tasks.meta_training.provenance import current_commit, data_digest, described, made_on
from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS


def shortened(config: SchedulerConfig, theta: Any, share: float) -> tuple[SchedulerConfig, Any]:
    """Config and theta whose logarithm of the multiplier is this share of what it was, but for the bounds."""
    network: Any = config.network
    factors: Any = share
    if isinstance(network, LinearIntegral):
        network = dataclasses.replace(network, rate=share * network.rate, limit=share * network.limit)
        factors = np.array([share, 1.0], np.float32)  # the second output is the integral's, of which rate and limit are
    step_size = jax.tree.map(lambda x: np.asarray(x * factors, np.float32), theta["step_size"])
    return dataclasses.replace(config, network=network), {**theta, "step_size": step_size}


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Of a log.jsonl, one of each iteration."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def spent(log: Path) -> dict[str, Any]:
    """Iterations and seconds of a run, from its log.jsonl."""
    lines = lines_of(log)
    times = [line["seconds"] for line in lines]
    # Seconds begin anew where the run went on.
    seconds = sum(now for now, after in zip(times, [*times[1:], 0.0], strict=True) if after < now)
    return {"iteration": lines[-1]["iteration"], "seconds": round(seconds, 1)}


def of_what_is_learned_here(options: argparse.Namespace) -> dict[str, Any]:
    """Provenance of an update rule that was set by hand and learned by this command alone."""
    shapes = (*schedule_tasks.SHAPES, *schedule_more_tasks.SHAPES)
    families = [shape.build(OFFLINE_DATASETS, None) for shape in shapes]
    logs = options.out.glob("**/log.jsonl")
    return {
        "commit": current_commit(),
        "networks": [describe_family(shape.family) for shape in shapes],
        "data": {"source": "as found on the machine", "sha256": data_digest([one.load() for one in families])},
        "seeds": sorted({line.get("seed", options.seed) for log in logs for line in lines_of(log)}),
        "cost": {},
        **made_on(),
    }


def write(weights: celo_zoo.Pretrained, options: argparse.Namespace, start: Any) -> None:
    """Writes theta.npz, the mean of theta over iterations with the weights' update rule, and run.json."""
    _, unravel = jax.flatten_util.ravel_pytree(start)
    config = configs.from_json(SchedulerConfig, json.loads((options.out / "scheduler.json").read_text()))
    with np.load(options.out / "state.npz") as saved:
        scheduler, changes = jax.device_get(unravel(jnp.asarray(saved["mean"], jnp.float32)))
    if options.share != 1:
        config, scheduler = shortened(config, scheduler, options.share)
    architecture = Celo(dataclasses.replace(weights.config, scheduler=config))
    if options.weights == schedule_rule.HAND_SET:
        base = of_what_is_learned_here(options)
    else:
        base = json.loads(options.provenance.read_text()) if options.provenance else weights.document["provenance"]
    cost = {name: stage for name, stage in base["cost"].items() if not name.startswith("schedule")}
    # Folders within are of the runs that this one began with.
    for log in sorted(options.out.glob("**/log.jsonl")):
        name = "schedule" if log.parent == options.out else f"schedule_{log.parent.name}"
        cost[name] = spent(log)
    kept = [
        note for note in base.get("notes", []) if not note.startswith(("The schedule", "The evaluations", "Chosen"))
    ]
    run = {
        **base,
        **described(architecture),
        "command": options.command or "python tools/schedule_learning.py",
        "commits": {**base.get("commits", {}), "schedule": current_commit()},
        "cost": cost,
        "seconds": round(sum(stage["seconds"] for stage in cost.values()), 1),
        "notes": kept + options.note,
    }
    files.write_json(options.out / "run.json", run)
    rule = jax.device_get(schedule_rule.changed_rule(dict(weights.theta)["update_rule"], changes))
    theta = {"update_rule": rule, "scheduler": scheduler}
    checkpoints.save_theta(options.out / "theta.npz", theta, described(architecture))
