"""The twenty tuned baselines: each is the optimizer that it says, whatever of its setting is traced."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from celo_tasks.baselines import (
    LEARNING_RATES_SMALL,
    SCHEDULES,
    TUNED_BASELINES,
    Baseline,
    grid,
    learning_rate_schedule,
    scale_by_shampoo,
    schedule_factor,
)

NUM_STEPS = 40
PLAIN_RATE = 1e-2
COSINE_RATE = 1e-1
TUNED = grid(LEARNING_RATES_SMALL)
# Learning rate 0 comes last, with either schedule.
RATES = jnp.array([setting.learning_rate for setting in TUNED] + [0.0, 0.0])
CONSTANT, COSINE_SCHEDULE = (list(SCHEDULES).index(name) for name in ("constant", "cosine"))
INDICES = jnp.array([setting.schedule_index for setting in TUNED] + [CONSTANT, COSINE_SCHEDULE])
PLAIN = [str(setting) for setting in TUNED].index("1e-2 constant")
COSINE = [str(setting) for setting in TUNED].index("1e-1 cosine")

RNG = np.random.default_rng(0)
START = {"matrix": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32), "vector": jnp.ones(3)}
TARGET = {"matrix": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32), "vector": jnp.arange(3.0)}
CURVATURE = {"matrix": jnp.linspace(0.5, 1.5, 12).reshape(4, 3), "vector": jnp.ones(3)}

REFERENCES: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": optax.sgd,
    "sgdm": lambda rate: optax.sgd(rate, momentum=0.9),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.01),
    "rmsprop": optax.rmsprop,
    "fromage": optax.fromage,
    "sm3": optax.sm3,
    "lars": optax.lars,
    "lamb": optax.lamb,
    "adabelief": optax.adabelief,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "yogi": optax.yogi,
    "radam": optax.radam,
    "nadamw": lambda rate: optax.nadamw(rate, weight_decay=0.01),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.1),
    "shampoo": lambda rate: optax.chain(scale_by_shampoo(), optax.scale(-rate)),
    "muon": optax.contrib.muon,
    "schedule_free_adamw": optax.contrib.schedule_free_adamw,
    "prodigy": optax.contrib.prodigy,
}
"""Each built at a Python number, with nothing of the package but Shampoo's scaling."""

LEAST_DECREASE = dict.fromkeys(REFERENCES, 20.0) | {"lars": 1.2, "prodigy": 1.2}
"""Of the loss. LARS moves by 1e-3 of a tensor's norm at the largest rate; Prodigy's estimate begins at 1e-6."""


def build(baseline: Baseline, rate: Any, schedule: Any) -> optax.GradientTransformationExtraArgs:
    return baseline.make(learning_rate_schedule(rate, schedule, NUM_STEPS))


def loss(params: Any) -> jax.Array:
    terms = jax.tree.map(lambda p, t, c: 0.5 * jnp.sum(c * (p - t) ** 2), params, TARGET, CURVATURE)
    return jax.tree.reduce(jnp.add, terms)


def train(*optimizers: optax.GradientTransformation) -> list[Any]:
    """Final parameters of each, trained side by side in one scan."""
    extended = [optax.with_extra_args_support(tx) for tx in optimizers]

    def step(carry: Any, _: None) -> tuple[Any, None]:
        new = []
        for tx, (params, state) in zip(extended, carry, strict=True):
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = tx.update(gradient, state, params, value=value, grad=gradient)
            new.append((optax.apply_updates(params, updates), state))
        return new, None

    begin = [(START, tx.init(START)) for tx in extended]
    return [params for params, _ in jax.lax.scan(step, begin, None, NUM_STEPS)[0]]


@functools.cache
def outcomes(name: str) -> tuple[Any, Any, Any]:
    """Final parameters, all from one program.

    Those at every setting, which is traced (leaves (settings, ...)); those of Optax's optimizer at `PLAIN`; those built with
    Python numbers at `COSINE`.
    """
    baseline = TUNED_BASELINES[name]

    def run(rates: Any, schedules: Any) -> Any:
        tuned = jax.vmap(lambda rate, schedule: train(build(baseline, rate, schedule))[0])(rates, schedules)
        return tuned, *train(REFERENCES[name](PLAIN_RATE), build(baseline, COSINE_RATE, COSINE_SCHEDULE))

    return jax.jit(run)(RATES, INDICES)


def trained(name: str) -> Any:
    return outcomes(name)[0]


def at(params: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], params)


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    for name in START:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_there_are_twenty() -> None:
    assert list(TUNED_BASELINES) == list(REFERENCES) and len(TUNED_BASELINES) == 20
    for name, baseline in TUNED_BASELINES.items():
        assert baseline.name == name and baseline.description and baseline.source
    with pytest.raises(TypeError):
        TUNED_BASELINES["other"] = TUNED_BASELINES["adam"]  # type: ignore[index]


@pytest.mark.parametrize("name", TUNED_BASELINES)
def test_best_setting_decreases_a_quadratic(name: str) -> None:
    losses = jax.vmap(loss)(trained(name))[: len(TUNED)]
    assert float(jnp.nanmin(losses)) < float(loss(START)) / LEAST_DECREASE[name]


@pytest.mark.parametrize("name", TUNED_BASELINES)
def test_traced_setting_is_what_python_numbers_are_and_what_optax_is(name: str) -> None:
    tuned, plain, cosine = outcomes(name)
    # Parameters are around 1: forty steps, each rounded to 1e-7 and compiled in another way. Shampoo's smallest eigenvalues
    # are 1e-6 of the largest and so have few right digits.
    tolerance = 1e-3 if name == "shampoo" else 1e-5
    assert_close(at(tuned, PLAIN), plain, tolerance)
    assert_close(at(tuned, COSINE), cosine, tolerance)


@pytest.mark.parametrize("name", [name for name in TUNED_BASELINES if name != "prodigy"])
def test_learning_rate_zero_changes_nothing(name: str) -> None:
    """Prodigy divides by what its learning rates sum up to, so that it needs one that is not 0 in the first step."""
    # Schedule-free weights are computed anew from two averages in every step, and rounded.
    tolerance = 1e-5 if name == "schedule_free_adamw" else 0.0
    for index in (-1, -2):
        assert_close(at(trained(name), index), START, tolerance)


@pytest.mark.parametrize("name", TUNED_BASELINES)
def test_types_stay_as_init_gave_them(name: str) -> None:
    tx = build(TUNED_BASELINES[name], 1e-2, COSINE_SCHEDULE)
    state = jax.eval_shape(tx.init, START)
    updates, new_state = jax.eval_shape(lambda s: tx.update(START, s, START, value=1.0, unknown=None), state)
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert describe(new_state) == describe(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(lambda x: (x.shape, x.dtype), START)


def test_schedule_is_applied_from_the_first_step_on() -> None:
    rates = COSINE_RATE * np.asarray(schedule_factor("cosine", NUM_STEPS)(np.arange(NUM_STEPS)))
    # Gradient descent on a quadratic shrinks the distance to its minimum by 1 - rate * curvature.
    shrink = lambda c: np.prod(1 - rates[:, None, None] * np.atleast_2d(c), axis=0)
    for name, curvature in CURVATURE.items():
        distance = np.asarray(START[name] - TARGET[name]) * shrink(curvature).reshape(curvature.shape)
        # Rounding as above.
        np.testing.assert_allclose(at(trained("sgd"), COSINE)[name] - TARGET[name], distance, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "schedule", "reference"),
    [
        ("adam", "constant", lambda rate: optax.adam(rate)),
        (
            "adamw",
            "cosine_decay",
            lambda rate: optax.adamw(
                lambda count: rate * 0.5 * (1 + jnp.cos(jnp.pi * count / NUM_STEPS)),
                b1=0.9,
                b2=0.999,
                weight_decay=0.01,
            ),
        ),
    ],
)
def test_baselines_of_the_quickstart_are_optax_s(name: str, schedule: str, reference: Callable[[float], Any]) -> None:
    tuned = build(TUNED_BASELINES[name], 0.1, list(SCHEDULES).index(schedule))
    found, expected = jax.jit(lambda: train(tuned, reference(0.1)))()
    # The same formulas; the schedule is rounded once more or less.
    assert_close(found, expected, 1e-5)
    assert float(loss(found)) < 0.5 * float(loss(START))
