"""The three protocols of Celo. They are structural: a class need not inherit from them, but one that does gets their defaults."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import optax

Array = jax.Array
PyTree = Any
Theta = dict[str, Any]
"""Meta-parameters: a plain nested dict of float32 arrays."""


@runtime_checkable
class LearnedOptimizer(Protocol):
    """A learned optimizer's architecture: how to make meta-parameters, and an Optax optimizer from them."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def config(self) -> Any:
        """A frozen dataclass that, with theta, is enough to rebuild the optimizer."""
        ...

    @property
    def config_class(self) -> type:
        """The class of its configs."""
        return type(self.config)

    @property
    def reads_task_embedding(self) -> bool:
        """Whether ``build`` needs the option ``task_embedding``, see `celo_core.task_embedding`."""
        return False

    def init(self, key: Array) -> Theta:
        """Random meta-parameters."""
        ...

    @property
    def build(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """``build(theta, num_steps, **options)``: the Optax optimizer for a training of ``num_steps`` steps.

        Pure in ``theta``, which may be traced. An architecture names its options in its signature, as
        `optax.inject_hyperparams` needs; those of `celo_core.celo` are what users expect.
        """
        ...


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over training problems. All functions but ``load`` are pure: they can be jitted and vmapped."""

    @property
    def name(self) -> str:
        """Name in results and logs."""
        ...

    def load(self) -> PyTree:
        """The data: a tree of arrays. Called once, outside jit; what it returns is passed to ``batch``."""
        ...

    def sample(self, key: Array) -> PyTree:
        """Draws a task: its config, a tree of arrays of fixed shapes (empty where all tasks are alike)."""
        ...

    def init(self, key: Array, config: PyTree) -> tuple[PyTree, PyTree]:
        """Initial parameters and model state (such as batch statistics; ``None`` where there is none)."""
        ...

    def batch(self, key: Array, config: PyTree, data: PyTree) -> PyTree:
        """A random training batch."""
        ...

    def loss(
        self, params: PyTree, model_state: PyTree, key: Array, config: PyTree, batch: PyTree
    ) -> tuple[Array, PyTree]:
        """Scalar loss on a batch, and the new model state."""
        ...

    def normalizer(self, loss: Array) -> Array:
        """Maps a loss, possibly non-finite, to a finite number that is comparable across tasks."""
        ...

    @property
    def has_held_out(self) -> bool:
        """Whether there is held-out data, and so a `held_out_batch`."""
        ...

    def held_out_batch(self, key: Array, config: PyTree, data: PyTree) -> PyTree:
        """A random batch of held-out data, for a meta-loss that measures generalisation."""
        ...

    def active_sizes(self, config: PyTree) -> PyTree | None:
        """Number of elements in use of each parameter, a tree like the parameters; ``None`` if all of them always are.

        Elements that are not in use must be zero in parameters and gradients.
        """
        ...


class FamilyDefaults:
    """Optional base class with the defaults of most families: no held-out data, and all parameters in use."""

    @property
    def has_held_out(self) -> bool:
        """No."""
        return False

    def held_out_batch(self, key: Array, config: PyTree, data: PyTree) -> PyTree:
        """Raises ValueError: there is no held-out data."""
        raise ValueError(f"{type(self).__name__} has no held-out data.")

    def active_sizes(self, config: PyTree) -> PyTree | None:
        """All."""
        del config
        return None


@runtime_checkable
class GradientEstimator(Protocol):
    """An estimator of the gradient of a meta-loss with respect to theta."""

    @property
    def architecture(self) -> LearnedOptimizer:
        """The learned optimizer whose theta the gradient is for."""
        ...

    @property
    def num_problems(self) -> int:
        """Inner problems at once: the number of devices that share them must divide it."""
        ...

    @property
    def inner_steps(self) -> int:
        """Inner training steps per estimate, for rates and costs."""
        ...

    def check(self, data: PyTree) -> None:
        """Raises a ValueError of one sentence if the problems cannot be trained on."""
        ...

    def init(self, key: Array, theta: Theta) -> PyTree:
        """Initial state: the inner problems in progress, and what the estimator keeps of past perturbations.

        Every leaf has a leading axis that is split over the devices.
        """
        ...

    def estimate(
        self, key: Array, theta: Theta, state: PyTree, data: PyTree
    ) -> tuple[tuple[Theta, Array, dict[str, Array]], PyTree]:
        """One estimate: ``(gradient, meta_loss, info), state``; ``data`` is what the family's ``load`` returned.

        ``gradient``, ``meta_loss`` and ``info`` are means over the problems in ``state``; entries of ``info`` whose name ends in
        ``_max`` are maxima.
        """
        ...

    def with_truncation(self, steps: int) -> "GradientEstimator":
        """The same estimator with windows of ``steps`` steps; ValueError where it unrolls whole trainings."""
        ...
