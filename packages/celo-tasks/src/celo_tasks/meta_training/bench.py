"""Throughput of meta-training, and of plain training with Adam in the same run: what ``celo-tasks bench-meta`` measures.

The setting is that of Celo's meta-training (arXiv 2501.12670, section 4): multilayer perceptrons on small images under
random reparametrisation, antithetic pairs, windows of 50 steps. Programs are timed in turn, round by round, so that a ratio
is of neighbours in time.
"""

import dataclasses
import functools
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from celo_core import Celo, CeloConfig, TruncatedPES
from celo_core.meta_training.trainer import FrozenPart, MetaTrainConfig, MetaTrainer
from celo_core.meta_training.unroll import InnerProblem, Trainee
from celo_core.progress import ProgressLine
from celo_tasks.families import ImageMLP, Reparametrized, reparametrize
from celo_tasks.meta_training.optimizers import Adam, GradientDescent
from celo_tasks.reporting.machine import hardware

Array = jax.Array

DEFAULT_PAIRS = 32
"""The paper's, at which all programs are measured."""

LEVELS = ("global", "tensor")

BLOCK = 5
"""Meta-iterations per XLA program."""

TITLES = {
    "update_rule": "update rule",
    "scheduler": "scheduler",
    "gradient_descent": "gradient descent",
    "adam": "Adam, training only",
}
"""What is measured, as people read it."""


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how long.

    Attributes:
      datasets: image sets, see `celo_tasks.datasets`.
      pairs: numbers of antithetic pairs at which the update rule and Adam are measured; `DEFAULT_PAIRS` is added.
      truncation: inner steps per window.
      data_dir: folder with prepared arrays, or ``None``.
      seconds: least time of one program at one number of pairs, over all its repeats.
      repeats: timings of each program.
    """

    datasets: tuple[str, ...]
    pairs: tuple[int, ...]
    truncation: int = 50
    data_dir: str | None = None
    seconds: float = 3.0
    repeats: int = 5

    def __post_init__(self) -> None:
        if not self.pairs or min(self.pairs) < 1:
            raise ValueError(f"numbers of pairs must be at least 1, not {', '.join(map(str, self.pairs)) or 'none'}.")
        if self.truncation < 1 or self.repeats < 1:
            raise ValueError(f"truncation and repeats must be at least 1, not {self.truncation} and {self.repeats}.")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"the seconds of a case must be positive, not {self.seconds}.")


def default_pairs() -> tuple[int, ...]:
    """Numbers of pairs that are worth measuring on this machine's devices."""
    return (8, 16, 32, 64, 128) if jax.default_backend() == "cpu" else (32, 128, 512, 1024)


def measure(
    settings: BenchSettings,
    *,
    progress: ProgressLine | None = None,
    on_case: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Measures meta-training on all devices.

    Args:
      settings: what.
      progress: where progress is shown.
      on_case: given the record after each number of pairs, `DEFAULT_PAIRS` first; what is not measured yet is not in it.

    Returns:
      What JSON can hold: ``inner_steps_per_second`` (of the update rule at `DEFAULT_PAIRS`, both members of a pair
      counted), ``adam_inner_steps_per_second`` and ``rate_over_adam`` (there too), ``share_of_time_in_inner_gradients``
      and ``share_of_time_in_update_rule``, ``machine``, ``versions``, ``settings`` and ``cases``, by number of pairs.
      A case has ``name`` (one of `TITLES`), ``pairs``, ``problems_at_once`` (networks in training), ``devices``,
      ``inner_steps_per_second`` (the median of its timings, with ``smallest`` and ``largest``) and ``rate_over_adam``
      (median of the ratios, round by round), ``milliseconds_per_meta_iteration`` (for Adam: of as many inner steps),
      ``first_call_seconds`` (of the first block: tracing, compilation and a run), ``temporary_bytes_per_device`` (of the
      compiled block; ``None`` where the backend does not say) and ``state_bytes_per_pair``.

    Raises:
      FileNotFoundError: there is no such image set.
      ValueError: the images are not 8x8 pictures of ten classes.
    """
    progress = progress or ProgressLine()
    family = reparametrize(ImageMLP(settings.datasets, data_dir=settings.data_dir), LEVELS)
    try:
        data = family.load()
    except ValueError as error:
        raise ValueError(
            f"meta-training needs 8x8 grey pictures of ten classes, unlike {', '.join(settings.datasets)}: {error}"
        ) from error
    counts = tuple(dict.fromkeys((DEFAULT_PAIRS, *settings.pairs)))
    record: dict[str, Any] = {
        "machine": hardware(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "optax": optax.__version__},
        "settings": {
            **dataclasses.asdict(settings),
            "datasets": list(settings.datasets),
            "pairs": sorted(counts),
            "default_pairs": DEFAULT_PAIRS,
            "levels": list(LEVELS),
            "block": BLOCK,
            "devices": jax.device_count(),
        },
        "cases": [],
    }
    for number, pairs in enumerate(counts):
        # Where time goes is asked once; how the rate grows, of what is most of the work.
        names = tuple(TITLES) if pairs == DEFAULT_PAIRS else ("update_rule", "adam")
        show = lambda text, number=number, pairs=pairs: progress.show(
            f"{number + 1} of {len(counts)} numbers of pairs | {pairs} pairs | {text}"
        )
        cases = _measure_pairs(names, pairs, family, data, settings, show)
        record["cases"] = sorted([*record["cases"], *cases.values()], key=lambda case: case["pairs"])
        if pairs == DEFAULT_PAIRS:
            record = {**_summary(cases), **record}
        on_case(record)
    progress.show(f"measured at {', '.join(map(str, sorted(counts)))} pairs", last=True)
    return record


def _summary(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rates = {name: case["inner_steps_per_second"] for name, case in cases.items()}
    # Gradient descent does all but the update rule's work, and next to nothing in its place.
    share = rates["update_rule"] / rates["gradient_descent"]
    return {
        "inner_steps_per_second": rates["update_rule"],
        "adam_inner_steps_per_second": rates["adam"],
        "rate_over_adam": cases["update_rule"]["rate_over_adam"],
        "share_of_time_in_inner_gradients": round(share, 3),
        "share_of_time_in_update_rule": round(1 - share, 3),
    }


def _measure_pairs(
    names: Sequence[str],
    pairs: int,
    family: Reparametrized,
    data: Any,
    settings: BenchSettings,
    show: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """The cases of these names at one number of pairs; Adam must be among them."""
    devices = jax.devices()[: _most_devices(pairs, jax.device_count())]
    programs = {}
    for name in names:
        show(f"compiling {TITLES[name]}")
        make = _adam if name == "adam" else functools.partial(_meta_training, name)
        programs[name] = make(family, data, pairs, settings.truncation, devices)
    inner_steps = 2 * pairs * settings.truncation * BLOCK
    rates: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(settings.repeats):
        for name, program in programs.items():
            show(f"timing {TITLES[name]}, {round_ + 1} of {settings.repeats}")
            rates[name].append(inner_steps / _seconds_per_call(program.run, settings.seconds / settings.repeats))
    return {
        name: {
            "name": name,
            "pairs": pairs,
            "problems_at_once": 2 * pairs,
            "devices": len(devices),
            "inner_steps_per_second": _digits(np.median(rates[name])),
            "smallest": _digits(min(rates[name])),
            "largest": _digits(max(rates[name])),
            "rate_over_adam": _digits(np.median(np.divide(rates[name], rates["adam"]))),
            "milliseconds_per_meta_iteration": _digits(1e3 * inner_steps / BLOCK / np.median(rates[name])),
            "first_call_seconds": _digits(program.first_call_seconds),
            "temporary_bytes_per_device": program.temporary_bytes,
            "state_bytes_per_pair": program.state_bytes // pairs,
        }
        for name, program in programs.items()
    }


def _most_devices(pairs: int, available: int) -> int:
    """The largest number of devices that the pairs can be split over evenly."""
    return max(n for n in range(1, available + 1) if pairs % n == 0)


def _seconds_per_call(run: Callable[[], None], least_seconds: float) -> float:
    """Mean time of a call over at least ``least_seconds``."""
    calls, begin = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        if (passed := time.perf_counter() - begin) >= least_seconds:
            return passed / calls


def _digits(value: Any) -> float:
    """Four of them, which is more than a timing has."""
    return float(f"{value:.4g}")


class _Program:
    """A compiled block of meta-iterations, or of as much training, and the state that it has come to.

    Args:
      step: runs the block: ``state -> (state, metrics)``; may consume the state.
      lower: lowers the same program, for its memory.
      state: where it begins.
      state_bytes: size of what of the state belongs to the pairs.
    """

    def __init__(
        self, step: Callable[[Any], tuple[Any, Any]], lower: Callable[[], Any], state: Any, state_bytes: int
    ) -> None:
        self._step, self._state = step, state
        self.state_bytes = state_bytes
        begin = time.perf_counter()
        self.run()
        self.first_call_seconds = time.perf_counter() - begin
        memory = lower().compile().memory_analysis()  # JAX has the program already, and does not compile it again
        self.temporary_bytes = None if memory is None else int(memory.temp_size_in_bytes)

    def run(self) -> None:
        """Runs the block on the state that the last run left, and waits for it."""
        self._state, metrics = self._step(self._state)
        jax.block_until_ready((self._state, metrics))


def _bytes(tree: Any) -> int:
    return sum(int(x.nbytes) for x in jax.tree.leaves(tree))


def _architecture(name: str) -> Any:
    """What is meta-trained in either phase, or gradient descent in its place."""
    if name == "update_rule":
        return Celo(CeloConfig(scheduler=None))
    if name == "scheduler":
        return FrozenPart(Celo(), {"update_rule": Celo().init(jax.random.key(0))["update_rule"]})
    return GradientDescent()


def _meta_training(
    name: str, family: Reparametrized, data: Any, pairs: int, truncation: int, devices: Sequence[Any]
) -> _Program:
    """A block of meta-iterations."""
    estimator = TruncatedPES(_architecture(name), family, num_pairs=pairs, truncation=truncation)
    trainer = MetaTrainer(estimator, MetaTrainConfig(), data, devices=devices)
    state = trainer.init()
    return _Program(
        lambda state: trainer.run(state, BLOCK), lambda: trainer.lower(BLOCK), state, _bytes(state.problems)
    )


def _adam(family: Reparametrized, data: Any, pairs: int, truncation: int, devices: Sequence[Any]) -> _Program:
    """As many steps of Adam, on as many networks and the same devices: two networks to a problem, on the same batches."""
    problem, theta = InnerProblem(Adam(), family), {"learning_rate": np.float32(1e-3)}

    def start(key: Array) -> tuple[Array, Any, Trainee]:
        key_config, key_init, key_steps = jax.random.split(key, 3)
        config = family.sample(key_config)
        trainee = jax.vmap(lambda k: problem.init(theta, k, config, 0))(jax.random.split(key_init))
        return key_steps, config, trainee

    def train(state: tuple[Array, Any, Trainee], data: Any) -> tuple[tuple[Array, Any, Trainee], Array]:
        key, config, trainee = state
        key_next, key_steps = jax.random.split(key)

        def body(trainee: Trainee, key: Array) -> tuple[Trainee, Array]:
            key_batch, key_loss = jax.random.split(key)
            batch = family.batch(key_batch, config, data)
            trainee, loss = jax.vmap(lambda t: problem.step(theta, t, key_loss, config, batch, 0))(trainee)
            return trainee, family.normalizer(loss)

        trainee, losses = jax.lax.scan(body, trainee, jax.random.split(key_steps, BLOCK * truncation))
        return (key_next, config, trainee), jnp.mean(losses)

    mesh = jax.make_mesh((len(devices),), ("pairs",), devices=devices)
    whole, split = PartitionSpec(), PartitionSpec("pairs")
    block = jax.shard_map(
        jax.vmap(train, in_axes=(0, None)), mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
    )
    state = jax.device_put(
        jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), pairs)), NamedSharding(mesh, split)
    )
    data = jax.device_put(data, NamedSharding(mesh, whole))
    program = jax.jit(block)
    return _Program(lambda state: program(state, data), lambda: program.lower(state, data), state, _bytes(state[1:]))
