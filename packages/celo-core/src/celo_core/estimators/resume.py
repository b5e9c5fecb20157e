"""Resume buffers: problems that begin in the middle of an earlier trajectory, for horizons too long to unroll every time.

With horizons of tens of thousands of steps, few long trajectories would take up most windows. A buffer keeps snapshots of
networks during training; some new problems begin from one. The snapshot is treated as a constant: estimators that follow
theta's influence through a whole trajectory (PES, noise-reuse ES) ignore its influence on the snapshot, which is a bias
towards the rest of the trajectory. In return their variance no longer grows with the horizon.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Snapshots(NamedTuple):
    """Snapshots of one slot; every leaf has a leading axis over them.

    Attributes:
      config: task config.
      trainee: the network, without an axis over members.
      step: steps taken, int32.
      length: steps until the problem ends, int32.
      task_embedding: float32, or ``None``.
      filled: whether there is a snapshot, bool.
    """

    config: Any
    trainee: Any
    step: Any
    length: Any
    task_embedding: Any
    filled: Any


@dataclasses.dataclass(frozen=True)
class ResumeBuffer:
    """Keeps snapshots of every slot's problems, and begins some new problems from them.

    Attributes:
      capacity: snapshots per slot.
      rate: probability that a window ends with a snapshot, in place of a random older one.
      probability: probability that a new problem begins from a snapshot, once there is one.
    """

    capacity: int = 2
    rate: float = 0.05
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.capacity < 1 or not 0 < self.rate <= 1 or not 0 <= self.probability <= 1:
            raise ValueError(
                "a resume buffer needs capacity >= 1, 0 < rate <= 1 and 0 <= probability <= 1, "
                f"not {self.capacity}, {self.rate} and {self.probability}."
            )

    def empty(self, state: Any) -> Snapshots:
        """A buffer without snapshots, for problems like that of ``state`` (a `ProblemState` of one slot)."""
        blank = jax.tree.map(lambda x: jnp.zeros((self.capacity, *x.shape), x.dtype), self._taken(state))
        return Snapshots._make((*blank, jnp.zeros((self.capacity,), bool)))

    def store(self, key: Array, state: Any, window: int) -> Snapshots:
        """The buffer after a window, perhaps with a snapshot of the first member if it has a whole window left."""
        key_whether, key_where = jax.random.split(key)
        place = jax.random.randint(key_where, (), 0, self.capacity, jnp.int32)
        whether = jax.random.bernoulli(key_whether, self.rate) & (state.step + window <= state.length)
        here = whether & (jnp.arange(self.capacity, dtype=jnp.int32) == place)
        old: Snapshots = state.snapshots
        keep = lambda new, old: jnp.where(here.reshape(-1, *[1] * new.ndim), new[None], old)
        return Snapshots._make((*jax.tree.map(keep, self._taken(state), tuple(old[:-1])), old.filled | here))

    def restore(self, key: Array, fresh: Any, snapshots: Snapshots) -> Any:
        """``fresh``, or with the buffer's probability a problem that begins from a random snapshot, for all members."""
        key_whether, key_which = jax.random.split(key)
        which = jax.random.categorical(key_which, jnp.where(snapshots.filled, 0.0, -jnp.inf))
        whether = jax.random.bernoulli(key_whether, self.probability) & jnp.any(snapshots.filled)
        config, trainee, step, length, embedding = (jax.tree.map(lambda x: x[which], x) for x in snapshots[:-1])
        members = lambda new, old: jnp.where(whether, jnp.broadcast_to(new[None], old.shape), old)
        choose = lambda new, old: jax.tree.map(lambda n, o: jnp.where(whether, n, o), new, old)
        return fresh._replace(
            config=choose(config, fresh.config),
            trainee=jax.tree.map(members, trainee, fresh.trainee),
            step=choose(step, fresh.step),
            length=choose(length, fresh.length),
            task_embedding=choose(embedding, fresh.task_embedding),
            snapshots=snapshots,
        )

    def _taken(self, state: Any) -> tuple[Any, ...]:
        """The fields of a snapshot."""
        first = jax.tree.map(lambda x: x[0], state.trainee)
        return state.config, first, state.step, state.length, state.task_embedding
