"""Celo and Celo-Adam in float64 NumPy, written from their equations and independent of the package's code.

Everything here is a plain loop over tensors, as in the papers. It serves as a reference for tests.
"""

import numpy as np

DECAYS = (0.9, 0.99, 0.999)
THRESHOLDS = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])


def as_float64(tree):
    """A nested dict with float64 leaves."""
    if isinstance(tree, dict):
        return {name: as_float64(child) for name, child in tree.items()}
    return np.asarray(tree, np.float64)


def rs(x):
    return 1.0 / np.sqrt(np.maximum(x, 1e-9))


def sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


class LossBuffer:
    """Ten running means of the loss, and the features computed from them."""

    def __init__(self, num_steps):
        half_lives = np.logspace(1.0, np.log10(num_steps), 10)
        self.decay = np.exp(-1.0 / half_lives)
        self.mean = np.zeros(10)
        self.minimum = np.full(10, np.inf)
        self.k = 0

    def update(self, value):
        self.k += 1
        correction = 1.0 - self.decay**self.k
        value = float(value)
        if self.k > 1:
            value = min(value, 2.0 * abs(np.max(self.mean / correction)))
        self.mean = self.decay * self.mean + (1.0 - self.decay) * value
        c = self.mean / correction
        self.minimum = np.minimum(self.minimum, c)
        if self.k <= 2:
            return np.zeros(9)
        low, high = self.minimum[:9], c[1:]
        return np.clip((c[:9] - low) / np.maximum(1e-8, high - low) - 1.0, -1.0, 1.0)


class Scheduler:
    """The LSTM that computes one multiplier per step."""

    def __init__(self, theta, num_steps):
        self.theta = as_float64(theta)
        self.num_steps = num_steps
        self.losses = LossBuffer(num_steps)
        self.h, self.c = self.theta["initial_hidden"], self.theta["initial_cell"]
        self.features = np.zeros(9)

    def _dense(self, name, x):
        layer = self.theta[name]
        return x @ layer["kernel"] + layer["bias"]

    def step(self, steps_before, value):
        fraction = steps_before / self.num_steps
        self.features = self.losses.update(value)
        x = np.concatenate([np.tanh(10.0 * (fraction - THRESHOLDS)), self.features])
        x = self._dense("input", x) + np.maximum(self._dense("pooled_input", x), 0.0)
        i, g, f, o = np.split(self._dense("gates", np.concatenate([x, self.h])), 4)
        self.c = sigmoid(f + 1.0) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        return 0.1 * np.exp(self._dense("step_size", self.h)[0])


class CeloTensor:
    """Momenta and second moments of one tensor, and its step under the update rule."""

    def __init__(self, shape):
        self.shape = shape
        self.m = [np.zeros(shape) for _ in DECAYS]
        self.v = np.zeros(shape)
        if len(shape) >= 2:
            order = np.argsort(np.array(shape), kind="stable")
            self.d0, self.d1 = int(order[-1]), int(order[-2])
            self.row = [np.zeros(np.delete(shape, self.d0)) for _ in DECAYS]
            self.col = [np.zeros(np.delete(shape, self.d1)) for _ in DECAYS]
        else:
            self.full = [np.zeros(shape) for _ in DECAYS]

    def accumulate(self, g):
        self.m = [b * m + (1 - b) * g for b, m in zip(DECAYS, self.m, strict=True)]
        self.v = 0.999 * self.v + 0.001 * g**2
        q = g**2 + 1e-30
        average = lambda old, new: [b * x + (1 - b) * new for b, x in zip(DECAYS, old, strict=True)]
        if len(self.shape) >= 2:
            self.row, self.col = average(self.row, q.mean(self.d0)), average(self.col, q.mean(self.d1))
        else:
            self.full = average(self.full, q)

    def features(self, g, p):
        """All 30, each of the tensor's shape."""
        if len(self.shape) >= 2:
            d1_without_d0 = self.d1 - (self.d1 > self.d0)
            rows, cols, factors = [], [], []
            for row, col in zip(self.row, self.col, strict=True):
                relative = rs(row / (row.mean(d1_without_d0, keepdims=True) + 1e-9))
                factors.append(np.expand_dims(relative, self.d0) * np.expand_dims(rs(col), self.d1))
                rows.append(np.broadcast_to(np.expand_dims(row, self.d0), self.shape))
                cols.append(np.broadcast_to(np.expand_dims(col, self.d1), self.shape))
            factored_g = [g * factor for factor in factors]
            factored_m = [m * factor for m, factor in zip(self.m, factors, strict=True)]
        else:
            rows = cols = self.full
            factored_g = [g * rs(full + 1e-9) for full in self.full]
            factored_m = [m * full**-0.5 for m, full in zip(self.m, self.full, strict=True)]
        inverse = 1.0 / np.sqrt(self.v + 1e-6)
        return [
            *(g, np.clip(g, -0.1, 0.1), p, *self.m, self.v),
            *(*(m * inverse for m in self.m), inverse, *factored_g, g * inverse),
            *(*rows, *cols, *(1.0 / np.sqrt(r + 1e-8) for r in rows), *(1.0 / np.sqrt(c + 1e-8) for c in cols)),
            *factored_m,
        ]

    def step(self, rule, g, p):
        """The step for a multiplier of 1, to be subtracted."""
        g = np.clip(g, -1000.0, 1000.0)
        self.accumulate(g)
        x = np.stack([f / np.sqrt(1e-5 + np.mean(f**2)) for f in self.features(g, p)], axis=-1)
        for layer in ("hidden_0", "hidden_1"):
            x = np.maximum(x @ rule[layer]["kernel"] + rule[layer]["bias"], 0.0)
        out = x @ rule["output"]["kernel"] + rule["output"]["bias"]
        return out[..., 0] * np.exp(1e-3 * out[..., 1]) * np.sqrt(np.mean(p**2) + 1e-9) * 1e-3


class AdamTensor:
    """Moments of one tensor, and Celo-Adam's step."""

    def __init__(self, shape):
        self.m, self.v, self.k = np.zeros(shape), np.zeros(shape), 0

    def step(self, rule, g, p):
        """The step for a multiplier of 1, to be subtracted."""
        g = np.clip(g, -1000.0, 1000.0)
        self.k += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        return 1e-3 * (self.m / (1 - 0.9**self.k)) / (1e-8 + np.sqrt(self.v / (1 - 0.999**self.k) + 1e-10))


class Optimizer:
    """Celo (with or without ``"scheduler"`` in theta) or Celo-Adam (no ``"update_rule"`` in theta)."""

    def __init__(self, theta, num_steps, shapes):
        self.rule = as_float64(theta.get("update_rule", {"mlp": {}})["mlp"])
        self.scheduler = Scheduler(theta["scheduler"], num_steps) if "scheduler" in theta else None
        kind = CeloTensor if self.rule else AdamTensor
        self.tensors = {name: kind(tuple(shape)) for name, shape in shapes.items()}
        self.count = 0
        self.multiplier = 1.0

    def step(self, grads, value, params):
        """Parameters after one step."""
        if self.scheduler is not None:
            self.multiplier = self.scheduler.step(self.count, value)
        self.count += 1
        new = {}
        for name, tensor in self.tensors.items():
            g, p = np.asarray(grads[name], np.float64), np.asarray(params[name], np.float64)
            new[name] = p - self.multiplier * tensor.step(self.rule, g, p)
        return new


def run(theta, num_steps, init, steps):
    """Trains along ``steps``, pairs of gradients and loss.

    Returns:
      A trajectory of every parameter (steps, *shape), and the multipliers (steps,), loss features (steps, 9) or zeros.
    """
    params = {name: np.asarray(p, np.float64) for name, p in init.items()}
    optimizer = Optimizer(theta, num_steps, {name: p.shape for name, p in params.items()})
    trajectory, multipliers, features = [], [], []
    for grads, value in steps:
        params = optimizer.step(grads, value, params)
        trajectory.append(params)
        multipliers.append(optimizer.multiplier)
        features.append(optimizer.scheduler.features if optimizer.scheduler else np.zeros(9))
    stacked = {name: np.stack([p[name] for p in trajectory]) for name in params}
    return stacked, np.array(multipliers), np.array(features)
