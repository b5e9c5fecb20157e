"""Checks inside training loops of other libraries: Flax NNX, Flax Linen, Equinox, Orbax.

Equinox and Orbax are imported by their checks only; the ``test`` extra of celo-core holds both.
"""

import importlib
import pathlib
import tempfile
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from celo_core.testing._problem import (
    NUM_STEPS,
    Make,
    Unavailable,
    assert_close,
    conformance_check,
    gradient,
    make_params,
    train_step,
)
from celo_core.training import TrainState


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
    model = eqx.nn.MLP(3, 2, width_size=2, depth=0, key=jax.random.key(0))  # holds functions beside its arrays
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


@conformance_check
def check_orbax(make: Make) -> None:
    """A run that is saved with Orbax and restored goes on bit for bit as if it had not been interrupted."""
    ocp = _optional("orbax.checkpoint", "check_orbax")
    tx = make(NUM_STEPS)
    params = make_params()
    run = train_step(tx, params, tx.init(params))
    abstract = jax.eval_shape(lambda p: (p, tx.init(p)), params)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    with tempfile.TemporaryDirectory() as directory, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(directory).resolve() / "run"
        checkpointer.save(path, run)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, target)
    assert_close(restored, run, "what Orbax restored")
    for _ in range(2):
        updates, _ = tx.update(gradient(run[0]), run[1], run[0], value=jnp.float32(1.0))
        again, _ = tx.update(gradient(restored[0]), restored[1], restored[0], value=jnp.float32(1.0))
        assert_close(again, updates, "updates of the restored run")
        run, restored = train_step(tx, *run), train_step(tx, *restored)
    assert_close(restored, run, "the restored run two steps later")
