"""Checks under JAX's modes: 64-bit numbers, and those that refuse what is usually let pass."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    conformance_check,
    gradient,
    make_params,
    train_step,
)

SHAPES: dict[str, tuple[int, ...]] = {
    "bias": (6,),
    "gain": (6,),
    "kernel": (8, 6),
    "same": (8, 6),
    "convolution": (3, 3, 2, 4),
    "scalar": (),
    "zeros": (6, 4),
    "large": (420, 330),
}
"""A leaf of each way through an update: alone, beside its like, of every rank, all zeros, and too large to be stacked."""


def _params(dtype: Any = np.float32) -> dict[str, Any]:
    params = make_params(SHAPES, dtype)
    return {**params, "zeros": jnp.zeros_like(params["zeros"])}


def _run(make: Make, params: Any, compiled: bool) -> Any:
    """Parameters and state after two steps."""
    tx = make(NUM_STEPS)
    step: Callable[..., Any] = lambda p, s: train_step(tx, p, s)
    step = jax.jit(step) if compiled else step
    carry = (params, tx.init(params))
    for _ in range(2):
        carry = step(*carry)
    return carry


def _check_mode(make: Make, mode: contextlib.AbstractContextManager[Any], *, eager: bool = True) -> None:
    """Nothing is raised in the mode, and steps are those without it."""
    params = _params()
    expected, _ = _run(make, params, compiled=True)
    moved = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree, params)
    with mode:
        found = [_run(make, params, compiled=True)]
        if eager:
            found.append(_run(make, {name: params[name] for name in params if name != "large"}, compiled=False))
    # XLA rounds a fused program differently from single operations.
    assert_close(moved(found[0][0]), moved(expected), "movement in this mode", 1e-3)


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
    _check_mode(make, jax.numpy_rank_promotion("raise"))


@conformance_check
def check_strict_dtypes(make: Make) -> None:
    """With ``jax_numpy_dtype_promotion="strict"`` nothing relies on dtypes being promoted."""
    _check_mode(make, jax.numpy_dtype_promotion("strict"))


@conformance_check
def check_debug_nans(make: Make) -> None:
    """With ``jax_debug_nans`` init and update of finite numbers make no NaN, not even on the way."""
    _check_mode(make, jax.debug_nans(True))


@conformance_check
def check_debug_infs(make: Make) -> None:
    """With ``jax_debug_infs`` init and update of finite numbers make no infinity, not even on the way."""
    _check_mode(make, jax.debug_infs(True))


@conformance_check
def check_tracer_leaks(make: Make) -> None:
    """With ``jax_check_tracer_leaks`` nothing traced outlives its trace."""
    _check_mode(make, jax.checking_leaks(), eager=False)


@conformance_check
def check_disable_jit(make: Make) -> None:
    """With ``jax_disable_jit``, as in a debugger, everything runs operation by operation."""
    params = {name: leaf for name, leaf in _params().items() if name != "large"}
    expected, _ = _run(make, params, compiled=True)
    with jax.disable_jit():
        found, _ = _run(make, params, compiled=True)
    moved = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree, params)
    assert_close(moved(found), moved(expected), "movement without jit", 1e-3)


@conformance_check
def check_x64(make: Make) -> None:
    """With ``jax_enable_x64`` float32 parameters get the steps that they get without it; float64 ones get float64 updates."""
    params = _params()
    expected, state = _run(make, params, compiled=True)
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    moved = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree, params)
    with _x64():
        found, state = _run(make, params, compiled=True)
        assert_close(moved(found), moved(expected), "movement of float32 parameters with x64", 1e-4)
        now = [x.dtype for x in jax.tree.leaves(state)]
        assert now == dtypes, f"with x64 the state of float32 parameters has the dtypes {now}, without {dtypes}"
        wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        tx = make(NUM_STEPS)
        state = tx.init(wide)
        for _ in range(2):
            updates, state = tx.update(gradient(wide), state, wide, value=jnp.float64(1.0))
            for name, update in updates.items():
                assert update.dtype == jnp.float64, f"the update of the float64 parameter {name} is {update.dtype}"
        first, _ = make(NUM_STEPS).update(gradient(wide), make(NUM_STEPS).init(wide), wide, value=1.0)
        narrow, _ = make(NUM_STEPS).update(gradient(params), make(NUM_STEPS).init(params), params, value=1.0)
        assert_close(first, narrow, "updates of float64 parameters", 1e-3)
