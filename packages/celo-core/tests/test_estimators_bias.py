"""Every estimator's mean against closed forms on a quadratic, and against backpropagation through a small network's training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import (
    ConstantLength,
    FullBackprop,
    FullES,
    NoiseReuseES,
    TruncatedBackprop,
    TruncatedES,
    TruncatedPES,
)
from celo_core.testing.toys import LearnedSGD, Quadratic

pytestmark = pytest.mark.slow

SIGMA, LENGTH, WINDOW, SIZE = 0.02, 20, 5, 4
QUANTILE = 3.9  # half of a 99.99 % confidence interval, in standard errors


def closed_form(start: str, objective: str = "mean", log_learning_rate: float = -1.0) -> float:
    """d/d log(lr) of the mean (or last) loss ``c^(2t) / 2``, t < LENGTH, with c = 1 - lr/size, in float64.

    With ``start="window"`` the network at each window's start is treated as a constant.
    """
    lr = np.exp(np.float64(log_learning_rate))
    c, t = 1 - lr / SIZE, np.arange(LENGTH)
    counted = t if start == "unroll" else t % WINDOW
    slopes = counted * c ** np.maximum(2 * t - 1, 0) * (-lr / SIZE)
    return float(np.mean(slopes) if objective == "mean" else slopes[-1])


def estimates(estimator, theta, estimates_per_life, seeds, lives=4):
    """Gradient of the log learning rate by seed, averaged over whole trajectories of the problems without the first."""
    data = estimator.family.load()

    @jax.jit
    @jax.vmap
    def run(key):
        def body(state, key):
            (gradient, _, _), state = estimator.estimate(key, theta, state, data)
            return state, gradient["rule"]["log_learning_rate"]

        key_init, key_steps = jax.random.split(key)
        # The first trajectories are shortened so that problems get out of phase; afterwards a problem goes through its
        # windows cyclically, and a whole number of trajectories weights all windows equally.
        state = estimator.init(key_init, theta)
        _, gradients = jax.lax.scan(body, state, jax.random.split(key_steps, estimates_per_life * (lives + 1)))
        return jnp.mean(gradients[estimates_per_life:])

    return np.asarray(run(jax.random.split(jax.random.key(7), seeds)), np.float64)


def make(name, architecture, family, problems=16, sigma=SIGMA, **kwargs):
    """An estimator by name, and its number of estimates per trajectory."""
    lengths = ConstantLength(LENGTH)
    evolution = {"num_pairs": problems, "sigma": sigma, **kwargs}
    windows = LENGTH // WINDOW
    return {
        "es": lambda: (TruncatedES(architecture, family, truncation=WINDOW, lengths=lengths, **evolution), windows),
        "pes": lambda: (TruncatedPES(architecture, family, truncation=WINDOW, lengths=lengths, **evolution), windows),
        "noise_reuse_es": lambda: (
            NoiseReuseES(architecture, family, truncation=WINDOW, lengths=lengths, **evolution),
            windows,
        ),
        "full_es": lambda: (FullES(architecture, family, lengths=lengths, **evolution), 1),
        "truncated_backprop": lambda: (
            TruncatedBackprop(
                architecture, family, truncation=WINDOW, lengths=lengths, num_problems=problems, **kwargs
            ),
            windows,
        ),
        "full_backprop": lambda: (
            FullBackprop(architecture, family, lengths=lengths, num_problems=problems, **kwargs),
            1,
        ),
    }[name]()


@functools.cache
def interval(name, objective="mean"):
    """Mean over seeds, and half of a 99.99 % confidence interval."""
    kwargs = {} if objective == "mean" else {"objective": objective}
    estimator, windows = make(name, LearnedSGD(), Quadratic(SIZE), **kwargs)
    values = estimates(estimator, LearnedSGD().init(jax.random.key(0)), windows, seeds=256)
    # Backpropagation on this problem has no variance except for float32's rounding.
    return values.mean(), max(QUANTILE * values.std(ddof=1) / np.sqrt(len(values)), 1e-5 * abs(values.mean()))


@pytest.mark.parametrize("name", ["pes", "noise_reuse_es", "full_es", "full_backprop"])
def test_unbiased(name):
    exact, (mean, half_width) = closed_form("unroll"), interval(name)
    assert half_width < 0.2 * abs(exact), "the interval is too wide to show anything"
    # Smoothing with sigma = 0.02 moves the gradient by a relative O(sigma^2): 1e-3, far inside the others' intervals.
    assert abs(mean - exact) < half_width + 1e-3 * abs(exact), (exact, mean, half_width)


@pytest.mark.parametrize("name", ["full_es", "full_backprop"])
def test_last_loss(name):
    exact, (mean, half_width) = closed_form("unroll", "last"), interval(name, "last")
    assert abs(mean - exact) < half_width + 1e-3 * abs(exact), (exact, mean, half_width)


@pytest.mark.parametrize("name", ["es", "truncated_backprop"])
def test_truncation_bias(name):
    """The mean is the gradient of windows whose start is a constant, and clearly not that of the unroll."""
    (mean, half_width), exact = interval(name), closed_form("unroll")
    # For truncated ES the start is that of a perturbed theta, a relative O(sigma^2) again.
    truncated = closed_form("window")
    assert abs(mean - truncated) < half_width + 1e-3 * abs(truncated), (truncated, mean, half_width)
    assert abs(mean - exact) > 3 * half_width and abs(mean) < abs(exact), "short horizons underrate the learning rate"


def test_sign_delta_keeps_the_direction_only():
    estimator, _ = make("full_es", LearnedSGD(), Quadratic(SIZE), sign_delta=SIGMA)
    theta = LearnedSGD().init(jax.random.key(0))
    (gradient, _, _), _ = jax.jit(estimator.estimate)(
        jax.random.key(0), theta, estimator.init(jax.random.key(0), theta), {}
    )
    # All problems are alike, so every pair votes for the same side: E |e| / (2 sigma) = 0.4, here over 16 pairs.
    assert -0.7 < float(gradient["rule"]["log_learning_rate"]) < -0.15


@dataclasses.dataclass(frozen=True)
class TinyRegression:
    """A network of 3 tanh units that learns a noisy sine: not convex, with other batches at each step."""

    name = "tiny_regression"

    def load(self):
        return {"x": jnp.linspace(-2, 2, 64)}

    def sample(self, key):
        return jax.random.uniform(key, minval=0.5, maxval=2.0)  # the frequency

    def init(self, key, config):
        key_in, key_out = jax.random.split(key)
        return {"in": jax.random.normal(key_in, (2, 3)), "out": jax.random.normal(key_out, (3,))}, None

    def batch(self, key, config, data):
        key_pick, key_noise = jax.random.split(key)
        x = jax.random.choice(key_pick, data["x"], (8,))
        return x, jnp.sin(config * x) + 0.1 * jax.random.normal(key_noise, (8,))

    def loss(self, params, model_state, key, config, batch):
        x, y = batch
        hidden = jnp.tanh(x[:, None] * params["in"][0] + params["in"][1])
        return jnp.mean((hidden @ params["out"] - y) ** 2), model_state

    def normalizer(self, loss):
        return jnp.clip(jnp.nan_to_num(loss, nan=5.0, posinf=5.0), 0.0, 5.0)


def plain_gradient(seeds):
    """Gradient of the mean loss by seed, by jax.grad of a training loop that shares no code with the estimators."""
    family = TinyRegression()
    data = family.load()

    def mean_loss(log_learning_rate, key):
        key_task, key_init, key_steps = jax.random.split(key, 3)
        config = family.sample(key_task)
        params, _ = family.init(key_init, config)

        def body(params, key):
            batch = family.batch(key, config, data)
            loss, gradients = jax.value_and_grad(lambda p: family.loss(p, None, key, config, batch)[0])(params)
            moved = jax.tree.map(lambda p, g: p - jnp.exp(log_learning_rate) * g, params, gradients)
            return moved, family.normalizer(loss)

        return jnp.mean(jax.lax.scan(body, params, jax.random.split(key_steps, LENGTH))[1])

    keys = jax.random.split(jax.random.key(3), seeds)
    return np.asarray(jax.jit(jax.vmap(jax.grad(mean_loss), in_axes=(None, 0)))(-2.0, keys), np.float64)


@pytest.fixture(scope="module")
def network_gradient():
    values = plain_gradient(16384)
    return values.mean(), QUANTILE * values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("name", "unbiased"),
    [("pes", True), ("noise_reuse_es", True), ("full_es", True), ("full_backprop", True), ("es", False),
     ("truncated_backprop", False)],
)  # fmt: skip
def test_on_a_small_network(name, unbiased, network_gradient):
    """Against the full gradient, within both confidence intervals; truncated estimators clearly differ."""
    exact, exact_half_width = network_gradient
    estimator, windows = make(name, LearnedSGD(-2.0), TinyRegression(), problems=64, sigma=0.05)
    values = estimates(estimator, LearnedSGD(-2.0).init(jax.random.key(0)), windows, seeds=64)
    mean, half_width = values.mean(), QUANTILE * values.std(ddof=1) / np.sqrt(len(values))
    tolerance = half_width + exact_half_width
    assert tolerance < 0.25 * abs(exact), "the intervals are too wide to show anything"
    if unbiased:
        assert abs(mean - exact) < tolerance, (exact, mean, tolerance)
    else:
        assert abs(mean - exact) > 2 * tolerance, (exact, mean, tolerance)
