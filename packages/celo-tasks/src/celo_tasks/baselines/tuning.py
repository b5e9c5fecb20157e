"""What a baseline is tuned over: learning rates by schedules, all of them in one compiled program."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo_tasks.baselines.catalogue import Baseline

Array = jax.Array

LEARNING_RATES_15 = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Half decades from 1e-7 to 1: the grid of the public task library's baselines."""

LEARNING_RATES_SMALL = LEARNING_RATES_15[4:]
"""Half decades from 1e-5 to 1."""

SCHEDULES = ("constant", "cosine")

WARM_UP = 20
"""One step in so many is warm-up of the cosine schedule: 5 %."""


def schedule_shape(name: str, num_steps: int) -> Callable[[Any], Array]:
    """The factor of the learning rate as a function of the number of steps taken before.

    ``constant`` is 1. ``cosine`` rises linearly over the first W steps, 5 % of them rounded down but at least one, as
    1/W, 2/W, ..., 1, and then falls as half a cosine that would be 0 right after the last step::

        (k + 1) / W                                       for k < W
        1/2 (1 + cos(pi (k + 1 - W) / (T + 1 - W)))       for W <= k <= T = num_steps

    Its mean over the training is ``(1 + 1/T) / 2``, whatever W is. It is never 0 in the training, and 0 afterwards.

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
    if name == "constant":
        return lambda count: jnp.ones(jnp.shape(count), jnp.float32)
    if name != "cosine":
        raise ValueError(f"there is no schedule {name!r}: choose from {', '.join(SCHEDULES)}.")
    warm_up = max(1, num_steps // WARM_UP)

    def cosine(count: Any) -> Array:
        done = jnp.asarray(count).astype(jnp.float32) + 1
        progress = jnp.clip((done - warm_up) / (num_steps + 1 - warm_up), 0.0, 1.0)
        return jnp.where(done < warm_up, done / warm_up, 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return cosine


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a candidate was trained with; both are ``None`` for an optimizer that is not tuned.

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
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ValueError(f"there is no schedule {self.schedule!r}: choose from {', '.join(SCHEDULES)}.")

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
    def is_cosine(self) -> bool:
        """What `build` wants to know of the schedule."""
        return self.schedule == "cosine"


def grid(learning_rates: Sequence[float], schedules: Sequence[str] = SCHEDULES) -> tuple[Setting, ...]:
    """All learning rates with the first schedule, then all with the next."""
    return tuple(Setting(rate, schedule) for schedule in schedules for rate in learning_rates)


def build(
    baseline: Baseline, learning_rate: Any, is_cosine: Any, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The baseline at one setting.

    Learning rate and schedule may be traced, also under vmap: one compiled program then serves all settings.

    Args:
      baseline: which.
      learning_rate: the highest in the schedule, a float or a float scalar.
      is_cosine: whether the schedule is ``cosine``, a bool or a bool scalar; otherwise it is ``constant``.
      num_steps: steps of the training.

    Returns:
      The optimizer; its update takes any extra arguments.
    """
    constant, cosine = (schedule_shape(name, num_steps) for name in SCHEDULES)

    def schedule(count: Any) -> Array:
        return learning_rate * jnp.where(is_cosine, cosine(count), constant(count))

    return baseline.make(schedule)
