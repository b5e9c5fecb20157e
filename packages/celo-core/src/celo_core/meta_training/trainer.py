"""Meta-training: descends an estimated meta-gradient, many meta-iterations per XLA program, on any number of devices.

The recipe is Celo's (arXiv 2501.12670, section 4): the update rule is trained first, with a step-size multiplier of 1,
and then the scheduler, with the update rule frozen. The meta-optimizer of a phase gets that part of theta only (`FrozenPart`), so
nothing, weight decay included, can change the other part. `celo_core.meta_training.run.run_phase` runs a phase, which can be
stopped and resumed bit for bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from celo_core.checks import check_theta_shapes
from celo_core.meta_training import checkpoints
from celo_core.meta_training.wrapping import WrappedOptimizer
from celo_core.protocols import GradientEstimator, Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenPart(WrappedOptimizer):
    """A learned optimizer some of whose meta-parameters are fixed; its theta is the rest.

    Attributes:
      architecture: the whole learned optimizer.
      frozen: the fixed top-level groups of theta, e.g. ``{"update_rule": ...}``.
    """

    frozen: Mapping[str, Any]

    def init(self, key: Array) -> Theta:
        """Random values of the trainable part."""
        return {name: part for name, part in self.architecture.init(key).items() if name not in self.frozen}

    def merge(self, theta: Theta) -> Theta:
        """The whole theta."""
        return {**self.frozen, **theta}

    def build(self, theta: Theta, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """The Optax optimizer of the whole theta."""
        return self.architecture.build(self.merge(theta), num_steps, **kwargs)


@dataclasses.dataclass(frozen=True)
class MetaTrainConfig:
    """Settings of one phase of meta-training; the defaults are the paper's.

    Attributes:
      iterations: meta-iterations (updates of theta) in the whole phase.
      learning_rate: peak learning rate of the meta-optimizer, AdamW.
      final_fraction: cosine decay of the learning rate to this fraction of its peak; 1 for a constant learning rate.
      decay_from: fraction of the iterations after which the decay begins; before, the learning rate is constant.
      weight_decay: AdamW's decoupled weight decay.
      clip_norm: meta-gradients are clipped to this global norm.
      average_decay: decay of the running average of theta that a phase returns; 0 for the last theta.
      truncations: a schedule of the truncation: pairs ``(iteration, truncation)`` in order, each valid from its iteration
        on; before the first, and by default throughout, the estimator's own is. Every value compiles a program of its own.
      block: meta-iterations per XLA program.
      seed: of all random numbers.
    """

    iterations: int = 100_000
    learning_rate: float = 3e-4
    final_fraction: float = 1.0
    decay_from: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    average_decay: float = 0.0
    truncations: tuple[tuple[int, int], ...] = ()
    block: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.block < 1:
            raise ValueError(f"iterations and block must be at least 1, not {self.iterations} and {self.block}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), not {self.average_decay}.")
        if not 0 <= self.decay_from < 1:
            raise ValueError(f"decay_from must be in [0, 1), not {self.decay_from}.")
        starts = [start for start, _ in self.truncations]
        if starts != sorted(set(starts)) or any(start < 0 or steps < 1 for start, steps in self.truncations):
            raise ValueError(
                "truncations must be pairs (iteration, steps >= 1) with iterations in ascending order, "
                f"not {self.truncations}."
            )

    def schedule(self) -> optax.Schedule:
        """The learning rate by iteration."""
        held = round(self.decay_from * self.iterations)
        cosine = optax.cosine_decay_schedule(self.learning_rate, self.iterations - held, alpha=self.final_fraction)
        return optax.join_schedules([optax.constant_schedule(self.learning_rate), cosine], [held])

    def optimizer(self) -> optax.GradientTransformation:
        """The meta-optimizer."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm), optax.adamw(self.schedule(), weight_decay=self.weight_decay)
        )


class MetaTrainState(NamedTuple):
    """State of a run; with the config and the data it determines all that follows.

    Attributes:
      iteration: meta-iterations done, int32 ().
      retries: times that the run was rolled back after it had diverged, int32 ().
      theta: trainable meta-parameters.
      average: running average of theta, without bias correction at the start (it begins at theta).
      opt_state: of the meta-optimizer.
      problems: the estimator's state, split over the devices.
    """

    iteration: Any
    retries: Any
    theta: Theta
    average: Theta
    opt_state: Any
    problems: Any


class MetaTrainer:
    """Runs one phase, with the problems split over the devices; every problem has random keys of its own.

    Theta is replicated, and a meta-iteration has one collective operation: the mean of the meta-gradient over devices. With
    ``jax.distributed`` the devices are those of all processes, each of which runs the same program.

    Args:
      estimator: of the meta-gradient, bound to the architecture and the problems.
      config: settings.
      data: what the family's ``load`` returned.
      devices: devices to split the problems over; by default the largest number of them that divides the number of problems.
      optimizer: the meta-optimizer, any Optax chain; by default AdamW as the config says.

    Raises:
      ValueError: the problems cannot be split evenly over the devices, a truncation does not fit the estimator, or the
        family's loss is not a finite scalar at initialisation.
    """

    def __init__(
        self,
        estimator: GradientEstimator,
        config: MetaTrainConfig,
        data: Any,
        devices: Any = None,
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        self.estimator = estimator
        self.config = config
        devices = _choose_devices(estimator.num_problems, devices)
        self._estimators = {steps: estimator.with_truncation(steps) for _, steps in config.truncations}
        estimator.check(data)
        self._mesh = jax.make_mesh((len(devices),), ("problems",), devices=devices)
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec("problems"))
        self._data = _put(data, self._replicated)
        self._optimizer = config.optimizer() if optimizer is None else optimizer
        self._run = jax.jit(self._block, static_argnums=(2, 3), donate_argnums=0)

    def init(self, theta: Theta | None = None) -> MetaTrainState:
        """State at iteration 0, from ``theta`` or, by default, from the architecture's random initialisation.

        Raises:
          ValueError: theta is not one of the architecture that is trained.
        """
        architecture = self.estimator.architecture
        if theta is not None:
            check_theta_shapes(theta, jax.eval_shape(architecture.init, jax.random.key(0)), architecture.name)
        # It runs once: on a CPU compiling it well would take far longer than running it.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return self.place(jax.device_get(jax.jit(self._init, compiler_options=options)(theta)))

    def run(self, state: MetaTrainState, iterations: int, truncation: int | None = None) -> tuple[Any, Any]:
        """Runs meta-iterations as one XLA program; consumes ``state``.

        Args:
          state: the state to continue from.
          iterations: number of meta-iterations; each number compiles a program of its own.
          truncation: one of the config's truncations; the estimator's own by default.

        Returns:
          The new state, and metrics per iteration as NumPy arrays (iterations,): ``meta_loss``, ``gradient_norm``,
          ``theta_norm`` and what the estimator's ``info`` holds.
        """
        state, metrics = self._run(state, self._data, iterations, truncation)
        return state, jax.device_get(metrics)

    def lower(self, iterations: int) -> Any:
        """The program of `run`, lowered: its ``compile().memory_analysis()`` gives the memory that it needs."""
        shaped = lambda tree, sharding: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )
        example = self.example()
        state = shaped(example, self._replicated)._replace(problems=shaped(example.problems, self._split))
        return self._run.lower(state, self._data, iterations, None)

    def segment(self, done: int) -> tuple[int, int | None]:
        """The iterations after ``done`` that share a truncation: ``(how many, truncation)``."""
        truncation, end = None, self.config.iterations
        for start, steps in self.config.truncations:
            if start <= done:
                truncation = steps
            else:
                end = min(end, start)
        return end - done, truncation

    def inner_steps(self, done: int) -> int:
        """Inner training steps of the first ``done`` meta-iterations, of which there are at most the config's."""
        total, at, done = 0, 0, min(done, self.config.iterations)
        while at < done:
            size, truncation = self.segment(at)
            size = min(size, done - at)
            total += size * (self.estimator if truncation is None else self._estimators[truncation]).inner_steps
            at += size
        return total

    def example(self) -> MetaTrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._init, None)

    def place(self, state: MetaTrainState) -> MetaTrainState:
        """A state of NumPy arrays on the devices."""
        placed = _put(state._replace(problems=None), self._replicated)
        placed = placed._replace(problems=_put(state.problems, self._split))
        # A copy, since a state's buffers are donated and those made from NumPy arrays may be shared with them.
        return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(placed)

    def replicate(self, value: Any) -> Any:
        """A number as int32 on all devices."""
        return _put(np.asarray(value, np.int32), self._replicated)

    def fetch(self, state: MetaTrainState) -> MetaTrainState:
        """The inverse of `place`: a state as NumPy arrays, in every process."""
        if jax.process_count() > 1:
            state = state._replace(problems=multihost_utils.process_allgather(state.problems, tiled=True))
        return jax.tree.map(np.asarray, state)

    def save(self, path: Any, state: MetaTrainState, metadata: Mapping[str, Any]) -> None:
        """Writes a checkpoint, by the first process; see `celo_core.meta_training.checkpoints.save_checkpoint`."""
        fetched = self.fetch(state)
        if jax.process_index() == 0:
            checkpoints.save_checkpoint(path, fetched, metadata)

    def load(self, path: Any) -> MetaTrainState:
        """The state in a checkpoint, which may have been written with another number of devices."""
        return self.place(checkpoints.load_checkpoint(path, self.example()))

    def _init(self, theta: Theta | None) -> MetaTrainState:
        key_theta, key_problems = jax.random.split(jax.random.key(self.config.seed))
        theta = self.estimator.architecture.init(key_theta) if theta is None else theta
        theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theta)
        return MetaTrainState(
            iteration=jnp.zeros((), jnp.int32),
            retries=jnp.zeros((), jnp.int32),
            theta=theta,
            average=jax.tree.map(jnp.array, theta),
            opt_state=self._optimizer.init(theta),
            problems=self.estimator.init(key_problems, theta),
        )

    def _estimate(self, estimator: GradientEstimator, key: Array, theta: Theta, problems: Any, data: Any) -> Any:
        def local(key: Array, theta: Theta, problems: Any, data: Any) -> Any:
            (gradient, loss, info), problems = estimator.estimate(key, theta, problems, data)
            largest = {name: info.pop(name) for name in list(info) if name.endswith("_max")}
            means = jax.lax.pmean((gradient, loss, info), "problems")
            return means, jax.lax.pmax(largest, "problems"), problems

        whole, split = PartitionSpec(), PartitionSpec("problems")
        sharded = jax.shard_map(
            local,
            mesh=self._mesh,
            in_specs=(whole, whole, split, whole),
            out_specs=(whole, whole, split),
            check_vma=False,
        )
        (gradient, loss, info), largest, problems = sharded(key, theta, problems, data)
        # With 64-bit numbers enabled, a family's loss and with it the gradient of theta may be float64.
        gradient = jax.tree.map(lambda g, t: g.astype(t.dtype), gradient, theta)
        return gradient, {"meta_loss": loss, **info, **largest}, problems

    def _block(
        self, state: MetaTrainState, data: Any, iterations: int, truncation: int | None
    ) -> tuple[MetaTrainState, dict[str, Array]]:
        estimator = self.estimator if truncation is None else self._estimators[truncation]
        root = jax.random.fold_in(jax.random.key(self.config.seed), 1)

        def body(state: MetaTrainState, _: None) -> tuple[MetaTrainState, dict[str, Array]]:
            key = jax.random.fold_in(jax.random.fold_in(root, state.retries), state.iteration)
            gradient, metrics, problems = self._estimate(estimator, key, state.theta, state.problems, data)
            updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.theta)
            # A run that was rolled back continues with smaller steps.
            scale = 0.5 ** state.retries.astype(jnp.float32)
            theta = optax.apply_updates(state.theta, jax.tree.map(lambda u: scale * u, updates))
            decay = self.config.average_decay
            average = jax.tree.map(lambda a, t: decay * a + (1 - decay) * t, state.average, theta)
            metrics |= {"gradient_norm": optax.tree.norm(gradient), "theta_norm": optax.tree.norm(theta)}
            return MetaTrainState(state.iteration + 1, state.retries, theta, average, opt_state, problems), metrics

        return jax.lax.scan(body, state, length=iterations)


def _choose_devices(num_problems: int, devices: Any) -> list[Any]:
    chosen = list(jax.devices() if devices is None else devices)
    if devices is None and jax.process_count() == 1:
        while num_problems % len(chosen):
            chosen.pop()
    if num_problems % len(chosen):
        raise ValueError(
            f"{num_problems} problems cannot be split evenly over {len(chosen)} devices: change one of the two numbers so "
            "that the second divides the first."
        )
    return chosen


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process has in full, placed on the devices of all processes."""

    def one(x: Any) -> Array:
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)
