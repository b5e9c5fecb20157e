"""Checks of arguments at the public interface: each error says in one sentence what was wrong and what to do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion for an error message, ``", did you mean a or b"``; empty where no known name is similar to ``name``."""
    similar = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(similar)}" if similar else ""


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
    """Checks names and shapes of ``theta`` as `check_theta_shapes` does.

    Returns:
      Its leaves as float32 arrays in the structure of ``expected``: parts without parameters, which files of weights cannot
      hold, are empty dicts.
    """
    check_theta_shapes(theta, expected, architecture)
    return _in_structure(flatten_theta(theta), expected, "")


def _in_structure(leaves: Mapping[str, Any], expected: Any, path: str) -> Any:
    if not isinstance(expected, Mapping):
        return jnp.asarray(leaves[path], jnp.float32)
    return {name: _in_structure(leaves, child, f"{path}/{name}" if path else name) for name, child in expected.items()}


def check_theta_shapes(theta: Any, expected: Any, architecture: str) -> None:
    """Raises ValueError if a leaf of ``theta`` is missing, superfluous, misshapen or not a real number.

    Args:
      theta: nested mapping of arrays.
      expected: nested mapping of the same structure whose leaves have a ``shape``.
      architecture: name for the message.
    """
    found, wanted = flatten_theta(theta), flatten_theta(expected)
    hint = (
        "pass the theta and the config that belong together, as in theta, config = celo_zoo.load(...) and "
        f"{architecture}(theta, num_steps, config=config)"
    )
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
    """Raises ValueError unless ``num_steps`` is a scalar of at least 1 (of a traced value only the shape is checked)."""
    if num_steps is None or isinstance(num_steps, (bool, str)) or np.ndim(num_steps) != 0:
        raise ValueError(f"num_steps must be one number, the planned length of training in steps, not {num_steps!r}.")
    if not isinstance(num_steps, jax.core.Tracer) and not float(num_steps) >= 1:
        raise ValueError(f"num_steps must be at least 1, the planned length of training in steps, not {num_steps}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises ValueError, naming the choices, unless ``value`` is one of them."""
    if value not in choices:
        meant = nearest(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}{meant}.")


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
    # It runs once: on a CPU compiling it well would take far longer than running it.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    losses = jax.jit(jax.vmap(loss, in_axes=(0, None)), compiler_options=options)
    values = np.asarray(losses(jax.random.split(jax.random.key(0), samples), data))
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"the loss of the family {family.name} is {values[~np.isfinite(values)][0]} for a freshly initialised network: "
            "check its data and its initialisation."
        )


def check_params(params: Any) -> None:
    """Raises TypeError if a leaf is not real floating point (None and MaskedNode are not leaves)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        _check_floating(path, leaf, "parameter")


def _check_floating(path: Any, leaf: Any, what: str) -> None:
    name = jax.tree_util.keystr(path) or "params"
    try:
        dtype = jnp.result_type(leaf)
    except TypeError:
        raise TypeError(f"{what} {name} is a {type(leaf).__name__}, not an array of numbers.") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{what} {name} has dtype {dtype}, but a learned optimizer updates real floating-point arrays only: "
            "leave it out with optax.masked or optax.partition."
        )


def check_gradients(updates: Any, params: Any) -> None:
    """Raises an error that names the leaf if a gradient does not fit its parameter; ``None`` is that of a frozen parameter.

    Raises:
      TypeError: a gradient is not real floating point.
      ValueError: a gradient has another shape than its parameter, or the trees differ.
    """
    treedef: Any
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    try:
        gradients = treedef.flatten_up_to(updates)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the gradients are not a tree like the parameters ({error}): pass the gradients of these parameters."
        ) from None
    for (path, parameter), gradient in zip(leaves, gradients, strict=True):
        if gradient is None:
            continue
        _check_floating(path, gradient, "the gradient of parameter")
        if np.shape(gradient) != np.shape(parameter):
            name = jax.tree_util.keystr(path) or "params"
            raise ValueError(
                f"the gradient of parameter {name} has shape {np.shape(gradient)} and the parameter {np.shape(parameter)}."
            )


def check_update_arguments(params: Any, value: Any, name: str, reads_loss: bool = True) -> None:
    """Raises an error that says how to pass them if ``params`` or ``value`` is missing or ``value`` is not a real scalar.

    Args:
      params: the argument of update.
      value: the argument of update.
      name: of the optimizer.
      reads_loss: whether it needs ``value``.

    Raises:
      ValueError: one is missing, or the loss is not one number.
      TypeError: the loss is not a real number.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(grads, state, params, value=loss).")
    if value is None:
        if not reads_loss:
            return
        raise ValueError(
            f"{name} needs the loss of this step: call update(grads, state, params, value=loss); with flax.nnx.Optimizer "
            "call optimizer.update(model, grads, value=loss), and with linen's TrainState use celo_core.TrainState."
        )
    if isinstance(value, (list, tuple)):
        raise ValueError(f"{name} needs a scalar loss as value, not a {type(value).__name__}: pass its mean.")
    try:
        dtype = jnp.result_type(value) if not isinstance(value, (str, bytes)) else None
    except TypeError:
        dtype = None
    if dtype is None or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        found = type(value).__name__ if dtype is None else f"of dtype {dtype}"
        raise TypeError(f"{name} needs the loss as a real number, and value is {found}: pass the loss of this step.")
    if np.ndim(value) != 0:
        raise ValueError(f"{name} needs a scalar loss as value, not one of shape {np.shape(value)}: pass its mean.")


def check_step_multiplier(step_multiplier: Any) -> None:
    """Raises ValueError unless it is a schedule, or a finite number of at least 0 (of a traced one only the shape is checked)."""
    if callable(step_multiplier) or (isinstance(step_multiplier, jax.core.Tracer) and step_multiplier.ndim == 0):
        return
    try:
        fits = np.ndim(step_multiplier) == 0 and 0 <= float(step_multiplier) < np.inf
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"step_multiplier must be a number of at least 0, or a function of the steps taken, not {step_multiplier!r}."
        )


def stacks_of(params: Any, num_stacked_axes: Any) -> list[tuple[int, ...] | None]:
    """For each leaf the lengths of its leading axes that are a stack of tensors, or ``None``.

    Args:
      params: a tree of arrays.
      num_stacked_axes: how many leading axes of each leaf are a stack: ``None`` for none, a number for all leaves, a tree
        of numbers like the parameters (or a prefix of one, whose leaves stand for whole subtrees), or a function from the
        parameters to such a tree.

    Raises:
      ValueError: the tree does not fit, or a leaf has fewer axes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if num_stacked_axes is None:
        return [None] * len(leaves)
    given = num_stacked_axes(params) if callable(num_stacked_axes) else num_stacked_axes
    try:
        spread = jax.tree.map(lambda number, part: jax.tree.map(lambda _: number, part), given, params)
    except (ValueError, TypeError) as error:
        raise ValueError(f"num_stacked_axes is not a tree that fits the parameters: {error}.") from None
    stacks: list[tuple[int, ...] | None] = []
    for (path, leaf), number in zip(leaves, jax.tree.leaves(spread), strict=True):
        shape = np.shape(leaf)
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number <= len(shape):
            name = jax.tree_util.keystr(path) or "params"
            raise ValueError(
                f"num_stacked_axes of parameter {name} must be a whole number from 0 to {len(shape)}, its axes, not {number!r}."
            )
        stacks.append(tuple(shape[:number]) if number else None)
    return stacks
