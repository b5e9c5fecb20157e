"""Meta-training: descends an estimated meta-gradient, in stretches that can be stopped and resumed bit for bit.

The recipe is Celo's (arXiv 2501.12670, section 4): the update rule is trained first, with a step-size multiplier of 1,
and then the scheduler, with the update rule frozen. A phase sees its own part of theta only (`FrozenPart`), so nothing,
weight decay included, can move the other part.
"""

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from celo_core import checkpoints, files
from celo_core.estimators import TruncatedPES
from celo_core.progress import ProgressLine, format_seconds
from celo_core.protocols import LearnedOptimizer, Theta

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenPart:
    """A learned optimizer some of whose meta-parameters are fixed; its theta is the rest.

    Attributes:
      architecture: the whole learned optimizer.
      frozen: the fixed top-level groups of theta, e.g. ``{"update_rule": ...}``.
    """

    architecture: LearnedOptimizer
    frozen: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the whole."""
        return self.architecture.name

    @property
    def config(self) -> Any:
        """Config of the whole."""
        return self.architecture.config

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
    """Settings of one phase of meta-training.

    Attributes:
      iterations: meta-iterations (updates of theta) in the whole phase.
      learning_rate: peak learning rate of the meta-optimizer, AdamW.
      final_fraction: the learning rate decays by a cosine to this fraction of its peak.
      weight_decay: AdamW's decoupled weight decay.
      clip_norm: meta-gradients are clipped to this global norm.
      average_decay: decay of the running average of theta that a phase returns.
      block: meta-iterations per XLA program.
      seed: of everything random.
    """

    iterations: int = 100_000
    learning_rate: float = 3e-4
    final_fraction: float = 1.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    average_decay: float = 0.0
    block: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.block < 1:
            raise ValueError(f"iterations and block must be at least 1, not {self.iterations} and {self.block}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), not {self.average_decay}.")

    def optimizer(self) -> optax.GradientTransformation:
        """The meta-optimizer."""
        schedule = optax.cosine_decay_schedule(self.learning_rate, self.iterations, alpha=self.final_fraction)
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm), optax.adamw(schedule, weight_decay=self.weight_decay)
        )


class MetaTrainState(NamedTuple):
    """State of a run; with the config and the data it determines all that follows.

    Attributes:
      iteration: meta-iterations done, int32 ().
      theta: trainable meta-parameters.
      average: running average of theta, without bias correction at the start (it begins at theta).
      opt_state: of the meta-optimizer.
      pairs: the estimator's state.
    """

    iteration: Any
    theta: Theta
    average: Theta
    opt_state: Any
    pairs: Any


class MetaTrainer:
    """Runs one phase, with the pairs split over the devices; every pair has random keys of its own.

    Args:
      estimator: the meta-gradient, which knows the architecture and the problems.
      config: settings.
      data: what the family's ``load`` returned.
      devices: devices to split the pairs over, all by default; their number must divide the number of pairs.
    """

    def __init__(self, estimator: TruncatedPES, config: MetaTrainConfig, data: Any, devices: Any = None) -> None:
        self.estimator = estimator
        self.config = config
        devices = list(devices if devices is not None else jax.devices())
        while estimator.num_pairs % len(devices):
            devices.pop()
        self._mesh = jax.make_mesh((len(devices),), ("pairs",), devices=devices)
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec("pairs"))
        self._data = jax.device_put(data, self._replicated)
        self._optimizer = config.optimizer()
        self._run = jax.jit(self._block, static_argnums=2, donate_argnums=0)

    def init(self, theta: Theta | None = None) -> MetaTrainState:
        """State at iteration 0, from ``theta`` or, by default, from the architecture's random initialisation."""
        return self._place(jax.jit(self._init)(theta))

    def run(self, state: MetaTrainState, iterations: int) -> tuple[MetaTrainState, dict[str, np.ndarray]]:
        """Runs meta-iterations as one XLA program; consumes ``state``. Returns metrics per iteration."""
        state, metrics = self._run(state, self._data, iterations)
        return state, jax.device_get(metrics)

    def example(self) -> MetaTrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._init, None)

    def load(self, path: str | os.PathLike[str]) -> MetaTrainState:
        """The state in a checkpoint."""
        return self._place(checkpoints.load_checkpoint(path, self.example()))

    def _init(self, theta: Theta | None) -> MetaTrainState:
        key_theta, key_pairs = jax.random.split(jax.random.key(self.config.seed))
        theta = self.estimator.architecture.init(key_theta) if theta is None else theta
        theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theta)
        return MetaTrainState(
            iteration=jnp.zeros((), jnp.int32),
            theta=theta,
            average=jax.tree.map(jnp.array, theta),
            opt_state=self._optimizer.init(theta),
            pairs=self.estimator.init(key_pairs, theta),
        )

    def _place(self, state: MetaTrainState) -> MetaTrainState:
        placed = jax.device_put(state._replace(pairs=None), self._replicated)
        # A copy, since the buffers of a state are donated and equal leaves may share one.
        copy = functools.partial(jax.tree.map, lambda x: jnp.array(x, copy=True))
        return copy(placed._replace(pairs=jax.device_put(state.pairs, self._split)))

    def _estimate(self, key: Array, theta: Theta, pairs: Any, data: Any) -> Any:
        def local(key: Array, theta: Theta, pairs: Any, data: Any) -> Any:
            (gradient, loss, info), pairs = self.estimator.estimate(key, theta, pairs, data)
            return jax.lax.pmean((gradient, loss, info), "pairs"), pairs

        whole, split = PartitionSpec(), PartitionSpec("pairs")
        sharded = jax.shard_map(
            local, mesh=self._mesh, in_specs=(whole, whole, split, whole), out_specs=(whole, split), check_vma=False
        )
        return sharded(key, theta, pairs, data)

    def _block(self, state: MetaTrainState, data: Any, iterations: int) -> tuple[MetaTrainState, dict[str, Array]]:
        root = jax.random.fold_in(jax.random.key(self.config.seed), 1)

        def body(state: MetaTrainState, _: None) -> tuple[MetaTrainState, dict[str, Array]]:
            key = jax.random.fold_in(root, state.iteration)
            (gradient, loss, info), pairs = self._estimate(key, state.theta, state.pairs, data)
            updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            decay = self.config.average_decay
            average = jax.tree.map(lambda a, t: decay * a + (1 - decay) * t, state.average, theta)
            metrics = {"meta_loss": loss, "gradient_norm": optax.tree.norm(gradient), **info}
            return MetaTrainState(state.iteration + 1, theta, average, opt_state, pairs), metrics

        return jax.lax.scan(body, state, length=iterations)


def run_phase(
    trainer: MetaTrainer,
    folder: str | os.PathLike[str],
    *,
    theta: Theta | None = None,
    minutes: float | None = None,
    checkpoint_seconds: float = 60.0,
    metadata: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: ProgressLine | None = None,
) -> MetaTrainState:
    """Runs a phase to its end, or until time is up, resuming from ``folder/checkpoint.npz`` if there is one.

    Writes ``folder/checkpoint.npz`` atomically and ``folder/log.jsonl``, one line per block of iterations.

    Args:
      trainer: the phase.
      folder: where its files are.
      theta: initial trainable theta of a new run; random by default.
      minutes: stop (with a checkpoint) after this long.
      checkpoint_seconds: time between checkpoints.
      metadata: what identifies the run; a checkpoint with other metadata is refused.
      stop: asked between blocks; if it returns true, the run stops with a checkpoint.
      progress: where progress is shown.

    Raises:
      ValueError: the checkpoint belongs to a run with other settings, or is damaged.
    """
    folder = pathlib.Path(folder)
    checkpoint, log = folder / "checkpoint.npz", folder / "log.jsonl"
    progress = progress or ProgressLine()
    config = trainer.config
    identity = json.loads(json.dumps({**dataclasses.asdict(config), **(metadata or {})}))
    state, seconds = _start(trainer, checkpoint, identity, theta)
    done = int(state.iteration)
    _truncate_log(log, done)
    folder.mkdir(parents=True, exist_ok=True)
    begin = last_checkpoint = time.monotonic()
    done_before, seconds_before = done, seconds
    measured_from: tuple[float, int] | None = None

    def save() -> None:
        info = {"settings": identity, "iteration": done, "seconds": seconds}
        checkpoints.save_checkpoint(checkpoint, state, info)

    while done < config.iterations:
        size = min(config.block, config.iterations - done)
        state, metrics = trainer.run(state, size)
        done += size
        now = time.monotonic()
        seconds = seconds_before + now - begin
        # The first block compiles: the rate is measured from its end.
        rate = (done - measured_from[1]) / (now - measured_from[0]) if measured_from else None
        measured_from = measured_from or (now, done)
        _log(log, done, seconds, metrics, trainer.estimator.inner_steps)
        progress.show(_progress_text(done, config.iterations, metrics, rate, trainer.estimator.inner_steps))
        out_of_time = minutes is not None and now - begin >= 60 * minutes
        finish = done >= config.iterations or out_of_time or stop()
        if finish or now - last_checkpoint >= checkpoint_seconds:
            save()
            last_checkpoint = time.monotonic()
        if finish:
            break
    if done > done_before:
        progress.show(
            f"{done} of {config.iterations} meta-iterations, {format_seconds(seconds)}; {checkpoint}", last=True
        )
    return state


def _start(
    trainer: MetaTrainer, checkpoint: pathlib.Path, identity: Mapping[str, Any], theta: Theta | None
) -> tuple[MetaTrainState, float]:
    if not checkpoint.exists():
        return trainer.init(theta), 0.0
    found = checkpoints.load_metadata(checkpoint)
    if different := sorted(
        name for name in {*found["settings"], *identity} if found["settings"].get(name) != identity.get(name)
    ):
        name = different[0]
        raise ValueError(
            f"{checkpoint} was written with {name} = {found['settings'].get(name)!r}, not {identity.get(name)!r}: "
            "resume with the same settings, or start in another folder."
        )
    return trainer.load(checkpoint), float(found["seconds"])


def _truncate_log(log: pathlib.Path, iteration: int) -> None:
    """Drops lines beyond the checkpoint, which a killed run had logged but not saved."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line)
        except (ValueError, KeyError):  # a line cut short by the kill
            continue
    files.write_bytes(log, "".join(line + "\n" for line in kept).encode())


def _log(log: pathlib.Path, done: int, seconds: float, metrics: Mapping[str, np.ndarray], inner_steps: int) -> None:
    line = {"iteration": done, "seconds": round(seconds, 3), "inner_steps": done * inner_steps}
    line.update({name: float(np.mean(values)) for name, values in metrics.items()})
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _progress_text(
    done: int, iterations: int, metrics: Mapping[str, np.ndarray], rate: float | None, inner_steps: int
) -> str:
    parts = [f"{done}/{iterations}"]
    if rate:
        parts.append(f"{rate * inner_steps:,.0f} inner steps/s, {format_seconds((iterations - done) / rate)} left")
    parts.append(f"meta-loss {np.mean(metrics['meta_loss']):.3f}")
    parts.append(f"step size {np.mean(metrics['step_size']):.1e} (largest {np.max(metrics['step_size_max']):.1e})")
    if bad := float(np.mean(metrics["non_finite"])):
        parts.append(f"{100 * bad:.1f} % of losses not finite")
    return " | ".join(parts)
