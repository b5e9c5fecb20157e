"""Averages of the parameters over the last part of a training, for evaluation before its end.

A step that is right for progress is too long to settle: between the beginning and the end of a training the loss of the averaged
parameters is lower than that of the parameters, the more so the noisier the gradients. At the planned end, to which steps decay to
0, both are the same, and no average is needed.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992); with
exponentially decaying weights as in arXiv 2006.05990, section 3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo_core import checks

Array = jax.Array


class AveragedState(NamedTuple):
    """State of `averaged`.

    Attributes:
      inner: state of the optimizer.
      count: updates so far, int32 ().
      average: averaged parameters, a tree like them, float32 where they are of lower precision.
    """

    inner: Any
    count: Any
    average: Any


def averaged(optimizer: Any, num_steps: Any, share: float = 0.025) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, which also keeps an average of the parameters: a copy of them more in its state.

    After update t, with the new parameters p, ``a <- a + max(2 / (t + 1), 1 / (share num_steps)) (p - a)``: weights grow linearly
    at first and then decay exponentially, with a mean age of ``share num_steps``. `celo_eval_params` returns a.

    Args:
      optimizer: any Optax optimizer; its updates stay as they are.
      num_steps: planned number of updates, at least 1; may be traced.
      share: mean age of the parameters in the average, as a share of ``num_steps``, above 0 and below 1.

    Raises:
      ValueError: num_steps is less than 1, or share is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from celo_core import averaged, celo_eval_params
      >>> tx = averaged(optax.sgd(0.1), num_steps=100)
      >>> params = {"w": jnp.ones(3)}
      >>> state = tx.init(params)
      >>> updates, state = tx.update({"w": jnp.ones(3)}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> evaluated = celo_eval_params(state, params)
    """
    checks.check_num_steps(num_steps)
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, the age of the average as a share of num_steps, not {share}.")
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AveragedState:
        # A copy, so that parameters can be donated.
        return AveragedState(inner.init(params), jnp.zeros((), jnp.int32), jax.tree.map(_wide_copy, params))

    def update(updates: Any, state: AveragedState, params: Any = None, **extra_args: Any) -> tuple[Any, AveragedState]:
        if params is None:
            raise ValueError("averaged needs the parameters: call update(grads, state, params).")
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        count = optax.safe_increment(state.count)
        age = jnp.maximum(share * jnp.asarray(num_steps, jnp.float32), 1.0)
        rate = jnp.clip(jnp.maximum(2.0 / (count.astype(jnp.float32) + 1.0), 1.0 / age), 0.0, 1.0)
        # As `optax.apply_updates` adds them, rounding included.
        moved = optax.apply_updates(params, updates)
        step = lambda a, p: (a + rate * (p.astype(a.dtype) - a)).astype(a.dtype)
        return updates, AveragedState(new, count, jax.tree.map(step, state.average, moved))

    return optax.GradientTransformationExtraArgs(init, update)


def _wide_copy(parameter: Any) -> Array:
    parameter = jnp.asarray(parameter)
    return jnp.array(parameter, jnp.promote_types(parameter.dtype, jnp.float32))


def celo_eval_params(state: Any, params: Any) -> Any:
    """The averaged parameters that a training's state holds, for evaluation; training goes on with ``params``.

    Args:
      state: of an optimizer that `averaged` made, also inside others such as `optax.MultiSteps` or `optax.chain`.
      params: the parameters, whose structure and dtypes the result has.

    Returns:
      The average, a tree like ``params``.

    Raises:
      ValueError: the state holds no average, or more than one.
    """
    found: list[AveragedState] = []

    def visit(node: Any) -> bool:
        if isinstance(node, AveragedState):
            found.append(node)
        return isinstance(node, AveragedState)

    jax.tree.leaves(state, is_leaf=visit)
    if len(found) != 1:
        have = "none" if not found else str(len(found))
        raise ValueError(
            f"celo_eval_params needs a state with one average of the parameters and found {have}: build the optimizer with "
            "celo_core.averaged(optimizer, num_steps)."
        )
    return jax.tree.map(lambda p, a: a.astype(jnp.asarray(p).dtype), params, found[0].average)
