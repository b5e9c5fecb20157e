"""Closed forms of the update rule's features."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import Celo, CeloConfig
from celo_core.accumulators import Moments
from celo_core.directions import MLP
from celo_core.features import (
    CELO_FEATURES,
    FEATURES,
    Kind,
    Values,
    clip_gradient,
    indices,
    make,
    normalizer,
    num_features,
    parameter_scale,
    row_factor,
    safe_rsqrt,
)

DECAYS = (0.9, 0.99, 0.999)


def values_of(shape, seed=0):
    """Random values for a matrix: rows and columns broadcast."""
    rng = np.random.default_rng(seed)
    draw = lambda shape=shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    row, column = [draw((1, shape[1])) ** 2 for _ in DECAYS], [draw((shape[0], 1)) ** 2 for _ in DECAYS]
    factors = [draw() ** 2 for _ in DECAYS]
    return Values(draw(), draw(), [draw() for _ in DECAYS], draw() ** 2, draw() ** 2, factors, factors, row, column)


def test_celo_has_30_features_in_14_groups():
    assert len(CELO_FEATURES) == 14
    assert num_features(CELO_FEATURES, 3) == MLP().num_features(Moments()) == 30


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
    assert len(FEATURES[name].of(values_of((4, 3)))) == num_features([name], 3)


@pytest.mark.parametrize("name", FEATURES)
def test_shape_follows_kind(name):
    """Row and column features are not broadcast; all others have the tensor's shape."""
    shapes = {Kind.ROW: (1, 3), Kind.COLUMN: (4, 1)}
    for feature in FEATURES[name].of(values_of((4, 3))):
        assert feature.shape == shapes.get(FEATURES[name].kind, (4, 3))


def test_indices_of_the_kinds_partition_the_checkpoint_order():
    by_kind = {kind: indices(CELO_FEATURES, 3, (kind,)) for kind in Kind}
    assert sorted(itertools.chain(*by_kind.values())) == list(range(30))
    assert by_kind[Kind.ROW] == [15, 16, 17, 21, 22, 23]
    assert by_kind[Kind.COLUMN] == [18, 19, 20, 24, 25, 26]
    assert by_kind[Kind.FACTORED] == [11, 12, 13, 27, 28, 29]


def test_make_follows_the_order_of_indices():
    values = values_of((4, 3))
    everything = [x for name in CELO_FEATURES for x in FEATURES[name].of(values)]
    kinds = (Kind.POINTWISE, Kind.FACTORED)
    for index, feature in zip(indices(CELO_FEATURES, 3, kinds), make(CELO_FEATURES, values, kinds), strict=True):
        np.testing.assert_array_equal(feature, everything[index])


def test_clip_gradient():
    np.testing.assert_allclose(clip_gradient(jnp.array([-3.0, -0.05, 0.2])), [-0.1, -0.05, 0.1], rtol=1e-6)


def test_row_factor_of_a_mean_row_is_one():
    np.testing.assert_allclose(row_factor(jnp.full((3,), 2.0), jnp.full((1,), 2.0)), np.ones(3), rtol=1e-6)


def test_normalizer():
    np.testing.assert_allclose(normalizer(jnp.array([0.0, 4.0])), [1e-5**-0.5, (4 + 1e-5) ** -0.5], rtol=1e-6)


def test_safe_rsqrt_is_bounded():
    np.testing.assert_allclose(safe_rsqrt(jnp.array([0.0, 1e-12, 4.0])), [1e-9**-0.5, 1e-9**-0.5, 0.5], rtol=1e-6)


def test_parameter_scale():
    np.testing.assert_allclose(parameter_scale(jnp.array([12.5, 0.0])), np.sqrt([12.5, 1e-9]), rtol=1e-6)
