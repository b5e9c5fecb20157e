"""Checks of arguments and results: structures, shapes, dtypes, extra arguments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    assert_finite,
    assert_same_structure,
    conformance_check,
    first_update,
    gradient,
    loss,
    make_params,
    train_step,
)

RANKS: dict[str, tuple[int, ...]] = {
    "rank0": (),
    "rank1": (5,),
    "rank1_one": (1,),
    "rank2_tie": (3, 3),
    "rank2_one": (1, 7),
    "rank3": (2, 5, 3),
    "rank4": (3, 1, 2, 4),
    "rank5": (2, 1, 3, 1, 2),
}
"""Shapes of every rank to five, with odd sizes, equal sizes and axes of size one."""


@conformance_check
def check_extra_arguments_ignored(make: Make) -> None:
    """Unknown keyword arguments have no effect."""
    params = make_params()
    tx = make(NUM_STEPS)
    updates, state = first_update(tx, params, unknown=object(), loss_fn=loss)
    expected, expected_state = first_update(tx, params)
    assert_close(updates, expected, "updates with unknown extra arguments")
    assert_close(state, expected_state, "state with unknown extra arguments")


@conformance_check
def check_value_types(make: Make) -> None:
    """The loss may be a Python number, a NumPy scalar or an array of any floating dtype."""
    params = make_params()
    tx = make(NUM_STEPS)
    grads, state = gradient(params), tx.init(params)
    expected = tx.update(grads, state, params, value=jnp.float32(2.0))
    for value in (2, 2.0, np.float64(2.0), jnp.bfloat16(2.0)):
        actual = tx.update(grads, state, params, value=value)
        assert_close(actual, expected, f"updates and state with a value of type {type(value).__name__}", 1e-6)


@conformance_check
def check_dtypes(make: Make) -> None:
    """Updates have the dtype of the gradients (float32, bfloat16, float16), and dtypes in the state stay what they were."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = make_params(dtype=dtype)
        tx = make(NUM_STEPS)
        before = tx.init(params)
        updates, after = tx.update(gradient(params), before, params, value=loss(params))
        for name, update in updates.items():
            assert update.dtype == dtype, (
                f"the update of {name} is {update.dtype} for gradients of {jnp.dtype(dtype).name}"
            )
        assert_finite(updates, f"updates in {jnp.dtype(dtype).name}")
        dtypes = [jnp.result_type(x) for x in jax.tree.leaves(before)]
        new_dtypes = [jnp.result_type(x) for x in jax.tree.leaves(after)]
        assert new_dtypes == dtypes, f"dtypes in the state change from {dtypes} to {new_dtypes}"


@conformance_check
def check_mixed_precision(make: Make) -> None:
    """With bfloat16 gradients of float32 parameters, updates are bfloat16 and the state keeps its dtypes."""
    params = make_params()
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), gradient(params))
    tx = make(NUM_STEPS)
    before = tx.init(params)
    updates, after = tx.update(grads, before, params, value=loss(params))
    for name, update in updates.items():
        assert update.dtype == jnp.bfloat16, f"the update of {name} is {update.dtype} for a bfloat16 gradient"
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert old.dtype == new.dtype, f"a leaf of the state goes from {old.dtype} to {new.dtype}"


@conformance_check
def check_ranks(make: Make) -> None:
    """Tensors of rank 0 to 5, with odd sizes, equal sizes and axes of size one, get finite updates that are not all zero."""
    params = make_params(RANKS)
    tx = make(NUM_STEPS)
    updates, state = jax.jit(lambda p: first_update(tx, p))(params)
    assert_finite((updates, state), "updates and state")
    for name, update in updates.items():
        assert update.shape == RANKS[name], f"the update of a tensor of shape {RANKS[name]} has shape {update.shape}"
        assert np.any(np.asarray(update) != 0), f"the update of a tensor of shape {RANKS[name]} is zero"


@conformance_check
def check_empty_tree(make: Make) -> None:
    """A tree without parameters works."""
    tx = make(NUM_STEPS)
    trees: tuple[Any, ...] = ({}, (), {"nested": []})
    for params in trees:
        state = tx.init(params)
        updates, new_state = tx.update(params, state, params, value=jnp.float32(1.0))
        assert_same_structure(updates, params, f"updates of {params!r}")
        assert_same_structure(new_state, state, "the state after an update")


class _Pair(NamedTuple):
    kernel: Any
    bias: Any


@conformance_check
def check_containers(make: Make) -> None:
    """Tuples, lists, named tuples and nested trees get the updates that a dict gets, and a bare array works."""
    params = make_params()
    kernel, bias = params["kernel"], params["bias"]
    tx = make(NUM_STEPS)
    expected, _ = first_update(tx, params)
    wanted = {name: np.asarray(update) for name, update in expected.items()}
    trees = ((kernel, bias), [kernel, bias], _Pair(kernel, bias), ((kernel,), {"b": (bias,)}))
    for tree in trees:
        updates, _ = first_update(tx, tree)
        assert_same_structure(updates, tree, f"updates of a {type(tree).__name__}")
        pair = dict(zip(("kernel", "bias"), jax.tree.leaves(updates), strict=True))
        # Statistics over tensors may be summed in another order.
        assert_close(pair, wanted, f"updates of a {type(tree).__name__}", 1e-6)
    updates, _ = first_update(tx, kernel)
    assert updates.shape == kernel.shape, f"the update of a bare array has shape {updates.shape}"


def _check_hole(make: Make, hole: Any, what: str) -> None:
    params = make_params()
    tx = make(NUM_STEPS)
    expected, _ = first_update(tx, params)
    with_hole = {**params, "hole": hole}
    state = tx.init(with_hole)
    updates, state = tx.update(gradient(with_hole), state, with_hole, value=loss(params))
    assert_close(updates, {**expected, "hole": hole}, f"updates next to {what}")
    updates, _ = tx.update(gradient(with_hole), state, with_hole, value=loss(params))
    assert_finite(updates, f"second updates next to {what}")


@conformance_check
def check_none_leaves(make: Make) -> None:
    """``None`` in place of a parameter stays ``None`` and has no effect on the others."""
    _check_hole(make, None, "None")


@conformance_check
def check_masked_nodes(make: Make) -> None:
    """``optax.MaskedNode`` in place of a parameter stays and has no effect on the others."""
    _check_hole(make, optax.MaskedNode(), "optax.MaskedNode")


@conformance_check
def check_counts(make: Make) -> None:
    """Every ``count`` in the state is an int32 scalar that goes up by one per step and stops at the largest int32."""
    params = make_params()
    tx = make(NUM_STEPS)
    state = tx.init(params)
    counts = optax.tree.get_all_with_path(state, "count")
    assert counts, "the state has no field named count"
    _, new_state = train_step(tx, params, state)
    for (path, old), (_, new) in zip(counts, optax.tree.get_all_with_path(new_state, "count"), strict=True):
        assert old.dtype == new.dtype == jnp.int32 and old.shape == (), (
            f"{path} is {old.dtype}{old.shape}, not int32 ()"
        )
        assert int(new) == int(old) + 1, f"{path} goes from {old} to {new} in one step"
    largest = jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
    is_count = lambda path: getattr(path[-1], "name", None) == "count"
    late = jax.tree_util.tree_map_with_path(lambda path, x: largest if is_count(path) else x, state)
    _, new_state = train_step(tx, params, late)
    for path, new in optax.tree.get_all_with_path(new_state, "count"):
        assert int(new) == int(largest), f"{path} overflows to {new} after {largest}: use optax.safe_increment"
