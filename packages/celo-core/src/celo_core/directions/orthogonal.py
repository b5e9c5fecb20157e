r"""The orthogonalised momentum: a direction of a matrix in which all its singular values are about 1.

A gradient of a weight matrix has few large singular values and many small ones. A step along the polar factor
:math:`U V^T` of the momentum :math:`U \Sigma V^T` moves equally far along all of them. A network that reads one parameter
at a time, and statistics of rows and columns, cannot find that direction.

Source: Jordan et al., "Muon", 2024 (kellerjordan.github.io/posts/muon); Bernstein and Newhouse, arXiv 2409.20325.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo_core import features as features_lib
from celo_core.accumulators import Moments
from celo_core.directions.base import ADAM_EPSILON, SCALE, Direction, correction
from celo_core.kernels import interface, reductions
from celo_core.kernels.interface import Accumulators, Batch

Array = jax.Array

ITERATIONS = 5
"""Newton-Schulz iterations."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of X, X X^T X and (X X^T)^2 X: Muon's, which raise small singular values fast and leave all between 0.7 and 1.2."""

WIDE = 2
"""A matrix with at least this ratio of its sides is orthogonalised via its Gram matrix."""

STACKED = 131_072
"""Stacked matrices of more elements than this are orthogonalised one by one."""


def matrix_shape(shape: Sequence[int]) -> tuple[int, int] | None:
    """Shape of the matrix that a tensor is reshaped to: consecutive axes are merged so that it is as square as possible.

    The kernel of a convolution, (height, width, inputs, outputs), becomes (height * width * inputs, outputs), and those of
    attention, (width, heads, size) and (heads, size, width), become square.

    Returns:
      ``(rows, columns)``, or ``None`` where the result is a vector, which orthogonalisation only rescales.
    """
    if len(shape) < 2 or math.prod(shape) == 0:
        return None
    cuts = [(math.prod(shape[:axis]), math.prod(shape[axis:])) for axis in range(1, len(shape))]
    rows, columns = min(cuts, key=max)
    return None if min(rows, columns) == 1 else (rows, columns)


def orthogonalize(matrix: Array) -> Array:
    """The approximate polar factor of a matrix: its singular vectors with singular values between 0.7 and 1.2.

    Singular values of less than about a thousandth of the Frobenius norm stay smaller. A matrix of zeros gives zeros.

    Args:
      matrix: float32 (..., m, n).

    Returns:
      float32 (..., m, n), independent of the scale of the matrix.
    """
    # Normalised in two steps, since squares of small numbers underflow to 0 in float32.
    x = matrix / jnp.maximum(jnp.max(jnp.abs(matrix), axis=(-1, -2), keepdims=True), np.finfo(np.float32).tiny)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=(-1, -2), keepdims=True), 1e-12))
    return _iterate_gram(x) if max(x.shape[-2:]) >= WIDE * min(x.shape[-2:]) else _iterate(x)


def _gram(x: Array, **options: Any) -> Array:
    """Products of the rows of a matrix with one another, or of its columns: the smaller of the two matrices."""
    y = jnp.swapaxes(x, -1, -2)
    return jnp.matmul(*((y, x) if x.shape[-2] > x.shape[-1] else (x, y)), **options)


def _times(gram: Array, x: Array, **options: Any) -> Array:
    """The product of a polynomial in the Gram matrix of `_gram` and the matrix, on the side that fits."""
    return jnp.matmul(*((x, gram) if x.shape[-2] > x.shape[-1] else (gram, x)), **options)


def _iterate(x: Array) -> Array:
    """The iteration on a matrix itself, which tolerates half precision and TF32."""
    first, third, fifth = COEFFICIENTS

    def once(_: Any, x: Array) -> Array:
        gram = _gram(x)
        return first * x + _times(third * gram + fifth * gram @ gram, x)

    # As a loop, a fifth of the products is compiled.
    return jax.lax.fori_loop(np.int32(0), np.int32(ITERATIONS), once, x)


def _iterate_gram(x: Array) -> Array:
    """The same iteration on the Gram matrix: ``x`` is multiplied twice in all, instead of ten times.

    Every iterate is a polynomial in the first one's Gram matrix, times ``x``. Rounding may give the Gram matrix eigenvalues
    below 0, which each iteration multiplies by twelve: harmless if they begin at 1e-7, but not at TF32's 1e-3.
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


def momentum_over_deviation(values: features_lib.Values) -> Array:
    """``m_0^2 / (v + epsilon)``, elementwise: large where gradients have kept their sign."""
    return jnp.square(values.momenta[0]) / (values.second_moment + ADAM_EPSILON)


class Prepared(NamedTuple):
    """Meta-parameters in a step, with their factor and bias corrections.

    Attributes:
      shares: float32 (1 + momenta,), weights of the gradient and of each momentum in the matrix that is orthogonalised.
      root: float32 (), factor on the root mean square of the first momentum over the root of the second moment.
      length: float32 (2,), the constant part of the length and the part proportional to this root mean square.
    """

    shares: Array
    root: Array
    length: Array


@dataclasses.dataclass(frozen=True)
class Orthogonal(Direction, type="orthogonal"):
    """The orthogonalised momentum of matrices, with learned shares of the momenta and a learned length.

    ``o = 10 (u_0 + u_1 r) sqrt(max(m, n)) orthogonalize(c_0 g + sum_k c_k m_k)``, with bias-corrected momenta and r the root
    mean square of ``m_0 / sqrt(v)``, large where gradients keep their signs. theta: ``{"momentum": c, "length": u}``.
    """

    is_elementwise = False

    def init(self, key: Array, moments: Moments) -> dict[str, Any]:
        """Nesterov's momentum of the first decay, and steps of 1 to 3 % of the parameters."""
        del key
        momentum = [0.1, 0.9, *[0.0] * (len(moments.momentum_decays) - 1)]
        return {"momentum": jnp.array(momentum, jnp.float32), "length": jnp.array([1.0, 2.0], jnp.float32)}

    def prepare(self, weights: dict[str, Any], moments: Moments, count: Array) -> Prepared:
        """See `Prepared`."""
        corrections = [correction(decay, count) for decay in moments.momentum_decays]
        return Prepared(
            shares=weights["momentum"] / jnp.stack([jnp.ones_like(corrections[0]), *corrections]),
            root=jnp.sqrt(correction(moments.second_moment_decay, count)) / corrections[0],
            length=SCALE * weights["length"],
        )

    def init_state(self, parameter: Array, dtype: Any) -> None:
        """It keeps none."""

    def applies(self, shape: Sequence[int]) -> bool:
        """True for matrices, see `matrix_shape`."""
        return matrix_shape(shape) is not None

    def statistic(self, values: features_lib.Values) -> Array:
        """See `celo_core.kernels.interface.PerTensor`."""
        return momentum_over_deviation(values)

    def step(
        self, moments: Moments, weights: Prepared, batch: Batch, new: Accumulators, mean: Array, state: Any
    ) -> tuple[Array, Any]:
        """See `celo_core.kernels.interface.PerTensor`."""
        gradient = interface.finite_gradient(batch.gradient, moments.gradient_clip)
        parts = [gradient, *(m.astype(jnp.float32) for m in new.momenta)]
        blend: Any = sum(weights.shares[k] * part for k, part in enumerate(parts))
        found = direction(blend if batch.stacked else blend[None])
        assert found is not None
        sureness = weights.root * jnp.sqrt(mean + 1e-12)
        length = weights.length[0] + weights.length[1] * sureness
        return interface.expand(length, batch.gradient.ndim) * found.reshape(batch.gradient.shape), state


def _one_by_one(matrices: Array) -> Array:
    """`orthogonalize`; many large matrices on one device one at a time, so that temporary arrays are those of one."""
    count, rows, columns = matrices.shape
    if count == 1 or rows * columns <= STACKED or not reductions.on_one_device():
        return orthogonalize(matrices)
    return jax.lax.map(lambda matrix: orthogonalize(matrix[None])[0], matrices)
