"""Adam's direction within Celo's update rule, against Optax's Adam."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core import Celo, CeloConfig, scale_by_celo
from celo_core.directions import MLP, Adam
from celo_core.directions.adam import adam_direction
from celo_core.features import Values

CONFIG = CeloConfig(directions=(MLP(), Adam()), scheduler=None)


def params_of(key):
    first, second = jax.random.split(key)
    return {"w": jax.random.normal(first, (5, 3)), "b": 0.1 + jax.random.uniform(second, (4,)), "s": jnp.float32(2.0)}


def theta_of(weights, config=CONFIG):
    """Theta with a network of zeros and the given weights of Adam's direction."""
    theta = jax.tree.map(jnp.zeros_like, Celo(config).init(jax.random.key(0)))
    theta["update_rule"]["adam"]["kernel"] = jnp.asarray(weights, jnp.float32)[:, None]
    return theta


def trajectory(transformation, params, gradients):
    update = jax.jit(optax.with_extra_args_support(transformation).update)
    state, made = transformation.init(params), []
    for each in gradients:
        step, state = update(each, state, params, value=jnp.float32(1.0))
        made.append(step)
    return made


def gradients_of(params, count=4):
    draw = lambda n: jax.tree.map(lambda p: jax.random.normal(jax.random.key(n), p.shape) * 10.0**-n, params)
    return [draw(n) for n in range(count)]


def test_it_is_optax_adam_relative_to_the_parameters():
    """One for each momentum's decay, each times 10 w / 1000 of the root mean square of a tensor."""
    params, weights = params_of(jax.random.key(1)), (2.5, -1.0, 4.0)
    ours = trajectory(scale_by_celo(theta_of(weights), 10, config=CONFIG), params, gradients_of(params))
    adams = [optax.scale_by_adam(decay, CONFIG.moments.second_moment_decay) for decay in CONFIG.moments.momentum_decays]
    directions = zip(*(trajectory(adam, params, gradients_of(params)) for adam in adams), strict=True)

    def relative(p, *each):
        return 0.01 * jnp.sqrt(jnp.mean(p**2)) * sum(w * u for w, u in zip(weights, each, strict=True))

    for found, each in zip(ours, directions, strict=True):
        # In Optax 1 - 0.999 and the like have only four digits in float32; the three may cancel.
        same = lambda a, p, *us: np.testing.assert_allclose(a, relative(p, *us), rtol=2e-3, atol=1e-4)
        jax.tree.map(same, found, params, *each)


def test_it_is_added_to_the_network(as_for_users):
    params = params_of(jax.random.key(2))
    plain = dataclasses.replace(CONFIG, directions=(MLP(),))
    network = Celo(plain).init(jax.random.key(3))
    both = {"update_rule": {**network["update_rule"], "adam": theta_of([1.0, -0.5, 0.3])["update_rule"]["adam"]}}
    runs = [
        trajectory(scale_by_celo(theta, 10, config=config), params, gradients_of(params))
        for theta, config in ((both, CONFIG), (network, plain), (theta_of([1.0, -0.5, 0.3]), CONFIG))
    ]
    for whole, one, other in zip(*runs, strict=True):
        jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-4, atol=1e-8), whole, one, other)


def test_derivatives_are_finite_before_any_gradient_was_seen():
    """The square root has no finite derivative at a second moment of 0."""
    zeros = jnp.zeros((4,))

    def total(kernel, momentum, second_moment):
        values = Values(None, None, [momentum], second_moment, None, (), (), (), ())
        return jnp.sum(adam_direction(kernel, values))

    made = jax.grad(total, argnums=(0, 1, 2))(jnp.ones((1, 1)), zeros, zeros)
    assert all(np.all(np.isfinite(x)) for x in made)


def test_random_theta_begins_as_adam():
    theta = Celo(CONFIG).init(jax.random.key(0))
    np.testing.assert_array_equal(theta["update_rule"]["adam"]["kernel"], [[3.0], [0.0], [0.0]])
    assert "adam" not in Celo().init(jax.random.key(0))["update_rule"]
