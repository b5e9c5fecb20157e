"""What a learned optimizer has learned: its multiplier over a training, with steps that are too long, noise, other scales.

Everything is measured on one small problem that meta-training does not have, an MLP with tanh on the package's Fashion-MNIST at
8x8; medians over seeds.

* schedule: the scheduler's multiplier against the share of the training done, for several planned lengths
* disturbance: the multiplier after the loss that the optimizer is told (not the one that is minimised) is tripled for a
  while, relative to the same training undisturbed
* noise: multiplier and relative step size with batches of several sizes
* lengthened: the multiplier where every step that it gives is multiplied by a factor
* inputs: the multiplier where the pixels are, which are from 0 to 1 otherwise
* scale: final loss where the parameters are scaled by c, so that gradients are too, against Adam at its best rate for c = 1
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from celo_core.schedulers import Scheduler, SchedulerConfig, Signal
from celo_core.schedulers.statistics import STATISTICS, Observed
from celo_tasks.evaluation.learned import Learned
from celo_tasks.families import Reparametrized
from celo_tasks.meta_training.validation import VALIDATION_TASKS
from celo_tasks.reporting.machine import hardware, versions

Array = jax.Array
Floats = NDArray[np.floating]

TASK = "mlp_tanh_48x24"
FACTOR = 3.0
"""On the loss that is told, in a disturbance."""
LEARNING_RATES = tuple(10.0**e for e in np.arange(-4, -0.9, 0.5))
POINTS = 100
"""Of a curve, at most."""


@dataclasses.dataclass(frozen=True)
class BehaviourSettings:
    """What is measured.

    Attributes:
      seeds: trainings of each kind, at once.
      steps: of a training, where not said otherwise.
      lengths: planned lengths of the trainings whose schedules are compared.
      disturbed: steps for which the loss is tripled, from the middle of a training on.
      batches: batch sizes.
      factors: on every step.
      gains: on the pixels.
      scales: factors on the parameters.
    """

    seeds: int = 3
    steps: int = 1000
    lengths: Sequence[int] = (200, 1000, 5000)
    disturbed: Sequence[int] = (1, 50, 10_000)
    batches: Sequence[int] = (4, 32, 256)
    factors: Sequence[float] = (0.25, 1.0, 4.0)
    gains: Sequence[float] = (0.01, 1.0, 255.0)
    scales: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.steps < 20:
            raise ValueError(f"at least 1 seed and 20 steps are needed, not {self.seeds} and {self.steps}.")


Multiplier = Callable[[Any, Any, Array, Array, int], Array]
"""Of state, gradients, the step, the loss told and the planned number of steps: what the scheduler says, ()."""


class Subject:
    """An optimizer that is watched while it trains a family's networks.

    Args:
      build: makes it of a number of steps.
      seeds: trainings at once.
      multiplier: of its scheduler; 1 where there is none.
    """

    def __init__(self, build: Callable[[int], Any], seeds: int, multiplier: Multiplier | None = None) -> None:
        self._build = lambda steps: optax.with_extra_args_support(build(steps))
        self._multiplier = multiplier or (lambda *_: jnp.ones(()))
        self._keys = jax.random.split(jax.random.key(0), seeds)

    def train(self, family: Any, num_steps: int, disturbed: tuple[int, int] = (0, 0)) -> dict[str, Floats]:
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
                multiplier = self._multiplier(state, gradient, count, told, num_steps)
                updates, state = optimizer.update(gradient, state, params, value=told)
                size = optax.tree.norm(updates) / optax.tree.norm(params)
                carry = optax.apply_updates(params, updates), model_state, state
                return carry, (family.normalizer(value), multiplier, size)

            params, model_state = family.init(key_init, config)
            steps_of = jnp.arange(num_steps, dtype=jnp.int32), jax.random.split(key_steps, num_steps)
            return jax.lax.scan(body, (params, model_state, optimizer.init(params)), steps_of)[1]

        loss, multiplier, size = jax.device_get(jax.jit(jax.vmap(run))(self._keys))
        return {"loss": loss, "multiplier": multiplier, "step_size": size}


def multiplier_of(config: SchedulerConfig, theta: Any) -> Multiplier:
    """The multiplier of a scheduler, computed again from the state that the optimizer keeps of it.

    Args:
      config: of the scheduler.
      theta: its meta-parameters.
    """
    scheduler = Scheduler(config)

    def multiplier(state: Any, gradient: Any, count: Array, told: Array, num_steps: int) -> Array:
        own = _with_scheduler(state)
        statistics = {}
        if config.statistics:
            first = own.momentum[0] if isinstance(own.momentum, tuple) else own.momentum
            seen = Observed(jax.tree.leaves(gradient), jax.tree.leaves(first))
            statistics = {name: STATISTICS[name](seen) for name in config.statistics}
        signal = Signal(count, told, num_steps, None, statistics)
        return scheduler.step(theta, own.scheduler, signal)[0].multiplier

    return multiplier


def _with_scheduler(opt_state: Any) -> Any:
    """The state that has the scheduler's, wherever in the chain of states it is."""
    if hasattr(opt_state, "scheduler"):
        return opt_state
    found = [_with_scheduler(part) for part in opt_state if isinstance(part, tuple)]
    return next((state for state in found if state is not None), None)


def _adam(rate: float, num_steps: int) -> optax.GradientTransformation:
    del num_steps
    return optax.adam(rate)


def _lengthened(architecture: Any, theta: Any, factor: float, num_steps: int) -> Any:
    return architecture.build(theta, num_steps, step_multiplier=factor)


def _curve(values: Floats) -> list[float | None]:
    """Median over seeds of at most `POINTS` means over parts of a training."""
    parts = np.array_split(values, min(POINTS, values.shape[1]), axis=1)
    return [_digits(np.median(part.mean(axis=1))) for part in parts]


def _curves(run: dict[str, Floats]) -> dict[str, list[float | None]]:
    return {name: _curve(values) for name, values in run.items()}


def _final(losses: Floats) -> float:
    """Median over seeds of the mean of the last 5 %."""
    return float(np.median(losses[:, -max(1, losses.shape[1] // 20) :].mean(axis=1)))


def _digits(value: Any) -> float | None:
    """Five digits; ``None`` for what is not finite, which JSON does not have."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def measure(
    learned: Learned,
    settings: BehaviourSettings = BehaviourSettings(),
    report: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """All that `celo_tasks.evaluation.behaviour_plot` draws.

    Args:
      learned: the optimizer.
      settings: what is measured.
      report: called with the name of each part before it is measured.

    Returns:
      For JSON, all curves being medians over seeds at `POINTS` shares of a training: ``"schedule"``, ``"noise"``,
      ``"lengthened"`` and ``"inputs"`` with ``"loss"``, ``"multiplier"`` and ``"step_size"`` by length, batch size, factor and
      gain; ``"disturbance"``; and ``"scale"``, with final losses. What is not finite is ``None``.

    Raises:
      ValueError: the optimizer needs a task embedding.
    """
    architecture, theta = learned.architecture, learned.theta
    if architecture.reads_task_embedding:
        raise ValueError(
            f"{learned.reference} reads a task embedding, which is not given here: take another optimizer."
        )
    config = getattr(architecture.config, "scheduler", None)
    multiplier = None if config is None else multiplier_of(config, theta.get("scheduler", {}))
    seeds, steps = settings.seeds, settings.steps
    celo = Subject(lambda n: architecture.build(theta, n), seeds, multiplier)
    adam = {rate: Subject(functools.partial(_adam, rate), seeds) for rate in LEARNING_RATES}
    family: Any = VALIDATION_TASKS[TASK][1]()
    found = {"weights": learned.reference, "fingerprint": learned.fingerprint}
    result: dict[str, Any] = {**found, "task": VALIDATION_TASKS[TASK][0], "seeds": seeds}
    report("schedule")
    runs = {length: celo.train(family, length) for length in settings.lengths}
    result["schedule"] = {str(n): _curves(run) for n, run in runs.items()}
    report("disturbance")
    plain = celo.train(family, steps)
    result["disturbance"] = {"steps": steps, "from": steps // 2, "factor": FACTOR, "relative_multiplier": {}}
    for count in settings.disturbed:
        run = celo.train(family, steps, (steps // 2, count))
        result["disturbance"]["relative_multiplier"][str(count)] = _curve(run["multiplier"] / plain["multiplier"])
    report("noise")
    result["noise"] = {}
    for size in settings.batches:
        run = celo.train(dataclasses.replace(family, batch_size=size), steps)
        result["noise"][str(size)] = _curves(run)
    report("lengthened")
    result["lengthened"] = {}
    for factor in settings.factors:
        made = functools.partial(_lengthened, architecture, theta, factor)
        run = Subject(made, seeds, multiplier).train(family, steps)
        result["lengthened"][f"{factor:g}"] = _curves(run)
    report("inputs")
    result["inputs"] = {}
    for gain in settings.gains:
        run = celo.train(dataclasses.replace(family, gain=gain), steps)
        result["inputs"][f"{gain:g}"] = _curves(run)
    report("scale")
    best = min(LEARNING_RATES, key=lambda rate: _final(adam[rate].train(family, steps)["loss"]))
    result["scale"] = {"adam_learning_rate": best, "scales": list(settings.scales), "celo": [], "adam": []}
    for scale in settings.scales:
        scaled = Reparametrized(family, ("global",), low=scale, high=scale)
        for name, subject in (("celo", celo), ("adam", adam[best])):
            result["scale"][name].append(_digits(_final(subject.train(scaled, steps)["loss"])))
    return result | {"steps": steps, "hardware": hardware(), "versions": versions()}
