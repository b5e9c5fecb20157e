"""Whole unrolls, from initialisation to the end, in every estimate: what the estimators on full unrolls share."""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo_core import checks
from celo_core.estimators._base import Estimator, unbound
from celo_core.estimators._problems import (
    Problems,
    Window,
    check_settings,
    clipped,
    mean_over_problems,
    summarize,
)
from celo_core.meta_training.lengths import LengthSchedule, LogUniformLength
from celo_core.protocols import LearnedOptimizer, TaskFamily, Theta

Array = jax.Array

OBJECTIVES = ("mean", "last", "final")

FINAL_FRACTION = 0.05
"""Share of a training, at its end, over which ``"final"`` is a mean; of one step at least. It is that of the evaluation protocol
of VeLO (arXiv 2211.09760, section 4)."""


class FullState(NamedTuple):
    """Only the problems' numbers are carried between estimates; leaves have a leading axis over problems.

    Attributes:
      index: the problem's number, int32.
      estimates: estimates done, int32.
    """

    index: Any
    estimates: Any


@dataclasses.dataclass(frozen=True)
class FullUnrollEstimator(Estimator, abc.ABC):
    """What estimators on full unrolls have in common.

    An estimate takes as long as the longest problem that can be drawn, unless its problems have the `same_length`.

    Attributes:
      architecture: the learned optimizer; its theta is what the gradient is for.
      family: the problems.
      lengths: lengths of the problems.
      objective: ``"mean"``, the mean loss over the unroll, ``"last"``, the loss of its last step, or ``"final"``, the mean loss
        over its last `FINAL_FRACTION`, of which one batch decides less.
      same_length: whether the problems of an estimate share one length, at which the unroll ends: an estimate then costs what
        its length does, not what the longest would. The mean of the estimates stays what it is; their variance grows by
        that between lengths. Not for backpropagation.
      meta_loss: ``"training"`` or ``"held_out"``, as for estimators on truncated unrolls.
      clip_problem: largest norm of one problem's gradient; by default there is none.
    """

    architecture: LearnedOptimizer = unbound("architecture")
    family: TaskFamily = unbound("family")
    _: dataclasses.KW_ONLY
    lengths: LengthSchedule = LogUniformLength()
    objective: str = "mean"
    meta_loss: str = "training"
    clip_problem: float | None = None
    same_length: bool = False

    _count = "num_problems"

    def __post_init__(self) -> None:
        if self.num_problems < 1:
            raise ValueError(f"an estimator needs {self._count} >= 1, not {self.num_problems}.")
        checks.check_choice("objective", self.objective, OBJECTIVES)
        check_settings(self.family, self.meta_loss, self.clip_problem)

    @property
    @abc.abstractmethod
    def num_problems(self) -> int:
        """Problems at once; the number of devices must divide it."""

    @property
    @abc.abstractmethod
    def inner_steps(self) -> int:
        """Inner training steps per estimate, all networks counted, those past a problem's end included."""

    @abc.abstractmethod
    def _gradient(
        self, key: Array, theta: Theta, state: FullState, data: Any, length: Array | None
    ) -> tuple[Theta, Array, Window]:
        """One problem's gradient, meta-losses by member, and the results of its unroll, which is of ``length`` if given."""

    def check(self, data: Any) -> None:
        """Raises ValueError if the family's loss on ``data`` is not a finite scalar at initialisation."""
        checks.check_family(self.family, data)

    def init(self, key: Array, theta: Theta) -> FullState:
        """The problems' numbers."""
        del key, theta
        numbers = jnp.arange(self.num_problems, dtype=jnp.int32)
        return FullState(numbers, jnp.zeros_like(numbers))

    def estimate(
        self, key: Array, theta: Theta, state: FullState, data: Any
    ) -> tuple[tuple[Theta, Array, dict[str, Array]], FullState]:
        """One whole trajectory of new problems; arguments and results as for estimators on truncated unrolls."""
        # Of no problem's number, and the same on all devices.
        key_length = jax.random.fold_in(key, 2**32 - 1)
        length = self.lengths.sample(key_length, state.estimates[0]) if self.same_length else None

        def one(state: FullState) -> tuple[Theta, Array, dict[str, Array]]:
            key_problem = jax.random.fold_in(key, state.index)
            gradient, losses, unroll = self._gradient(key_problem, theta, state, data, length)
            info = {"non_finite": unroll.non_finite, "step_size": unroll.step_size, "reset": jnp.ones((), jnp.float32)}
            return clipped(gradient, self.clip_problem), jnp.mean(losses), info

        gradients, losses, info = jax.vmap(one)(state)
        state = state._replace(estimates=state.estimates + 1)
        return (mean_over_problems(gradients), jnp.mean(losses), summarize(info)), state

    def _unroll(
        self,
        key: Array,
        thetas: Theta,
        state: FullState,
        data: Any,
        length: Array | None = None,
        *,
        differentiated: bool = False,
    ) -> tuple[Array, Window]:
        """Meta-losses by member and the unroll of one new problem; ``thetas`` has a leading axis over members."""
        problems = Problems(
            architecture=self.architecture,
            family=self.family,
            lengths=self.lengths if length is None else _Drawn(length),
            meta_loss=self.meta_loss,
        )
        key_begin, key_renew, key_steps = jax.random.split(key, 3)
        problem = problems.begin(key_begin, state.index, state.estimates, thetas)
        problem = problems.renew(key_renew, thetas, problem, None, data)
        options: Any = {"differentiated": differentiated, "until": length}
        unroll, _ = problems.run(key_steps, thetas, problem, self.lengths.longest, data, **options)
        return self._judged(unroll, problem.length), unroll

    def _judged(self, unroll: Window, length: Array) -> Array:
        """What of an unroll's losses is minimised, float32 (members,)."""
        if self.objective == "last":
            return unroll.losses[length - 1]
        if self.objective == "mean":
            return unroll.mean_losses()
        final = jnp.maximum(1, jnp.round(FINAL_FRACTION * length.astype(jnp.float32)))
        late = jnp.arange(len(unroll.mask)) >= length - final
        return unroll._replace(mask=unroll.mask & late).mean_losses()


@dataclasses.dataclass(frozen=True)
class _Drawn(LengthSchedule):
    """A length that has been drawn for all problems of an estimate."""

    length: Array

    def sample(self, key: Array, estimates: Any = 0) -> Array:
        """The length."""
        del key, estimates
        return self.length
