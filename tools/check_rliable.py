"""Compares the statistics of evaluations with rliable's on random score matrices: ``nox -s rliable``.

Values agree to 1e-12. Intervals, whose random numbers differ, agree within a few percent of their width.
"""

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from rliable import library, metrics

from celo_tasks.evaluation import statistics
from celo_tasks.evaluation.statistics import Interval

SHAPES = ((3, 8), (5, 17), (10, 4), (4, 1))
"""(seeds, tasks)."""

EXACT = 1e-12
"""A few dozen float64 operations on numbers near 1 are off by 1e-14 or so."""

RESAMPLES = 20_000
PART_OF_WIDTH = 0.08
"""Of 1,000 resamples, the fewest here, the end of a normal interval has a standard error of 2 % of its width."""

THRESHOLDS = np.geomspace(0.1, 10, 11)

AGGREGATES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "IQM": (statistics.iqm, metrics.aggregate_iqm),
    "median": (statistics.median, metrics.aggregate_median),
    "mean": (statistics.mean, metrics.aggregate_mean),
    "optimality gap": (statistics.optimality_gap, metrics.aggregate_optimality_gap),
}


def scores(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Random ratios, spread more between tasks than between seeds, with some ties."""
    rng = np.random.default_rng(seed)
    return np.round(np.exp(0.6 * rng.normal(size=shape[1]) + 0.4 * rng.normal(size=shape)), 1) + 0.1


def differences(ours: Interval, value: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """Largest difference of values, and of intervals' ends as a part of rliable's widths."""
    width = np.maximum(ends[1] - ends[0], 1e-9)  # both may be points
    apart = np.maximum(np.abs(ours.low - ends[0]), np.abs(ours.high - ends[1])) / width
    return float(np.max(np.abs(ours.value - value))), float(np.max(apart))


def compare(shape: tuple[int, int], seed: int) -> dict[str, tuple[float, float]]:
    """Differences of all statistics on one pair of score matrices."""
    x, y = scores(shape, seed), scores(shape, seed + 1)
    np.random.seed(seed)  # rliable draws from numpy's global generator
    results = {}
    for name, (ours, theirs) in AGGREGATES.items():
        values, ends = library.get_interval_estimates({name: x}, lambda s, f=theirs: np.array([f(s)]), reps=RESAMPLES)
        found = statistics.stratified_bootstrap(x, ours, resamples=RESAMPLES)
        results[name] = differences(found, values[name][0], ends[name][:, 0])
    theirs = lambda a, b: np.array([metrics.probability_of_improvement(a, b)])
    # A Mann-Whitney test per task and resample takes a millisecond: fewer resamples.
    values, ends = library.get_interval_estimates({"pair": (x, y)}, theirs, reps=RESAMPLES // 20)
    found = statistics.stratified_bootstrap((x, y), statistics.probability_of_improvement, resamples=RESAMPLES)
    results["probability of improvement"] = differences(found, values["pair"][0], ends["pair"][:, 0])
    profiles, bands = library.create_performance_profile({"x": x}, THRESHOLDS, reps=RESAMPLES // 4)
    profile = lambda s: statistics.performance_profile(s, THRESHOLDS)
    found = statistics.stratified_bootstrap(x, profile, resamples=RESAMPLES)
    results["performance profile"] = differences(found, profiles["x"], bands["x"])
    return results


def main() -> int:
    """Prints all differences; returns 1 if one is too large."""
    names = ("rliable", "arch", "pandas", "scipy", "numpy")
    print(f"python {sys.version.split()[0]}, " + ", ".join(f"{name} {metadata.version(name)}" for name in names))
    failed = False
    for seed, shape in enumerate(SHAPES):
        print(f"{shape[0]} seeds x {shape[1]} tasks (difference of values; of intervals, in widths)")
        for name, (value, ends) in compare(shape, 10 * seed).items():
            bad = value > EXACT or ends > PART_OF_WIDTH
            failed |= bad
            print(f"  {name:<28}{value:8.1e} {ends:8.3f}{'  <- differs' if bad else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
