"""Detects the divergence of a meta-training run from its metrics."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Health:
    """The smoothed meta-loss of a run and its best value; small enough to be stored in a checkpoint.

    Meta-losses of single iterations vary with the problems that take part, so a running mean with bias correction is
    compared with its own best: more than ``tolerance`` times that, or anything that is not finite, is a divergence.

    Attributes:
      decay: of the running mean, per iteration.
      tolerance: a divergence is a smoothed meta-loss above this multiple of the best one.
      patience: iterations before the running mean is compared, and before it may become the best one.
      count: number of iterations so far.
      total: the running sum.
      best: lowest running mean, infinite until there is one.
      hopeless: whether something was not finite.
    """

    decay: float = 0.98
    tolerance: float = 1.5
    patience: int = 100
    count: int = 0
    total: float = 0.0
    best: float = float("inf")
    hopeless: bool = False

    @property
    def smoothed(self) -> float:
        """The running mean of the meta-loss."""
        return self.total / (1 - self.decay**self.count) if self.count else float("nan")

    @property
    def good(self) -> bool:
        """Whether the run is close to its best, so that it may be rolled back to this state."""
        return self.count < self.patience or self.smoothed <= 1.05 * self.best

    def observe(self, metrics: Mapping[str, Any]) -> str | None:
        """Adds the metrics of a block; returns a description of what is wrong, or ``None``."""
        for name, what in (("meta_loss", "meta-loss"), ("gradient_norm", "meta-gradient"), ("theta_norm", "theta")):
            if not np.all(np.isfinite(metrics[name])):
                self.hopeless = True
                return f"the {what} is not finite"
        for loss in np.asarray(metrics["meta_loss"], np.float64):
            self.count += 1
            self.total = self.decay * self.total + (1 - self.decay) * float(loss)
        if self.count < self.patience:
            return None
        self.best = min(self.best, self.smoothed)
        # Losses are not negative after normalisation; where a family's are, only non-finite values are detected.
        if self.best > 0 and self.smoothed > self.tolerance * self.best:
            return f"the smoothed meta-loss has risen to {self.smoothed:.3g} from {self.best:.3g} at its best"
        return None

    def to_json(self) -> dict[str, Any]:
        """What `Health(**...)` takes; infinity as ``None``."""
        state = dataclasses.asdict(self)
        return {**state, "best": None if np.isinf(self.best) else self.best}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Health":
        """Inverse of `to_json`."""
        return cls(**{**state, "best": float("inf") if state["best"] is None else state["best"]})
