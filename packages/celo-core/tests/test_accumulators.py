"""Closed forms of the running moments."""

import jax.numpy as jnp
import numpy as np
import pytest

from celo_core.accumulators import FACTORED_FLOOR, decay_average, factored_axes, init_factored, update_factored


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((7,), None),
        ((5, 3), (1, 0)),
        ((3, 5), (0, 1)),
        ((6, 6), (0, 1)),  # ties: the later axis counts as the larger
        ((1, 1), (0, 1)),
        ((2, 5, 4), (2, 1)),
        ((4, 4, 4), (1, 2)),
        ((3, 3, 4, 8), (2, 3)),
        ((8, 3, 8, 3), (0, 2)),
    ],
)
def test_factored_axes(shape, axes):
    assert factored_axes(shape) == axes


def test_decay_average_of_a_constant():
    """From zero, k steps towards a constant c give c (1 - decay^k)."""
    average = jnp.zeros(())
    for _ in range(20):
        average = decay_average(average, jnp.float32(3.0), 0.9)
    np.testing.assert_allclose(average, 3.0 * (1 - 0.9**20), rtol=1e-6)  # float32


def test_decay_average_of_low_precision_is_taken_in_float32():
    assert decay_average(jnp.zeros((2,), jnp.bfloat16), jnp.ones((2,), jnp.float32), 0.5).dtype == jnp.float32


@pytest.mark.parametrize(
    ("shape", "row", "column"),
    [((5, 3), (3,), (5,)), ((3, 5), (3,), (5,)), ((2, 5, 4), (2, 4), (2, 5)), ((7,), (7,), None), ((), (), None)],
)
def test_factored_shapes(shape, row, column):
    moment = init_factored(jnp.ones(shape, jnp.bfloat16), jnp.float32)
    assert moment.row.shape == row and moment.row.dtype == jnp.float32
    assert (None if moment.column is None else moment.column.shape) == column
    assert not np.any(moment.row)


def test_factored_moments_of_a_rank_one_square():
    """For q = a b^T the factored moments are the means along each axis, and their product restores q up to scale."""
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0])
    q = jnp.asarray(np.outer(a, b), jnp.float32)
    moment = init_factored(q, jnp.float32)
    for _ in range(3):
        moment = update_factored(moment, q, 0.5)
    weight = 1 - 0.5**3
    np.testing.assert_allclose(
        moment.row, weight * b * a.mean(), rtol=1e-6
    )  # axis 0 is the larger: averaged for the row
    np.testing.assert_allclose(moment.column, weight * a * b.mean(), rtol=1e-6)
    restored = np.outer(moment.column, moment.row) / np.mean(moment.row)
    np.testing.assert_allclose(restored, weight * np.outer(a, b), rtol=1e-6)


def test_factored_moments_of_a_vector_are_full():
    q = jnp.array([1.0, 4.0])
    np.testing.assert_allclose(update_factored(init_factored(q, jnp.float32), q, 0.9).row, 0.1 * q, rtol=1e-6)


def test_floor_is_a_normal_float32():
    """Else it would be flushed to zero and reciprocal roots would be infinite."""
    assert FACTORED_FLOOR > np.finfo(np.float32).tiny
