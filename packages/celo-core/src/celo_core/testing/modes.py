"""Checks under JAX's modes: 64-bit numbers, and the stricter modes, which raise errors that are silent by default."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    assert_finite,
    conformance_check,
    first_update,
    gradient,
    make_params,
    train_step,
)

SHAPES: dict[str, tuple[int, ...]] = {
    "bias": (6,),
    "kernel": (8, 6),
    "same": (8, 6),
    "convolution": (3, 3, 2, 4),
    "scalar": (),
    "zeros": (6, 4),
}
"""A leaf for each code path of an update: alone, next to others of its shape, of every rank, and all zeros."""

LARGE = (420, 330)
"""A leaf that some optimizers process in blocks."""


def _params(**more: tuple[int, ...]) -> dict[str, Any]:
    params = make_params({**SHAPES, **more})
    return {**params, "zeros": jnp.zeros_like(params["zeros"])}


def _two_steps(make: Make, params: Any) -> tuple[Any, Any]:
    """Parameters and state after two compiled steps from an ``init`` that runs operation by operation."""
    tx = make(NUM_STEPS)
    step = jax.jit(lambda p, s: train_step(tx, p, s))
    return step(*step(params, tx.init(params)))


def _check_mode(make: Make, mode: contextlib.AbstractContextManager[Any], **more: tuple[int, ...]) -> None:
    """Asserts that nothing is raised in a stricter mode."""
    with mode:
        assert_finite(_two_steps(make, _params(**more)), "parameters and state after two steps")


def _check_operations(make: Make, mode: contextlib.AbstractContextManager[Any]) -> None:
    """Asserts the same operation by operation, where every intermediate value is checked."""
    params = make_params()
    with mode:
        tx = make(NUM_STEPS)
        train_step(tx, params, tx.init(params))


@contextlib.contextmanager
def _x64() -> Iterator[None]:
    """64-bit numbers; where the context manager of that name is depends on the version of JAX."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@conformance_check
def check_rank_promotion(make: Make) -> None:
    """With ``jax_numpy_rank_promotion="raise"`` nothing relies on arrays being given further axes."""
    _check_mode(make, jax.numpy_rank_promotion("raise"), large=LARGE)


@conformance_check
def check_strict_dtypes(make: Make) -> None:
    """With ``jax_numpy_dtype_promotion="strict"`` nothing relies on dtypes being promoted."""
    _check_mode(make, jax.numpy_dtype_promotion("strict"))


@conformance_check
def check_debug_nans(make: Make) -> None:
    """With ``jax_debug_nans`` init and update of finite numbers make no NaN, operation by operation not even in between."""
    _check_mode(make, jax.debug_nans(True))
    _check_operations(make, jax.debug_nans(True))


@conformance_check
def check_debug_infs(make: Make) -> None:
    """With ``jax_debug_infs`` init and update of finite numbers make no infinity, operation by operation not even in between."""
    _check_mode(make, jax.debug_infs(True))
    _check_operations(make, jax.debug_infs(True))


@conformance_check
def check_tracer_leaks(make: Make) -> None:
    """With ``jax_check_tracer_leaks`` nothing traced outlives its trace."""
    _check_mode(make, jax.checking_leaks())


def _assert_same_movement(found: Any, expected: Any, params: Any, what: str, tolerance: float) -> None:
    moved = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree, params)
    assert_close(moved(found), moved(expected), what, tolerance)


@conformance_check
def check_disable_jit(make: Make) -> None:
    """With ``jax_disable_jit``, as in a debugger, everything runs operation by operation, to the same numbers."""
    params = _params()
    expected, _ = _two_steps(make, params)
    with jax.disable_jit():
        found, _ = _two_steps(make, params)
    # XLA rounds a fused program differently from single operations.
    _assert_same_movement(found, expected, params, "movement without jit", 1e-3)


@conformance_check
def check_x64(make: Make) -> None:
    """With ``jax_enable_x64`` float32 parameters get the steps that they get without it; float64 ones get float64 updates."""
    params = _params(large=LARGE)
    expected, state = _two_steps(make, params)
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    with _x64():
        found, state = _two_steps(make, params)
        _assert_same_movement(found, expected, params, "movement of float32 parameters with x64", 1e-4)
        now = [x.dtype for x in jax.tree.leaves(state)]
        assert now == dtypes, f"with x64 the state of float32 parameters has the dtypes {now}, without {dtypes}"
        small = make_params()
        updates, _ = first_update(make(NUM_STEPS), small)
        for name, update in updates.items():
            assert update.dtype == jnp.float32, f"with x64 the update of the float32 parameter {name} is {update.dtype}"
        wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), small)
        tx = make(NUM_STEPS)
        updates, state = tx.update(gradient(wide), tx.init(wide), wide, value=jnp.float64(1.0))
        for name, update in updates.items():
            assert update.dtype == jnp.float64, f"the update of the float64 parameter {name} is {update.dtype}"
        narrow, _ = tx.update(gradient(small), tx.init(small), small, value=1.0)
        assert_close(updates, narrow, "updates of float64 parameters", 1e-3)
        tx.update(gradient(wide), state, wide, value=jnp.float64(1.0))
