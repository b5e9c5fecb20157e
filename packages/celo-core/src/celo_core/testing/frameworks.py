"""Checks inside training loops of other libraries: Flax NNX, Flax Linen, Equinox, Orbax.

Equinox and Orbax are imported by their checks only; the ``test`` extra of celo-core holds both.
"""

import importlib
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    Unavailable,
    assert_close,
    conformance_check,
    eight_devices,
    make_params,
    train_step,
)
from celo_core.training import TrainState, restore_structure


def _optional(module: str, check: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"{check} needs {module}: install celo-core[test], or skip this check.") from error


def _inputs() -> jax.Array:
    return jnp.asarray(np.linspace(-1.0, 1.0, 12).reshape(4, 3), jnp.float32)


def _expected(make: Make, params: Any, predict: Any) -> Any:
    """Parameters after two steps of a plain Optax loop on the mean squared output."""
    tx = make(NUM_STEPS)
    state = tx.init(params)
    for _ in range(2):
        value, grads = jax.value_and_grad(lambda p: jnp.mean(jnp.square(predict(p, _inputs()))))(params)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
    return params


@conformance_check
def check_flax_nnx(make: Make) -> None:
    """Steps with ``flax.nnx.Optimizer`` are those of a plain Optax loop."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    arrays = lambda: {
        name: leaf[...] for name, leaf in (("kernel", model.kernel), ("bias", model.bias)) if leaf is not None
    }
    params = arrays()
    optimizer = nnx.Optimizer(model, make(NUM_STEPS), wrt=nnx.Param)
    for _ in range(2):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean(jnp.square(m(_inputs()))))(model)
        optimizer.update(model, grads, value=value)
    expected = _expected(make, params, lambda p, x: x @ p["kernel"] + p["bias"])
    assert_close(arrays(), expected, "parameters of the nnx model", 1e-5)


@conformance_check
def check_flax_linen(make: Make) -> None:
    """Steps with `celo_core.TrainState` on a linen module are those of a plain Optax loop."""
    module = nn.Dense(2)
    predict: Any = lambda p, x: module.apply({"params": p}, x)
    params = module.init(jax.random.key(0), _inputs())["params"]
    state = TrainState.create(apply_fn=module.apply, params=params, tx=make(NUM_STEPS))
    for _ in range(2):
        value, grads = jax.value_and_grad(lambda p: jnp.mean(jnp.square(predict(p, _inputs()))))(state.params)
        state = state.apply_gradients(grads=grads, value=value)
    expected = _expected(make, params, predict)
    assert int(state.step) == 2, f"the step of the TrainState is {state.step} after two steps"
    assert_close(state.params, expected, "parameters of the linen module", 1e-5)


@conformance_check
def check_equinox(make: Make) -> None:
    """Steps on the arrays of an Equinox module are those of a plain Optax loop."""
    eqx = _optional("equinox", "check_equinox")
    model = eqx.nn.MLP(3, 2, width_size=2, depth=0, key=jax.random.key(0))  # holds functions besides its arrays
    params = {"weight": model.layers[0].weight, "bias": model.layers[0].bias}
    tx = make(NUM_STEPS)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(2):
        loss = lambda m: jnp.mean(jnp.square(jax.vmap(m)(_inputs())))
        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array), value=value)
        model = eqx.apply_updates(model, updates)
    expected = _expected(make, params, lambda p, x: x @ p["weight"].T + p["bias"])
    trained = {"weight": model.layers[0].weight, "bias": model.layers[0].bias}
    assert_close(trained, expected, "parameters of the Equinox model", 1e-4)


def _assert_goes_on(tx: Any, run: Any, restored: Any, how: str) -> None:
    """Asserts that a restored run has the numbers of the one that was saved, and takes the same two steps."""
    assert_close(restored, run, f"what Orbax restored {how}")
    for _ in range(2):
        # Not compiled: a program could contain constants of the first run.
        run, restored = train_step(tx, *run), train_step(tx, *restored)
    # Sums over arrays that lie elsewhere in memory may be rounded differently.
    assert_close(restored, run, f"two steps later, what Orbax restored {how}", 1e-5)


def _started(make: Make) -> tuple[Any, Any, Any]:
    """An optimizer, a run after one step, and what a checkpoint of it is restored to."""
    tx = make(NUM_STEPS)
    params = make_params({"bias": (2,), "kernel": (8, 2)})
    run = train_step(tx, params, tx.init(params))
    return tx, run, jax.eval_shape(lambda p: (p, tx.init(p)), params)


def _placed(abstract: Any, sharding: Callable[[Any], jax.sharding.Sharding]) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), abstract)


@conformance_check
def check_orbax(make: Make) -> None:
    """A run that is saved with Orbax's ``StandardCheckpointer`` and restored, with and without a target, continues bit for bit."""
    ocp = _optional("orbax.checkpoint", "check_orbax")
    tx, run, abstract = _started(make)
    target = _placed(abstract, lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with tempfile.TemporaryDirectory() as directory, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(directory).resolve() / "run"
        checkpointer.save(path, run)
        checkpointer.wait_until_finished()
        with_target, without = checkpointer.restore(path, target), checkpointer.restore(path)
    _assert_goes_on(tx, run, with_target, "with a target")
    _assert_goes_on(tx, run, restore_structure(abstract, without), "without a target")


@conformance_check
def check_orbax_managers(make: Make) -> None:
    """A run that is saved with Orbax's ``PyTreeCheckpointer`` or ``CheckpointManager`` and restored continues bit for bit."""
    ocp = _optional("orbax.checkpoint", "check_orbax_managers")
    tx, run, abstract = _started(make)
    target = _placed(abstract, lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory).resolve()
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(folder / "run", run)
            arguments = ocp.checkpoint_utils.construct_restore_args(target)
            restored = checkpointer.restore(folder / "run", item=target, restore_args=arguments)
        _assert_goes_on(tx, run, restored, "by PyTreeCheckpointer")
        with ocp.CheckpointManager(folder / "runs") as manager:
            manager.save(0, args=ocp.args.StandardSave(run))
            manager.wait_until_finished()
            restored = manager.restore(0, args=ocp.args.StandardRestore(target))
        _assert_goes_on(tx, run, restored, "by CheckpointManager")


@conformance_check
def check_orbax_other_devices(make: Make, num_devices: int = 8) -> None:
    """A run that is saved on one device and restored on eight, with a matrix split over them, continues.

    Args:
      make: factory of the optimizer.
      num_devices: 1, 2, 4 or 8.

    Raises:
      Unavailable: JAX sees fewer devices.
      AssertionError: the restored run differs.
    """
    ocp = _optional("orbax.checkpoint", "check_orbax_other_devices")
    mesh = Mesh(eight_devices("check_orbax_other_devices", num_devices), ("model",))
    tx, run, abstract = _started(make)
    spec = lambda x: PartitionSpec("model") if x.shape == (8, 2) else PartitionSpec()
    target = _placed(abstract, lambda x: NamedSharding(mesh, spec(x)))
    with tempfile.TemporaryDirectory() as directory, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(directory).resolve() / "run"
        checkpointer.save(path, run)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, target)
    assert_close(restored, run, "what Orbax restored on other devices")
    step = jax.jit(lambda params, state: train_step(tx, params, state))
    on_host = lambda tree: jax.tree.map(np.asarray, tree)
    # Sums over a tensor are added in another order.
    assert_close(on_host(step(*restored)[0]), on_host(step(*run)[0]), "parameters a step later on other devices", 1e-5)
