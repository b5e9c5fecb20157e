"""Checks inside Optax's wrappers: chain, masked, partition, MultiSteps, apply_if_finite, inject_hyperparams."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    assert_finite,
    conformance_check,
    first_update,
    gradient,
    loss,
    make_params,
)


@conformance_check
def check_chain(make: Make) -> None:
    """In ``optax.chain`` the loss reaches the optimizer, and the next transformation gets its updates."""
    params = make_params()
    expected, _ = first_update(make(NUM_STEPS), params)
    chained, _ = first_update(optax.chain(optax.identity(), make(NUM_STEPS), optax.scale(0.5)), params)
    assert_close(chained, jax.tree.map(lambda x: 0.5 * x, expected), "updates in optax.chain")


def _only_kernel(make: Make, params: Any) -> Any:
    kernel = {"kernel": params["kernel"]}
    tx = make(NUM_STEPS)
    return tx.update(gradient(kernel), tx.init(kernel), kernel, value=loss(params))[0]["kernel"]


@conformance_check
def check_masked(make: Make) -> None:
    """``optax.masked`` leaves the other gradients as they are and updates the rest as if it were alone."""
    params = make_params()
    updates, _ = first_update(optax.masked(make(NUM_STEPS), {"bias": False, "kernel": True}), params)
    assert_close(updates["bias"], gradient(params)["bias"], "what optax.masked leaves out")
    assert_close(updates["kernel"], _only_kernel(make, params), "what optax.masked lets through")


@conformance_check
def check_partition(make: Make) -> None:
    """In ``optax.partition`` with another optimizer, each updates its own part."""
    params = make_params()
    transforms = {"learned": make(NUM_STEPS), "plain": optax.sgd(0.1)}
    updates, _ = first_update(optax.partition(transforms, {"bias": "plain", "kernel": "learned"}), params)
    assert_close(updates["bias"], -0.1 * gradient(params)["bias"], "the part of optax.sgd", 1e-6)
    assert_close(updates["kernel"], _only_kernel(make, params), "the part of the optimizer under test")


@conformance_check
def check_multi_steps(make: Make) -> None:
    """``optax.MultiSteps`` holds back every other update and then applies that of the mean gradient."""
    params = make_params()
    tx = optax.MultiSteps(make(NUM_STEPS), every_k_schedule=2)
    state = tx.init(params)
    doubled = jax.tree.map(lambda g: 2.0 * g, gradient(params))
    held, state = tx.update(doubled, state, params, value=loss(params))
    assert_close(held, jax.tree.map(jnp.zeros_like, params), "updates of the first of two gradients")
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, state, params, value=loss(params))
    expected, _ = first_update(make(NUM_STEPS), params)
    assert_close(updates, expected, "updates of the mean of two gradients", 1e-4)


@conformance_check
def check_apply_if_finite(make: Make) -> None:
    """``optax.apply_if_finite`` drops a step with a NaN and lets a finite one through."""
    params = make_params()
    tx = optax.apply_if_finite(make(NUM_STEPS), max_consecutive_errors=3)
    before = tx.init(params)
    bad = {**gradient(params), "bias": jnp.full_like(params["bias"], jnp.nan)}
    updates, after = tx.update(bad, before, params, value=jnp.float32(1.0))
    assert_close(updates, jax.tree.map(jnp.zeros_like, params), "updates of a step with a NaN")
    assert_close(after.inner_state, before.inner_state, "the inner state over a step with a NaN")
    updates, _ = tx.update(gradient(params), after, params, value=loss(params))
    expected, _ = first_update(make(NUM_STEPS), params)
    assert_close(updates, expected, "updates after a step that was dropped", 1e-4)


@conformance_check
def check_inject_hyperparams(make: Make) -> None:
    """``optax.inject_hyperparams`` over ``num_steps``, which is then an array in the state.

    A Python float would be cast to the parameters' dtype, and bfloat16 holds integers up to 256 only: give an integer, or
    ``hyperparam_dtype=jnp.float32``, for a large ``num_steps``.
    """
    params = make_params()

    def factory(num_steps: Any) -> optax.GradientTransformationExtraArgs:
        return make(num_steps)

    tx = optax.inject_hyperparams(factory)(num_steps=NUM_STEPS)
    updates, state = first_update(tx, params)
    expected, _ = first_update(make(NUM_STEPS), params)
    assert_close(updates, expected, "updates with an injected num_steps", 1e-6)
    state.hyperparams["num_steps"] = jnp.asarray(2 * NUM_STEPS)
    updates, _ = tx.update(gradient(params), state, params, value=loss(params))
    assert_finite(updates, "updates after num_steps was changed")


@conformance_check
def check_map_params(make: Make) -> None:
    """``optax.tree.map_params`` finds the arrays in the state that are like the parameters, and leaves the rest unchanged."""
    # Shapes that nothing else in a state has, such as a number for each tensor.
    params = make_params({"bias": (11,), "kernel": (5, 13)})
    tx = make(NUM_STEPS)
    _, state = first_update(tx, params)
    mark = lambda x: jnp.full_like(x, 7)
    same = optax.tree.map_params(tx, lambda x: x, state)
    assert_close(same, state, "the state, mapped by the identity")
    marked = optax.tree.map_params(tx, mark, state, transform_non_params=lambda x: x)
    before = {p.shape: sum(leaf.shape == p.shape for leaf in jax.tree.leaves(state)) for p in params.values()}
    for shape, number in before.items():
        found = sum(leaf.shape == shape and bool(jnp.all(leaf == 7)) for leaf in jax.tree.leaves(marked))
        assert found == number, f"of {number} arrays of the shape {shape} of a parameter it finds {found}"
