"""Smoothing, envelope and speed-up against cases worked out by hand."""

import numpy as np
import pytest

from celo_tasks.evaluation import curves


def test_smoothing_has_no_bias_towards_the_start() -> None:
    # Decay 1/2: (4), (4 + 2*1)/3, (4 + 2*1 + 4*2)/7.
    np.testing.assert_allclose(curves.smooth(np.array([4.0, 1.0, 2.0]), decay=0.5), [4.0, 2.0, 2.0], rtol=1e-12)
    np.testing.assert_allclose(curves.smooth(np.full((2, 50), 3.0)), 3.0, rtol=1e-12)


def test_default_smoothing_is_the_protocol_s() -> None:
    losses = np.random.default_rng(0).random(30)
    weights = 0.95 ** np.arange(30)[::-1]
    assert curves.smooth(losses)[-1] == pytest.approx(np.sum(weights * losses) / weights.sum(), rel=1e-12)


def test_final_loss_is_the_mean_of_the_last_twentieth() -> None:
    assert curves.final_loss(np.arange(100.0)) == pytest.approx((95 + 96 + 97 + 98 + 99) / 5)
    assert curves.final_loss(np.array([5.0, 1.0])) == 1.0  # one step at least
    np.testing.assert_allclose(curves.final_loss(np.stack([np.arange(40.0), np.zeros(40)])), [38.5, 0.0])


def test_envelope_is_the_best_so_far() -> None:
    smoothed = np.array([[5.0, 4.0, 4.5, 3.0], [6.0, 3.5, 4.0, 9.0]])
    np.testing.assert_array_equal(curves.envelope(smoothed), [5.0, 3.5, 3.5, 3.0])


@pytest.mark.parametrize(("level", "step"), [(7.0, 1), (5.0, 1), (4.9, 2), (3.5, 2), (3.2, 4), (3.0, 4), (2.9, None)])
def test_first_step(level: float, step: int | None) -> None:
    assert curves.first_step(np.array([5.0, 3.5, 3.5, 3.0]), level) == step


def test_speedup_below_one_where_the_baseline_is_faster() -> None:
    found = curves.speedup(np.array([5.0, 3.5, 3.5, 3.0]), 3.5, 4)
    assert found == (0.5, 2, 4) and str(found) == "0.50"


def test_speedup_above_one_where_the_baseline_trains_longer() -> None:
    found = curves.speedup(np.array([5.0, 4.0, 3.0, 2.0]), 2.5, 2)
    assert found == (2.0, 4, 2) and str(found) == "2.00"


def test_speedup_is_a_lower_bound_where_the_baseline_never_gets_there() -> None:
    found = curves.speedup(np.array([5.0, 3.5, 3.5, 3.0]), 2.9, 4)
    assert found == (1.0, None, 4) and str(found) == "> 1.00"


def test_a_level_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="normalise"):
        curves.speedup(np.ones(3), float("nan"), 3)
