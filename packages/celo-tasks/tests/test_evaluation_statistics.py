"""Aggregates and their intervals against cases worked out by hand, scipy, and the bootstrap's exact distribution."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from celo_tasks.evaluation import statistics
from celo_tasks.evaluation.statistics import Floats, stratified_bootstrap

EXACT = 1e-12
"""A few dozen float64 operations on numbers near 1 are off by 1e-14 or so."""

ONE_SAMPLE: list[Callable[..., Floats]] = [
    statistics.iqm,
    statistics.median,
    statistics.mean,
    statistics.optimality_gap,
]


def random_scores(seeds: int, tasks: int, key: int = 0) -> Floats:
    return np.random.default_rng(key).lognormal(sigma=0.7, size=(seeds, tasks))


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert statistics.iqm(np.arange(8.0).reshape(2, 4)) == 3.5  # 2, 3, 4, 5
    assert statistics.iqm([[0.0, 1.0, 5.0, 1000.0]]) == 3.0  # outliers are left out
    assert statistics.iqm([[-7.0, 2.0, 9.0]]) == pytest.approx(4 / 3, rel=EXACT)  # a quarter of 3 runs is none


@pytest.mark.parametrize(("seeds", "tasks"), [(1, 1), (1, 17), (3, 7), (5, 8)])
def test_aggregates_agree_with_scipy_and_numpy(seeds: int, tasks: int) -> None:
    scores = random_scores(seeds, tasks)
    assert statistics.iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=EXACT)
    assert statistics.median(scores) == pytest.approx(np.median(np.mean(scores, axis=0)), rel=EXACT)
    assert statistics.mean(scores) == pytest.approx(np.mean(scores), rel=EXACT)


def test_optimality_gap_counts_shortfalls_and_no_wins() -> None:
    scores = [[0.5, 1.0], [3.0, 0.7]]
    assert statistics.optimality_gap(scores) == pytest.approx((0.5 + 0 + 0 + 0.3) / 4, rel=EXACT)
    assert statistics.optimality_gap(scores, threshold=2.0) == pytest.approx((1.5 + 1 + 0 + 1.3) / 4, rel=EXACT)


def test_profile_is_the_share_of_runs_strictly_above() -> None:
    profile = statistics.performance_profile([[1.0, 2.0], [2.0, 4.0]], [0.5, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(profile, [1, 0.75, 0.25, 0.25, 0])


def test_area_under_the_profile_is_the_mean() -> None:
    # The integral of the survival function of a positive variable is its mean.
    scores = random_scores(3, 5)
    thresholds = np.linspace(0, scores.max(), 20_001)
    area = np.trapezoid(statistics.performance_profile(scores, thresholds), thresholds)
    # Each of the 15 jumps is off by half a step of the grid at most, weighted by 1/15.
    assert area == pytest.approx(statistics.mean(scores), abs=thresholds[1])


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    # Task 0: 1 < 2 (0), 3 > 2 (1). Task 1: 5 = 5 (1/2), 6 > 5 (1).
    assert statistics.probability_of_improvement([[1.0, 5.0], [3.0, 6.0]], [[2.0, 5.0]]) == (0.5 + 0.75) / 2
    assert statistics.probability_of_improvement(np.ones((3, 4)), np.ones((2, 4))) == 0.5


def test_probability_of_improvement_agrees_with_mann_whitney() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(5, size=(6, 4)), rng.integers(5, size=(3, 4))  # with ties
    expected = [stats.mannwhitneyu(x[:, m], y[:, m]).statistic / 18 for m in range(4)]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(expected), rel=EXACT)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_probabilities_of_either_side_sum_to_one(key: int, n: int, m: int, tasks: int) -> None:
    rng = np.random.default_rng(key)
    x, y = rng.integers(3, size=(n, tasks)), rng.integers(3, size=(m, tasks))
    sides = statistics.probability_of_improvement(x, y) + statistics.probability_of_improvement(y, x)
    assert sides == pytest.approx(1, rel=EXACT)


def test_ranks_share_ties_and_are_averaged_over_tasks() -> None:
    a, b, c = [[3.0, 1.0]], [[2.0, 1.0]], [[1.0, 5.0]]  # ranks 1 2 3, then 2.5 2.5 1
    np.testing.assert_array_equal(statistics.average_ranks(a, b, c), [1.75, 2.25, 2.0])


def test_ranks_are_of_means_over_seeds() -> None:
    # One lucky run of b does not make up for the other; b may have another number of seeds.
    np.testing.assert_array_equal(statistics.average_ranks([[2.0], [2.0]], [[5.0], [-2.0], [0.0]]), [1, 2])


@pytest.mark.parametrize("statistic", ONE_SAMPLE)
def test_batch_axes_are_kept(statistic: Callable[..., Floats]) -> None:
    batch = np.random.default_rng(0).random((2, 4, 3, 5))
    assert statistic(batch).shape == (2, 4)
    np.testing.assert_allclose(statistic(batch)[1, 2], statistic(batch[1, 2]), rtol=EXACT)


def test_bootstrap_of_two_seeds_has_the_quantiles_of_all_resamples() -> None:
    # Two seeds and three tasks: 4 draws for each task, 64 resamples in all, equally probable.
    scores = np.array([[0.1, 1.0, 5.0], [0.4, 1.7, 5.9]])
    draws = itertools.product(itertools.product([0, 1], repeat=2), repeat=3)
    means = np.array([np.mean([scores[list(rows), m] for m, rows in enumerate(draw)]) for draw in draws])
    ordered = np.sort(means)
    # Quantiles in the middle of one resample's share, 10.5/64 and 53.5/64: 0.5/64 from the next value, which is four times
    # the standard deviation of 0.0019 that the share of 40,000 draws below a value has.
    found = stratified_bootstrap(scores, statistics.mean, resamples=40_000, level=43 / 64)
    assert (found.low, found.high) == pytest.approx((ordered[10], ordered[53]), rel=EXACT)


def test_interval_of_the_mean_is_the_normal_one_for_many_tasks() -> None:
    # The variance of the resampled mean is known: within tasks, over (seeds * tasks).
    scores = np.random.default_rng(2).normal(size=(5, 100))
    deviation = np.sqrt(scores.var(axis=0).mean() / scores.size)
    found = stratified_bootstrap(scores, statistics.mean, resamples=10_000)
    # A 2.5 % quantile of 10,000 normal draws has a standard error of 0.027 deviations: five of them.
    assert found.low == pytest.approx(found.value - 1.96 * deviation, abs=0.13 * deviation)
    assert found.high == pytest.approx(found.value + 1.96 * deviation, abs=0.13 * deviation)


def test_variance_between_tasks_does_not_enter() -> None:
    scores = random_scores(3, 6)
    apart = scores + 1000 * np.arange(6)
    near, far = stratified_bootstrap(scores, statistics.mean), stratified_bootstrap(apart, statistics.mean)
    # 1000 costs three of sixteen digits.
    assert far.high - far.low == pytest.approx(near.high - near.low, rel=1e-9)


def test_seeds_are_drawn_for_each_task_on_its_own() -> None:
    # Were whole seeds drawn, two tasks with opposite scores would always cancel.
    scores = np.array([[1.0, -1.0], [-1.0, 1.0], [0.5, -0.5]])
    found = stratified_bootstrap(scores, statistics.mean)
    assert found.low < -0.4 and found.value == 0 and found.high > 0.4


@pytest.mark.parametrize("statistic", ONE_SAMPLE)
def test_interval_contains_the_value(statistic: Callable[..., Floats]) -> None:
    for key in range(5):
        found = stratified_bootstrap(random_scores(4, 9, key), statistic, resamples=500)
        assert found.low < found.value < found.high


@pytest.mark.parametrize("statistic", [statistics.iqm, statistics.mean])
def test_interval_shrinks_with_more_seeds(statistic: Callable[..., Floats]) -> None:
    rng = np.random.default_rng(0)
    few, many = (stratified_bootstrap(rng.random((seeds, 8)), statistic) for seeds in (4, 64))
    # By sqrt(16), and a fifth more or less for a width known from 4 seeds.
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.4)


@pytest.mark.parametrize("statistic", [*ONE_SAMPLE, lambda x: statistics.performance_profile(x, [0.5, 1.0, 2.0])])
@pytest.mark.parametrize("scores", [random_scores(1, 9), np.tile(random_scores(1, 7), (4, 1))])
def test_one_seed_or_constant_tasks_give_the_point(statistic: Callable[..., Floats], scores: Floats) -> None:
    found = stratified_bootstrap(scores, statistic, resamples=50)
    np.testing.assert_array_equal(found.low, found.high)
    np.testing.assert_allclose(found.low, found.value, rtol=EXACT)


def test_interval_widens_with_the_level_and_repeats_with_the_seed() -> None:
    scores = random_scores(3, 8)
    half, most = (stratified_bootstrap(scores, statistics.iqm, level=level) for level in (0.5, 0.95))
    assert most.low < half.low < half.high < most.high
    assert stratified_bootstrap(scores, statistics.iqm) == most
    assert stratified_bootstrap(scores, statistics.iqm, seed=1) != most


def test_names_get_the_interval_that_they_would_get_alone() -> None:
    x, y = random_scores(3, 4, 0), random_scores(2, 4, 1)
    both = stratified_bootstrap({"x": x, "y": y}, statistics.iqm)
    assert both == {name: stratified_bootstrap(one, statistics.iqm) for name, one in (("x", x), ("y", y))}
    pairs = stratified_bootstrap({"x over y": (x, y)}, statistics.probability_of_improvement)
    assert pairs["x over y"] == stratified_bootstrap((x, y), statistics.probability_of_improvement)


def test_samples_are_resampled_independently() -> None:
    # X and Y are the same: resampled alike they would always tie.
    x = random_scores(3, 2)
    found = stratified_bootstrap((x, x), statistics.probability_of_improvement)
    assert found.low < 0.4 and found.value == 0.5 and found.high > 0.6


def test_bands_of_vector_statistics_have_their_shape() -> None:
    scores, thresholds = random_scores(3, 8), np.geomspace(0.1, 10, 11)
    band = stratified_bootstrap(scores, lambda x: statistics.performance_profile(x, thresholds))
    np.testing.assert_array_equal(band.value, statistics.performance_profile(scores, thresholds))
    assert band.low.shape == band.high.shape == (11,)
    assert (0 <= band.low).all() and (band.low <= band.value).all() and (band.value <= band.high).all()
    ranks = stratified_bootstrap((scores, scores[::-1], 2 * scores), statistics.average_ranks)
    assert ranks.value.shape == ranks.low.shape == (3,)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([[1.0, float("nan")]], "must be finite"),
        ([[1.0, float("inf")]], "must be finite"),
        ([[1.0, 2.0], [1.0]], "rectangular"),
        ([1.0, 2.0], r"matrix \(seeds, tasks\)"),
        (np.zeros((0, 3)), r"matrix \(seeds, tasks\)"),
    ],
)
@pytest.mark.parametrize("statistic", ONE_SAMPLE)
def test_scores_that_are_no_matrix_are_refused(statistic: Callable[..., Floats], scores: Floats, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        statistic(scores)
    with pytest.raises(ValueError, match=sentence):
        stratified_bootstrap(scores, statistic)


def test_misuse_is_told_in_a_sentence() -> None:
    x, y = np.ones((2, 3)), np.ones((2, 4))
    with pytest.raises(ValueError, match="same tasks"):
        statistics.probability_of_improvement(x, y)
    with pytest.raises(ValueError, match="same tasks"):
        statistics.average_ranks(x, y)
    with pytest.raises(ValueError, match="level in"):
        stratified_bootstrap(x, statistics.mean, level=95)
    with pytest.raises(ValueError, match="keep leading axes"):
        stratified_bootstrap(x, lambda scores: scores.mean())
    with pytest.raises(ValueError, match="as a tuple or a mapping"):
        stratified_bootstrap(np.ones((2, 3, 4)), statistics.mean)
