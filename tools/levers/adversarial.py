"""Two networks against each other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from experiment import RATES, USUAL, Array, Experiment, Make, adam, curve, mlp, mlp_init, over

MODES, SPREAD, GAN_STEPS = 8, 0.1, 2000


def gan(make: Make, key: Array, given: Any) -> dict[str, Array]:
    """A generator of points on a ring of Gaussians, and a discriminator, an optimizer each."""
    del given
    key_g, key_d, key_train, key_end = jax.random.split(key, 4)
    angles = 2 * jnp.pi * jnp.arange(MODES) / MODES
    centres = 2.0 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    generator, discriminator = mlp_init(key_g, (16, 64, 64, 2)), mlp_init(key_d, (2, 64, 64, 1))
    optimizer = optax.with_extra_args_support(make(GAN_STEPS))
    act = jax.nn.leaky_relu

    def real(key: Array, size: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        modes = jax.random.randint(key_mode, (size,), 0, MODES)
        return centres[modes] + SPREAD * jax.random.normal(key_noise, (size, 2))

    def fake(params: Any, key: Array, size: int) -> Array:
        return mlp(params, jax.random.normal(key, (size, 16)), act)

    def loss_d(params: Any, generator: Any, key: Array) -> Array:
        keys = jax.random.split(key)
        true, false = mlp(params, real(keys[0], 128), act), mlp(params, fake(generator, keys[1], 128), act)
        return jnp.mean(jax.nn.softplus(-true)) + jnp.mean(jax.nn.softplus(false))

    def loss_g(params: Any, discriminator: Any, key: Array) -> Array:
        return jnp.mean(jax.nn.softplus(-mlp(discriminator, fake(params, key, 128), act)))

    def descend(loss: Any, params: Any, state: Any, *rest: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *rest)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    def body(carry: Any, key: Array) -> Any:
        g, d, state_g, state_d = carry
        keys = jax.random.split(key)
        d, state_d, value = descend(loss_d, d, state_d, g, keys[0])
        g, state_g, _ = descend(loss_g, g, state_g, d, keys[1])
        return (g, d, state_g, state_d), value

    carry = generator, discriminator, optimizer.init(generator), optimizer.init(discriminator)
    (generator, *_), losses = jax.lax.scan(body, carry, jax.random.split(key_train, GAN_STEPS))
    keys = jax.random.split(key_end, 4)
    points, others = fake(generator, keys[0], 1000), real(keys[1], 1000)
    away = jnp.linalg.norm(points[:, None] - centres, axis=2)
    near = jnp.min(away, axis=1) < 4 * SPREAD
    counts = jnp.sum(jax.nn.one_hot(jnp.argmin(away, axis=1), MODES) * near[:, None], axis=0)
    between = lambda a, b: jnp.mean(jnp.linalg.norm(a[:, None] - b, axis=2))
    energy = lambda a, b: 2 * between(a, b) - between(a, a) - between(b, b)
    return {
        "modes": jnp.sum(counts >= 20),
        "near_a_mode": jnp.mean(near),
        "energy_distance": energy(points, others),
        "energy_distance_of_data": energy(real(keys[2], 1000), others),
        "curve": curve(losses),
    }


def gans() -> Experiment:
    """A GAN of points."""
    without = over(functools.partial(adam, b1=0.5), **{"adam_b1_0.5": RATES})
    settings = {"modes": MODES, "standard_deviation": SPREAD, "steps": GAN_STEPS, "batch": 128}
    settings |= {"networks": "MLP 16-64-64-2 and MLP 2-64-64-1", "covered": "2 % of 1,000 points within 4 deviations"}
    return Experiment("a GAN of points on a ring of 8 Gaussians", {"ring": gan}, (*USUAL, without), settings)
