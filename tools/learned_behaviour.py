"""What a learned optimizer has learned: its multiplier over a training, after disturbances, under noise, in other scales.

    python tools/learned_behaviour.py --weights celo --out docs/results/behaviour

Writes behaviour.json, with the machine and versions, and behaviour.png. Everything is measured on one small problem that
meta-training does not have, an MLP with tanh on the package's Fashion-MNIST at 8x8; medians over seeds. Minutes on two cores.

* schedule: the scheduler's multiplier against the share of the training done, for several planned lengths
* disturbance: the multiplier after the loss that the optimizer is told (not the one that is minimised) is tripled for a
  while, relative to the same training undisturbed
* noise: multiplier and relative step size with batches of several sizes
* scale: final loss where the parameters are scaled by c, so that gradients are too, beside Adam at its best rate for c = 1
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import celo_zoo
from celo_core import LSTMScheduler, files
from celo_tasks.families import Reparametrized
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.reporting.figures import png, tidy
from celo_tasks.reporting.machine import hardware, versions

TASK = "mlp_tanh_48x24"
LENGTHS = (200, 1000, 5000)
DISTURBED = (1, 50, 10_000)
"""Steps for which the loss is tripled."""
FACTOR = 3.0
BATCHES = (4, 32, 256)
SCALES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
LEARNING_RATES = tuple(10.0**e for e in np.arange(-4, -0.9, 0.5))
POINTS = 100


class Subject:
    """An optimizer that is watched while it trains a family's networks.

    Args:
      build: makes it of a number of steps.
      seeds: trainings at once.
      multiplier: of the optimizer's state, the step, the loss told and the number of steps, what its scheduler says.
    """

    def __init__(self, build: Callable[[int], Any], seeds: int, multiplier: Callable[..., Any] | None = None) -> None:
        self._build = lambda steps: optax.with_extra_args_support(build(steps))
        self._multiplier = multiplier or (lambda *_: jnp.ones(()))
        self._keys = jax.random.split(jax.random.key(0), seeds)

    def train(self, family: Any, num_steps: int, disturbed: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
        """Losses, multipliers and relative step sizes, each (seeds, num_steps).

        Args:
          family: what is trained.
          num_steps: how long, and as planned.
          disturbed: first step at which the loss that is told is tripled, and for how many.
        """
        data = jax.tree.map(jnp.asarray, family.load())
        optimizer = self._build(num_steps)
        first, steps = disturbed

        def run(key: Any) -> Any:
            key_task, key_init, key_steps = jax.random.split(key, 3)
            config = family.sample(key_task)

            def body(carry: Any, at: Any) -> Any:
                params, model_state, state = carry
                count, key = at
                key_batch, key_loss = jax.random.split(key)
                batch = family.batch(key_batch, config, data)
                loss = lambda p: family.loss(p, model_state, key_loss, config, batch)
                (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
                told = jnp.where((count >= first) & (count < first + steps), FACTOR * value, value)
                multiplier = self._multiplier(state, count, told, num_steps)
                updates, state = optimizer.update(gradient, state, params, value=told)
                size = optax.tree.norm(updates) / optax.tree.norm(params)
                carry = optax.apply_updates(params, updates), model_state, state
                return carry, (family.normalizer(value), multiplier, size)

            params, model_state = family.init(key_init, config)
            steps_of = jnp.arange(num_steps, dtype=jnp.int32), jax.random.split(key_steps, num_steps)
            return jax.lax.scan(body, (params, model_state, optimizer.init(params)), steps_of)[1]

        loss, multiplier, size = jax.device_get(jax.jit(jax.vmap(run))(self._keys))
        return {"loss": loss, "multiplier": multiplier, "step_size": size}


def _scheduler_state(opt_state: Any) -> Any:
    """The scheduler's memory, wherever in the chain of states it is."""
    if hasattr(opt_state, "scheduler"):
        return opt_state.scheduler
    found = [_scheduler_state(part) for part in opt_state if isinstance(part, tuple)]
    return next((state for state in found if state is not None), None)


def _curve(values: np.ndarray) -> list[float]:
    """Median over seeds of at most `POINTS` means over stretches of a training."""
    parts = np.array_split(values, min(POINTS, values.shape[1]), axis=1)
    return [float(f"{np.median(part.mean(axis=1)):.5g}") for part in parts]


def _final(losses: np.ndarray) -> float:
    """Median over seeds of the mean of the last 5 %."""
    return float(f"{np.median(losses[:, -max(1, losses.shape[1] // 20) :].mean(axis=1)):.5g}")


def measure(weights: str, seeds: int, steps: int) -> dict[str, Any]:
    """All that is drawn; errors as `celo_zoo.load`."""
    found = celo_zoo.load(weights)
    scheduler, theta = LSTMScheduler(found.config.scheduler), found.theta["scheduler"]
    celo = Subject(
        found.optimizer,
        seeds,
        lambda state, count, told, n: scheduler.step(theta, _scheduler_state(state), count, told, n)[0],
    )
    adam = {rate: Subject(lambda _, rate=rate: optax.adam(rate), seeds) for rate in LEARNING_RATES}
    family = VALIDATION_TASKS[TASK][1]()
    result: dict[str, Any] = {"weights": found.reference, "task": VALIDATION_TASKS[TASK][0], "seeds": seeds}
    _say("schedule")
    runs = {length: celo.train(family, length) for length in LENGTHS}
    result["schedule"] = {str(n): {name: _curve(run[name]) for name in run} for n, run in runs.items()}
    _say("disturbance")
    plain = celo.train(family, steps)
    result["disturbance"] = {"steps": steps, "from": steps // 2, "factor": FACTOR, "relative_multiplier": {}}
    for count in DISTURBED:
        run = celo.train(family, steps, (steps // 2, count))
        result["disturbance"]["relative_multiplier"][str(count)] = _curve(run["multiplier"] / plain["multiplier"])
    _say("noise")
    result["noise"] = {}
    for size in BATCHES:
        run = celo.train(dataclasses.replace(family, batch_size=size), steps)
        result["noise"][str(size)] = {name: _curve(run[name]) for name in run}
    _say("scale")
    best = min(LEARNING_RATES, key=lambda rate: _final(adam[rate].train(family, steps)["loss"]))
    result["scale"] = {"adam_learning_rate": best, "scales": list(SCALES), "celo": [], "adam": []}
    for scale in SCALES:
        scaled = Reparametrized(family, ("global",), low=scale, high=scale)
        for name, subject in (("celo", celo), ("adam", adam[best])):
            result["scale"][name].append(_final(subject.train(scaled, steps)["loss"]))
    return result | {"steps": steps, "hardware": hardware(), "versions": versions()}


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def draw(result: dict[str, Any]) -> Figure:
    """Four panels, as listed at the top."""
    figure = Figure(figsize=(10.0, 7.2), dpi=130, layout="constrained")
    schedule, disturbance, noise, scale = figure.subplots(2, 2).ravel()
    share = lambda curve: np.linspace(0, 1, len(curve))
    for length, run in result["schedule"].items():
        schedule.plot(share(run["multiplier"]), run["multiplier"], label=f"{int(length):,} steps")
    _label(schedule, "planned length", "share of the training done", "multiplier", log=True)
    for count, curve in result["disturbance"]["relative_multiplier"].items():
        label = "to the end" if int(count) > result["steps"] else f"{count} step{'s' * (int(count) > 1)}"
        disturbance.plot(share(curve) * result["steps"], curve, label=label)
    title = f"the loss told is {result['disturbance']['factor']:g} times the true one for"
    _label(disturbance, title, "step", "multiplier, of that undisturbed")
    for size, run in result["noise"].items():
        noise.plot(share(run["step_size"]) * result["steps"], run["step_size"], label=f"batch of {size}")
    _label(noise, "gradient noise", "step", "norm of the step, of that of the parameters", log=True)
    rate = result["scale"]["adam_learning_rate"]
    scale.plot(result["scale"]["scales"], result["scale"]["celo"], "o-", label=result["weights"].split("@")[0])
    scale.plot(result["scale"]["scales"], result["scale"]["adam"], "s--", label=f"Adam at {rate:.2g}")
    scale.set_xscale("log")
    _label(scale, "parameters and gradients scaled", "scale", "final training loss")
    return figure


def _label(axes: Any, title: str, x: str, y: str, *, log: bool = False) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if log:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="celo", metavar="REF", help="what celo_zoo.load takes (celo)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (3)")
    parser.add_argument("--steps", type=int, default=1000, help="of a training, where not said otherwise (1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    options = parser.parse_args()
    try:
        result = measure(options.weights, options.seeds, options.steps)
        options.out.mkdir(parents=True, exist_ok=True)
        files.write_json(options.out / "behaviour.json", result)
        with files.written_atomically(options.out / "behaviour.png") as file:
            file.write(png(draw(result)))
    except (ValueError, OSError) as error:
        print(f"learned_behaviour: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
