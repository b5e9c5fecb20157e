"""The scheduler's Transformer: step by step it is attention over the whole sequence with a window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import Celo, CeloConfig, SchedulerConfig
from celo_core.schedulers import Scheduler, Signal, Transformer

NUM_INPUTS, LENGTH = 5, 23


def run(network, theta, inputs):
    def step(state, x):
        y, state = network.apply(theta, x, state, jnp.float32(LENGTH))
        return state, y

    return np.asarray(jax.jit(lambda x: jax.lax.scan(step, network.init_state(theta), x)[1])(inputs))


def random_theta(network, seed=0):
    """Theta none of whose parts is 0."""
    theta = network.init(jax.random.key(seed), NUM_INPUTS)
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


def normalised(x, part):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * part["scale"] + part["bias"]


def dense(x, part):
    return x @ part["kernel"] + part["bias"]


def reference(network, theta, inputs):
    """All steps at once, float64: every step attends to itself and to ``memory - 1`` before it."""
    theta = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
    x = dense(np.asarray(inputs, np.float64), theta["input"])
    steps, size = len(x), network.width // network.heads
    back = np.arange(steps)[:, None] - np.arange(steps)[None, :]
    seen = (back >= 0) & (back < network.memory)
    for n in range(network.layers):
        layer = theta[f"layer_{n}"]
        made = dense(normalised(x, layer["norm_attention"]), layer["query_key_value"])
        q, k, v = np.moveaxis(made.reshape(steps, 3, network.heads, size), 1, 0)
        bias = layer["relative_position"][:, np.where(seen, back, 0)]
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size) + bias
        weights = np.where(seen, np.exp(scores - scores.max()), 0.0)
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + dense(np.einsum("hij,jhd->ihd", weights, v).reshape(steps, -1), layer["attention_output"])
        hidden = np.maximum(dense(normalised(x, layer["norm_hidden"]), layer["hidden"]), 0.0)
        x = x + dense(hidden, layer["output"])
    return dense(normalised(x, theta["norm_output"]), theta["step_size"])[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [Transformer(8, 2, 1, 6), Transformer(8, 1, 2, 40), Transformer(6, 3, 2, 1)],
    ids=["window", "all", "one"],
)
def test_step_by_step_it_is_attention_over_the_sequence(network):
    theta = random_theta(network)
    inputs = jax.random.normal(jax.random.key(5), (LENGTH, NUM_INPUTS))
    # Float32 against float64.
    np.testing.assert_allclose(run(network, theta, inputs), reference(network, theta, inputs), rtol=2e-4, atol=2e-5)


def test_what_is_longer_ago_than_its_memory_has_no_effect():
    network = Transformer(8, 2, 1, 6)
    theta = random_theta(network)
    inputs = jax.random.normal(jax.random.key(5), (LENGTH, NUM_INPUTS))
    changed = run(network, theta, inputs.at[3].add(1.0))
    before = run(network, theta, inputs)
    different = np.flatnonzero(changed != before)
    assert set(different) == set(range(3, 9))


def test_it_schedules_an_optimizer_and_begins_at_the_prior():
    config = CeloConfig(scheduler=SchedulerConfig(network=Transformer(8, 2, 2, 4), bounds=(0.25, 4.0)))
    theta = Celo(config).init(jax.random.key(0))
    scheduler = Scheduler(config.scheduler)
    state = scheduler.init_state(theta["scheduler"])
    for count in range(6):
        signal = Signal(jnp.int32(count), jnp.float32(1.0), 10)
        controls, state = scheduler.step(theta["scheduler"], state, signal)
        assert float(controls.multiplier) == pytest.approx(0.1)
    params = {"w": jnp.ones((3, 2))}
    tx = Celo(config).build(theta, 10)
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1.0))
    assert np.all(np.isfinite(updates["w"])) and np.all(updates["w"] != 0)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"heads": 3}, {"layers": 0}, {"memory": -1}])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(ValueError, match="a width that its heads divide"):
        Transformer(**sizes)
