"""Checks of a learned optimizer's meta-parameters: vmap and gradient over theta, and the protocol."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import configs
from celo_core.architectures import get_architecture
from celo_core.protocols import LearnedOptimizer
from celo_core.testing._problem import (
    NUM_STEPS,
    assert_close,
    assert_finite,
    assert_same_structure,
    conformance_check,
    first_update,
    loss,
    make_params,
    train_step,
)


def _updates(learned: LearnedOptimizer, theta: Any, params: Any) -> Any:
    return first_update(learned.build(theta, NUM_STEPS), params)[0]


@conformance_check
def check_protocol(learned: LearnedOptimizer) -> None:
    """The object follows the protocol; theta is a nested dict of float32 arrays."""
    assert isinstance(learned, LearnedOptimizer), "name, config, init or build is missing"

    def visit(node: Any, path: str) -> None:
        if isinstance(node, dict):
            assert all(isinstance(name, str) for name in node), f"theta{path} has a key that is no string"
            for name, child in node.items():
                visit(child, f"{path}/{name}")
        else:
            assert isinstance(node, jax.Array) and node.dtype == jnp.float32, f"theta{path} is no float32 array"

    theta = learned.init(jax.random.key(0))
    assert type(theta) is dict, f"theta is a {type(theta).__name__}, not a dict"
    visit(theta, "")


@conformance_check
def check_config_json(learned: LearnedOptimizer) -> None:
    """The config goes through JSON text and back unchanged."""
    text = json.dumps(configs.to_json(learned.config))
    assert configs.from_json(type(learned.config), json.loads(text)) == learned.config, f"not restored from {text}"


@conformance_check
def check_registry(learned: LearnedOptimizer) -> None:
    """Its name finds it in the registry, and the JSON form of its config rebuilds it."""
    assert get_architecture(learned.name, configs.to_json(learned.config)) == learned, (
        "the registry builds another object"
    )


@conformance_check
def check_init_of_theta(learned: LearnedOptimizer) -> None:
    """Equal keys give equal theta, and theta from any key is finite and of the same structure."""
    one, same, other = (jax.device_get(learned.init(jax.random.key(seed))) for seed in (0, 0, 1))
    assert_close(same, one, "theta from the same key")
    assert_finite(one, "theta")
    assert_same_structure(other, one, "theta from another key")


@conformance_check
def check_vmap_over_theta(learned: LearnedOptimizer) -> None:
    """``vmap`` over theta gives what each theta gives alone."""
    thetas = [learned.init(jax.random.key(seed)) for seed in range(2)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *thetas)
    params = make_params()
    together = jax.jit(jax.vmap(lambda theta: _updates(learned, theta, params)))(batch)
    for index, theta in enumerate(thetas):
        one = jax.tree.map(lambda x, i=index: x[i], together)
        assert_close(one, _updates(learned, theta, params), f"updates of theta {index} of a batch", 1e-3)


@conformance_check
def check_theta_gradient(learned: LearnedOptimizer) -> None:
    """The gradient of the final loss with respect to theta through a short unroll is finite, and not zero in any part of it."""
    params = make_params()

    def meta_loss(theta: Any, wrap: Any) -> jax.Array:
        tx = learned.build(theta, NUM_STEPS)
        step = wrap(lambda carry: train_step(tx, *carry))
        # A loop: XLA's CPU compiler takes minutes over the unrolled gradient of some update rules.
        (trained, _), _ = jax.lax.scan(lambda carry, _: (step(carry), None), (params, tx.init(params)), length=3)
        return loss(trained)

    theta = learned.init(jax.random.key(0))
    grads = jax.jit(jax.grad(lambda t: meta_loss(t, lambda function: function)))(theta)
    jax.eval_shape(jax.grad(lambda t: meta_loss(t, jax.checkpoint)), theta)
    assert_finite(grads, "the gradient of theta")
    for name, part in grads.items():
        largest = max(float(np.max(np.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(part))
        assert largest > 0, f"the gradient of theta[{name!r}] is zero"


@conformance_check
def check_numpy_theta(learned: LearnedOptimizer) -> None:
    """Theta given as NumPy arrays, as a checkpoint reader returns it, gives the same updates."""
    theta = learned.init(jax.random.key(0))
    params = make_params()
    expected = _updates(learned, theta, params)
    assert_close(_updates(learned, jax.device_get(theta), params), expected, "updates with theta as NumPy arrays")
