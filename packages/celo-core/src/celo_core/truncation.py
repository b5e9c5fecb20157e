"""How long inner problems run: lengths of unrolls for truncated meta-gradient estimators."""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ConstantLength:
    """Every problem runs for ``steps`` steps."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a problem must run for at least 1 step, not {self.steps}.")

    def sample(self, key: Array) -> Array:
        """Length of one problem, int32 ()."""
        del key
        return jnp.asarray(self.steps, jnp.int32)


@dataclasses.dataclass(frozen=True)
class LogUniformLength:
    """Lengths log-uniform in [minimum, maximum], as Celo is meta-trained (arXiv 2501.12670, section 4)."""

    minimum: int = 100
    maximum: int = 2000

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"lengths must satisfy 1 <= minimum <= maximum, not {self.minimum} and {self.maximum}.")

    def sample(self, key: Array) -> Array:
        """Length of one problem, int32 ()."""
        low, high = jnp.log(float(self.minimum)), jnp.log(float(self.maximum))
        return jnp.round(jnp.exp(jax.random.uniform(key, minval=low, maxval=high))).astype(jnp.int32)


LengthSchedule = ConstantLength | LogUniformLength
