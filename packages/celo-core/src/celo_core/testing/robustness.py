"""Checks of bad arguments: updates and state stay finite, and errors are clear."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    assert_finite,
    assert_raises,
    conformance_check,
    first_update,
    gradient,
    loss,
    make_params,
    train_step,
)

NON_FINITE = (np.nan, np.inf, -np.inf)


@conformance_check
def check_non_finite_gradient(make: Make) -> None:
    """A NaN or an infinity in a gradient, in the first or a later step, leaves the state and all updates finite."""
    tx = make(NUM_STEPS)
    for number in NON_FINITE:
        for bad_step in (0, 1):
            params = make_params()
            state = tx.init(params)
            for step in range(bad_step + 2):
                grads = gradient(params)
                if step == bad_step:
                    grads["kernel"] = grads["kernel"].at[0, 1].set(number)
                updates, state = tx.update(grads, state, params, value=loss(params))
                assert_finite(
                    (updates, state), f"updates and state {step - bad_step} steps after a gradient of {number}"
                )


@conformance_check
def check_non_finite_value(make: Make) -> None:
    """A loss that is NaN or infinite, in the first or a later step, leaves the state and all updates finite."""
    tx = make(NUM_STEPS)
    for number in NON_FINITE:
        for bad_step in (0, 1):
            params = make_params()
            state = tx.init(params)
            for step in range(bad_step + 3):
                value = jnp.float32(number) if step == bad_step else loss(params)
                updates, state = tx.update(gradient(params), state, params, value=value)
                assert_finite((updates, state), f"updates and state {step - bad_step} steps after a loss of {number}")


@conformance_check
def check_extreme_numbers(make: Make) -> None:
    """Finite numbers of any size, also all zero, give finite updates."""
    tx = make(NUM_STEPS)
    params = make_params()
    for size in (0.0, 1e-38, 1e-20, 1e20, 3e38):
        grads = jax.tree.map(lambda g, s=size: jnp.clip(g * s, -3e38, 3e38), gradient(params))
        for value in (0.0, 1e-38, 3e38, -3e38):
            updates, state = tx.update(grads, tx.init(params), params, value=jnp.float32(value))
            updates, state = tx.update(grads, state, params, value=jnp.float32(value))
            assert_finite((updates, state), f"updates and state for gradients of size {size} and a loss of {value}")
        scaled = jax.tree.map(lambda p, s=size: jnp.clip(p * s, -3e38, 3e38), params)
        updates, state = tx.update(gradient(params), tx.init(scaled), scaled, value=jnp.float32(1.0))
        assert_finite((updates, state), f"updates and state for parameters of size {size}")


@conformance_check
def check_longer_than_planned(make: Make) -> None:
    """Training may continue after ``num_steps`` steps, and ``num_steps`` may be 1."""
    tx = make(1)
    params = make_params()
    state = tx.init(params)
    for _ in range(3):
        params, state = train_step(tx, params, state)
    assert_finite((params, state), "parameters and state after three steps where one was planned")


@conformance_check
def check_missing_arguments(make: Make) -> None:
    """Without ``params`` update raises a ValueError that says how to pass them; likewise without ``value``, if that is read.

    An optimizer that takes steps without ``value`` must take the same ones with every ``value``, or warn that it does not.
    """
    tx = make(NUM_STEPS)
    params = make_params()
    state, grads = tx.init(params), gradient(params)
    assert_raises(ValueError, lambda: tx.update(grads, state, value=1.0), naming="params", what="update without params")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            updates, after = tx.update(grads, state, params)
    except Exception:
        attempt = lambda g, s, p: tx.update(g, s, p)
        assert_raises(ValueError, lambda: attempt(grads, state, params), naming="value=", what="update without value")
        traced = jax.jit(attempt)
        assert_raises(
            ValueError, lambda: traced(grads, state, params), naming="value=", what="a jitted update without value"
        )
        return
    assert_finite((updates, after), "updates and state without value")
    if any("value=" in str(one.message) for one in warned):
        return
    for value in (1.0, 100.0):
        again = tx.update(grads, state, params, value=value)
        assert_close(again, (updates, after), f"updates and state with a value of {value}, which can be left out")


@conformance_check
def check_parameter_types(make: Make) -> None:
    """Integer, boolean and complex parameters raise a TypeError that names the leaf."""
    tx = make(NUM_STEPS)
    for dtype in (jnp.int32, jnp.bool_, jnp.complex64):
        params = {**make_params(), "odd_one": jnp.ones((2,), dtype)}
        name = jnp.dtype(dtype).name
        init = functools.partial(tx.init, params)
        assert_raises(TypeError, init, naming="odd_one", what=f"init with {name} parameters")


@conformance_check
def check_num_steps(make: Make) -> None:
    """A ``num_steps`` below one, or one that is no number, raises a ValueError that names it."""
    params = make_params()
    build_and_update = lambda num_steps: first_update(make(num_steps), params)
    for num_steps in (0, -5, float("nan"), None, "many", np.ones(2)):
        attempt = functools.partial(build_and_update, num_steps)
        assert_raises(ValueError, attempt, naming="num_steps", what=f"num_steps={num_steps!r}")
