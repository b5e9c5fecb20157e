"""Any family, with most of its network frozen: fine-tuning of some tensors alone."""

import dataclasses
import re
from typing import Any

import jax

from celo_tasks.families.wrapping import WrappedFamily

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FineTuned(WrappedFamily):
    """A task family of whose network some tensors are trained; itself a `celo_core.TaskFamily`.

    The others' gradients are exactly 0, as `jax.lax.stop_gradient` leaves them; an optimizer sees the whole tree.

    Attributes:
      family: the family.
      trained: regular expression that is searched for in a tensor's path, such as ``"Dense_0/kernel"``.
      name: name in results.
    """

    trained: str
    name: str

    def is_trained(self, path: Any) -> bool:
        """Whether a tensor is trained, by its path in the tree."""
        return re.search(self.trained, "/".join(str(getattr(part, "key", part)) for part in path)) is not None

    def init(self, key: Array, config: Any) -> tuple[Any, Any]:
        """The family's parameters and model state.

        Raises:
          ValueError: no tensor is trained.
        """
        params, model_state = super().init(key, config)
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        if not any(map(self.is_trained, paths)):
            raise ValueError(f"no tensor's path has {self.trained!r} in it: nothing would be trained.")
        return params, model_state

    def loss(self, params: Any, model_state: Any, key: Array, config: Any, batch: Any) -> tuple[Array, Any]:
        """The family's loss, which only the trained tensors have a gradient of."""
        freeze = lambda path, x: x if self.is_trained(path) else jax.lax.stop_gradient(x)
        frozen = jax.tree_util.tree_map_with_path(freeze, params)
        return self.family.loss(frozen, model_state, key, config, batch)
