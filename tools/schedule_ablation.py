"""What each input of a learned scheduler is worth: final losses of the validation tasks with the weights of one input at 0.

    python tools/schedule_ablation.py --out docs/results/schedule-learning/ablation.json

All variants of a task are trained at once, with the same initialisation and batches: the whole scheduler, without each of its
inputs, without the rule that follows the prior where gradients are noise, and the prior alone. A task that is there already is
not trained again. Some twenty minutes on one core.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import celo_zoo
from celo_core import Celo, files
from celo_core.meta_training.unroll import InnerProblem, train
from celo_tasks.evaluation import curves
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.reporting.machine import hardware, versions


def without_inputs(config: Any, theta: Any) -> dict[str, Any]:
    """Theta of the scheduler by variant: the whole, without each input, and with all weights 0, which is the prior."""
    step_size = theta["step_size"]
    variants, first = {"whole": step_size}, 0
    for part in config.inputs:
        rows = slice(first, first + part.size)
        variants[part.type] = {**step_size, "kernel": step_size["kernel"].at[rows].set(0.0)}
        first += part.size
    variants["all"] = jax.tree.map(jnp.zeros_like, step_size)
    return {name: {**theta, "step_size": one} for name, one in variants.items()}


def final_losses(weights: celo_zoo.Pretrained, name: str, num_steps: int, seed: int) -> dict[str, float]:
    """Final loss of a task by variant."""
    family = VALIDATION_TASKS[name][1]()
    data = jax.device_put(family.load())
    config, theta = weights.config, jax.tree.map(jnp.asarray, dict(weights.theta))
    variants = without_inputs(config.scheduler, theta["scheduler"])

    def losses(config: Any, scheduler: Any) -> Any:
        problem = InnerProblem(Celo(config), family)
        key_config, key = jax.random.split(jax.random.key(seed))
        return train(problem, {**theta, "scheduler": scheduler}, key, family.sample(key_config), data, num_steps)[1]

    @jax.jit
    def run(schedulers: Any) -> tuple[Any, Any]:
        ungated = dataclasses.replace(config, scheduler=dataclasses.replace(config.scheduler, noise=0.0))
        return jax.vmap(lambda one: losses(config, one))(schedulers), losses(ungated, variants["whole"])

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants.values())
    found, ungated = jax.device_get(run(stacked))
    final = curves.final_loss(np.concatenate([found, ungated[None]]))
    return dict(zip([*variants, "noise"], map(float, final), strict=True))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--steps", type=int, default=1000, help="of each training (1000)")
    parser.add_argument("--weights", default="celo", metavar="REF", help="name or folder of weights (celo)")
    options = parser.parse_args()
    weights = celo_zoo.load(options.weights)
    document: dict[str, Any] = {
        "command": f"python tools/schedule_ablation.py --out {options.out}",
        "steps": options.steps,
    }
    document |= {"weights": options.weights, "fingerprint": weights.fingerprint, "final_losses": {}}
    if options.out.exists():
        kept = json.loads(options.out.read_text())
        if kept["fingerprint"] == weights.fingerprint and kept["steps"] == options.steps:
            document["final_losses"] = kept["final_losses"]
    for name in VALIDATION_TASKS:
        if name not in document["final_losses"]:
            document["final_losses"][name] = final_losses(weights, name, options.steps, seed=0)
            files.write_json(options.out, document | {"machine": hardware(), "versions": versions()})
            print(name, flush=True)


if __name__ == "__main__":
    main()
