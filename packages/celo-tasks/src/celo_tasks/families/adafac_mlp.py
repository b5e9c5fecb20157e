"""A small per-parameter learned optimizer, made to be meta-trained by gradients.

Its inputs are those of the public task library's optimizer of the same kind (arXiv 2203.11860, appendix, "AdafacMLPLOpt"):
gradient, parameter, momenta, second moment, Adafactor's row and column statistics, and the time. It is a subject of
`LearnedOptimizerTraining`, not an optimizer for use: the gradient through a training with Celo's own rule takes minutes to
compile.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo_core.accumulators import FactoredMoment, factored_axes
from celo_tasks.families.image_mlp import fan_in_normal

Array = jax.Array

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAYS = (0.999,)
FACTORED_DECAYS = (0.9, 0.99, 0.999)
TIMESCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
NUM_FEATURES = 28
"""Per parameter, in addition to the time."""
STEP_SCALE = 1e-3
MAGNITUDE_SCALE = 1e-3


class AdafacMLPState(NamedTuple):
    """State of the optimizer, with all tensors flattened and concatenated: N is their number of elements.

    Attributes:
      count: steps taken, int32 ().
      momentum: (3, N), one row per decay.
      second_moment: (1, N).
      factored: per tensor a `celo_core.accumulators.FactoredMoment` whose arrays have the decays as a first axis.
    """

    count: Any
    momentum: Array
    second_moment: Array
    factored: tuple[FactoredMoment, ...]


@dataclasses.dataclass(frozen=True)
class AdafacMLPConfig:
    """Attributes: hidden_sizes: widths of the network's hidden layers."""

    hidden_sizes: tuple[int, ...] = (4, 4)


@dataclasses.dataclass(frozen=True)
class AdafacMLP:
    """A `celo_core.LearnedOptimizer`.

    theta: ``{"mlp": {"hidden_0": {"kernel", "bias"}, ..., "output"}, "decays": {"momentum" (3,), "second_moment" (1,),
    "factored" (3,)}}``. A decay is ``1 - (1 - d) exp(10 x)`` with d its initial value and x the number in theta, 0 at first,
    limited to [0, 0.9999].
    """

    config: AdafacMLPConfig = AdafacMLPConfig()
    name = "adafac_mlp"
    config_class = AdafacMLPConfig
    reads_task_embedding = False

    def init(self, key: Array) -> dict[str, Any]:
        """Random meta-parameters, float32."""
        sizes = (NUM_FEATURES + len(TIMESCALES), *self.config.hidden_sizes, 2)
        layers = {
            name: {"kernel": fan_in_normal(k, (inputs, outputs)), "bias": jnp.zeros((outputs,), jnp.float32)}
            for name, k, inputs, outputs in zip(
                self._layer_names(), jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
            )
        }
        decays = {
            "momentum": jnp.zeros(len(MOMENTUM_DECAYS), jnp.float32),
            "second_moment": jnp.zeros(len(SECOND_MOMENT_DECAYS), jnp.float32),
            "factored": jnp.zeros(len(FACTORED_DECAYS), jnp.float32),
        }
        return {"mlp": layers, "decays": decays}

    def build(self, theta: Any, num_steps: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        """The Optax optimizer; ``num_steps`` has no effect."""
        del num_steps, kwargs

        def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, AdafacMLPState]:
            del extra_args
            return self._update(theta, updates, state, params)

        return optax.GradientTransformationExtraArgs(_init, update)

    def _layer_names(self) -> list[str]:
        return [*(f"hidden_{i}" for i in range(len(self.config.hidden_sizes))), "output"]

    def _update(self, theta: Any, updates: Any, state: AdafacMLPState, params: Any) -> tuple[Any, AdafacMLPState]:
        treedef: Any
        gradients, treedef = jax.tree.flatten(updates)
        shapes = [g.shape for g in gradients]
        g, p = _ravel(gradients), _ravel(treedef.flatten_up_to(params))
        decays = theta["decays"]
        momentum = _average(state.momentum, g, _decays(MOMENTUM_DECAYS, decays["momentum"]))
        second = _average(state.second_moment, jnp.square(g), _decays(SECOND_MOMENT_DECAYS, decays["second_moment"]))
        factored_decays = _decays(FACTORED_DECAYS, decays["factored"])
        factored = tuple(
            _update_factored(old, squared, factored_decays)
            for old, squared in zip(state.factored, _unravel(jnp.square(g) + 1e-30, shapes), strict=True)
        )
        features = _features(g, p, momentum, second, factored, shapes)
        steps = _unravel(self._network(theta["mlp"], features, state.count, shapes), shapes)
        return treedef.unflatten(steps), AdafacMLPState(state.count + 1, momentum, second, factored)

    def _network(self, layers: Any, features: Array, count: Array, shapes: Sequence[tuple[int, ...]]) -> Array:
        """Maps features (28, N) and the number of steps taken to the updates (N,)."""
        time = jnp.tanh(count.astype(features.dtype) / jnp.asarray(TIMESCALES, features.dtype) - 1.0)
        names = self._layer_names()
        kernel, bias = layers[names[0]]["kernel"], layers[names[0]]["bias"]
        # The time is the same for all parameters: its part of the first layer is a second bias.
        bias = bias + time @ kernel[NUM_FEATURES:]
        # Each feature is divided by its root mean square over its tensor, most cheaply by scaling the first layer's kernel.
        parts = jnp.split(features, _ends(shapes), axis=1)
        scales = [jax.lax.rsqrt(1e-5 + jnp.mean(jnp.square(part), axis=1, keepdims=True)) for part in parts]
        scaled = [(kernel[:NUM_FEATURES] * scale).T @ part for scale, part in zip(scales, parts, strict=True)]
        units = jnp.concatenate(scaled, axis=1) + bias[:, None]
        for name in names[1:]:
            units = layers[name]["kernel"].T @ jax.nn.relu(units) + layers[name]["bias"][:, None]
        direction, magnitude = units
        return -STEP_SCALE * direction * jnp.exp(jnp.minimum(MAGNITUDE_SCALE * magnitude, 80.0))


def _ravel(tensors: Sequence[Array]) -> Array:
    return jnp.concatenate([x.reshape(-1) for x in tensors])


def _ends(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist()


def _unravel(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    return [part.reshape(shape) for part, shape in zip(jnp.split(flat, _ends(shapes)), shapes, strict=True)]


def _init(params: Any) -> AdafacMLPState:
    leaves = jax.tree.leaves(params)
    size, dtype = sum(x.size for x in leaves), jnp.result_type(*leaves)
    return AdafacMLPState(
        count=jnp.zeros((), jnp.int32),
        momentum=jnp.zeros((len(MOMENTUM_DECAYS), size), dtype),
        second_moment=jnp.zeros((len(SECOND_MOMENT_DECAYS), size), dtype),
        factored=tuple(_init_factored(x.shape, dtype) for x in leaves),
    )


def _init_factored(shape: tuple[int, ...], dtype: Any) -> FactoredMoment:
    axes = factored_axes(shape)
    if axes is None:
        return FactoredMoment(jnp.zeros((len(FACTORED_DECAYS), *shape), dtype), None)
    d1, d0 = axes
    without = lambda axis: jnp.zeros((len(FACTORED_DECAYS), *shape[:axis], *shape[axis + 1 :]), dtype)
    return FactoredMoment(without(d0), without(d1))


def _decays(initial: tuple[float, ...], offsets: Array) -> Array:
    """The decays (len(initial),): a tenth of the logarithm of their distance from 1 is learned."""
    distances = jnp.asarray([1.0 - decay for decay in initial], offsets.dtype)
    return jnp.clip(1.0 - distances * jnp.exp(jnp.minimum(10.0 * offsets, 80.0)), 0.0, 0.9999)


def _average(old: Array, new: Array, decays: Array) -> Array:
    """Moving averages ``decay * old + (1 - decay) * new``; the decays are the first axis of ``old``."""
    decay = decays.reshape(-1, *(1,) * new.ndim)
    return decay * old + (1.0 - decay) * new


def _update_factored(old: FactoredMoment, squared: Array, decays: Array) -> FactoredMoment:
    axes = factored_axes(squared.shape)
    if axes is None:
        return FactoredMoment(_average(old.row, squared, decays), None)
    d1, d0 = axes
    return FactoredMoment(
        _average(old.row, jnp.mean(squared, axis=d0), decays), _average(old.column, jnp.mean(squared, axis=d1), decays)
    )


def _safe_rsqrt(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _expand(moment: FactoredMoment, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Row and column statistics at every element (3, elements), and the divisor of the row statistics."""
    axes = factored_axes(shape)
    if axes is None:
        return moment.row, moment.row, jnp.ones_like(moment.row)
    d1, d0 = axes
    row, column = jnp.expand_dims(moment.row, d0 + 1), jnp.expand_dims(moment.column, d1 + 1)
    mean = jnp.mean(row, axis=d1 + 1, keepdims=True) + 1e-9
    wide = lambda x: jnp.broadcast_to(x, (x.shape[0], *shape)).reshape(x.shape[0], -1)
    return wide(row), wide(column), wide(mean)


def _features(
    g: Array, p: Array, m: Array, v: Array, factored: Sequence[FactoredMoment], shapes: Sequence[tuple[int, ...]]
) -> Array:
    """The features (28, N) of all tensors."""
    # Without the barriers XLA recomputes everything for each of its uses, element by element.
    barrier = jax.lax.optimization_barrier
    expanded = [_expand(moment, shape) for moment, shape in zip(factored, shapes, strict=True)]
    row, column, mean = (barrier(jnp.concatenate(parts, axis=1)) for parts in zip(*expanded, strict=True))
    vector = np.repeat([len(shape) < 2 for shape in shapes], [math.prod(shape) for shape in shapes])
    # For a vector both statistics are the second moment itself, and one root of it is enough.
    factor = jnp.where(vector, 1.0, _safe_rsqrt(row / mean)) * _safe_rsqrt(column)
    inverse_rms = jax.lax.rsqrt(v + 1e-6)
    inverse_roots = [jax.lax.rsqrt(x + 1e-8) for x in (row, column)]
    groups = [g[None], p[None], m, v, m * inverse_rms, inverse_rms, g * factor]
    return barrier(jnp.concatenate(barrier([*groups, row, column, *inverse_roots, m * factor])))
