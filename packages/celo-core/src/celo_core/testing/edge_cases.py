"""Checks of unusual arguments in real programs: leaves that are no ordinary arrays, losses of every kind, all zeros."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    train_step,
)


@conformance_check
def check_python_numbers(make: Make) -> None:
    """Python numbers and NumPy arrays as parameters and gradients are treated as JAX's arrays."""
    tx = make(NUM_STEPS)
    arrays = {"a": jnp.float32(1.5), "b": jnp.asarray([1.0, -2.0], jnp.float32)}
    expected, _ = tx.update(gradient(arrays), tx.init(arrays), arrays, value=1.0)
    params = {"a": 1.5, "b": np.asarray([1.0, -2.0], np.float32)}
    grads = {"a": 1.0, "b": np.asarray([0.5, -2.5], np.float32)}
    updates, state = tx.update(grads, tx.init(params), params, value=1.0)
    assert_close(updates, expected, "updates of a Python number and a NumPy array", 1e-5)
    tx.update(grads, state, params, value=1.0)


@conformance_check
def check_no_elements(make: Make) -> None:
    """Arrays without elements stay so, keep the state finite, and change nothing for the others."""
    params = make_params()
    tx = make(NUM_STEPS)
    expected, _ = first_update(tx, params)
    empty = {**params, "flat": jnp.zeros((0,)), "matrix": jnp.zeros((0, 5)), "other": jnp.zeros((2, 0))}
    updates, state = first_update(tx, empty)
    assert_finite(state, "the state with arrays without elements")
    for name, leaf in empty.items():
        assert updates[name].shape == leaf.shape, (
            f"the update of an array of shape {leaf.shape} is {updates[name].shape}"
        )
    assert_close({name: updates[name] for name in params}, expected, "updates next to arrays without elements", 1e-6)
    alone = {"flat": jnp.zeros((0,))}
    assert_finite(first_update(tx, alone), "updates and state of an array without elements alone")


@conformance_check
def check_state_has_elements(make: Make) -> None:
    """If all parameters have elements, all arrays in the state have: some writers of checkpoints refuse empty ones."""
    for params in (make_params(), {"scalar": jnp.ones(())}, {}):
        for path, leaf in jax.tree_util.tree_leaves_with_path(make(NUM_STEPS).init(params)):
            assert np.size(leaf) > 0, f"leaf {jax.tree_util.keystr(path)} of the state has shape {np.shape(leaf)}"


@conformance_check
def check_none_gradients(make: Make) -> None:
    """A gradient of ``None`` next to an array leaves that parameter unchanged, or raises an error of one sentence."""
    params = make_params()
    tx = make(NUM_STEPS)
    state = tx.init(params)
    grads = {**gradient(params), "bias": None}
    try:
        updates, after = tx.update(grads, state, params, value=loss(params))
    except (TypeError, ValueError) as error:
        assert "bias" in str(error) and "\n" not in str(error), f"the error for a gradient of None is {error!r}"
        return
    assert not np.any(updates["bias"]), f"the update for a gradient of None is {updates['bias']!r}"
    params = optax.apply_updates(params, updates)
    updates, after = tx.update(gradient(params), after, params, value=loss(params))
    assert_finite((updates, after), "updates and state after a gradient of None")


@conformance_check
def check_gradient_types(make: Make) -> None:
    """Gradients that are integers, complex, ``float0`` or of another shape than their parameter raise an error."""
    params = make_params()
    tx = make(NUM_STEPS)
    state = tx.init(params)
    shape = params["bias"].shape
    odd = {
        "of integers": jnp.ones(shape, jnp.int32),
        "complex": jnp.ones(shape, jnp.complex64),
        "of float0": np.zeros(shape, jax.dtypes.float0),
        "of another shape": jnp.ones((1, *shape)),
    }
    for what, grads in odd.items():
        try:
            tx.update({**gradient(params), "bias": grads}, state, params, value=loss(params))
        except (TypeError, ValueError) as error:
            assert "bias" in str(error), f"the error for gradients {what} does not name the leaf: {error}"
        else:
            raise AssertionError(f"gradients {what} raise no error")


@conformance_check
def check_losses(make: Make) -> None:
    """Losses that are negative, huge, constant, 0, not finite at first or changing sign keep updates and state finite."""
    curves: dict[str, list[Any]] = {
        "negative": [-1.0, -2.0, -3.0, -3.5],
        "huge": [1e30, 3e38, 1e38, 1e30],
        "constant": [2.0] * 4,
        "0 at first": [0.0, 1.0, 0.5, 0.2],
        "NaN at first": [np.nan, 1.0, 0.9, 0.8],
        "infinite at first": [np.inf, np.inf, 1.0, 0.9],
        "of both signs": [1.0, 0.1, -0.1, -1.0],
        "tiny": [1e-40, 1e-38, 1e-37, 1e-36],
        "a Python integer": [3, 2, 1, 0],
        "bfloat16": [jnp.bfloat16(x) for x in (3.0, 2.0, 1.0, 0.5)],
    }
    tx = make(NUM_STEPS)
    params = make_params()
    step = jax.jit(lambda grads, state, value: tx.update(grads, state, params, value=value))
    for what, values in curves.items():
        state = tx.init(params)
        for value in values:
            updates, state = step(gradient(params), state, jnp.asarray(value, jnp.result_type(value, jnp.bfloat16)))
            assert_finite((updates, state), f"updates and state for losses that are {what}")


@conformance_check
def check_loss_types(make: Make) -> None:
    """A loss that is no real scalar (complex, text, of shape (1,), a tree) raises an error that names ``value``."""
    params = make_params()
    tx = make(NUM_STEPS)
    state, grads = tx.init(params), gradient(params)
    odd = {"complex": jnp.complex64(1.0), "text": "1.0", "of shape (1,)": jnp.ones((1,)), "a dict": {"loss": 1.0}}
    for what, value in odd.items():
        try:
            tx.update(grads, state, params, value=value)
        except (TypeError, ValueError) as error:
            assert "value" in str(error), f"the error for a loss that is {what} does not name value: {error}"
        else:
            raise AssertionError(f"a loss that is {what} raises no error")


STEPS_FROM_ZERO = 300


def _final_loss(tx: optax.GradientTransformationExtraArgs, params: Any, function: Callable[[Any], jax.Array]) -> float:
    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        value, grads = jax.value_and_grad(function)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=STEPS_FROM_ZERO)
    return float(function(params))


@conformance_check
def check_all_zeros(make: Make) -> None:
    """Parameters that are all zeros at initialisation are trained at least as far as by Adam at its usual 1e-3.

    A scalar, a logistic regression of vectors, biases alone, and the factor B of a low-rank adapter whose A is fixed.
    """
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    inputs, outputs = normal(64, 12), normal(64, 5)
    labels = (inputs @ normal(12) > 0).astype(jnp.float32)
    a = normal(12, 3) / 3.5
    problems: dict[str, tuple[Any, Callable[[Any], jax.Array]]] = {
        "a scalar": (jnp.zeros(()), lambda p: jnp.square(p - 3.0)),
        "a logistic regression": (
            {"w": jnp.zeros(12), "b": jnp.zeros(())},
            lambda p: jnp.mean(optax.sigmoid_binary_cross_entropy(inputs @ p["w"] + p["b"], labels)),
        ),
        "biases": (
            {"a": jnp.zeros(6), "b": jnp.zeros(3)},
            lambda p: jnp.mean(jnp.square(p["a"] - 1.0)) + jnp.mean(jnp.square(p["b"] + 0.5)),
        ),
        "the factor B of an adapter": (
            {"b": jnp.zeros((3, 5))},
            lambda p: jnp.mean(jnp.square(inputs @ a @ p["b"] - outputs)),
        ),
    }
    adam = optax.with_extra_args_support(optax.adam(1e-3))
    for what, (params, function) in problems.items():
        ours = _final_loss(make(STEPS_FROM_ZERO), params, function)
        theirs = _final_loss(adam, params, function)
        start = float(function(params))
        # A tolerance of a twentieth of Adam's gain: where both converge, they differ by rounding.
        assert ours <= theirs + 0.05 * (start - theirs), (
            f"{what}, all zeros at first, goes from a loss of {start:.4g} to {ours:.4g} in {STEPS_FROM_ZERO} steps where "
            f"Adam at 1e-3 goes to {theirs:.4g}"
        )


@conformance_check
def check_stacked_layers(make: Make) -> None:
    """Layers in one stacked array, as a scan over layers has them, get the updates that they get as leaves of their own.

    A factory that must know the stacks takes a keyword ``num_stacked_axes``: a tree of numbers like the parameters, or a
    function from the parameters to one. It is passed if the factory has an argument of that name.
    """
    layers = [make_params({"bias": (6,), "kernel": (16, 16), "tall": (24, 6)}, seed=seed) for seed in range(4)]
    for index, scale in enumerate((0.01, 0.1, 1.0, 1.0)):
        layers[index] = jax.tree.map(lambda p, s=scale: s * p, layers[index])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    separate = {f"layer{index}": layer for index, layer in enumerate(layers)}
    options = {}
    if "num_stacked_axes" in inspect.signature(make).parameters:
        options = {"num_stacked_axes": lambda params: jax.tree.map(lambda p: 1, params)}
    together, alone = make(NUM_STEPS, **options), make(NUM_STEPS)

    def two_steps(tx: Any, params: Any) -> Any:
        carry = (params, tx.init(params))
        for _ in range(2):
            carry = train_step(tx, *carry)
        return carry[0]

    found = jax.jit(lambda p: two_steps(together, p))(stacked)
    expected = jax.jit(lambda p: two_steps(alone, p))(separate)
    for index, layer in enumerate(layers):
        moved = jax.tree.map(lambda x, p, i=index: np.asarray(x[i]) - np.asarray(p), found, layer)
        wanted = jax.tree.map(lambda x, p: np.asarray(x) - np.asarray(p), expected[f"layer{index}"], layer)
        # On several devices these are two programs, which XLA may round differently.
        assert_close(moved, wanted, f"movement of layer {index} of a stack", 2e-3)
