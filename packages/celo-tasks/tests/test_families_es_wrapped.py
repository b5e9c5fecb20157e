"""Gradients by evolution strategies, on problems whose gradient is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core.testing.toys import Quadratic
from celo_tasks.families import MLP, ESWrapped, ImageClassifier, ImageMLP
from celo_tasks.families.held_out import HeldOut

SMALL_IMAGES = "fashion_mnist_small_8x8"
POINT = np.asarray([1.0, -2.0, 0.5, 3.0], np.float32)
SLOPE = POINT / 4  # of mean(p^2) / 2


@dataclasses.dataclass(frozen=True)
class Bent(Quadratic):
    """sum(sin p) of two tensors, with a linear term that the loss's key draws, and a model state that moves."""

    def loss(self, params: Any, model_state: Any, key: jax.Array, config: Any, batch: Any) -> tuple[jax.Array, Any]:
        terms = jnp.sum(jnp.sin(params["a"])) + jnp.sum(jnp.sin(params["b"])) * jax.random.uniform(key)
        return terms, model_state + params["b"][0, 0]


def estimate(family: ESWrapped, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and gradient of the quadratic, as jax.grad sees them."""
    loss = lambda p: family.loss(p, None, key, jnp.asarray(False), jnp.zeros(4))[0]
    return jax.value_and_grad(loss)(jnp.asarray(POINT))


def test_one_pair_on_a_quadratic() -> None:
    # There the loss is f + sigma^2 |e|^2 / 2n and the estimate e (e.grad f), whatever sigma is: one gives e up to its sign.
    value, gradient = jax.jit(lambda key: estimate(ESWrapped(Quadratic(), sigma=1.0), key))(jax.random.key(0))
    squared = 8 * (float(value) - np.mean(POINT**2) / 2)
    direction = np.asarray(gradient, np.float64) / np.linalg.norm(gradient)
    # Float32 rounding of losses of about 2.
    np.testing.assert_allclose(gradient, squared * direction * (direction @ SLOPE), rtol=1e-4)


def test_formula_of_several_pairs() -> None:
    family = ESWrapped(Bent(), num_pairs=2, sigma=0.3)
    params = {"a": jnp.asarray([0.1, 1.0]), "b": jnp.ones((2, 1))}
    key, state = jax.random.key(5), jnp.asarray(7.0)
    loss = lambda p: family.loss(p, state, key, None, None)
    (value, new_state), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    key_noise, key_loss = jax.random.split(key)
    noise = jax.tree.map(np.asarray, family._noise(key_noise, params))
    factor = float(jax.random.uniform(key_loss))
    f = lambda a, b: np.sin(a).sum() + np.sin(b).sum() * factor
    a, b = np.asarray(params["a"]), np.asarray(params["b"])
    pairs = list(zip(noise["a"], noise["b"], strict=True))
    losses = [[f(a + 0.3 * sign * x, b + 0.3 * sign * y) for sign in (1, -1)] for x, y in pairs]
    slopes = [(plus - minus) / 0.6 for plus, minus in losses]
    # Float32 rounding of losses of about 2, divided by 0.6.
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    for i, name in enumerate(("a", "b")):
        want = np.mean([slope * pair[i] for slope, pair in zip(slopes, pairs, strict=True)], axis=0)
        np.testing.assert_allclose(gradient[name], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new_state, 7 + 1 + 0.3 * noise["b"][0, 0, 0], rtol=1e-5)  # of the first perturbation


def test_the_mean_over_keys_is_the_gradient() -> None:
    count, pairs = 2000, 2
    keys = jax.random.split(jax.random.key(1), count)
    gradients = jax.jit(jax.vmap(lambda key: estimate(ESWrapped(Quadratic(), num_pairs=pairs), key)[1]))(keys)
    # e_i (e.g) has the variance |g|^2 + g_i^2, so this is the standard error of a component's mean.
    error = np.sqrt((SLOPE @ SLOPE + SLOPE**2) / (count * pairs))
    assert np.all(np.abs(np.mean(gradients, axis=0) - SLOPE) < 4 * error)
    # And the spread is that of single estimates: 10 % is four standard errors of a variance of such heavy tails.
    np.testing.assert_allclose(np.std(gradients, axis=0), error * np.sqrt(count), rtol=0.1)


def test_no_derivative_of_the_family_is_taken() -> None:
    loss = lambda p: ESWrapped(Steps()).loss(p, None, jax.random.key(0), None, None)[0]
    gradient = jax.jit(jax.grad(loss))(jnp.zeros(3))
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@dataclasses.dataclass(frozen=True)
class Steps(Quadratic):
    """A loss whose derivative is not a number anywhere."""

    def loss(self, params: Any, model_state: Any, key: jax.Array, config: Any, batch: Any) -> tuple[jax.Array, Any]:
        return jnp.sum(jnp.sign(params)) + 0 * jnp.sqrt(0 * jnp.sum(params)), None


def test_it_is_judged_as_the_family_is() -> None:
    inner = ImageClassifier("mlp", MLP((4,), 10), SMALL_IMAGES, (64,))
    wrapped = ESWrapped(inner)
    assert isinstance(wrapped, HeldOut) and wrapped.metrics == inner.metrics
    assert wrapped == ESWrapped(inner) and hash(wrapped) == hash(ESWrapped(inner)) and wrapped.name == "es_1pair_mlp"
    assert not isinstance(ESWrapped(ImageMLP((SMALL_IMAGES,))), HeldOut)


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"sigma": 0.0}])
def test_bad_input(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one pair and a positive sigma"):
        ESWrapped(Quadratic(), **wrong)
