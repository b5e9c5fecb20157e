"""The scheduler: evaluated once per step, bounded features, closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import LSTMScheduler, LSTMSchedulerConfig, get_architecture
from celo_core.schedulers.loss_features import (
    decay_factor,
    horizon_feature,
    init_loss_buffer,
    loss_rates,
    time_features,
    update_loss_buffer,
)

buffer_step = jax.jit(update_loss_buffer)


def products_with(jaxpr, shape):
    """Number of matrix products in a jaxpr, at any depth, that have an operand of ``shape``."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            count += any(variable.aval.shape == shape for variable in equation.invars)
        for parameter in equation.params.values():
            for item in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
                inner = getattr(item, "jaxpr", item)
                count += products_with(inner, shape) if hasattr(inner, "eqns") else 0
    return count


@functools.cache
def theta_of(architecture):
    return get_architecture(architecture).init(jax.random.key(0))


@pytest.mark.parametrize("architecture", ["celo", "celo_adam"])
@pytest.mark.parametrize("num_tensors", [0, 1, 5])
def test_one_lstm_whatever_the_number_of_tensors(architecture, num_tensors):
    tx = get_architecture(architecture).build(theta_of(architecture), 100)
    params = [jnp.ones((3, 2))] * num_tensors
    step = lambda grads, state, value: tx.update(grads, state, params, value=value)
    jaxpr = jax.make_jaxpr(step)(params, tx.init(params), jnp.float32(1.0))
    assert products_with(jaxpr.jaxpr, (128, 256)) == 1


def test_counting_of_products():
    """The counter above sees products inside nested functions."""
    kernel = jnp.ones((128, 256))
    twice = jax.jit(lambda x: jax.lax.cond(x[0] > 0, lambda: x @ kernel, lambda: 2 * x @ kernel))
    assert products_with(jax.make_jaxpr(twice)(jnp.ones((128,))).jaxpr, (128, 256)) == 2


def test_lstm_in_closed_form():
    """With zero kernels only biases act: every gate is known."""
    scheduler = LSTMScheduler(LSTMSchedulerConfig(hidden_size=2, num_timescales=3))
    theta = jax.tree.map(jnp.zeros_like, scheduler.init(jax.random.key(0)))
    theta["network"]["gates"]["bias"] = jnp.repeat(jnp.array([0.5, 0.25, -1.0, 2.0]), 2)  # input, cell, forget, output
    theta["network"]["step_size"]["bias"] = jnp.array([3.0])
    theta["initial_cell"] = jnp.array([0.4, -0.2])
    state = scheduler.init_state(theta)
    multiplier, state = scheduler.step(theta, state, jnp.int32(0), jnp.float32(1.0), 10)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    cell = sigmoid(-1.0 + 1.0) * np.array([0.4, -0.2]) + sigmoid(0.5) * np.tanh(0.25)
    np.testing.assert_allclose(state.cell, cell, rtol=1e-6)
    np.testing.assert_allclose(state.hidden, sigmoid(2.0) * np.tanh(cell), rtol=1e-6)
    np.testing.assert_allclose(multiplier, 0.1 * np.exp(3.0), rtol=1e-6)


def test_without_an_lstm_the_log_multiplier_is_linear():
    """In the nine time features, nine loss features and the horizon, with nothing else to learn."""
    scheduler = LSTMScheduler(LSTMSchedulerConfig(hidden_size=0, horizon=True))
    theta = scheduler.init(jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 19 + 1
    kernel = jnp.arange(19.0)[:, None] / 19
    theta["network"]["step_size"] = {"kernel": kernel, "bias": jnp.array([0.5])}
    state = scheduler.init_state(theta)
    for count, loss in enumerate([3.0, 2.0, 2.5]):
        _, loss_features = update_loss_buffer(state.losses, jnp.float32(loss), jnp.float32(60))
        inputs = np.concatenate([time_features(jnp.float32(count / 60)), loss_features, [np.log(60.0) - 7]])
        multiplier, state = scheduler.step(theta, state, jnp.int32(count), jnp.float32(loss), 60)
        np.testing.assert_allclose(multiplier, 0.1 * np.exp(inputs @ kernel[:, 0] + 0.5), rtol=1e-5)  # sums in float32
    with pytest.raises(ValueError, match="hidden_size must be at least 0"):
        LSTMSchedulerConfig(hidden_size=-1)


@pytest.mark.parametrize(
    ("decay", "schedule"),
    [
        ("constant", optax.constant_schedule(1.0)),
        ("linear", optax.linear_schedule(1.0, 0.0, 50)),
        ("cosine", optax.cosine_decay_schedule(1.0, 50)),
    ],
)
def test_decays_are_optax_schedules(decay, schedule):
    """Also past the planned end; and the multiplier is that of the scheduler without a decay, times it."""
    counts = np.arange(0, 60, 7)
    fractions = jnp.asarray(counts / 50, jnp.float32)
    np.testing.assert_allclose(
        decay_factor(decay, fractions), [schedule(n) for n in counts], atol=3e-7
    )  # of 1, float32
    multipliers = []
    for one in ("constant", decay):
        scheduler = LSTMScheduler(LSTMSchedulerConfig(hidden_size=3, decay=one))
        theta = scheduler.init(jax.random.key(2))
        multipliers.append(scheduler.step(theta, scheduler.init_state(theta), jnp.int32(14), jnp.float32(2.0), 50)[0])
    np.testing.assert_allclose(multipliers[1], multipliers[0] * schedule(14), rtol=1e-6)


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="decay must be one of constant, linear, cosine, not 'sine'"):
        LSTMSchedulerConfig(decay="sine")


@pytest.mark.parametrize("hidden_size", [0, 64])
def test_random_scheduler_starts_near_one(hidden_size):
    scheduler = LSTMScheduler(LSTMSchedulerConfig(hidden_size=hidden_size))
    theta = scheduler.init(jax.random.key(3))
    multiplier, _ = scheduler.step(theta, scheduler.init_state(theta), jnp.int32(0), jnp.float32(2.0), 100)
    assert 0.5 < multiplier < 2.0


def test_time_features():
    np.testing.assert_allclose(time_features(jnp.float32(0.4))[3], 0.0, atol=1e-6)
    np.testing.assert_allclose(time_features(jnp.float32(0.2))[0], np.tanh(1.7), rtol=1e-6)
    assert time_features(jnp.float32(0.0)).shape == (9,)


def test_horizon_feature():
    found = [horizon_feature(steps).item() for steps in (1, 1000, 10_000, 10**9)]
    np.testing.assert_allclose(found, [-3.0, np.log(1000) - 7, np.log(10_000) - 7, 3.0], atol=2e-6)  # float32 near 7
    assert horizon_feature(300, 700) == horizon_feature(700) and horizon_feature(800, 700) == horizon_feature(800)


def test_only_a_scheduler_with_horizon_tells_lengths_apart():
    """Three trainings at the same share of their planned lengths, at the first step, where no loss has been seen."""

    def multipliers(config):
        scheduler = LSTMScheduler(config)
        theta = scheduler.init(jax.random.key(0))
        theta["network"]["step_size"]["kernel"] += 1.0
        step = lambda length: scheduler.step(theta, scheduler.init_state(theta), jnp.int32(0), 1.0, length)[0]
        return step(100), step(200), step(10_000)

    assert len({float(x) for x in multipliers(LSTMSchedulerConfig(hidden_size=4))}) == 1
    shortest, short, long = multipliers(LSTMSchedulerConfig(hidden_size=4, horizon=True))
    assert abs(shortest - short) > 1e-3 and abs(short - long) > 1e-3
    shortest, short, long = multipliers(LSTMSchedulerConfig(hidden_size=4, horizon=True, shortest_horizon=200))
    assert shortest == short and abs(short - long) > 1e-3
    with pytest.raises(ValueError, match="shortest_horizon must be at least 1, not 0"):
        LSTMSchedulerConfig(horizon=True, shortest_horizon=0)


def test_half_lives():
    """From 10 to num_steps, in equal ratios."""
    half_lives = 1 / np.asarray(loss_rates(jnp.float32(10_000), 10), np.float64)
    np.testing.assert_allclose(half_lives, np.logspace(1, 4, 10), rtol=1e-5)  # float32 powers


def run_losses(losses, num_steps=100.0):
    buffer, features = init_loss_buffer(10), []
    for value in losses:
        buffer, made = buffer_step(buffer, jnp.float32(value), jnp.float32(num_steps))
        features.append(np.asarray(made))
    return buffer, np.array(features)


def test_constant_loss():
    """All corrected means and minima equal the loss; features are zero for two steps and bounded."""
    buffer, features = run_losses([2.0] * 5)
    np.testing.assert_allclose(buffer.running_min, 2.0, rtol=1e-6)
    assert np.all(features[:2] == 0)
    assert np.all(np.abs(features) <= 1)


def test_decreasing_and_increasing_loss_differ():
    _, down = run_losses(np.linspace(5, 1, 20))
    _, up = run_losses(np.linspace(1, 5, 20))
    assert np.all(down[-1] == -1.0)  # every mean is at its minimum
    assert np.all(up[-1] > -1.0)


def test_spike_is_limited():
    """A loss counts as at most twice the largest mean, taken with the next step's correction."""
    steady, _ = run_losses([1.0] * 10)
    spiked, _ = run_losses([1.0] * 10 + [1e6])
    decay = np.exp(-np.asarray(loss_rates(jnp.float32(100.0), 10), np.float64))
    limit = 2 * np.max(np.asarray(steady.means, np.float64) / (1 - decay**11))
    expected = decay * np.asarray(steady.means, np.float64) + (1 - decay) * limit
    np.testing.assert_allclose(spiked.means, expected, rtol=1e-5)  # float32
    assert 1.5 < limit <= 2.0


def test_first_loss_is_not_limited():
    buffer, _ = run_losses([1e6])
    np.testing.assert_allclose(buffer.running_min, 1e6, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_first_loss_is_left_out(bad):
    left_out, _ = run_losses([bad])
    assert left_out.count == 0
    with_bad, _ = run_losses([bad, 3.0, 2.0])
    without, _ = run_losses([3.0, 2.0])
    jax.tree.map(np.testing.assert_array_equal, with_bad, without)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_later_loss_counts_as_the_limit(bad):
    with_bad, _ = run_losses([3.0, 2.0, bad])
    with_huge, _ = run_losses([3.0, 2.0, 1e20])
    jax.tree.map(np.testing.assert_array_equal, with_bad, with_huge)
