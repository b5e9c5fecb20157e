"""Where a run's weights come from, for its run.json and theta.npz."""

import hashlib
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from celo_core import LearnedOptimizer, configs
from celo_tasks.meta_training.families import describe_family
from celo_tasks.meta_training.recipe import Recipe, whole
from celo_tasks.reporting.machine import hardware

FORMAT = 3
"""Of a run's theta.npz and run.json: architectures composed of parts, and theta by their names."""


def described(architecture: LearnedOptimizer) -> dict[str, Any]:
    """What rebuilds an optimizer besides theta, for JSON."""
    described = {"architecture": architecture.name, "config": configs.to_json(architecture.config)}
    return {"format_version": FORMAT, **described}


def data_digest(data: Sequence[Any]) -> str:
    """SHA-256 over the arrays of all families."""
    digest = hashlib.sha256()
    for arrays in data:
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(arrays)
        }
        for name in sorted(leaves):
            digest.update(name.encode() + np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()


def provenance(
    recipe: Recipe,
    folder: pathlib.Path,
    data_dir: str | None,
    data: Sequence[Any],
    command: str | None,
) -> dict[str, Any]:
    """Where a run's weights come from: command, commit, data, seeds, cost, hardware and versions; with what rebuilds it."""
    cost = {}
    networks = [describe_family(name) for phase in recipe.phases for name in recipe.problems_of(phase).families]
    for phase in recipe.phases:
        log = folder / phase / "log.jsonl"
        if log.exists():
            last = json.loads(log.read_text().splitlines()[-1])
            cost[phase] = {key: last[key] for key in ("iteration", "inner_steps", "seconds", "meta_loss")}
    return {
        "command": command or shlex.join(["celo-tasks", *sys.argv[1:]]),
        "commit": current_commit(),
        "recipe": whole(recipe),
        **described(recipe.learned_optimizer()),
        "networks": list(dict.fromkeys(networks)),
        "data": {"source": "prepared arrays" if data_dir else "as found on the machine", "sha256": data_digest(data)},
        "seeds": [recipe.seed + phase.training.seed for phase in recipe.phases.values()],
        "cost": cost,
        "seconds": round(sum(phase["seconds"] for phase in cost.values()), 1),
        "inner_steps": sum(phase["inner_steps"] for phase in cost.values()),
        **made_on(),
    }


def made_on() -> dict[str, Any]:
    """The machine and the versions that a run is made with."""
    return {"hardware": hardware(), "versions": {"python": platform.python_version(), "jax": jax.__version__}}


def current_commit() -> str | None:
    """The commit of the checkout that this package runs from, if it does, marked where files differ from it."""
    here = pathlib.Path(__file__).parent
    try:
        run = lambda *arguments: subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("-dirty" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
