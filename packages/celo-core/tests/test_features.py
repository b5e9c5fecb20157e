"""Closed forms of the update rule's features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import Celo, CeloConfig
from celo_core.accumulators import FactoredMoment, init_factored, update_factored
from celo_core.features import (
    CELO_FEATURES,
    FEATURES,
    compute_features,
    num_features,
    parameter_scale,
    safe_rsqrt,
    tensor_statistics,
)

DECAYS = (0.9, 0.99, 0.999)


def statistics_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    g, p = draw(), draw()
    factored = [update_factored(init_factored(g, jnp.float32), draw() ** 2 + 1e-30, decay) for decay in DECAYS]
    return tensor_statistics(g, p, [draw() for _ in DECAYS], draw() ** 2, factored)


def test_celo_has_30_features_in_14_groups():
    assert len(CELO_FEATURES) == 14
    assert num_features(CELO_FEATURES, 3, 3) == CeloConfig().num_features == 30


def test_published_order():
    """The order is part of the checkpoint format."""
    assert CELO_FEATURES == (
        *("gradient", "clipped_gradient", "parameter", "momentum", "second_moment", "momentum_over_rms", "inverse_rms"),
        *("factored_gradient", "gradient_over_rms", "row", "column", "inverse_root_row", "inverse_root_column"),
        "factored_momentum",
    )


def test_theta_has_154_numbers_in_the_rule():
    rule = Celo(CeloConfig(scheduler=None)).init(jax.random.key(0))
    assert list(rule) == ["update_rule"]
    assert sum(leaf.size for leaf in jax.tree.leaves(rule)) == 30 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2 == 154


@pytest.mark.parametrize("name", FEATURES)
def test_num_features_of_each_group(name):
    made = FEATURES[name](statistics_of((4, 3)))
    assert len(made) == num_features([name], 3, 3)


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 5, 4), (3, 1, 2, 2)])
def test_normalisation_is_that_over_the_broadcast_tensor(shape):
    """Row and column features are kept small; their scale must be what the full tensor's would be."""
    features, scales = compute_features(CELO_FEATURES, statistics_of(shape))
    assert len(features) == len(scales) == 30
    for feature, scale in zip(features, scales, strict=True):
        full = np.broadcast_to(np.asarray(feature, np.float64), shape)
        np.testing.assert_allclose(scale, 1 / np.sqrt(1e-5 + np.mean(full**2)), rtol=1e-5)  # float32 sums


def test_row_features_are_not_blown_up():
    features, _ = compute_features(("row", "column"), statistics_of((4, 3)))
    assert [f.shape for f in features] == [(1, 3)] * 3 + [(4, 1)] * 3


def test_factored_gradient_of_a_rank_one_second_moment_is_its_sign():
    """Where q = g^2 has rank one, the factored preconditioner is exact: g over root q."""
    a, b = np.array([1.0, -2.0, 4.0, 0.5]), np.array([3.0, -1.0])
    g = jnp.asarray(np.outer(a, b), jnp.float32)
    row, column = jnp.mean(g**2, axis=0), jnp.mean(g**2, axis=1)
    s = tensor_statistics(g, g, [g], g**2, [FactoredMoment(row, column)])
    np.testing.assert_allclose(FEATURES["factored_gradient"](s)[0], np.sign(g), rtol=1e-5)  # 1e-9 floors, float32


def test_factored_features_of_a_vector():
    """Below rank two: rs(full + 1e-9) for the gradient, full^(-1/2) for the momentum."""
    full = jnp.array([4.0, 1e-30])
    g, m = jnp.array([1.0, 1.0]), jnp.array([2.0, 1e-15])
    s = tensor_statistics(g, g, [m], full, [FactoredMoment(full, None)])
    np.testing.assert_allclose(FEATURES["factored_gradient"](s)[0], [0.5, 1e-9**-0.5], rtol=1e-5)
    np.testing.assert_allclose(FEATURES["factored_momentum"](s)[0], [1.0, 1.0], rtol=1e-5)


def test_safe_rsqrt_is_bounded():
    np.testing.assert_allclose(safe_rsqrt(jnp.array([0.0, 1e-12, 4.0])), [1e-9**-0.5, 1e-9**-0.5, 0.5], rtol=1e-6)


def test_parameter_scale():
    np.testing.assert_allclose(parameter_scale(jnp.array([3.0, 4.0])), np.sqrt(12.5), rtol=1e-6)
    np.testing.assert_allclose(parameter_scale(jnp.zeros((3,))), np.sqrt(1e-9), rtol=1e-6)
