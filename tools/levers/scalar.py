"""A scalar that starts at 0."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from experiment import ADAM, CELO_AND_WARM_UP, Array, Experiment, Make, Optimizers, celo, curve, mlp, mlp_init

ALPHA_STEPS, ENTROPY = 2000, -1.0


def temperature(make: Make, key: Array, given: Any, *, sharpness: float) -> dict[str, Array]:
    """Soft actor-critic's log alpha, of a policy that Adam trains; the best one is known.

    The policy is a Gaussian of mean and deviation by an MLP of the state, its value ``-sharpness (a - f(s))^2``.
    """
    del given
    key_init, key_train = jax.random.split(key)
    policy_optimizer, optimizer = optax.adam(1e-3), optax.with_extra_args_support(make(ALPHA_STEPS))
    best = math.log(2 * sharpness) + 2 * ENTROPY - math.log(2 * math.pi * math.e)
    policy, log_alpha = mlp_init(key_init, (4, 64, 64, 2)), jnp.zeros(())

    def draw(policy: Any, key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key)
        states = jax.random.normal(keys[0], (64, 4))
        mean, log_std = jnp.moveaxis(mlp(policy, states), 1, 0)
        log_std = jnp.clip(log_std, -5.0, 2.0)
        noise = jax.random.normal(keys[1], mean.shape)
        action = mean + jnp.exp(log_std) * noise
        log_prob = -0.5 * jnp.square(noise) - log_std - 0.5 * math.log(2 * math.pi)
        return -sharpness * jnp.square(action - jnp.sin(states[:, 0])), log_prob

    def loss_policy(policy: Any, log_alpha: Array, key: Array) -> tuple[Array, Array]:
        value, log_prob = draw(policy, key)
        return jnp.mean(jnp.exp(log_alpha) * log_prob - value), jnp.mean(log_prob)

    def body(carry: Any, key: Array) -> Any:
        policy, log_alpha, policy_state, state = carry
        (_, log_prob), gradient = jax.value_and_grad(loss_policy, has_aux=True)(policy, log_alpha, key)
        updates, policy_state = policy_optimizer.update(gradient, policy_state)
        loss = lambda log_alpha: -log_alpha * (log_prob + ENTROPY)
        value, slope = jax.value_and_grad(loss)(log_alpha)
        change, state = optimizer.update(slope, state, log_alpha, value=value)
        policy, log_alpha = optax.apply_updates(policy, updates), optax.apply_updates(log_alpha, change)
        return (policy, log_alpha, policy_state, state), (log_alpha, log_prob)

    carry = policy, log_alpha, policy_optimizer.init(policy), optimizer.init(log_alpha)
    path, log_prob = jax.lax.scan(body, carry, jax.random.split(key_train, ALPHA_STEPS))[1]
    return {
        "best": jnp.asarray(best),
        "error": jnp.abs(jnp.mean(path[-50:]) - best),
        "furthest": jnp.max(jnp.abs(path - best)),
        "entropy_error": jnp.abs(jnp.mean(log_prob[-50:]) + ENTROPY),
        "curve": curve(path),
    }


def log_alpha() -> Experiment:
    """Soft actor-critic's temperature."""
    cases = {
        "best at -1.8": functools.partial(temperature, sharpness=10.0),
        "best at 2.8": functools.partial(temperature, sharpness=1000.0),
    }
    settings = {"steps": ALPHA_STEPS, "batch": 64, "target_entropy": ENTROPY, "policy": "MLP 4-64-64-2, Adam at 0.001"}
    larger = Optimizers(celo, (("celo", 4.0, (4.0, 0.0)), ("celo", 2.0, (2.0, 0.0)), *CELO_AND_WARM_UP.members))
    return Experiment("soft actor-critic's log alpha, a scalar that starts at 0", cases, (larger, ADAM), settings)
