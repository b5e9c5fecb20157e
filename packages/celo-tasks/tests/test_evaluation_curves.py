"""Smoothing, final losses, and steps to a level, against cases worked out by hand."""

import numpy as np
import pytest

from celo_tasks.evaluation import curves
from celo_tasks.evaluation.tuned_adam import steps_to


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


@pytest.mark.parametrize(
    ("level", "steps"),
    [(7.0, 1), (5.0, 1), (4.25, 1.5), (3.5, 2), (3.25, 3.5), (3.0, 4), (2.9, None)],
)
def test_steps_to_a_level_are_interpolated(level: float, steps: float | None) -> None:
    assert steps_to(np.array([1, 2, 3, 4]), np.array([5.0, 3.5, 3.5, 3.0]), level) == steps


def test_a_level_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="normalise"):
        steps_to(np.array([1, 2]), np.ones(2), float("nan"))
