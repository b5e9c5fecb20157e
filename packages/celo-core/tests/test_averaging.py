"""Averaged parameters: a closed form, what they are for, and where they are found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import Celo, averaged, celo, celo_eval_params


def walk(tx, params, gradients):
    """Parameters after each update, and the last state."""
    state, seen = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def test_the_average_is_the_weighted_mean_of_the_trajectory():
    rng, num_steps, share = np.random.default_rng(0), 60, 0.1
    gradients = [jnp.asarray(rng.standard_normal(4), jnp.float32) for _ in range(40)]
    seen, state = walk(averaged(optax.sgd(0.1), num_steps, share), jnp.ones(4), gradients)
    weights = np.zeros(40)
    for t in range(40):
        rate = min(max(2 / (t + 2), 1 / (share * num_steps)), 1.0)
        weights *= 1 - rate
        weights[t] = rate
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights @ np.arange(39, -1, -1), share * num_steps, rtol=0.25)
    np.testing.assert_allclose(celo_eval_params(state, seen[-1]), weights @ np.stack(seen), rtol=1e-5)


def test_updates_are_those_of_the_optimizer():
    gradients = [jnp.asarray(x, jnp.float32) for x in np.random.default_rng(1).standard_normal((5, 3))]
    plain, _ = walk(optax.adam(0.01), jnp.ones(3), gradients)
    kept, _ = walk(averaged(optax.adam(0.01), 100), jnp.ones(3), gradients)
    np.testing.assert_array_equal(np.stack(plain), np.stack(kept))


def test_on_a_noisy_quadratic_the_average_is_nearer_to_the_minimum():
    """SGD of rate r has a variance of ``r / (2 - r)``; an average of age A some ``1 / A`` of it for ``r A`` above 1."""
    noise = np.random.default_rng(2).standard_normal((2000, 50)).astype(np.float32)
    tx = averaged(optax.sgd(0.5), 2000, 0.025)

    def step(carry, xi):
        x, state = carry
        updates, state = tx.update(x + xi, state, x)
        return (optax.apply_updates(x, updates), state), None

    (x, state), _ = jax.jit(lambda: jax.lax.scan(step, (jnp.ones(50), tx.init(jnp.ones(50))), noise))()
    assert float(jnp.mean(jnp.square(x))) == pytest.approx(0.5 / 1.5, rel=0.5)
    assert float(jnp.mean(jnp.square(celo_eval_params(state, x)))) < 0.05


def test_around_celo_inside_multi_steps_and_a_chain():
    theta = Celo().init(jax.random.key(0))
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.zeros(2)}
    tx = optax.MultiSteps(optax.chain(optax.clip(1.0), averaged(celo(theta, 10), 10, 0.4)), every_k_schedule=2)
    state, seen = tx.init(params), []
    for _ in range(4):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["b"]))
    found = celo_eval_params(state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    # Two updates, each of two gradients, whose rates are 1 and 2/3.
    np.testing.assert_allclose(found["b"], seen[1] / 3 + 2 * seen[3] / 3, rtol=1e-5)
    assert optax.tree_utils.tree_get(state, "average")["w"].dtype == jnp.float32


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be between 0 and 1, .* not"):
        averaged(optax.sgd(0.1), 100, share)


def test_a_state_without_an_average_says_what_to_do():
    with pytest.raises(ValueError, match=r"found none: build the optimizer with celo_core.averaged"):
        celo_eval_params(optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))


def test_without_parameters_the_error_says_so():
    tx = averaged(optax.sgd(0.1), 100)
    with pytest.raises(ValueError, match="averaged needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
