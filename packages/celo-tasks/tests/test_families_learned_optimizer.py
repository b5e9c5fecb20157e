"""The training of a learned optimizer by gradients through a short training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import LearnedOptimizer, TaskFamily
from celo_tasks.families import MLP, AdafacMLP, ImageClassifier, LearnedOptimizerTraining

Array = np.ndarray
OPTIMIZER = AdafacMLP()


@dataclasses.dataclass(frozen=True)
class Regression:
    """Linear regression of fixed noise in float64: a matrix and a vector to train. One input is always zero."""

    batch_size: int = 4
    name = "regression"

    def load(self) -> Any:
        return jnp.asarray(np.random.default_rng(0).normal(size=(50, 5)) * [1, 0, 1, 1, 1])

    def sample(self, key: jax.Array) -> dict[str, Any]:
        return {}

    def init(self, key: jax.Array, config: Any) -> tuple[Any, None]:
        return {"b": jnp.zeros(2), "w": jax.random.normal(key, (3, 2))}, None

    def batch(self, key: jax.Array, config: Any, data: Any) -> jax.Array:
        return data[jax.random.randint(key, (self.batch_size,), 0, len(data))]

    def loss(self, params: Any, model_state: None, key: jax.Array, config: Any, batch: Any) -> tuple[jax.Array, None]:
        return jnp.mean((batch[:, :3] @ params["w"] + params["b"] - batch[:, 3:]) ** 2), None

    def normalizer(self, loss: jax.Array) -> jax.Array:
        return jnp.clip(jnp.nan_to_num(loss, nan=100.0, posinf=100.0), 0.0, 100.0)


@pytest.fixture(scope="module", autouse=True)
def float64() -> Iterator[None]:
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def large_theta(scale: float) -> Any:
    """Random meta-parameters in float64 whose steps are large, so that they matter within few of them."""
    theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), OPTIMIZER.init(jax.random.key(0)))
    rng = np.random.default_rng(2)
    theta["decays"] = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.05)), theta["decays"])
    theta["mlp"]["output"] = jax.tree.map(lambda x: scale * (x + 0.1), theta["mlp"]["output"])
    return theta


FAMILY = LearnedOptimizerTraining("lopt", Regression(), num_steps=5, num_unrolls=2)  # type: ignore[arg-type]


@jax.jit
def value_and_grad(theta: Any, batch: Any) -> tuple[jax.Array, Any]:
    return jax.value_and_grad(lambda theta: FAMILY.loss(theta, None, jax.random.key(0), {}, batch)[0])(theta)


@jax.jit
def draw(seed: int) -> Any:
    return FAMILY.batch(jax.random.key(seed), {}, FAMILY.load())


def test_meta_gradient_against_central_differences() -> None:
    batch, theta = draw(1), large_theta(30.0)
    _, gradient = value_and_grad(theta, batch)
    leaves, treedef = jax.tree.flatten(theta)
    rng = np.random.default_rng(0)
    for i, slope in enumerate(jax.tree.leaves(gradient)):
        assert slope.dtype == jnp.float64
        direction = rng.normal(size=slope.shape)
        moved = lambda eps, i=i, d=direction: treedef.unflatten([*leaves[:i], leaves[i] + eps * d, *leaves[i + 1 :]])
        plus, minus = (value_and_grad(moved(eps), batch)[0] for eps in (1e-5, -1e-5))
        difference = float(plus - minus) / 2e-5
        # An error of 1e-10 times the third derivative, and of 1e-16 / 1e-5 by rounding.
        np.testing.assert_allclose(np.sum(direction * np.asarray(slope)), difference, rtol=1e-4, atol=1e-8)
        assert abs(difference) > 1e-6


@pytest.mark.parametrize("scale", [1e3, 1e8, np.inf])
def test_meta_loss_is_finite_whatever_theta_is(scale: float) -> None:
    value, _ = value_and_grad(large_theta(scale), draw(0))
    assert 0 < float(value) <= 100
    assert FAMILY.normalizer(value) == value


def test_protocol() -> None:
    assert isinstance(FAMILY, TaskFamily) and isinstance(OPTIMIZER, LearnedOptimizer)
    theta, _ = FAMILY.init(jax.random.key(0), {})
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(theta))
    batch = draw(0)
    assert batch["key"].shape == (2,) and batch["batches"].shape == (2, 5, 4, 5)
    values = [float(value_and_grad(large_theta(1.0), draw(seed))[0]) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_loss_is_that_of_the_training_step_by_step() -> None:
    inner, steps, theta = Regression(), 3, large_theta(30.0)
    family = LearnedOptimizerTraining("lopt", inner, num_steps=steps)  # type: ignore[arg-type]
    batch = family.batch(jax.random.key(1), {}, family.load())
    metrics = jax.jit(lambda theta: family.metrics(theta, None, {}, batch))(theta)

    params, _ = inner.init(jax.random.split(batch["key"][0])[0], {})
    moments = {name: Moments(np.shape(p)) for name, p in params.items()}
    inner_gradient = jax.jit(jax.value_and_grad(lambda p, b: inner.loss(p, None, jax.random.key(0), {}, b)[0]))
    losses = []
    for step in range(steps):
        loss, grads = inner_gradient(params, batch["batches"][0, step])
        losses.append(float(loss))
        new = {}
        for name, p in params.items():
            features = moments[name].features(np.asarray(grads[name]), np.asarray(p), decays(theta))
            new[name] = p + network(theta, features, step).reshape(p.shape)
        params = new
    # Both in float64; the features' smallest denominators are 1e-8.
    np.testing.assert_allclose([metrics["loss"], metrics["last_loss"]], [np.mean(losses), losses[-1]], rtol=1e-7)
    assert abs(losses[-1] - losses[0]) > 1e-3


def decays(theta: Any) -> tuple[Array, Array, Array]:
    learned = lambda initial, x: 1 - (1 - np.asarray(initial)) * np.exp(10 * np.asarray(x))
    d = theta["decays"]
    momentum, factored = (learned((0.9, 0.99, 0.999), d[name]) for name in ("momentum", "factored"))
    return momentum, learned((0.999,), d["second_moment"]), factored


class Moments:
    """What the optimizer remembers of one tensor, in numpy; the largest axis is that of the rows."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.m, self.v = [np.zeros(shape) for _ in range(3)], np.zeros(shape)
        rows, columns = (shape, shape) if len(shape) < 2 else (shape[1:], shape[:1])  # (3, 2)
        self.row, self.column = [np.zeros(rows) for _ in range(3)], [np.zeros(columns) for _ in range(3)]

    def features(self, g: Array, p: Array, decays: tuple[Array, Array, Array]) -> Array:
        """The features (28, elements) after a gradient."""
        q = g**2 + 1e-30
        matrix = g.ndim == 2
        self.m = [b * m + (1 - b) * g for b, m in zip(decays[0], self.m, strict=True)]
        self.v = decays[1][0] * self.v + (1 - decays[1][0]) * g**2
        row_of, column_of = (q.mean(0), q.mean(1)) if matrix else (q, q)
        self.row = [b * x + (1 - b) * row_of for b, x in zip(decays[2], self.row, strict=True)]
        self.column = [b * x + (1 - b) * column_of for b, x in zip(decays[2], self.column, strict=True)]
        rows = [np.broadcast_to(x[None] if matrix else x, g.shape) for x in self.row]
        columns = [np.broadcast_to(x[:, None] if matrix else x, g.shape) for x in self.column]
        root = lambda x: 1 / np.sqrt(np.maximum(x, 1e-9))
        factors = [
            root(r / (r.mean() + 1e-9)) * root(c) if matrix else root(r) for r, c in zip(rows, columns, strict=True)
        ]
        rms = 1 / np.sqrt(self.v + 1e-6)
        features = [g, p, *self.m, self.v, *(m * rms for m in self.m), rms, *(g * f for f in factors), *rows, *columns]
        features += [1 / np.sqrt(x + 1e-8) for x in (*rows, *columns)]
        features += [m * f for m, f in zip(self.m, factors, strict=True)]
        flat = np.stack([x.ravel() for x in features])
        return flat / np.sqrt(1e-5 + np.mean(flat**2, axis=1, keepdims=True))


def network(theta: Any, features: Array, step: int) -> Array:
    timescales = np.asarray([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000])
    time = np.tanh(step / timescales - 1)
    units = np.concatenate([features.T, np.broadcast_to(time, (features.shape[1], len(time)))], axis=1)
    layers = jax.tree.map(np.asarray, theta["mlp"])
    for name in ("hidden_0", "hidden_1", "output"):
        units = units @ layers[name]["kernel"] + layers[name]["bias"]
        units = np.maximum(units, 0) if name != "output" else units
    return -1e-3 * units[:, 0] * np.exp(1e-3 * units[:, 1])


def test_held_out_trainings_are_on_held_out_images() -> None:
    inner = ImageClassifier("mlp", MLP((4,), 10), "digits_8x8", (64,), batch_size=8)
    family = LearnedOptimizerTraining("lopt", inner, num_steps=3)
    batch = family.load_held_out()
    images, labels = batch["batches"]
    assert images.shape == (8, 3, 8, 64) and labels.shape == (8, 3, 8) and batch["key"].shape == (8,)
    known = {image.tobytes() for image in inner.load_held_out()[0]}
    assert {image.tobytes() for image in images.reshape(-1, 64)} <= known
    theta, _ = jax.eval_shape(family.init, jax.random.key(0), {})
    metrics = jax.eval_shape(family.metrics, theta, None, {}, batch)
    assert {name: value.shape for name, value in metrics.items()} == {"loss": (), "last_loss": ()}
