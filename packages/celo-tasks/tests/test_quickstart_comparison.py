"""Side-by-side training, on a problem whose every step can be computed by hand."""

import dataclasses
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import FamilyDefaults, TaskFamily
from celo_core.progress import ProgressLine
from celo_tasks import comparison
from celo_tasks.baselines import Contestant

SGD = Contestant("sgd", "plain", lambda rate, _: optax.with_extra_args_support(optax.sgd(rate)), (0.1, 0.25))


@dataclasses.dataclass(frozen=True)
class Distance(FamilyDefaults):
    """Loss 1/2 (p - x)^2 for random x around 3; the parameter starts at 0."""

    name: str = "distance"
    noise: float = 1.0

    def load(self) -> Any:
        return {"center": np.float32(3.0)}

    def sample(self, key: jax.Array) -> Any:
        return {}

    def init(self, key: jax.Array, config: Any) -> tuple[Any, None]:
        return {"p": jnp.zeros(())}, None

    def batch(self, key: jax.Array, config: Any, data: Any) -> Any:
        return data["center"] + self.noise * jax.random.normal(key)

    def loss(self, params: Any, model_state: None, key: jax.Array, config: Any, batch: Any) -> tuple[jax.Array, None]:
        return 0.5 * (params["p"] - batch) ** 2, model_state

    def normalizer(self, loss: jax.Array) -> jax.Array:
        return jnp.clip(jnp.nan_to_num(loss, nan=100.0, posinf=100.0, neginf=100.0), 0.0, 100.0)


def compare(family: Any, *contestants: Contestant, **kwargs: Any) -> comparison.Comparison:
    return comparison.compare(family, contestants, progress=ProgressLine(io.StringIO()), **kwargs)


def test_losses_are_those_of_gradient_descent() -> None:
    found = compare(Distance(noise=0.0), SGD, num_steps=10)
    assert isinstance(Distance(), TaskFamily)
    for candidate in found.outcomes[0].candidates:
        # p - 3 shrinks by (1 - learning rate) a step.
        expected = 4.5 * (1 - candidate.learning_rate) ** (2 * np.arange(10))
        np.testing.assert_allclose(candidate.losses, expected[None], rtol=1e-5)
    assert found.outcomes[0].best.learning_rate == 0.25 and found.outcomes[0].at_edge
    assert found.num_parameters == 1 and found.task == "distance"


def test_optimizers_of_a_seed_share_batches_and_seeds_differ() -> None:
    still = Contestant("still", "does nothing", lambda _, __: optax.with_extra_args_support(optax.set_to_zero()))
    twin = dataclasses.replace(still, name="twin", learning_rates=(1.0,))
    first, second = compare(Distance(), still, twin, num_steps=30, seeds=2).outcomes
    np.testing.assert_array_equal(first.best.losses, second.best.losses)
    losses = first.best.losses
    assert losses.shape == (2, 30)
    assert len(np.unique(losses)) == 60  # every step of every seed has a batch of its own


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50, 203])
def test_every_number_of_steps_works(num_steps: int) -> None:
    found = compare(Distance(), SGD, num_steps=num_steps)
    (outcome,) = found.outcomes
    assert outcome.best.losses.shape == (1, num_steps) and found.num_steps == num_steps
    assert np.all(outcome.best.losses > 0)
    assert (outcome.seconds_per_step is None) == (num_steps == 1)  # the first chunk compiles, and is not timed


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare(Distance(), SGD, num_steps=21).outcomes[0].best.losses
    monkeypatch.setattr(comparison, "LARGEST_CHUNK", 2)
    np.testing.assert_array_equal(compare(Distance(), SGD, num_steps=21).outcomes[0].best.losses, whole)


def test_one_program_serves_all_chunks_rates_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[Any] = []
    build = lambda rate, _: traces.append(rate) or optax.with_extra_args_support(optax.adam(rate))
    compare(Distance(), Contestant("adam", "", build, (0.1, 0.2, 0.3)), num_steps=40, seeds=2)
    assert len(traces) == 2  # one of the optimizer's init, one of the steps


def test_divergence_is_the_worst_and_harms_nothing() -> None:
    wild = dataclasses.replace(SGD, learning_rates=(0.1, 1e30, 0.2))
    found = compare(Distance(), wild, num_steps=40, seeds=2)
    outcome = found.outcomes[0]
    assert [candidate.final_loss == 100.0 for candidate in outcome.candidates] == [False, True, False]
    assert outcome.best.learning_rate != 1e30 and not outcome.at_edge
    assert np.all(np.isfinite(outcome.smoothed()))


def test_speedup_over_tuned_adam() -> None:
    adam = dataclasses.replace(SGD, name="adam", learning_rates=(0.01, 0.1))
    faster, slower = (
        Contestant(name, "", lambda _, __, rate=rate: optax.with_extra_args_support(optax.sgd(rate)))
        for name, rate in (("faster", 0.5), ("slower", 0.05))
    )
    found = compare(Distance(noise=0.0), adam, faster, slower, num_steps=100)
    assert found.speedup("faster") == (1.0, None, 100)
    slow = found.speedup("slower")
    assert slow is not None and slow.baseline_steps is not None and slow.factor < 1
    assert found.speedup("adam") is None and found.speedup("absent") is None
    assert compare(Distance(), SGD, num_steps=2).speedup("sgd") is None  # no Adam to compare with


def test_nothing_to_run_is_refused() -> None:
    for settings in ({"num_steps": 0}, {"num_steps": 1, "seeds": 0}):
        with pytest.raises(ValueError, match="at least"):
            compare(Distance(), SGD, **settings)
    with pytest.raises(ValueError, match="at least"):
        compare(Distance(), num_steps=1)
