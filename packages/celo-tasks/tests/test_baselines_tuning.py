"""Learning-rate grids, schedules and settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo_tasks.baselines import (
    LEARNING_RATES_6,
    LEARNING_RATES_15,
    LEARNING_RATES_SMALL,
    SCHEDULES,
    Setting,
    grid,
    learning_rate_schedule,
    schedule_factor,
)


def test_grids_are_half_decades() -> None:
    assert len(LEARNING_RATES_15) == 15 and len(LEARNING_RATES_SMALL) == 11
    assert LEARNING_RATES_15[:3] == (1e-7, 3e-7, 1e-6) and LEARNING_RATES_15[-3:] == (1e-1, 3e-1, 1.0)
    assert LEARNING_RATES_6 == (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    assert LEARNING_RATES_SMALL[0] == 1e-5 and LEARNING_RATES_SMALL[-1] == 1.0
    for rates in (LEARNING_RATES_15, LEARNING_RATES_SMALL):
        # Steps of 3 and of 10/3 by turns; the numbers are written in decimals.
        np.testing.assert_allclose(np.divide(rates[1:], rates[:-1])[::2], 3, rtol=1e-12)
        np.testing.assert_allclose(np.divide(rates[2:], rates[:-2]), 10, rtol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 7, 39, 40, 300])
def test_cosine_is_its_closed_form(num_steps: int) -> None:
    warm_up = max(1, num_steps // 20)
    count = np.arange(num_steps)
    everything = np.asarray(schedule_factor("cosine", num_steps)(jnp.arange(400)))  # one shape, compiled once
    factor, after = everything[:num_steps], everything[num_steps:]
    assert factor.dtype == np.float32 and factor.min() > 0 and factor.max() == 1
    assert factor[0] == np.float32(1 / warm_up)
    np.testing.assert_array_equal(np.flatnonzero(factor == 1), [warm_up - 1])
    last = np.sin(0.5 * np.pi / (num_steps + 1 - warm_up)) ** 2 if num_steps > 1 else 1.0
    # A cosine near -1 is rounded to 6e-8 in float32.
    np.testing.assert_allclose(factor[-1], last, atol=1e-7)
    np.testing.assert_allclose(factor.mean(dtype=np.float64), (1 + 1 / num_steps) / 2, rtol=1e-6)
    half = np.cos(np.pi * (count + 1 - warm_up) / (num_steps + 1 - warm_up)) / 2 + 0.5
    np.testing.assert_allclose(factor, np.where(count < warm_up, (count + 1) / warm_up, half), atol=1e-6)  # rounding
    np.testing.assert_array_equal(after, 0)


def test_constant_is_one_and_counts_may_be_traced() -> None:
    np.testing.assert_array_equal(schedule_factor("constant", 9)(jnp.arange(20)), np.ones(20, np.float32))
    for name in SCHEDULES:
        shape = schedule_factor(name, 100)
        # A compiled division is rounded otherwise.
        np.testing.assert_allclose(jax.jit(shape)(jnp.int32(30)), shape(30), rtol=1e-6)


def test_cosine_decay_is_optax_s() -> None:
    count = jnp.arange(30)
    expected = optax.cosine_decay_schedule(0.3, 20)(count)
    np.testing.assert_allclose(0.3 * schedule_factor("cosine_decay", 20)(count), expected, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [7, 300])
def test_one_program_serves_all_schedules(num_steps: int) -> None:
    """Traced rates and schedules, under vmap, are what each schedule gives alone."""
    settings = [*grid((0.1, 0.3), tuple(SCHEDULES)), Setting()]
    rates = jnp.array([setting.learning_rate or 0.0 for setting in settings])
    indices = jnp.array([setting.schedule_index for setting in settings])
    count = jnp.arange(num_steps)
    found = jax.jit(jax.vmap(lambda rate, index: learning_rate_schedule(rate, index, num_steps)(count)))(rates, indices)
    assert found.dtype == jnp.float32
    for setting, row in zip(settings[:-1], found, strict=False):
        expected = setting.learning_rate * schedule_factor(setting.schedule, num_steps)(count)
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=6e-8)  # a cosine near -1 is rounded to 6e-8
    np.testing.assert_array_equal(found[-1], 0)


def test_senseless_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="constant, cosine, cosine_decay"):
        schedule_factor("linear", 10)
    with pytest.raises(ValueError, match="num_steps"):
        schedule_factor("cosine", 0)


def test_settings_have_a_text_form() -> None:
    assert [str(setting) for setting in grid((3e-3, 1.0, 1e-7, 0.25))] == [
        *("3e-3 constant", "1e0 constant", "1e-7 constant", "2.5e-1 constant"),
        *("3e-3 cosine", "1e0 cosine", "1e-7 cosine", "2.5e-1 cosine"),
    ]
    assert str(Setting()) == "none" and Setting.parse("none") == Setting()
    assert Setting.parse("0.003 cosine") == Setting(3e-3, "cosine")
    assert grid((0.1,), ("cosine",)) == (Setting(0.1, "cosine"),)


@settings(deadline=None, max_examples=50)
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False), st.sampled_from(tuple(SCHEDULES)))
def test_text_form_is_read_back_exactly(rate: float, schedule: str) -> None:
    setting = Setting(rate, schedule)
    assert Setting.parse(str(setting)) == setting


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "like '3e-3 cosine'"),
        ("3e-3", "like '3e-3 cosine'"),
        ("fast cosine", "like '3e-3 cosine'"),
        ("3e-3 linear", "constant, cosine, cosine_decay"),
        ("0 cosine", "positive"),
        ("nan cosine", "positive"),
        ("inf cosine", "positive"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting.parse(text)


def test_half_a_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        Setting(0.1)
    with pytest.raises(ValueError, match="neither"):
        Setting(schedule="cosine")
