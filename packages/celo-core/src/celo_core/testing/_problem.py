"""The small problem that the conformance checks are run on, and their assertions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

Make = Callable[..., optax.GradientTransformationExtraArgs]
"""A factory ``make(num_steps)`` of the optimizer under test; ``num_steps`` may be traced. See also `check_stacked_layers`."""

NUM_STEPS = 20
SHAPES: Mapping[str, tuple[int, ...]] = {"bias": (2,), "kernel": (3, 2)}

F = TypeVar("F", bound=Callable[..., None])


class Unavailable(RuntimeError):
    """A check could not be run here: a package or a device is missing. That is no fault of the optimizer."""


def conformance_check(function: F) -> F:
    """Turns every exception inside a check into an AssertionError that begins with the check's name."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Unavailable:
            raise
        except Exception as error:
            message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{function.__name__}: {message}") from error

    return wrapper  # type: ignore[return-value]


def eight_devices(check: str, number: int = 8) -> np.ndarray:
    """The first devices, an array of as many; raises `Unavailable` where there are fewer."""
    if jax.device_count() < number:
        raise Unavailable(
            f"{check} needs {number} devices and JAX sees {jax.device_count()}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={number} before JAX starts, or skip this check."
        )
    return np.asarray(jax.devices()[:number])


def make_params(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: Any = jnp.float32, seed: int = 0
) -> dict[str, Any]:
    """Standard normal parameters of the given shapes."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def gradient(params: Any) -> Any:
    """Gradient of `loss`, in the parameters' dtype."""
    return jax.tree.map(lambda p: p - jnp.asarray(0.5, p.dtype), params)


def loss(params: Any) -> jax.Array:
    """``sum((p - 1/2)^2) / 2``, float32 ()."""
    terms = [jnp.sum(jnp.square(p.astype(jnp.float32) - 0.5)) for p in jax.tree.leaves(params)]
    return 0.5 * sum(terms, start=jnp.zeros((), jnp.float32))


def train_step(tx: optax.GradientTransformationExtraArgs, params: Any, state: Any) -> tuple[Any, Any]:
    """One step of gradient descent on `loss`."""
    updates, state = tx.update(gradient(params), state, params, value=loss(params))
    return optax.apply_updates(params, updates), state


def first_update(tx: optax.GradientTransformationExtraArgs, params: Any, **extra_args: Any) -> tuple[Any, Any]:
    """Updates and state of the first step."""
    return tx.update(gradient(params), tx.init(params), params, value=loss(params), **extra_args)


def assert_same_structure(actual: Any, expected: Any, what: str) -> None:
    """Asserts that two trees have the same structure."""
    found, wanted = str(jax.tree.structure(actual)), str(jax.tree.structure(expected))
    if found != wanted:
        raise AssertionError(f"{what}: the structure is {found}, not {wanted}")


def assert_close(actual: Any, expected: Any, what: str, tolerance: float = 0.0) -> None:
    """Asserts that two trees are equal up to ``tolerance`` times the largest magnitude in each expected leaf."""
    assert_same_structure(actual, expected, what)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for got, (path, wanted) in zip(jax.tree.leaves(actual), leaves, strict=True):
        a, b = np.asarray(got).astype(np.float64), np.asarray(wanted).astype(np.float64)
        where = f"{what}, leaf {jax.tree_util.keystr(path) or '(the only one)'}"
        if a.shape != b.shape:
            raise AssertionError(f"{where}: the shape is {a.shape}, not {b.shape}")
        scale = np.max(np.abs(b), initial=0.0)
        error = np.max(np.abs(a - b), initial=0.0)
        if not error <= tolerance * scale:
            raise AssertionError(f"{where}: off by {error:.3g} where the largest magnitude is {scale:.3g}")


def assert_finite(tree: Any, what: str) -> None:
    """Asserts that all floating-point leaves are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            raise AssertionError(f"{what}: leaf {jax.tree_util.keystr(path)} is not finite")


def assert_same_types(actual: Any, expected: Any, what: str) -> None:
    """Asserts equal structure, shapes, dtypes and weak types of two trees of ``jax.ShapeDtypeStruct``."""
    assert_same_structure(actual, expected, what)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for got, (path, wanted) in zip(jax.tree.leaves(actual), leaves, strict=True):
        for attribute in ("shape", "dtype", "weak_type"):
            a, b = getattr(got, attribute), getattr(wanted, attribute)
            if a != b:
                name = jax.tree_util.keystr(path)
                raise AssertionError(
                    f"{what}: the {attribute} of leaf {name} is {a} in the new state and {b} in the old"
                )


def assert_raises(kind: type[Exception], function: Callable[[], Any], *, naming: str, what: str) -> None:
    """Asserts that ``function`` raises ``kind`` with ``naming`` in its message."""
    try:
        function()
    except kind as error:
        if naming not in str(error):
            raise AssertionError(f"{what}: the error must mention {naming!r}, but says {str(error)!r}") from error
        return
    except Exception as error:
        raise AssertionError(f"{what}: raises {type(error).__name__} ({error}), not {kind.__name__}") from error
    raise AssertionError(f"{what}: must raise {kind.__name__}, but nothing was raised")
