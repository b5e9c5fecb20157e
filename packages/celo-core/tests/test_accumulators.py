"""Closed forms of the running moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core.accumulators import (
    FACTORED_FLOOR,
    FactoredMoment,
    decay_average,
    factored_axes,
    init_factored,
    places,
    random_bits,
    round_stochastically,
    store,
)


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
        moment = FactoredMoment(
            decay_average(moment.row, q.mean(axis=0), 0.5), decay_average(moment.column, q.mean(axis=1), 0.5)
        )
    weight = 1 - 0.5**3
    np.testing.assert_allclose(
        moment.row, weight * b * a.mean(), rtol=1e-6
    )  # axis 0 is the larger: averaged for the row
    np.testing.assert_allclose(moment.column, weight * a * b.mean(), rtol=1e-6)
    restored = np.outer(moment.column, moment.row) / np.mean(moment.row)
    np.testing.assert_allclose(restored, weight * np.outer(a, b), rtol=1e-6)


def test_floor_is_a_normal_float32():
    """Otherwise it would be flushed to zero and reciprocal roots would be infinite."""
    assert FACTORED_FLOOR > np.finfo(np.float32).tiny


def test_places_are_row_major():
    np.testing.assert_array_equal(places((2, 3, 4)), np.arange(24).reshape(2, 3, 4))


def test_random_bits_are_uniform_and_differ_between_seeds():
    bits = np.asarray(random_bits(jnp.uint32(7), places((4096,)))) & 0xFFFF
    other = np.asarray(random_bits(jnp.uint32(8), places((4096,)))) & 0xFFFF
    # The mean of 4,096 uniform numbers is within 5 standard errors, 65,536 / sqrt(12 * 4096) each.
    assert abs(bits.mean() - 32767.5) < 5 * 65536 / np.sqrt(12 * 4096)
    assert abs(np.corrcoef(bits, other)[0, 1]) < 5 / np.sqrt(4096)
    assert abs(np.corrcoef(bits[1:], bits[:-1])[0, 1]) < 5 / np.sqrt(4096)


@pytest.mark.parametrize("value", [1.001, -1.001, 3.14159e-5, -7.7e8])
def test_stochastic_rounding_is_right_in_expectation(value):
    count = 65_536
    x = jnp.full((count,), value, jnp.float32)
    rounded = np.asarray(store(x, jnp.bfloat16, jnp.uint32(3)).astype(jnp.float32), np.float64)
    ulp = abs(np.diff(np.unique(rounded))).max()
    assert len(np.unique(rounded)) == 2
    # A Bernoulli variable of two neighbours, one unit in the last place apart: at most ulp / 2 of standard deviation.
    assert abs(rounded.mean() - np.float64(np.float32(value))) < 5 * ulp / 2 / np.sqrt(count)


def test_stochastic_rounding_keeps_what_bfloat16_can_hold_and_finite_numbers_finite():
    exact = jnp.array([0.0, 1.0, -0.5, 2.0**100], jnp.float32)
    every = jnp.full(exact.shape, 0xFFFF, jnp.uint32)
    np.testing.assert_array_equal(round_stochastically(exact, every).astype(jnp.float32), exact)
    largest = jnp.array([np.finfo(np.float32).max, -np.finfo(np.float32).max])
    assert np.all(np.isfinite(round_stochastically(largest, every[:2]).astype(jnp.float32)))


def test_an_average_of_long_memory_moves_in_bfloat16():
    """Rounded to the nearest, it would not change at all in 1000 steps of decay 0.999 from 1 towards 1.2."""

    def run(keep):
        step = lambda i, m: keep(decay_average(m, jnp.full((256,), 1.2), 0.999), i)
        return jax.lax.fori_loop(0, 1000, step, jnp.ones((256,), jnp.bfloat16)).astype(jnp.float32)

    assert np.all(run(lambda x, i: x.astype(jnp.bfloat16)) == 1.0)
    moved = run(lambda x, i: store(x, jnp.bfloat16, jnp.uint32(i * 977)))
    # 1.2 - 0.2 * 0.999^1000; rounding noise of 2^-8 per step over a memory of 500 steps, averaged over 256 elements.
    np.testing.assert_allclose(np.mean(moved), 1.2 - 0.2 * 0.999**1000, atol=0.01)
