"""Signals by which a schedule could be chosen: what an optimizer knows at several moments of a training.

`SIGNALS` names and explains them; `signals` computes them from what is recorded of every step, and `check` tries them on series
for which they are known.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

POINTS = 32
FRACTIONS = np.concatenate([np.geomspace(0.01, 0.3, POINTS // 2), np.linspace(0.3, 1.0, POINTS // 2 + 1)[1:]])
"""Shares of a training after which signals are recorded: first evenly in their logarithm, then evenly."""

WINDOWS = {"short": 30, "long": 6}
"""Windows over which signals are taken, up to the moment, in parts of the training's length."""

SIGNALS = (
    "rho_short",
    "rho_long",
    "cos_short",
    "cos_long",
    "hypergradient_short",
    "slope_short",
    "slope_long",
    "noise_short",
    "log_step_size",
    *(f"signal_{decay}_{what}" for decay in ("0.9", "0.99", "0.999") for what in ("mean", "min", "max")),
)
"""What a record has at each moment.

* rho: actual over predicted decrease. With the weights k of a least-squares slope, ``sum k (L_t - L_{t+1})`` over
  ``-sum k <g_t, u_t>``
* cos: mean cosine of the gradient with the step before it, over all parameters
* hypergradient: ``sum <g_{t+1}, u_t>`` over ``sum abs(<g_t, u_t>)``
* slope: least-squares slope of the loss times the window, over the standard deviation about that line
* noise: natural logarithm of that standard deviation over the mean loss
* log_step_size: natural logarithm of the norm of the step over that of the parameters, mean over the short window
* signal_b: share of signal in the gradients, by the momentum m of decay b and the factored second moments of the same decay,
  whose mean is v: per tensor ``(norm(m)^2 / sum v - nu) / (1 - nu)``, where nu is what pure noise gives, with bias
  corrections; mean, least and largest of the tensors, means over the short window
"""


class Step(NamedTuple):
    """What is kept of a step, float32 (): of gradient g, update u, parameters p and the update u' before."""

    loss: Any
    predicted: Any
    """-<g, u>"""
    overlap: Any
    """<g, u'>"""
    gradient: Any
    """Norm of g."""
    update: Any
    parameters: Any
    coherence: Any
    """(decays, 3): mean, least and largest over tensors of norm(m)^2 / sum v, without bias correction."""


def _slopes(values: Floats) -> tuple[Floats, Floats]:
    """Least-squares slopes along the first axis, and the standard deviations about the lines."""
    steps = np.arange(len(values), dtype=np.float64)
    steps = (steps - steps.mean())[:, None]
    slope = np.sum(steps * values, axis=0) / np.sum(steps**2)
    rest = values - values.mean(axis=0) - steps * slope
    return slope, np.sqrt(np.sum(rest**2, axis=0) / max(len(values) - 2, 1))


def _parabola(count: int) -> Floats:
    """Weights k by which the slope of ``count`` values is ``sum k (L_{t+1} - L_t)``; (count - 1, 1)."""
    steps = np.arange(count, dtype=np.float64)
    steps -= steps.mean()
    return (-np.cumsum(steps)[:-1] / np.sum(steps**2))[:, None]


def signals(steps: Step, decays: Sequence[float]) -> Floats:
    """What can be known at each moment, float64 (signals, heights, moments).

    Args:
      steps: of a training, (steps, heights, ...).
      decays: of the momenta.
    """
    count = len(steps.loss)
    steps = jax.tree.map(lambda x: np.nan_to_num(np.asarray(x, np.float64), posinf=1e30, neginf=-1e30), steps)
    tiny = 1e-30
    cosine = steps.overlap[1:] / (steps.gradient[1:] * steps.update[:-1] + tiny)
    log_size = np.log((steps.update + tiny) / (steps.parameters + tiny))
    powers = np.asarray(decays)[None, None, :, None] ** (np.arange(count) + 1.0)[:, None, None, None]
    decay = np.asarray(decays)[None, None, :, None]
    noise = (1 - decay) * (1 + powers) / ((1 + decay) * (1 - powers))
    share = (steps.coherence / (1 - powers) - noise) / np.maximum(1 - noise, tiny)
    share[0] = 0.0  # one gradient does not tell signal from noise
    result = np.empty((len(SIGNALS), steps.loss.shape[1], POINTS))
    for point, end in enumerate(moments(count)):
        values: dict[str, Floats] = {}
        for name, parts in WINDOWS.items():
            window = slice(max(0, end - max(4, count // parts)), end)
            loss = steps.loss[window]
            slope, deviation = _slopes(loss)
            predicted = np.sum(_parabola(len(loss)) * steps.predicted[window][:-1], axis=0)
            values[f"rho_{name}"] = -slope / np.where(np.abs(predicted) > tiny, predicted, tiny)
            values[f"cos_{name}"] = cosine[window.start : end - 1].mean(axis=0)
            values[f"slope_{name}"] = slope * len(loss) / (deviation + tiny)
            if name == "short":
                overlap = np.sum(steps.overlap[window][1:], axis=0)
                values["hypergradient_short"] = overlap / (np.sum(np.abs(steps.predicted[window][:-1]), axis=0) + tiny)
                values["noise_short"] = np.log((deviation + tiny) / (np.abs(loss.mean(axis=0)) + tiny))
                values["log_step_size"] = log_size[window].mean(axis=0)
                shares = share[window].mean(axis=0).reshape(loss.shape[1], -1)
                names = [signal for signal in SIGNALS if signal.startswith("signal_")]
                values |= dict(zip(names, shares.T, strict=True))
        result[:, :, point] = [values[name] for name in SIGNALS]
    return result


def moments(count: int) -> NDArray[np.int64]:
    """Numbers of steps after which signals are recorded, (POINTS,)."""
    return np.clip(np.round(FRACTIONS * count), min(4, count), count).astype(np.int64)


def check() -> None:
    """Signals of losses that fall just as predicted, and of gradients that are nothing but noise.

    Raises:
      ValueError: they are not what they must be.
    """
    count, rng = 3000, np.random.default_rng(0)
    predicted = rng.uniform(0.5, 1.5, (count, 1)) / np.arange(1, count + 1)[:, None]
    loss = 100.0 - np.concatenate([np.zeros((1, 1)), np.cumsum(predicted, axis=0)[:-1]])
    decays, size = (0.9, 0.99, 0.999), 200
    momenta, squares, coherence = np.zeros((3, size)), np.zeros(3), np.zeros((count, 1, 3, 3))
    decay = np.array(decays)
    for step in range(count):
        gradient = rng.standard_normal(size)
        momenta = decay[:, None] * momenta + (1 - decay[:, None]) * gradient
        squares = decay * squares + (1 - decay) * np.sum(gradient**2)
        coherence[step] = (np.sum(momenta**2, axis=1) / squares)[:, None]
    ones = np.ones((count, 1))
    found = dict(zip(SIGNALS, signals(Step(loss, predicted, -ones, ones, ones, ones, coherence), decays), strict=True))
    for name, value, error in (
        ("rho_short", 1.0, 1e-6),
        ("rho_long", 1.0, 1e-6),
        ("cos_long", -1.0, 1e-6),
        ("signal_0.9_mean", 0.0, 0.05),
        ("signal_0.999_max", 0.0, 0.05),
    ):
        worst = float(np.max(np.abs(found[name] - value)))
        print(f"{name}: {value:g} within {worst:.1g}")
        if not worst < error:
            raise ValueError(f"{name} is off by {worst:.2g} where it must be {value:g}.")
