"""Shampoo (arXiv 1802.09568), with the length of Adam's step grafted on (arXiv 2002.09018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

Array = jax.Array

FLOOR = 1e-30
"""Added to eigenvalues and to norms, so that a gradient of zero gives a step of zero."""


class Kronecker(NamedTuple):
    """The two factors of a matrix of shape (m, n), each full or diagonal.

    Attributes:
      left: float32 (m, m), or (m,) if it is diagonal.
      right: float32 (n, n), or (n,) if it is diagonal.
    """

    left: Array
    right: Array


class ScaleByShampooState(NamedTuple):
    """State of `scale_by_shampoo`.

    Attributes:
      adam: state of the Adam that is grafted, with the step count and the momentum.
      statistics: for each tensor, in the order of `jax.tree.leaves`, a `Kronecker`, or ``None`` for vectors and scalars.
      preconditioners: likewise, the inverse fourth roots of the statistics when they were last computed.
    """

    adam: optax.ScaleByAdamState
    statistics: tuple[Kronecker | None, ...]
    preconditioners: tuple[Kronecker | None, ...]


def shampoo(learning_rate: optax.ScalarOrSchedule, **options: Any) -> optax.GradientTransformationExtraArgs:
    """Shampoo as a whole optimizer; ``options`` are those of `scale_by_shampoo`."""
    return optax.chain(scale_by_shampoo(**options), optax.scale_by_learning_rate(learning_rate))


def scale_by_shampoo(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    ridge: float = 1e-6,
    update_every: int = 10,
    block_size: int = 256,
) -> optax.GradientTransformationExtraArgs:
    """Scales by Kronecker-factored preconditioners, to the length of Adam's step.

    A tensor of rank two or more is a matrix G (m, n): all its axes but the last are merged. With M the mean of gradients of
    decay ``b1``::

        L <- b2 L + (1 - b2) G G^T          R <- b2 R + (1 - b2) G^T G
        D = (L + ridge max(L) I)^-1/4 M (R + ridge max(R) I)^-1/4
        update = D |Adam's update| / |D|

    where max is the largest eigenvalue and |.| the Frobenius norm, per tensor. Length is Adam's, so neither L, R nor M needs
    a bias correction. A side longer than ``block_size`` has the diagonal of its statistics only (arXiv 1802.09568,
    section 5). Vectors and scalars get Adam's update as it is. Momentum before preconditioning is that of arXiv 2309.06497.

    Everything is computed in float32. Under vmap, let the state's count be the same for all (as it is when ``init`` is
    called inside vmap): with a count per element, `jax.lax.cond` computes the roots in every step.

    Args:
      b1: decay of the momentum, Adam's too.
      b2: decay of the second moments, Adam's too.
      eps: Adam's.
      ridge: added to the eigenvalues, as a share of the largest.
      update_every: steps from one computation of the roots to the next; the first step has one.
      block_size: longest side that gets a full matrix.

    Returns:
      A transformation; updates have the gradients' dtype.

    Raises:
      ValueError: ``update_every`` or ``block_size`` is below one.
    """
    if update_every < 1 or block_size < 1:
        raise ValueError(f"update_every and block_size must be at least 1, not {update_every} and {block_size}.")
    adam = optax.scale_by_adam(b1, b2, eps)

    def init(params: Any) -> ScaleByShampooState:
        full = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        zeros = lambda: tuple(_zeros(p, block_size) for p in jax.tree.leaves(full))
        return ScaleByShampooState(adam.init(full), zeros(), zeros())  # not one array twice: a caller may donate them

    def update(
        updates: Any, state: ScaleByShampooState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByShampooState]:
        del params, extra_args
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        steps, adam_state = adam.update(gradients, state.adam)
        statistics = tuple(
            _accumulate(old, g, b2) for old, g in zip(state.statistics, jax.tree.leaves(gradients), strict=True)
        )
        preconditioners = jax.lax.cond(
            state.adam.count % update_every == 0,
            lambda: jax.tree.map(lambda s: _inverse_fourth_root(s, ridge), statistics),
            lambda: state.preconditioners,
        )
        leaves = zip(*map(jax.tree.leaves, (steps, adam_state.mu, updates)), preconditioners, strict=True)
        new = [_graft(step, mean, roots).astype(g.dtype) for step, mean, g, roots in leaves]
        new = jax.tree.unflatten(jax.tree.structure(updates), new)
        return new, ScaleByShampooState(adam_state, statistics, preconditioners)

    return optax.GradientTransformationExtraArgs(init, update)


def _as_matrix(x: Array) -> Array:
    return rearrange(x, "... columns -> (...) columns")


def _zeros(param: Array, block_size: int) -> Kronecker | None:
    if param.ndim < 2 or param.size == 0:
        return None
    sides = _as_matrix(param).shape
    return Kronecker(*(jnp.zeros((side,) * (2 if side <= block_size else 1)) for side in sides))


def _accumulate(old: Kronecker | None, gradient: Array, decay: float) -> Kronecker | None:
    """The statistics after one more gradient."""
    if old is None:
        return None
    matrix = _as_matrix(gradient)
    mean: Callable[[Array, Array], Array] = lambda old, new: decay * old + (1 - decay) * new
    return Kronecker(
        mean(old.left, _second_moment(matrix, old.left.ndim)), mean(old.right, _second_moment(matrix.T, old.right.ndim))
    )


def _second_moment(rows: Array, rank: int) -> Array:
    """Inner products of the rows with each other, or, for rank 1, with themselves only."""
    if rank == 1:
        return jnp.sum(jnp.square(rows), axis=1)
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _inverse_fourth_root(statistic: Array, ridge: float) -> Array:
    """``(S + ridge max(S) I)^-1/4``, of a matrix or of a diagonal."""
    if statistic.ndim == 1:
        return (statistic + ridge * jnp.max(statistic) + FLOOR) ** -0.25
    values, vectors = jnp.linalg.eigh(statistic)
    values = jnp.maximum(values, 0.0)  # rounding makes some of the smallest negative
    roots = (values + ridge * values[-1] + FLOOR) ** -0.25
    return jnp.matmul(vectors * roots, vectors.T, precision=jax.lax.Precision.HIGHEST)


def _graft(step: Array, momentum: Array, preconditioner: Kronecker | None) -> Array:
    """The preconditioned momentum, as long as Adam's step."""
    if preconditioner is None:
        return step
    direction = _multiply(preconditioner.left, _as_matrix(momentum))
    direction = _multiply(preconditioner.right, direction.T).T
    scale = jnp.linalg.norm(step.ravel()) / (jnp.linalg.norm(direction.ravel()) + FLOOR)
    return scale * direction.reshape(step.shape)


def _multiply(root: Array, matrix: Array) -> Array:
    return root[:, None] * matrix if root.ndim == 1 else jnp.matmul(root, matrix, precision=jax.lax.Precision.HIGHEST)
