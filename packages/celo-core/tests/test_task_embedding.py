"""The task embedding: closed form, invariances, bad input; and schedulers that read it, also in meta-training."""

import functools
import itertools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import (
    EMBEDDING_NAMES,
    Celo,
    CeloAdam,
    CeloAdamConfig,
    CeloConfig,
    ConstantLength,
    Scheduler,
    SchedulerConfig,
    TruncatedPES,
    configs,
    embed_task,
    get_architecture,
    task_embedding,
)
from celo_core.meta_training.trainer import FrozenPart
from celo_core.meta_training.unroll import InnerProblem, train
from celo_core.schedulers import LSTM, Loss, Signal, TaskEmbedding, Time
from celo_core.schedulers.embedding import EMBEDDING_SIZE
from celo_core.testing.toys import LearnedSGD, Quadratic

SCHEDULER = SchedulerConfig(inputs=(Time(), Loss(num_timescales=3), TaskEmbedding()), network=LSTM(4))
ADAM = CeloAdam(CeloAdamConfig(scheduler=SCHEDULER))
FIRST = -EMBEDDING_SIZE  # the embedding is the last of the inputs

embed = jax.jit(task_embedding)
PARAMS = {"bias": np.zeros(3), "kernel": np.full((2, 3), 0.5), "scale": np.float32(2.0)}
GRADIENTS = {"bias": np.array([0.3, 0.0, -0.4]), "kernel": np.full((2, 3), -1e-3), "scale": np.float32(0.2)}


def named(*arguments: Any, **keywords: Any) -> dict[str, float]:
    values = np.asarray(embed(*arguments, **keywords))
    assert values.shape == (EMBEDDING_SIZE,) and values.dtype == np.float32
    return dict(zip(EMBEDDING_NAMES, values.tolist(), strict=True))


def test_closed_form() -> None:
    found = named(PARAMS, 2.0, GRADIENTS, 100, normalized_loss=1.0)
    logs = np.log([math.sqrt(0.25 / 3), 1e-3, 0.2])
    gradient_norm = math.sqrt(0.25 + 6e-6 + 0.04)
    expected = {
        "log_num_parameters": (math.log(11) - 10) / 4,
        "log_num_tensors": (math.log(4) - 2.5) / 1.5,
        "log_num_scalars": (math.log(2) - 1) / 1.5,
        "log_num_vectors": (math.log(2) - 1) / 1.5,
        "log_num_matrices": (math.log(2) - 1) / 1.5,
        "log_num_rank_3": -1 / 1.5,
        "log_num_rank_4_or_more": -1 / 1.5,
        "log_largest_tensor": (math.log(7) - 8) / 4,
        "log_smallest_tensor": (math.log(2) - 4) / 3,
        "log_num_steps": (math.log(100) - 7) / 2,
        "normalized_loss": 0.5,
        "log_loss": math.log(2) / 4,
        "log_gradient_norm": math.log(gradient_norm) / 4,
        "mean_log_gradient_rms": (logs.mean() + 6) / 4,
        "std_log_gradient_rms": logs.std() - 1,
        "log_gradient_to_parameter_ratio": (math.log(gradient_norm / math.sqrt(6 * 0.25 + 4)) + 2) / 4,
    }
    assert tuple(expected) == EMBEDDING_NAMES
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name  # float32 logarithms of order 10


def test_order_names_and_precision_of_leaves_do_not_matter() -> None:
    wanted = embed(PARAMS, 2.0, GRADIENTS, 100)
    swap = lambda tree: [tree["scale"], None, (tree["kernel"], {"a": tree["bias"]})]
    np.testing.assert_allclose(embed(swap(PARAMS), 2.0, swap(GRADIENTS), 100), wanted, atol=1e-6)  # sums' order
    halves = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)
    # bfloat16 has three digits, and logarithms are divided by four.
    np.testing.assert_allclose(embed(halves(PARAMS), 2.0, halves(GRADIENTS), 100), wanted, atol=2e-3)


def test_same_under_vmap_with_traced_num_steps() -> None:
    steps = jnp.asarray([10, 1000])
    losses = jnp.asarray([1.0, 3.0])
    together = jax.vmap(lambda loss, n: embed(PARAMS, loss, GRADIENTS, n))(losses, steps)
    for index, row in enumerate(together):
        np.testing.assert_allclose(row, embed(PARAMS, losses[index], GRADIENTS, steps[index]), atol=1e-6)


def test_unused_elements_do_not_count() -> None:
    """A partly used tensor, the rest of it zero, is as one of the used size; an unused one is as none."""
    pad = lambda tree: {
        **tree,
        "bias": np.pad(tree["bias"], (0, 2)),
        "kernel": np.pad(tree["kernel"], (1, 1)),
        "unused": np.zeros((4, 4)),
    }
    sizes = {"bias": 3, "kernel": 6, "scale": 1, "unused": 0}
    np.testing.assert_allclose(
        embed(pad(PARAMS), 2.0, pad(GRADIENTS), 100, sizes=sizes),
        embed(PARAMS, 2.0, GRADIENTS, 100),
        atol=1e-6,
    )
    assert named(pad(PARAMS), 2.0, pad(GRADIENTS), 100) != named(PARAMS, 2.0, GRADIENTS, 100)


BAD = [np.nan, np.inf, -np.inf, 3e38, -1e30, 0.0, 1e-38]


@pytest.mark.parametrize("bad", BAD)
def test_finite_and_bounded_on_bad_input(bad: float) -> None:
    filled = lambda tree: jax.tree.map(lambda x: np.full(np.shape(x), bad, np.float32), tree)
    for arguments in (
        (PARAMS, bad, GRADIENTS, 100),
        (PARAMS, 1.0, filled(GRADIENTS), 100),
        (filled(PARAMS), bad, filled(GRADIENTS), bad),
    ):
        values = np.asarray(embed(*arguments))
        assert np.all(np.abs(values) <= 3.0), dict(zip(EMBEDDING_NAMES, values, strict=True))


@pytest.mark.parametrize("tree", [{}, None, {"empty": np.zeros((0, 3))}], ids=str)
def test_trees_without_elements(tree: Any) -> None:
    found = named(tree, 1.0, tree, 100)
    assert all(map(math.isfinite, found.values()))
    assert found["log_num_tensors"] == pytest.approx(-2.5 / 1.5) and found["std_log_gradient_rms"] == -1.0


def test_nan_loss_counts_as_the_largest() -> None:
    assert named(PARAMS, np.nan, GRADIENTS, 9) == named(PARAMS, np.inf, GRADIENTS, 9)
    assert named(PARAMS, np.nan, GRADIENTS, 9)["log_loss"] == 3.0


def test_other_tree_of_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="gradients must be a tree like the parameters"):
        task_embedding(PARAMS, 1.0, {"kernel": GRADIENTS["kernel"]}, 10)


def test_embed_task_in_closed_form() -> None:
    """A quadratic ``mean(p^2) / 2`` at ones: loss 1/2, gradients 1/n, whatever the key."""
    found = jax.jit(lambda key: embed_task(Quadratic(size=8), key, jnp.asarray(False), {}, 50))(jax.random.key(0))
    wanted = embed(np.ones(8), 0.5, np.full(8, 1 / 8), 50)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


# Schedulers.

celo_with = lambda scheduler: Celo(CeloConfig(scheduler=scheduler))


@functools.cache
def theta_of(architecture: Any) -> Any:
    return jax.jit(architecture.init)(jax.random.key(0))


def test_off_by_default_and_round_trips_through_json() -> None:
    assert not SchedulerConfig().reads_task_embedding and SchedulerConfig().num_inputs == 18
    assert SCHEDULER.reads_task_embedding and celo_with(SCHEDULER).reads_task_embedding
    assert SCHEDULER.num_inputs == 9 + 2 + EMBEDDING_SIZE
    for config in (CeloConfig(scheduler=SCHEDULER), CeloAdamConfig(scheduler=SCHEDULER)):
        data = json.loads(json.dumps(configs.to_json(config)))
        assert configs.from_json(type(config), data) == config
        assert get_architecture("celo" if isinstance(config, CeloConfig) else "celo_adam", data).config == config


@pytest.mark.parametrize("architecture", [ADAM, celo_with(SCHEDULER)], ids=["celo_adam", "celo"])
def test_missing_embedding_is_explained_at_construction(architecture: Any) -> None:
    with pytest.raises(ValueError, match=r"build the optimizer with task_embedding=celo_core\.task_embedding\("):
        architecture.build(theta_of(architecture), 100)
    with pytest.raises(ValueError, match=r"has shape \(16,\), not \(3,\)"):
        architecture.build(theta_of(architecture), 100, task_embedding=np.zeros(3))
    scheduler = Scheduler(SCHEDULER)
    theta = theta_of(architecture)["scheduler"]
    with pytest.raises(ValueError, match="reads a task embedding"):
        scheduler.step(theta, scheduler.init_state(theta), Signal(jnp.int32(0), jnp.float32(1.0), 10))


@functools.partial(jax.jit, static_argnums=0)
def updates_of_first_step(architecture: Any, theta: Any, embedding: Any) -> Any:
    params, gradients = {"w": jnp.ones((2, 3))}, {"w": jnp.full((2, 3), 0.1)}
    tx = architecture.build(theta, 100, task_embedding=embedding)
    return tx.update(gradients, tx.init(params), params, value=jnp.float32(1.0))[0]["w"]


def first_updates(architecture: Any, embedding: Any = None) -> Any:
    return updates_of_first_step(architecture, theta_of(architecture), embedding)


@pytest.mark.parametrize("make", [lambda s: CeloAdam(CeloAdamConfig(scheduler=s)), celo_with], ids=["adam", "celo"])
def test_embedding_scales_the_updates(make: Any) -> None:
    """Other tasks have other multipliers: one factor on all updates. Without the option the embedding has no effect."""
    one, other = (
        embed(PARAMS, 2.0, GRADIENTS, 100),
        embed(np.ones((64, 64)), 9.0, np.ones((64, 64)), 9),
    )
    reads = make(SCHEDULER)
    ratio = first_updates(reads, one) / first_updates(reads, other)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)  # float32 products
    assert abs(float(ratio[0, 0]) - 1) > 1e-3
    plain = make(SchedulerConfig(inputs=SCHEDULER.inputs[:2], network=LSTM(4)))
    np.testing.assert_array_equal(first_updates(plain, one), first_updates(plain))


# Meta-training.


class NumberedTask(NamedTuple):
    """Config of `Steep`: how steep the task is."""

    slope: Any


class Steep(Quadratic):
    """Quadratics of random steepness, so that tasks have different embeddings."""

    def sample(self, key: jax.Array) -> Any:
        return NumberedTask(jnp.exp(jax.random.uniform(key, minval=-2.0, maxval=2.0)))

    def loss(self, params: Any, model_state: None, key: jax.Array, config: Any, batch: Any) -> Any:
        loss, model_state = super().loss(params, model_state, key, jnp.asarray(False), batch)
        return config.slope * loss, model_state


LENGTH, WINDOW = 6, 3


@functools.cache
def meta_trained(windows: int) -> tuple[Any, list[Any], list[Any]]:
    """The estimator, all its states, and its gradients."""
    estimator = TruncatedPES(
        FrozenPart(ADAM, {}), Steep(), num_pairs=4, truncation=WINDOW, lengths=ConstantLength(LENGTH)
    )
    theta = theta_of(ADAM)
    estimate = jax.jit(estimator.estimate)
    states, gradients = [jax.jit(estimator.init)(jax.random.key(1), theta)], []
    for number in range(windows):
        (gradient, _, _), state = estimate(jax.random.key(number), theta, states[-1], {})
        states.append(jax.device_get(state))
        gradients.append(jax.device_get(gradient))
    return estimator, states, gradients


def test_pes_makes_the_embedding_at_every_start_and_keeps_it() -> None:
    """Also after a restart: every embedding is that of the pair's own task."""
    _, states, _ = meta_trained(6)
    assert not np.any(states[0].task_embedding)
    slopes_seen = set()
    for before, after in itertools.pairwise(states):
        for pair, embedding in enumerate(after.task_embedding):
            slope, length = float(after.config.slope[pair]), int(after.length[pair])
            slopes_seen.add(slope)
            wanted = embed(np.ones(4), slope / 2, np.full(4, slope / 4), length, normalized_loss=slope / 2)
            np.testing.assert_allclose(embedding, wanted, atol=1e-5)  # float32 logarithms
            if int(after.step[pair]) > WINDOW:
                np.testing.assert_array_equal(embedding, before.task_embedding[pair])
    assert len(slopes_seen) >= 8, "four pairs, each restarted"


def test_pes_gradient_reaches_the_embedding_s_weights() -> None:
    _, _, gradients = meta_trained(6)
    for layer in ("input", "pooled_input"):
        rows = gradients[0]["scheduler"][layer]["kernel"][FIRST:]
        assert rows.shape == (EMBEDDING_SIZE, 4) and np.all(np.isfinite(rows)) and np.all(np.any(rows != 0, axis=1))


def test_state_has_no_embedding_where_none_is_asked_for() -> None:
    estimator = TruncatedPES(LearnedSGD(), Quadratic(), num_pairs=2)
    state = jax.eval_shape(estimator.init, jax.random.key(0), LearnedSGD().init(jax.random.key(0)))
    assert state.task_embedding is None and not InnerProblem(LearnedSGD(), Quadratic()).needs_embedding


def test_train_gives_the_task_s_embedding_to_the_optimizer() -> None:
    """Zeroing the rows that read it changes the training."""
    theta = theta_of(ADAM)
    run = jax.jit(lambda t: train(InnerProblem(ADAM, Quadratic()), t, jax.random.key(0), jnp.asarray(False), {}, 5)[1])
    network = theta["scheduler"]
    blind = {
        name: {**network[name], "kernel": network[name]["kernel"].at[FIRST:].set(0.0)}
        for name in ("input", "pooled_input")
    }
    without = run({"scheduler": {**network, **blind}})
    assert np.all(np.isfinite(run(theta))) and not np.allclose(run(theta)[1:], without[1:], rtol=1e-6)
