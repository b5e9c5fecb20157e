"""What families have in addition whose networks can be judged on data that they are not trained on."""

from typing import Any, Protocol, runtime_checkable

import jax

Array = jax.Array


@runtime_checkable
class HeldOut(Protocol):
    """What a `celo_core.TaskFamily` has in addition where its networks can be judged on data not trained on."""

    def load_held_out(self) -> Any:
        """All held-out data as one batch, on the host."""
        ...

    def metrics(self, params: Any, model_state: Any, config: Any, batch: Any) -> dict[str, Array]:
        """Scalars such as ``"loss"`` and ``"accuracy"`` on a batch; can be traced."""
        ...
