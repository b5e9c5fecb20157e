"""Inputs of a scheduler that tell whether steps are too long: the loss against what the gradient had promised.

They are scalars, cost one pass over gradients, steps and parameters in all, and depend neither on the scale of the loss nor, but
for `RelativeStep`, on units of the parameters. Windows are shares of the planned training, so that they mean the same at all
lengths. Where nothing is known yet, before the second step, every feature is 0.

With a window of N steps, ``b = exp(-4 / N)``, and means over it have weights ``m b^m`` for a value of m steps ago, whose mean
age is N/2; they are smooth, so that a single noisy loss counts little.

Source of the ratio: trust-region methods, e.g. Nocedal and Wright, "Numerical Optimization", equation 4.4.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.schedulers.inputs import Input
from celo_core.schedulers.interface import Signal

Array = jax.Array

SMALLEST_RATIO, LARGEST_RATIO = 3e-3, 1.5
"""A ratio of actual to predicted decrease is clipped to these before its logarithm is taken."""

_LARGEST = np.float32(1e30)
_TINY = np.float32(np.finfo(np.float32).tiny)
_JUMP = 10.0
"""A loss moves by at most this many times the root mean square of its changes so far, so that no single one rules a window."""


class Losses(NamedTuple):
    """The losses so far, with outliers limited.

    Attributes:
      count: finite losses, int32 ().
      last: the last one, limited, float32 ().
      spread: weighted sum of squared changes and sum of the weights, whose ratio is a running mean, float32 (2,).
    """

    count: Any
    last: Any
    spread: Any


def _first_losses() -> Losses:
    return Losses(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((2,), jnp.float32))


def _next_loss(losses: Losses, value: Array) -> tuple[Losses, Array]:
    """The losses with one more, and how much lower it is than the one before, float32 (); 0 for one that is not finite."""
    value = jnp.asarray(value, jnp.float32)
    finite = jnp.isfinite(value)
    value = jnp.clip(jnp.where(finite, value, losses.last), -_LARGEST, _LARGEST)
    total, weight = losses.spread
    # In units of the spread: squares of losses leave float32's range.
    unit = jnp.where(weight > 0, jnp.sqrt(total / jnp.maximum(weight, _TINY)), 0.0)
    change = value - losses.last
    limited = jnp.where(unit > 0, jnp.clip(change, -_JUMP * unit, _JUMP * unit), change)
    change = jnp.where(losses.count == 0, 0.0, limited)
    known = finite & (losses.count > 0)
    within = jnp.clip(change, -1e15, 1e15)
    spread = jnp.where(
        known, 0.95 * losses.spread + 0.05 * jnp.stack([jnp.square(within), jnp.ones_like(within)]), losses.spread
    )
    last = jnp.where(losses.count == 0, value, losses.last + change)
    count = jnp.where(finite, optax.safe_increment(losses.count), losses.count)
    new = Losses(count, jnp.where(finite, last, losses.last), spread)
    return new, jnp.where(known, -change, 0.0)


def _decays(num_steps: Any, windows: tuple[float, ...]) -> Array:
    """``b`` of each window, float32 (windows,)."""
    shares = jnp.asarray(windows, jnp.float32)
    return jnp.exp(-4.0 / jnp.maximum(shares * jnp.asarray(num_steps, jnp.float32), 6.0))


class MeanAlignment(NamedTuple):
    """Running means of the cosine of a gradient with the momentum before it, over windows.

    Attributes:
      mean: weighted sums of the cosines, float32 (windows,).
      weight: sums of the weights, float32 (windows,).
    """

    mean: Any
    weight: Any

    @classmethod
    def first(cls, size: int) -> "MeanAlignment":
        """Before the first step."""
        return cls(*(jnp.zeros((size,), jnp.float32) for _ in cls._fields))

    def after(self, signal: Signal, windows: tuple[float, ...]) -> "MeanAlignment":
        """With the cosine of one more step, which the signal's outcome has."""
        decays = _decays(signal.num_steps, windows)
        # The first momentum is 0.
        fresh = (1.0 - decays) * (signal.count > 1).astype(jnp.float32)
        alignment = signal.outcome.alignment if signal.outcome is not None else 0.0
        return MeanAlignment(decays * self.mean + fresh * alignment, decays * self.weight + fresh)

    @property
    def value(self) -> Array:
        """The means, float32 (windows,); 0 before the third step."""
        # Not divided by the least number where the weight is 0: XLA may divide squares, and its square is 0.
        return self.mean / jnp.where(self.weight > 0, self.weight, 1.0)

    def share(self, noise: float) -> Array:
        """``c^2 / (c^2 + noise^2)`` of the means c: near 0 where gradients are noise, float32 (windows,)."""
        square = jnp.square(self.value)
        return square / (square + np.float32(noise**2))


@dataclasses.dataclass(frozen=True)
class _Windowed(Input):
    """An input with a feature for each of several windows.

    Attributes:
      windows: shares of a training.
    """

    windows: tuple[float, ...] = (1 / 30, 1 / 6)

    def __post_init__(self) -> None:
        if not self.windows or not all(0 < share <= 1 for share in self.windows):
            raise ValueError(f"windows must be shares of a training, above 0 and at most 1, not {list(self.windows)}.")

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.windows)


class GainRatioState(NamedTuple):
    """State of `GainRatio`.

    Attributes:
      losses: the losses so far.
      actual: weighted sums of the decreases, float32 (2, windows): with weights ``b^m`` and ``m b^m``.
      predicted: the same of the predicted ones.
      alignment: means as of `MomentumAlignment`, ``None`` if `GainRatio.noise` is 0.
    """

    losses: Losses
    actual: Any
    predicted: Any
    alignment: Any


@dataclasses.dataclass(frozen=True)
class GainRatio(_Windowed, type="gain_ratio"):
    """Actual over predicted decrease of the loss: near 1 where steps are short, near 0 where they are too long.

    With losses L, gradients g and updates u, ``ratio = sum k_t (L_t - L_{t+1}) / sum k_t (-<g_t, u_t>)`` with weights k of each
    window, and the feature is ``(log(clip(ratio, 0.003, 1.5)) + 3) / 1.5``.

    The ratio is near 0 too where gradients are mostly noise, to which steps are aligned, and says nothing there about their
    length. With c, the mean cosine of gradients with the momentum before them, such noise has a c near 0, and signal as well as
    overshooting has not: the feature is multiplied by ``c^2 / (c^2 + noise^2)``.

    Attributes:
      windows: shares of a training; one feature for each.
      noise: cosine at which the feature is halved; 0 to leave it as it is.
    """

    noise: float = 0.0

    reads_loss = True
    reads_outcome = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be a cosine from 0 to 1, not {self.noise}.")

    def init_state(self) -> GainRatioState:
        """See `Input`."""
        sums = lambda: jnp.zeros((2, self.size), jnp.float32)
        return GainRatioState(_first_losses(), sums(), sums(), MeanAlignment.first(self.size) if self.noise else None)

    def update(self, state: GainRatioState, signal: Signal) -> tuple[GainRatioState, Array]:
        """See `Input`."""
        if signal.value is None or signal.outcome is None:
            return state, jnp.zeros((self.size,), jnp.float32)
        losses, decrease = _next_loss(state.losses, signal.value)
        decays = _decays(signal.num_steps, self.windows)

        def add(sums: Array, value: Array) -> Array:
            fresh = decays * (sums[0] + value)
            return jnp.stack([fresh, decays * sums[1] + fresh])

        predicted = jnp.clip(signal.outcome.predicted_decrease, -_LARGEST, _LARGEST)
        used = jnp.isfinite(jnp.asarray(signal.value, jnp.float32)) & (state.losses.count > 0)
        alignment = state.alignment.after(signal, self.windows) if self.noise else None
        new = GainRatioState(
            losses,
            jnp.where(used, add(state.actual, decrease), state.actual),
            jnp.where(used, add(state.predicted, predicted), state.predicted),
            alignment,
        )
        actual, promised = new.actual[1], new.predicted[1]
        ratio = actual / jnp.where(promised > 0, promised, 1.0)
        ratio = jnp.clip(jnp.where(promised > 0, ratio, 0.0), SMALLEST_RATIO, LARGEST_RATIO)
        features = (jnp.log(ratio) + 3.0) / 1.5
        if alignment is not None:
            features = features * alignment.share(self.noise)
        return new, jnp.where(jnp.any(new.predicted != 0), features, 0.0)


class LossTrendState(NamedTuple):
    """State of `LossTrend`, float32 (windows,) each but for the losses.

    Attributes:
      losses: the losses so far.
      mean: running mean.
      mean_of_mean: running mean of that.
      variance: running mean of squared differences from the mean.
    """

    losses: Losses
    mean: Any
    mean_of_mean: Any
    variance: Any


@dataclasses.dataclass(frozen=True)
class LossTrend(_Windowed, type="loss_trend"):
    """Slope of the loss over its own standard deviation, and that deviation over the mean loss.

    With a running mean a of the loss, a running mean c of a, and s^2 one of ``(L - a)^2``, the features are ``(c - a) / s``,
    1 for a loss that falls along a line without noise and some 0.3 of either sign for noise without a trend, and
    ``(log(s / abs(a)) + 3) / 2`` within plus or minus 2: above 1.5 where noise is as large as the loss.

    Source of the first: AdaLRS, arXiv 2506.13274.

    Attributes:
      windows: shares of a training; two features for each.
    """

    reads_loss = True

    @property
    def size(self) -> int:
        """Number of features."""
        return 2 * len(self.windows)

    def init_state(self) -> LossTrendState:
        """See `Input`."""
        zeros = lambda: jnp.zeros((len(self.windows),), jnp.float32)
        return LossTrendState(_first_losses(), zeros(), zeros(), zeros())

    def update(self, state: LossTrendState, signal: Signal) -> tuple[LossTrendState, Array]:
        """See `Input`."""
        if signal.value is None:
            return state, jnp.zeros((self.size,), jnp.float32)
        losses, _ = _next_loss(state.losses, signal.value)
        rates = 1.0 - _decays(signal.num_steps, self.windows)
        begins = state.losses.count == 0
        mean = jnp.where(begins, losses.last, state.mean + rates * (losses.last - state.mean))
        second = jnp.where(begins, losses.last, state.mean_of_mean + rates * (mean - state.mean_of_mean))
        apart = jnp.square(jnp.clip(losses.last - mean, -1e15, 1e15))
        variance = state.variance + rates * (apart - state.variance)
        new = LossTrendState(losses, mean, second, variance)
        deviation = jnp.sqrt(variance)
        known = (losses.count > 1) & (deviation > 0)
        trend = jnp.clip((second - mean) / jnp.where(known, deviation, 1.0), -2.0, 2.0)
        noise = jnp.log(jnp.where(known, deviation, 1.0)) - jnp.log(jnp.maximum(jnp.abs(mean), _TINY))
        noise = jnp.clip(0.5 * (noise + 3.0), -2.0, 2.0)
        return new, jnp.where(jnp.tile(known, 2), jnp.concatenate([trend, noise]), 0.0)


@dataclasses.dataclass(frozen=True)
class RelativeStep(Input, type="relative_step"):
    """Logarithm of the last step's size over the parameters', ``log(sqrt(mean |u|^2 / |p|^2)) / 2 + 2.5`` within plus or minus 3.

    The mean is over tensors, so that the units of each do not matter; 0 before the second step.
    """

    reads_outcome = True

    @property
    def size(self) -> int:
        """Number of features."""
        return 1

    def update(self, state: Any, signal: Signal) -> tuple[Any, Array]:
        """See `Input`."""
        if signal.outcome is None:
            return state, jnp.zeros((1,), jnp.float32)
        size = signal.outcome.relative_step
        feature = jnp.clip(0.5 * jnp.log(jnp.maximum(size, math.exp(-20.0))) + 2.5, -3.0, 3.0)
        return state, jnp.where(size > 0, feature, 0.0)[None]


@dataclasses.dataclass(frozen=True)
class MomentumAlignment(_Windowed, type="momentum_alignment"):
    """Cosine of a gradient with the momentum before it, mean over tensors; twice its running means over windows.

    It is large where gradients agree from step to step, near 0 where they are noise, and negative where steps overshoot, so that
    gradients oppose the momentum. The gain ratio alone is near 0 in both of the latter. Without a copy of the last step, which
    the momentum stands for, it costs no memory. 0 before the third step.

    Source: the gradient of the loss by the learning rate, Baydin et al., arXiv 1703.04782, equation 5.

    Attributes:
      windows: shares of a training; one feature for each.
    """

    reads_outcome = True

    def init_state(self) -> MeanAlignment:
        """See `Input`."""
        return MeanAlignment.first(self.size)

    def update(self, state: MeanAlignment, signal: Signal) -> tuple[MeanAlignment, Array]:
        """See `Input`."""
        if signal.outcome is None:
            return state, jnp.zeros((self.size,), jnp.float32)
        new = state.after(signal, self.windows)
        return new, 2.0 * new.value
