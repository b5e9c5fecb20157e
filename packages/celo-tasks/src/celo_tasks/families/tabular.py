"""Regression on a table as it comes: neither inputs nor targets are normalised, as in many a first attempt."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from celo_core import FamilyDefaults
from celo_tasks.families.image_mlp import MLP, clip_loss

Array = jax.Array
Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]

TEST_EVERY = 5
"""One row in so many is held out."""


@dataclasses.dataclass(frozen=True)
class DiabetesRegression(FamilyDefaults):
    """A `celo_core.TaskFamily` of one task: the progression of diabetes from ten measurements of 442 patients, in their units.

    Inputs lie between 1 and some 300, targets between 25 and 346. Source of the data: Efron et al., "Least Angle Regression",
    2004, as scikit-learn has them.

    Attributes:
      name: name in results.
      hidden_sizes: widths of the network.
      batch_size: patients per batch.
    """

    name: str
    hidden_sizes: tuple[int, ...]
    batch_size: int = 32

    def _network(self) -> MLP:
        return MLP(self.hidden_sizes, 1)

    @staticmethod
    def _rows(held_out: bool) -> Arrays:
        from sklearn.datasets import load_diabetes

        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
        chosen = (np.arange(len(targets)) % TEST_EVERY == TEST_EVERY - 1) == held_out
        return inputs[chosen].astype(np.float32), targets[chosen].astype(np.float32)

    def load(self) -> dict[str, NDArray[np.float32]]:
        """Inputs float32 (N, 10) and targets float32 (N,)."""
        inputs, targets = self._rows(held_out=False)
        return {"inputs": inputs, "targets": targets}

    def load_held_out(self) -> Arrays:
        """Held-out inputs and targets, for `metrics`."""
        return self._rows(held_out=True)

    def sample(self, key: Array) -> dict[str, Array]:
        """Empty: all tasks are alike."""
        del key
        return {}

    def init(self, key: Array, config: Any) -> tuple[Any, None]:
        """Parameters of the network; there is no model state."""
        del config
        return self._network().init(key, jnp.zeros((1, 10)))["params"], None

    def batch(self, key: Array, config: Any, data: Any) -> tuple[Array, Array]:
        """Inputs float32 (batch, 10) and targets float32 (batch,)."""
        del config
        index = jax.random.randint(key, (self.batch_size,), 0, data["targets"].shape[0])
        return data["inputs"][index], data["targets"][index]

    def loss(self, params: Any, model_state: None, key: Array, config: Any, batch: Any) -> tuple[Array, None]:
        """Mean squared error, in squared units of the targets."""
        del key
        return self.metrics(params, model_state, config, batch)["loss"], model_state

    def metrics(self, params: Any, model_state: None, config: Any, batch: tuple[Array, Array]) -> dict[str, Array]:
        """``{"loss": mean squared error}``, float32 ()."""
        del model_state, config
        inputs, targets = batch
        outputs: Any = self._network().apply({"params": params}, inputs)
        return {"loss": jnp.mean(jnp.square(outputs[:, 0] - targets))}

    def normalizer(self, loss: Array) -> Array:
        """Loss clipped to [0, 1e6]; non-finite counts as the upper end. Predicting 0 costs 29,000."""
        return clip_loss(loss, 1e6)
