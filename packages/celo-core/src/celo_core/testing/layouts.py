"""Checks of arrays on several devices: results are sharded as the arguments are, and steps are those of one device.

They need eight devices; simulated ones will do (``XLA_FLAGS=--xla_force_host_platform_device_count=8``, before JAX starts).
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    conformance_check,
    eight_devices,
    gradient,
    loss,
    make_params,
    train_step,
)

LAYOUTS: Mapping[str, tuple[tuple[int, ...], tuple[str | tuple[str, str] | None, ...]]] = {
    "rows": ((16, 8), ("data", None)),
    "columns": ((16, 8), (None, "model")),
    "both": ((16, 8), ("data", "model")),
    "both_on_one": ((16, 8), (("data", "model"), None)),
    "replicated": ((16, 8), ()),
    "wide": ((8, 24), (None, "data")),
    "kernel_inputs": ((3, 3, 8, 4), (None, None, "data", None)),
    "kernel_outputs": ((3, 3, 8, 4), (None, None, None, "model")),
    "layers": ((4, 8, 6), ("data", None, None)),
    "inside_layers": ((4, 8, 6), (None, "data", "model")),
    "vector": ((16,), ("data",)),
    "replicated_vector": ((16,), ()),
    "scalar": ((), ()),
}
"""Name of a leaf -> its shape, and the axes of the mesh along which its axes are split; some leaves have the same shape."""


def _spec(x: Any) -> PartitionSpec:
    """How an array is split, without trailing axes that are not split."""
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding):
        return PartitionSpec()
    parts = list(sharding.spec)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def _assert_same_layout(new: Any, old: Any, what: str) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(old)
    for (path, before), after in zip(leaves, jax.tree.leaves(new), strict=True):
        name = jax.tree_util.keystr(path)
        same = _spec(before) == _spec(after)
        if isinstance(before, jax.Array) and not isinstance(before.sharding, NamedSharding):
            same = after.sharding.is_fully_replicated  # it was on one device, and is on all now
        assert same, f"{what}{name} is laid out as {_spec(after)}, and was as {_spec(before)}"


def _check_layouts(make: Make, kind: AxisType) -> None:
    devices = eight_devices("a check of layouts").reshape(4, 2)
    mesh = Mesh(devices, ("data", "model"), axis_types=(kind, kind))
    whole = make_params({name: shape for name, (shape, _) in LAYOUTS.items()})
    shardings = {name: NamedSharding(mesh, PartitionSpec(*axes)) for name, (_, axes) in LAYOUTS.items()}
    tx = make(NUM_STEPS)
    step = jax.jit(lambda params, state: train_step(tx, params, state))
    expected = (whole, tx.init(whole))
    for _ in range(2):
        expected = step(*expected)
    with jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
        params = jax.device_put(whole, shardings)
        state = tx.init(params)
        for _ in range(2):
            new = step(params, state)
            _assert_same_layout(new[0], params, "with steps added, parameter ")
            _assert_same_layout(new[1], state, "after update, the state's ")
            params, state = new
    on_host = lambda tree: jax.tree.map(np.asarray, tree)
    moved = lambda tree: jax.tree.map(np.subtract, on_host(tree), on_host(whole))
    # The devices' partial sums are added in another order than one device adds them.
    assert_close(moved(params), moved(expected[0]), "movement of sharded parameters", 1e-3)
    assert_close(on_host(state), on_host(expected[1]), "state of sharded parameters", 1e-3)


@conformance_check
def check_layouts_automatic(make: Make) -> None:
    """On a mesh with automatic axes each leaf of `LAYOUTS`, and of the state, keeps its layout."""
    _check_layouts(make, AxisType.Auto)


@conformance_check
def check_layouts_explicit(make: Make) -> None:
    """On a mesh with explicit axes, the default of `jax.make_mesh`, each leaf of `LAYOUTS`, and of the state, keeps its type."""
    _check_layouts(make, AxisType.Explicit)


@conformance_check
def check_shard_map(make: Make) -> None:
    """Inside `jax.shard_map`, which checks what varies over the mesh, replicated steps are those outside."""
    mesh = Mesh(eight_devices("check_shard_map"), ("data",))
    tx = make(NUM_STEPS)
    shapes = {"bias": (6,), "kernel": (40, 6), "large": (300, 130), "same": (40, 6)}
    params = make_params(shapes)
    offsets = jnp.linspace(-1.0, 1.0, 8)

    def step(params: Any, state: Any, offset: jax.Array) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda g: g + jnp.mean(offset), gradient(params))
        grads, value = jax.lax.pmean((grads, loss(params) + jnp.mean(offset)), "data")
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    replicated = PartitionSpec()
    sharded_step = jax.shard_map(
        step, mesh=mesh, in_specs=(replicated, replicated, PartitionSpec("data")), out_specs=replicated
    )
    state = tx.init(params)
    found = jax.jit(sharded_step)(params, state, offsets)
    expected = jax.jit(lambda p, s: train_step(tx, p, s))(params, state)
    moved = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree, params)
    assert_close(moved(found[0]), moved(expected[0]), "movement inside shard_map", 1e-3)


@conformance_check
def check_pmap(make: Make) -> None:
    """Inside `jax.pmap` each device's steps are those outside."""
    devices = list(eight_devices("check_pmap", 2))
    tx = make(NUM_STEPS)
    params = make_params({"bias": (6,), "kernel": (40, 6), "large": (300, 130)})
    carry = (params, tx.init(params))

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        grads, value = jax.lax.pmean((gradient(params), loss(params)), "i")
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    twice = jax.tree.map(lambda x: jnp.stack([x, x]), carry)
    found, _ = jax.pmap(step, axis_name="i", devices=devices)(*twice)
    expected, _ = jax.jit(lambda p, s: train_step(tx, p, s))(*carry)
    for device in range(2):
        moved = jax.tree.map(lambda x, p, i=device: np.asarray(x[i]) - np.asarray(p), found, params)
        wanted = jax.tree.map(lambda x, p: np.asarray(x) - np.asarray(p), expected, params)
        assert_close(moved, wanted, f"movement on device {device} of a pmap", 1e-3)
