"""Aggregates of scores over a suite of tasks, with stratified bootstrap intervals.

A score matrix is float64 (seeds, tasks), higher is better: the ratios of final losses or the speed-ups of one optimizer.
Every statistic also takes leading batch axes, (..., seeds, tasks), and keeps them: `stratified_bootstrap` calls it once
for all resamples. ``docs/metrics.md`` has the formulas.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (arXiv 2108.13264), section 4.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Samples = ArrayLike | tuple[ArrayLike, ...]
"""One score matrix, or a tuple of them for a statistic of several."""

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with its interval.

    Attributes:
      low, value, high: floats, or float64 arrays of the statistic's shape (a profile's band, one rank per optimizer).
    """

    low: Any
    value: Any
    high: Any


def as_scores(scores: ArrayLike) -> Floats:
    """Checks scores and makes them float64 (..., seeds, tasks).

    Raises:
      ValueError: ``scores`` are not rectangular, are empty, or have a number that is not finite.
    """
    try:
        matrix = np.asarray(scores, np.float64)
    except ValueError as error:
        raise ValueError("Scores must be a rectangular matrix of numbers: give every task the same seeds.") from error
    if matrix.ndim < 2 or matrix.size == 0:
        raise ValueError(f"Scores must be a matrix (seeds, tasks) with a run at least, not of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError("Scores must be finite: normalise the losses first, and leave out tasks that were not run.")
    return matrix


def _runs(matrix: Floats) -> Floats:
    """(..., seeds, tasks) to (..., runs)."""
    return matrix.reshape(*matrix.shape[:-2], -1)


def iqm(scores: ArrayLike) -> Floats:
    """Interquartile mean: the mean of the runs of all tasks without the lowest and the highest quarter.

    Of n runs, ``int(n / 4)`` are left out at either end. (..., seeds, tasks) -> (...).
    """
    return stats.trim_mean(_runs(as_scores(scores)), 0.25, axis=-1)


def median(scores: ArrayLike) -> Floats:
    """Median over tasks of the mean over seeds. (..., seeds, tasks) -> (...)."""
    return np.median(as_scores(scores).mean(axis=-2), axis=-1)


def mean(scores: ArrayLike) -> Floats:
    """Mean over all runs of all tasks. (..., seeds, tasks) -> (...)."""
    return _runs(as_scores(scores)).mean(axis=-1)


def optimality_gap(scores: ArrayLike, threshold: float = 1.0) -> Floats:
    """How far runs fall short of ``threshold`` on average; runs above it count as at it, so lower is better.

    (..., seeds, tasks) -> (...).
    """
    return threshold - np.minimum(_runs(as_scores(scores)), threshold).mean(axis=-1)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of the runs of all tasks with a score above each threshold.

    Args:
      scores: (..., seeds, tasks).
      thresholds: (points,).

    Returns:
      (..., points), in [0, 1].
    """
    runs = _runs(as_scores(scores))
    return np.stack([(runs > threshold).mean(axis=-1) for threshold in np.asarray(thresholds, np.float64)], axis=-1)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Floats:
    """Probability that a run of X beats a run of Y on the same task, averaged over tasks; a tie counts as half.

    Args:
      x: (..., seeds of X, tasks).
      y: (..., seeds of Y, tasks), with the same leading axes.

    Returns:
      (...), in [0, 1].

    Raises:
      ValueError: the tasks differ in number.
    """
    x, y = _same_tasks(x, y)
    difference = x[..., :, None, :] - y[..., None, :, :]
    # As many pairs on every task, so that the mean over tasks of the means over pairs is the mean over all.
    return (0.5 + 0.5 * np.sign(difference)).reshape(*difference.shape[:-3], -1).mean(axis=-1)


def average_ranks(*scores: ArrayLike) -> Floats:
    """Rank of each optimizer's mean over seeds among the others', averaged over tasks; 1 is best, ties share a rank.

    Optimizers that are close swap ranks in every resample, so that a bootstrap interval of ranks is drawn to the middle
    and may miss the value: `probability_of_improvement` has no such fault.

    Args:
      *scores: one (..., seeds, tasks) per optimizer, with the same tasks in the same order; the seeds may differ in number.

    Returns:
      (..., optimizers), in [1, optimizers].

    Raises:
      ValueError: the tasks differ in number.
    """
    means = np.stack([matrix.mean(axis=-2) for matrix in _same_tasks(*scores)], axis=-2)
    return stats.rankdata(-means, axis=-2).mean(axis=-1)


def _same_tasks(*scores: ArrayLike) -> tuple[Floats, ...]:
    matrices = tuple(as_scores(one) for one in scores)
    if len({matrix.shape[-1] for matrix in matrices}) != 1:
        numbers = [matrix.shape[-1] for matrix in matrices]
        raise ValueError(f"Optimizers are compared on the same tasks, not on {numbers} of them: leave out the others.")
    return matrices


@overload
def stratified_bootstrap(
    scores: Mapping[str, Samples],
    statistic: Callable[..., Floats],
    *,
    resamples: int = ...,
    level: float = ...,
    seed: int = ...,
) -> dict[str, Interval]: ...


@overload
def stratified_bootstrap(
    scores: Samples, statistic: Callable[..., Floats], *, resamples: int = ..., level: float = ..., seed: int = ...
) -> Interval: ...


def stratified_bootstrap(
    scores: Mapping[str, Samples] | Samples,
    statistic: Callable[..., Floats],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval] | Interval:
    """Percentile interval of a statistic: seeds are drawn with replacement within each task, independently of the others.

    Tasks are the strata and stay as they are, so that an interval tells what other seeds would change, not other tasks.
    With one seed the only resample is the data, and the interval is the point.

    Args:
      scores: a matrix (seeds, tasks); or a tuple of them, each resampled independently, for a statistic of several; or a
        mapping from names to either, where each name gets the interval that it would get alone.
      statistic: maps (..., seeds, tasks), once or several times, to (...) or (..., points), as all of this module do.
      resamples: how many.
      level: coverage that is aimed at, in (0, 1).
      seed: of the random numbers.

    Returns:
      The interval, or a dict of them for a mapping.

    Raises:
      ValueError: scores are not finite, ``resamples`` or ``level`` make no sense, or ``statistic`` loses the batch axis.

    Source: arXiv 2108.13264, section 4.1 (stratified bootstrap confidence intervals).
    """
    if isinstance(scores, Mapping):
        options = {"resamples": resamples, "level": level, "seed": seed}
        return {name: stratified_bootstrap(one, statistic, **options) for name, one in scores.items()}  # type: ignore
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"An interval needs 1 resample or more and a level in (0, 1), not {resamples} and {level}.")
    samples = tuple(as_scores(one) for one in (scores if isinstance(scores, tuple) else (scores,)))
    if any(sample.ndim != 2 for sample in samples):
        raise ValueError("The bootstrap takes matrices (seeds, tasks): give several of them as a tuple or a mapping.")
    rng = np.random.default_rng(seed)
    value = np.asarray(statistic(*samples), np.float64)
    values = np.asarray(statistic(*(_resample(rng, sample, resamples) for sample in samples)), np.float64)
    if values.shape != (resamples, *value.shape):
        raise ValueError(
            f"The statistic must keep leading axes: {resamples} matrices at once gave shape {values.shape} where one "
            f"gave {value.shape}, so let it reduce over the last two axes only."
        )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(float(low), float(value), float(high)) if value.ndim == 0 else Interval(low, value, high)


def _resample(rng: np.random.Generator, sample: Floats, resamples: int) -> Floats:
    """(seeds, tasks) -> (resamples, seeds, tasks): every task draws its own seeds."""
    seeds = rng.integers(len(sample), size=(resamples, *sample.shape))
    return np.take_along_axis(sample[None], seeds, axis=1)
