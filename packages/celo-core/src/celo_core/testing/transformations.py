"""Checks under JAX's transformations: jit, scan, cond, vmap, donation, sharding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    assert_close,
    assert_same_types,
    conformance_check,
    eight_devices,
    first_update,
    gradient,
    loss,
    make_params,
    train_step,
)

SHARDED_SHAPES: dict[str, tuple[int, ...]] = {"tall": (16, 8), "wide": (8, 24)}


@conformance_check
def check_compiles_once(make: Make) -> None:
    """A jitted step is traced once, though its outputs are fed back to it."""
    tx = make(NUM_STEPS)
    traces = 0

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        nonlocal traces
        traces += 1
        return train_step(tx, params, state)

    params = make_params()
    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state)
    assert traces == 1, f"a jitted step was traced {traces} times in three calls: init and update differ in a type"


@conformance_check
def check_state_types(make: Make) -> None:
    """Init and update agree on structure, shape, dtype and weak type, and so does ``jax.eval_shape(tx.init, params)``."""
    params = make_params()
    tx = make(NUM_STEPS)
    abstract = jax.eval_shape(tx.init, params)
    concrete = jax.tree.map(lambda x: jax.eval_shape(lambda: x), tx.init(params))
    assert_same_types(concrete, abstract, "init outside and inside of a trace")
    update = lambda state: tx.update(gradient(params), state, params, value=loss(params))[1]
    assert_same_types(jax.eval_shape(update, abstract), abstract, "the state after update and after init")


@conformance_check
def check_scan(make: Make) -> None:
    """A ``lax.scan`` of the step gives what a Python loop gives, and ``lax.cond`` accepts the state in both branches."""
    tx = make(NUM_STEPS)
    params = make_params()
    carry = (params, tx.init(params))
    (scanned, _), _ = jax.lax.scan(lambda c, _: (train_step(tx, *c), None), carry, length=3)
    looped = carry
    for _ in range(3):
        looped = train_step(tx, *looped)
    moved = jax.tree.map(jnp.subtract, scanned, params)
    # XLA rounds a fused program differently from single operations.
    assert_close(moved, jax.tree.map(jnp.subtract, looped[0], params), "movement in lax.scan", 1e-3)
    maybe = lambda go, c: jax.lax.cond(go, lambda d: train_step(tx, *d), lambda d: d, c)
    jax.eval_shape(maybe, jnp.array(True), carry)


@conformance_check
def check_traced_num_steps(make: Make) -> None:
    """``num_steps`` may be a traced number."""
    params = make_params()
    traced, _ = jax.jit(lambda num_steps: first_update(make(num_steps), params))(jnp.int32(7))
    expected, _ = first_update(make(7), params)
    assert_close(traced, expected, "updates with a traced num_steps", 1e-4)


@conformance_check
def check_vmap_over_params(make: Make) -> None:
    """``vmap`` over parameters, gradients and losses gives what each gives alone."""
    tx = make(NUM_STEPS)
    alone = [make_params(seed=seed) for seed in range(2)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    step = jax.jit(jax.vmap(lambda params, state: train_step(tx, params, state)))
    together = step(*step(batch, jax.vmap(tx.init)(batch)))[0]
    for index, params in enumerate(alone):
        moved = jax.tree.map(lambda x, p, i=index: x[i] - p, together, params)
        one, _ = train_step(tx, *train_step(tx, params, tx.init(params)))
        expected = jax.tree.map(jnp.subtract, one, params)
        assert_close(moved, expected, f"movement of problem {index} of a batch", 1e-3)


@conformance_check
def check_donation(make: Make) -> None:
    """Parameters and state may be donated to a jitted step, and the optimizer can still be used for another run."""
    tx = make(NUM_STEPS)
    step = jax.jit(lambda params, state: train_step(tx, params, state), donate_argnums=(0, 1))
    results = []
    for _ in range(2):
        params = make_params()
        state = tx.init(params)
        for _ in range(2):
            params, state = step(params, state)
        results.append(params)
    assert_close(results[1], results[0], "parameters of a second run after one with donated buffers")


@conformance_check
def check_sharded_parameters(make: Make, num_devices: int = 8) -> None:
    """Jitted on several devices with sharded matrices, steps are those of one device.

    Leaves of the state that have a parameter's shape are sharded as that parameter is; all else is replicated.

    Args:
      make: factory of the optimizer.
      num_devices: a divisor of 8.

    Raises:
      Unavailable: JAX sees fewer devices.
      AssertionError: the results differ.
    """
    devices = eight_devices("check_sharded_parameters", num_devices)
    mesh = Mesh(devices, ("model",))
    params = make_params(SHARDED_SHAPES)
    by_shape = {
        SHARDED_SHAPES["tall"]: NamedSharding(mesh, PartitionSpec("model", None)),
        SHARDED_SHAPES["wide"]: NamedSharding(mesh, PartitionSpec(None, "model")),
    }
    replicated = NamedSharding(mesh, PartitionSpec())
    tx = make(NUM_STEPS)
    carry = (params, tx.init(params))
    shardings = jax.tree.map(lambda x: by_shape.get(x.shape, replicated), carry)
    step = lambda c: train_step(tx, *c)
    sharded_step = jax.jit(step, in_shardings=(shardings,), out_shardings=shardings)
    single_step = jax.jit(step)
    sharded, single = jax.device_put(carry, shardings), carry
    for _ in range(2):
        sharded, single = sharded_step(sharded), single_step(single)
    for name, leaf in sharded[0].items():
        assert leaf.sharding.is_equivalent_to(by_shape[leaf.shape], leaf.ndim), f"{name} lost its sharding"
    move = lambda tree: jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), tree[0], params)
    # The devices' partial sums are added in another order than one device adds them.
    assert_close(move(sharded), move(single), "movement of sharded parameters", 1e-3)
    assert_close(
        jax.tree.map(np.asarray, sharded[1]), jax.tree.map(np.asarray, single[1]), "state of sharded parameters", 1e-3
    )


@conformance_check
def check_explicit_sharding(make: Make, num_devices: int = 8) -> None:
    """Under a mesh with explicit axes, updates and the state have the types that ``init`` gave them.

    Args:
      make: factory of the optimizer.
      num_devices: a divisor of 8.

    Raises:
      Unavailable: JAX sees fewer devices.
      AssertionError: a sharding is ambiguous or changes.
    """
    devices = eight_devices("check_explicit_sharding", num_devices)
    mesh = Mesh(devices, ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spec = PartitionSpec("model", None)
        params = {"tall": jax.device_put(jnp.ones(SHARDED_SHAPES["tall"]), NamedSharding(mesh, spec))}
        tx = make(NUM_STEPS)
        value = jnp.float32(1.0)
        before = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(lambda p, s: tx.update(p, s, p, value=value), params, before)
    assert updates["tall"].sharding.spec == spec, (
        f"the update is sharded as {updates['tall'].sharding.spec}, not {spec}"
    )
    spec_of = lambda x: PartitionSpec(*[None] * x.ndim) if x.sharding is None else x.sharding.spec
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        change = f"from {spec_of(old)} to {spec_of(new)}"
        assert spec_of(old) == spec_of(new), f"update changes the sharding of {jax.tree_util.keystr(path)} {change}"
