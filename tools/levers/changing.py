"""Losses that change: permuted labels, and targets that are estimates themselves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from experiment import USUAL, Array, Experiment, Make, curve, images, mlp, mlp_init, network_loss, sampled, train


def permuted(make: Make, key: Array, given: Any, *, anew: bool = False) -> dict[str, Array]:
    """Labels are permuted in the middle; an optimizer that begins anew then plans half of the steps twice."""
    del given
    sets, half = images("fashion_mnist_small_8x8"), 1000
    x, y = sets["train"]
    key_init, *keys = jax.random.split(key, 3)
    params = mlp_init(key_init, (64, 128, 64, 10))
    after = jnp.roll(jnp.arange(10), 3)
    if anew:
        plain, shuffled = sampled(x, y, 64), sampled(x, after[y], 64)
        params, first = train(make, params, network_loss, plain, keys[0], [(half, half)])
        params, second = train(make, params, network_loss, shuffled, keys[1], [(half, half)])
        losses = jnp.concatenate([first, second])
    else:
        draw = sampled(x, y, 64)

        def batch(step: Array, key: Array) -> Any:
            x, y = draw(step, key)
            return x, jnp.where(step < half, y, after[y])

        params, losses = train(make, params, network_loss, batch, keys[0], [(2 * half, 2 * half)])
    return {
        "loss_before": jnp.mean(losses[half - 50 : half]),
        "training_loss": network_loss(params, (x, after[y])),
        "held_out_loss": network_loss(params, (sets["held_out"][0], after[sets["held_out"][1]])),
        "curve": curve(losses),
    }


def changed() -> Experiment:
    """Labels that are permuted in the middle."""
    cases = {"one plan": permuted, "begun anew at the change": functools.partial(permuted, anew=True)}
    settings = {"data": "fashion_mnist_small_8x8", "network": "MLP 64-128-64-10", "steps": 2000, "batch": 64}
    return Experiment("labels are permuted at step 1,000 of 2,000, an MLP on 8x8 images", cases, USUAL, settings)


STATES, DISCOUNT, TD_STEPS = 64, 0.97, 3000


def value_of_states(make: Make, key: Array, given: Any, *, period: int) -> dict[str, Array]:
    """Values of a random walk on a ring by temporal differences; the true ones are known.

    Args:
      make: the optimizer.
      key: of all.
      given: nothing.
      period: steps between copies into the target network; 1 for none.
    """
    del given
    key_features, key_rewards, key_init, key_train = jax.random.split(key, 4)
    features = jax.random.normal(key_features, (STATES, 32))
    rewards = jax.random.normal(key_rewards, (STATES,))
    moves = jnp.array([-2, -1, 1, 2, 3])
    at = jnp.arange(STATES)
    transition = sum(jax.nn.one_hot((at + move) % STATES, STATES) for move in moves) / len(moves)
    true = jnp.linalg.solve(jnp.eye(STATES) - DISCOUNT * transition, rewards)
    value = lambda p: mlp(p, features)[:, 0]
    params = mlp_init(key_init, (32, 64, 64, 1))
    optimizer = optax.with_extra_args_support(make(TD_STEPS))

    def loss(p: Any, target: Any, state: Array, following: Array) -> Array:
        goal = rewards[state] + DISCOUNT * value(target)[following]
        return jnp.mean(optax.huber_loss(value(p)[state], goal))

    def body(carry: Any, at: Any) -> Any:
        params, target, state = carry
        step, key = at
        target = jax.tree.map(lambda new, old: jnp.where(step % period == 0, new, old), params, target)
        key_state, key_move = jax.random.split(key)
        states = jax.random.randint(key_state, (32,), 0, STATES)
        following = (states + jax.random.choice(key_move, moves, (32,))) % STATES
        told, gradient = jax.value_and_grad(loss)(params, target, states, following)
        updates, state = optimizer.update(gradient, state, params, value=told)
        params = optax.apply_updates(params, updates)
        return (params, target, state), jnp.sqrt(jnp.mean(jnp.square(value(params) - true))) / jnp.std(true)

    steps = jnp.arange(TD_STEPS), jax.random.split(key_train, TD_STEPS)
    errors = jax.lax.scan(body, (params, params, optimizer.init(params)), steps)[1]
    return {"error": jnp.mean(errors[-50:]), "worst_error": jnp.max(errors), "curve": curve(errors)}


def bootstrapped() -> Experiment:
    """Values learned from their own estimates, as in reinforcement learning."""
    cases = {
        "copied every 20 steps": functools.partial(value_of_states, period=20),
        "no target network": functools.partial(value_of_states, period=1),
    }
    settings = {"states": STATES, "discount": DISCOUNT, "network": "MLP 32-64-64-1", "steps": TD_STEPS, "batch": 32}
    return Experiment("temporal differences with a target network: error of the values", cases, USUAL, settings)
