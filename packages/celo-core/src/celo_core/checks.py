"""Errors at the border: each says in one sentence what was wrong and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def flatten_theta(theta: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested mapping by path, e.g. ``{"update_rule/output/bias": array}``."""
    if not isinstance(theta, Mapping):
        return {prefix: theta}
    leaves: dict[str, Any] = {}
    for name, value in theta.items():
        leaves.update(flatten_theta(value, f"{prefix}/{name}" if prefix else str(name)))
    return leaves


def unflatten_theta(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten_theta`."""
    theta: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, name = path.split("/")
        node = theta
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return theta


def check_theta(theta: Any, expected: Any, architecture: str) -> Any:
    """Checks names and shapes of ``theta`` as `check_theta_shapes` does, and returns it as float32 arrays."""
    check_theta_shapes(theta, expected, architecture)
    return unflatten_theta({path: jnp.asarray(leaf, jnp.float32) for path, leaf in flatten_theta(theta).items()})


def check_theta_shapes(theta: Any, expected: Any, architecture: str) -> None:
    """Raises ValueError if a leaf of ``theta`` is missing, superfluous, misshapen or not a real number.

    Args:
      theta: nested mapping of arrays.
      expected: nested mapping of the same structure whose leaves have a ``shape``.
      architecture: name for the message.
    """
    found, wanted = flatten_theta(theta), flatten_theta(expected)
    hint = f"pass the theta and the config that belong together, as celo_zoo.load or {architecture}'s init returns them"
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"theta is not one of {architecture!r}: it lacks {', '.join(missing)}; {hint}.")
    if extra := sorted(set(found) - set(wanted)):
        raise ValueError(f"theta is not one of {architecture!r}: it has unknown leaves {', '.join(extra)}; {hint}.")
    for path, leaf in found.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"theta leaf {path!r} has dtype {jnp.result_type(leaf)}, not a floating one; {hint}.")
        if np.shape(leaf) != wanted[path].shape:
            raise ValueError(f"theta leaf {path!r} has shape {np.shape(leaf)}, not {wanted[path].shape}; {hint}.")


def check_num_steps(num_steps: Any) -> None:
    """Raises ValueError unless ``num_steps`` is a scalar of at least 1 (of a traced value only the shape is known)."""
    if num_steps is None or isinstance(num_steps, (bool, str)) or np.ndim(num_steps) != 0:
        raise ValueError(f"num_steps must be one number, the planned length of training in steps, not {num_steps!r}.")
    if not isinstance(num_steps, jax.core.Tracer) and not float(num_steps) >= 1:
        raise ValueError(f"num_steps must be at least 1, the planned length of training in steps, not {num_steps}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises ValueError, naming the choices, unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def check_family(family: Any, data: Any, samples: int = 4) -> None:
    """Raises ValueError unless a freshly initialised network's loss is a finite real scalar, on a few sampled tasks.

    Args:
      family: a `celo_core.TaskFamily`.
      data: what its ``load`` returned.
      samples: number of tasks.
    """

    def loss(key: jax.Array, data: Any) -> Any:
        key_task, key_init, key_batch, key_loss = jax.random.split(key, 4)
        config = family.sample(key_task)
        params, model_state = family.init(key_init, config)
        return family.loss(params, model_state, key_loss, config, family.batch(key_batch, config, data))[0]

    shape = jax.eval_shape(loss, jax.random.key(0), data)
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(
            f"the loss of the family {family.name} is {shape}, not one real number: return the mean over the batch."
        )
    values = np.asarray(jax.jit(jax.vmap(loss, in_axes=(0, None)))(jax.random.split(jax.random.key(0), samples), data))
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"the loss of the family {family.name} is {values[~np.isfinite(values)][0]} for a freshly initialised network: "
            "check its data and its initialisation."
        )


def check_params(params: Any) -> None:
    """Raises TypeError if a leaf is not real floating point (None and MaskedNode are not leaves)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "params"
            raise TypeError(
                f"parameter {name} has dtype {dtype}, but a learned optimizer updates real floating-point arrays only: "
                "leave it out with optax.masked or optax.partition."
            )


def check_update_arguments(params: Any, value: Any, name: str) -> None:
    """Raises ValueError, saying how to pass them, if ``params`` or ``value`` is missing or ``value`` is no scalar."""
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(grads, state, params, value=loss).")
    if value is None:
        raise ValueError(
            f"{name} needs the loss of this step: call update(grads, state, params, value=loss); with flax.nnx.Optimizer "
            "call optimizer.update(model, grads, value=loss), and with linen's TrainState use celo_core.TrainState."
        )
    if np.ndim(value) != 0:
        raise ValueError(f"{name} needs a scalar loss as value, not one of shape {np.shape(value)}: pass its mean.")
