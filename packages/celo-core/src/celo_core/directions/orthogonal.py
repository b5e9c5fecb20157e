r"""The orthogonalised momentum: a direction of a matrix in which all its singular values are about 1.

A gradient of a weight matrix has few large singular values and many small ones. A step along the polar factor
:math:`U V^T` of the momentum :math:`U \Sigma V^T` moves as far along all of them. No network that looks at one parameter
at a time, beside statistics of rows and columns, can find that direction.

Source: Jordan et al., "Muon", 2024 (kellerjordan.github.io/posts/muon); Bernstein and Newhouse, arXiv 2409.20325.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import features as features_lib
from celo_core import networks
from celo_core.kernels import interface, reductions
from celo_core.kernels.interface import Accumulators, Batch, UpdateRule

Array = jax.Array

ITERATIONS = 5
"""Newton-Schulz iterations."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of X, X X^T X and (X X^T)^2 X: Muon's, which lift small singular values fast and leave all between 0.7 and 1.2."""

WIDE = 2
"""From this ratio of its sides on, a matrix is orthogonalised by way of its Gram matrix."""

STACKED = 131_072
"""Of stacked matrices, those of more elements are orthogonalised one by one."""


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """How a tensor is seen as a matrix: consecutive axes are merged such that it is as square as can be.

    The kernel of a convolution, (height, width, inputs, outputs), is one of (height width inputs, outputs), and those of
    attention, (width, heads, size) and (heads, size, width), are square.

    Returns:
      ``(rows, columns)``, or ``None`` where that leaves a vector, which has no direction but its own.
    """
    if len(shape) < 2 or math.prod(shape) == 0:
        return None
    cuts = [(math.prod(shape[:axis]), math.prod(shape[axis:])) for axis in range(1, len(shape))]
    rows, columns = min(cuts, key=max)
    return None if min(rows, columns) == 1 else (rows, columns)


def orthogonalize(matrix: Array) -> Array:
    """The polar factor of a matrix, nearly: its singular vectors with singular values between 0.7 and 1.2.

    Those less than some thousandth of the Frobenius norm stay smaller; of zeros it is zeros.

    Args:
      matrix: float32 (..., m, n).

    Returns:
      float32 (..., m, n), whatever the matrix was multiplied by.
    """
    # In two steps, since the squares of small numbers are 0 in float32.
    x = matrix / jnp.maximum(jnp.max(jnp.abs(matrix), axis=(-1, -2), keepdims=True), np.finfo(np.float32).tiny)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=(-1, -2), keepdims=True), 1e-12))
    return _iterate_gram(x) if max(x.shape[-2:]) >= WIDE * min(x.shape[-2:]) else _iterate(x)


def _gram(x: Array, **options: Any) -> Array:
    """Products of the rows of a matrix with one another, or of its columns: the smaller of the two matrices."""
    y = jnp.swapaxes(x, -1, -2)
    return jnp.matmul(*((y, x) if x.shape[-2] > x.shape[-1] else (x, y)), **options)


def _times(gram: Array, x: Array, **options: Any) -> Array:
    """A polynomial of what `_gram` returns times the matrix, on the side that fits."""
    return jnp.matmul(*((x, gram) if x.shape[-2] > x.shape[-1] else (gram, x)), **options)


def _iterate(x: Array) -> Array:
    """The iteration on a matrix itself, which bears half precision and TF32."""
    first, third, fifth = COEFFICIENTS

    def once(_: Any, x: Array) -> Array:
        gram = _gram(x)
        return first * x + _times(third * gram + fifth * gram @ gram, x)

    # A loop: a fifth of the products to be compiled.
    return jax.lax.fori_loop(np.int32(0), np.int32(ITERATIONS), once, x)


def _iterate_gram(x: Array) -> Array:
    """The same by the Gram matrix alone: ``x`` is multiplied twice in all, in place of ten times.

    Every iterate is a polynomial of the first one's Gram matrix, times ``x``. Rounding may give the Gram matrix eigenvalues
    below 0, which the iteration blows up by twelve each time: harmless from 1e-7 on, not from TF32's 1e-3.
    """
    exact = jax.lax.Precision.HIGHEST
    product = lambda a, b: jnp.matmul(a, b, precision=exact)
    first, third, fifth = COEFFICIENTS
    size = min(x.shape[-2:])
    identity = np.eye(size, dtype=np.float32).reshape((1,) * (x.ndim - 2) + (size, size))
    polynomial = lambda gram: first * identity + third * gram + fifth * product(gram, gram)

    def once(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        gram, total = carry
        factor = polynomial(gram)
        return product(product(factor, gram), factor), product(factor, total)

    gram = _gram(x, precision=exact)
    factor = polynomial(gram)
    carry = product(product(factor, gram), factor), factor
    gram, total = jax.lax.fori_loop(np.int32(0), np.int32(ITERATIONS - 2), once, carry)
    return _times(product(polynomial(gram), total), x, precision=exact)


def direction(tensors: Array) -> Array | None:
    """Orthogonalised tensors whose root mean square is 1, or somewhat less where the rank is not full.

    Args:
      tensors: float32 (count, *s), tensors of one shape.

    Returns:
      float32 (count, *s), or ``None`` for vectors (see `matrix_shape`).
    """
    if (shape := matrix_shape(tensors.shape[1:])) is None:
        return None
    return (math.sqrt(max(shape)) * _one_by_one(tensors.reshape(-1, *shape))).reshape(tensors.shape)


class Addition(NamedTuple):
    """What is added to the steps of matrices; see `celo_core.CeloConfig.orthogonal`.

    Attributes:
      shares: float32 (1 + momenta,), of the gradient and of each momentum in what is orthogonalised.
      root: float32 (), on the root mean square of the first momentum over the root of the second moment: their bias
        corrections.
      length: float32 (2,), constant part of the length and that which is proportional to this root mean square, of a tensor
        whose own is 1.
    """

    shares: Array
    root: Array
    length: Array


def add_direction(
    rule: UpdateRule, addition: Addition, batch: Batch, step: Array, new: Accumulators, means: tuple[Array, Array]
) -> Array:
    """A batch's step with that along the orthogonalised momentum added.

    Args:
      rule: the update rule.
      addition: what is added.
      batch: gradients and parameters, of matrices.
      step: (*batch, *s), in its dtype.
      new: the new moments.
      means: as of `celo_core.kernels.interface.Finish`, of `momentum_over_deviation`.
    """
    wide = lambda x: x.astype(jnp.float32)
    gradient = interface.finite_gradient(batch.gradient, rule.gradient_clip)
    parts = [gradient, *(wide(m) for m in new.momenta)]
    blend = sum(addition.shares[k] * part for k, part in enumerate(parts))
    found = direction(blend if batch.stacked else blend[None])
    assert found is not None
    parameter_square, ratio_square = means
    sureness = addition.root * jnp.sqrt(ratio_square + 1e-12)
    length = features_lib.parameter_scale(parameter_square) * (addition.length[0] + addition.length[1] * sureness)
    return interface.cast_finite(
        wide(step) + networks.expand(length, step.ndim) * found.reshape(step.shape), step.dtype
    )


def momentum_over_deviation(values: features_lib.Values) -> Array:
    """``m_0^2 / (v + epsilon)``, elementwise: large where gradients have kept their sign."""
    return jnp.square(values.momenta[0]) / (values.second_moment + interface.ADAM_EPSILON)


FINISH = interface.Finish(lambda shape: matrix_shape(shape) is not None, momentum_over_deviation, add_direction)
"""What the fused update does to the steps of matrices."""


def _one_by_one(matrices: Array) -> Array:
    """`orthogonalize`; of many large matrices on one device one at a time, so that its temporaries are those of one."""
    count, rows, columns = matrices.shape
    if count == 1 or rows * columns <= STACKED or not reductions.on_one_device():
        return orthogonalize(matrices)
    return jax.lax.map(lambda matrix: orthogonalize(matrix[None])[0], matrices)
