"""The weights inside the package: present, whole, documented and at work."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo_zoo
from celo_core.checks import flatten_theta
from celo_zoo import index, schema


def test_what_is_bundled_can_be_evaluated_by_name():
    points = {point.name for point in importlib.metadata.entry_points(group="celo.optimizers")}
    assert {"celo", "celo_adam", "celo_paper"} <= set(BUNDLED) <= points


BUNDLED = [name for name, entry in index.entries().items() if entry.bundled]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled(name):
    model = celo_zoo.load(name)
    expected = flatten_theta(schema.expected_shapes(model.architecture))
    leaves = flatten_theta(model.theta)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {path: leaf.shape for path, leaf in expected.items()}
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    for field in ("command", "commit", "data", "seeds", "seconds", "hardware"):
        assert model.document["provenance"].get(field), field


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_trains_a_quadratic(name):
    num_steps = 100
    tx = celo_zoo.optimizer(name, num_steps)
    target = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)

    def loss_of(params):
        return jnp.mean((params - target) ** 2)

    def step(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, state = tx.update(gradient, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    start = jnp.full((4, 3), 0.5)
    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_steps))((start, tx.init(start)))
    assert np.isfinite(losses).all()
    assert loss_of(params) < 0.5 * losses[0]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_can_be_made_under_jit(name):
    params = {"w": jnp.ones((3, 2))}

    @jax.jit
    def update(params):
        tx = celo_zoo.optimizer(name, num_steps=10)
        return tx.update(params, tx.init(params), params, value=1.0)[0]

    tx = celo_zoo.optimizer(name, num_steps=10)
    outside = tx.update(params, tx.init(params), params, value=1.0)[0]
    np.testing.assert_allclose(update(params)["w"], outside["w"], rtol=1e-5)  # float32 sums fused otherwise
