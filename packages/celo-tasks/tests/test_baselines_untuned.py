"""The untuned baselines: each is Optax's optimizer at the settings that it says, and is found by its name."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from celo_tasks.baselines import TUNED_BASELINES, UNTUNED_BASELINES
from celo_tasks.evaluation.optimizer_specs import OptimizerSpec, resolve

STEPS = 60
HAS_TWO_RATES = "adam_learning_rate" in inspect.signature(optax.contrib.muon).parameters
REFERENCES = {
    "adam_1e-3": optax.adam(0.001),
    "adamw_1e-3_cosine": optax.adamw(lambda n: 0.0005 * (1 + jnp.cos(jnp.pi * n / STEPS)), weight_decay=0.01),
    "prodigy_default": optax.contrib.prodigy(),
    "schedule_free_adamw_default": optax.contrib.schedule_free_adamw(warmup_steps=3),
}

if HAS_TWO_RATES:
    REFERENCES["muon_default"] = optax.contrib.muon(0.02, adam_learning_rate=0.0003)


def updates_of(tx, steps=STEPS, still=False):
    """Updates of one matrix and one vector on a parabola, or under gradients of 1 at parameters that stay 0."""
    start = {"w": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3), "b": jnp.ones(3)}

    def step(carry, _):
        params, state = carry
        params = jax.tree.map(jnp.zeros_like, params) if still else params
        gradient = jax.tree.map(jnp.ones_like if still else lambda p: 3.0 * p + 0.5, params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), None, length=steps)[1])()


@pytest.mark.parametrize("name", REFERENCES)
def test_it_is_optax_at_these_settings(name):
    resolved = resolve(OptimizerSpec.parse(name))
    found = updates_of(resolved.build(None, STEPS))
    expected = updates_of(REFERENCES[name])
    # The same operations, compiled apart; Muon's matrix iteration amplifies rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected)


def test_the_first_of_optlist_has_its_schedule():
    """Under constant gradients Adam's steps, bias corrections included, are as long as the learning rate."""
    steps = 1000
    lengths = -np.asarray(updates_of(UNTUNED_BASELINES["optlist_1"].make(steps), steps, still=True)["b"])[:, 0]
    np.testing.assert_allclose(lengths[50:747], 1.19e-3, rtol=1e-3)  # Nesterov's momentum makes the first steps longer
    np.testing.assert_allclose(
        lengths[[747 + 127, 999]], [1.19e-3 / 2, 1.19e-3 * (1.5 / 253) ** 2], rtol=0.05, atol=1e-7
    )


def test_all_are_here_and_none_is_tuned():
    assert set(UNTUNED_BASELINES) == {*REFERENCES, "optlist_1", "muon_default"} and not set(UNTUNED_BASELINES) & set(
        TUNED_BASELINES
    )
    for name, baseline in UNTUNED_BASELINES.items():
        resolved = resolve(OptimizerSpec.parse(f"other={name}"))
        assert baseline.name == name and baseline.source and not resolved.tuned and resolved.name == "other"
        # The loss and unknown keywords are passed to every optimizer.
        tx = resolved.build(None, STEPS)
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)}, value=1.0, unknown=None)


def test_a_misspelt_one_is_named():
    with pytest.raises(ValueError, match="did you mean muon_default"):
        resolve(OptimizerSpec.parse("muon_defualt"))
