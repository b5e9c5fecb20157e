"""What an optimizer is tuned over: learning rates by schedules, all of them in one compiled program."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo_tasks.spelling import nearest

Array = jax.Array

LEARNING_RATES_15 = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Half decades from 1e-7 to 1: the grid of the public task library's baselines."""

LEARNING_RATES_SMALL = LEARNING_RATES_15[4:]
"""Half decades from 1e-5 to 1."""

LEARNING_RATES_6 = LEARNING_RATES_15[7:13]
"""Half decades from 3e-4 to 1e-1: from too small to too large for the small networks of the quickstart."""

LEARNING_RATES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"public": LEARNING_RATES_15, "small": LEARNING_RATES_SMALL, "quickstart": LEARNING_RATES_6}
)
"""The grids by the names that suites call them by."""

WARM_UP = 20
"""One step in so many is warm-up of the schedule ``cosine``: 5 %."""


def _constant(num_steps: int) -> optax.Schedule:
    """1."""
    del num_steps
    return lambda count: jnp.ones(jnp.shape(count), jnp.float32)


def _cosine(num_steps: int) -> optax.Schedule:
    """A linear warm-up, then cosine decay; see `schedule_factor`."""
    warm_up = max(1, num_steps // WARM_UP)

    def factor(count: Any) -> Array:
        done = jnp.asarray(count).astype(jnp.float32) + 1
        progress = jnp.clip((done - warm_up) / (num_steps + 1 - warm_up), 0.0, 1.0)
        return jnp.where(done < warm_up, done / warm_up, 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return factor


def _cosine_decay(num_steps: int) -> optax.Schedule:
    """Cosine decay from the first step on, as Optax has it."""
    return optax.cosine_decay_schedule(1.0, num_steps)


SCHEDULES: Mapping[str, Callable[[int], optax.Schedule]] = MappingProxyType(
    {"constant": _constant, "cosine": _cosine, "cosine_decay": _cosine_decay}
)
"""Learning-rate schedules by name: each maps the number of steps to the factor of the learning rate by step."""

TUNED_SCHEDULES = ("constant", "cosine")
"""The schedules that an optimizer is tuned over unless others are asked for."""


def schedule_factor(name: str, num_steps: int) -> optax.Schedule:
    """The factor of the learning rate as a function of the number of steps taken before.

    ``constant`` is 1. ``cosine`` rises linearly over the first W steps, 5 % of them rounded down but at least one, as
    1/W, 2/W, ..., 1, and then decays as a cosine that would be 0 right after the last step::

        (k + 1) / W                                       for k < W
        1/2 (1 + cos(pi (k + 1 - W) / (T + 1 - W)))       for W <= k <= T = num_steps

    Its mean over the training is ``(1 + 1/T) / 2``, whatever W is. It is never 0 in the training, and 0 afterwards.
    ``cosine_decay`` has no warm-up: it is ``1/2 (1 + cos(pi k / T))``, as `optax.cosine_decay_schedule`.

    Args:
      name: one of `SCHEDULES`.
      num_steps: T, steps of the training.

    Returns:
      ``count -> factor`` in [0, 1], float32 of the count's shape; the count may be traced.

    Raises:
      ValueError: there is no such schedule, or ``num_steps`` is below one.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}.")
    check_schedule(name)
    return SCHEDULES[name](num_steps)


def check_schedule(name: str) -> None:
    """Raises ValueError if there is no such schedule."""
    if name not in SCHEDULES:
        meant = nearest(name, SCHEDULES)
        raise ValueError(f"there is no schedule {name!r}{meant}: choose from {', '.join(SCHEDULES)}.")


def learning_rate_schedule(learning_rate: Any, schedule: Any, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of steps taken before.

    Learning rate and schedule may be traced, also under vmap: one compiled program then serves all settings.

    Args:
      learning_rate: the highest in the schedule, a float or a float scalar.
      schedule: index into `SCHEDULES`, an int or an int32 scalar.
      num_steps: steps of the training.

    Returns:
      ``count -> learning rate``, float32.
    """
    factors = [make(num_steps) for make in SCHEDULES.values()]

    def rate(count: Any) -> Array:
        values = [jnp.asarray(factor(count), jnp.float32) for factor in factors]
        return learning_rate * jax.lax.select_n(jnp.asarray(schedule, jnp.int32), *values)

    return rate


@dataclasses.dataclass(frozen=True)
class Setting:
    """Hyperparameters that a network is trained with; both are ``None`` for an optimizer that is not tuned.

    Its text form is like ``3e-3 cosine``, or ``none``.

    Attributes:
      learning_rate: positive.
      schedule: one of `SCHEDULES`.
    """

    learning_rate: float | None = None
    schedule: str | None = None

    def __post_init__(self) -> None:
        if (self.learning_rate is None) != (self.schedule is None):
            raise ValueError(f"a setting has a learning rate and a schedule or neither, not {self!r}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"a learning rate must be positive and finite, not {self.learning_rate}.")
        if self.schedule is not None:
            check_schedule(self.schedule)

    def __str__(self) -> str:
        if self.learning_rate is None:
            return "none"
        # The shortest digits that tell the number from its neighbours, as repr has them.
        _, digits, exponent = Decimal(repr(float(self.learning_rate))).normalize().as_tuple()
        head, tail = str(digits[0]), "".join(map(str, digits[1:]))
        assert isinstance(exponent, int)  # a finite number
        return f"{head}{'.' if tail else ''}{tail}e{exponent + len(tail)} {self.schedule}"

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """The setting of a text form.

        Raises:
          ValueError: it is none.
        """
        if text == "none":
            return cls()
        try:
            rate, schedule = text.split(" ")
            number = float(rate)
        except ValueError as error:
            raise ValueError(f"{text!r} is no setting: write it like '3e-3 cosine', or 'none'.") from error
        return cls(number, schedule)

    @property
    def schedule_index(self) -> int:
        """Place of the schedule in `SCHEDULES`, as `learning_rate_schedule` takes it; 0 where there is none."""
        return 0 if self.schedule is None else list(SCHEDULES).index(self.schedule)


def grid(learning_rates: Sequence[float], schedules: Sequence[str] = TUNED_SCHEDULES) -> tuple[Setting, ...]:
    """All learning rates with the first schedule, then all with the next."""
    return tuple(Setting(rate, schedule) for schedule in schedules for rate in learning_rates)
