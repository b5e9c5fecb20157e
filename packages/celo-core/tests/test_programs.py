"""Uses of an optimizer besides taking its planned steps: options, lengths, stacks, losses, frozen parts, meshes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celo_core import (
    ARCHITECTURES,
    Celo,
    CeloConfig,
    SchedulerConfig,
    celo,
    get_architecture,
    restore_structure,
    scale_by_celo,
)
from celo_core.architectures.celo import ParameterScale
from celo_core.directions import MLP, Adam, Orthogonal
from celo_core.kernels import reductions
from celo_core.schedulers import Cosine, Linear, loss_features

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)

LINEAR = CeloConfig(
    directions=(MLP(), Adam(), Orthogonal()),
    scale=ParameterScale(zero_init=1.0),
    scheduler=SchedulerConfig(network=Linear(), prior=Cosine(peak=0.1)),
)
"""A config like that of the bundled weights: all directions, and a cosine decay."""

PARAMS = {"bias": jnp.array([1.0, -2.0]), "kernel": jnp.arange(1.0, 7.0).reshape(3, 2)}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.3, PARAMS)


@functools.cache
def theta_of(architecture):
    return get_architecture(architecture).init(jax.random.key(0))


@functools.cache
def linear_theta():
    """Theta whose schedule is the cosine decay only: it does not read the loss."""
    theta = Celo(LINEAR).init(jax.random.key(1))
    network = theta["scheduler"]["step_size"]
    theta["scheduler"]["step_size"] = {**network, "kernel": jnp.zeros_like(network["kernel"])}
    return theta


def build(architecture, num_steps=10, **options):
    return get_architecture(architecture).build(theta_of(architecture), num_steps, **options)


def linear(num_steps=10, **options):
    return celo(linear_theta(), num_steps, config=LINEAR, **options)


def updates_of(tx, steps=1, value=1.0, state=None, params=PARAMS):
    """The last of some updates on the same gradients, and the state."""
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params, value=value)
    return updates, state


# The user's multiplier.


@architectures
def test_step_multiplier_multiplies_steps_and_weight_decay(architecture):
    whole, _ = updates_of(build(architecture, weight_decay=0.01))
    half, _ = updates_of(build(architecture, weight_decay=0.01, step_multiplier=0.5))
    for name, update in whole.items():
        np.testing.assert_allclose(half[name], 0.5 * update, rtol=1e-6)  # one rounding


@architectures
def test_step_multiplier_may_be_a_schedule_of_the_steps_taken(architecture):
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    plain, warm = build(architecture), build(architecture, step_multiplier=schedule)
    for steps in (1, 2, 5):
        factor = float(schedule(steps - 1))
        expected, actual = updates_of(plain, steps)[0], updates_of(warm, steps)[0]
        for name, update in expected.items():
            np.testing.assert_allclose(actual[name], factor * update, rtol=1e-6)


def test_step_multiplier_keeps_dtypes():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = build("celo", step_multiplier=jnp.float32(0.3))
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("multiplier", [-1.0, float("nan"), float("inf"), "half", None, np.ones(2)])
def test_step_multiplier_that_makes_no_sense(multiplier):
    with pytest.raises(ValueError, match="step_multiplier must be a number of at least 0, or a function"):
        build("celo", step_multiplier=multiplier)


@architectures
def test_options_can_be_injected(architecture):
    """Every option is in the signature, and numbers among them may change from step to step."""
    learned = get_architecture(architecture)
    make = optax.inject_hyperparams(learned.build)
    tx = make(theta_of(architecture), 10, weight_decay=0.01, step_multiplier=0.5)
    state = tx.init(PARAMS)
    updates, state = tx.update(GRADS, state, PARAMS, value=1.0)
    expected, _ = updates_of(build(architecture, weight_decay=0.01, step_multiplier=0.5))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected)
    state.hyperparams["step_multiplier"] = jnp.float32(0.0)
    updates, _ = tx.update(GRADS, state, PARAMS, value=1.0)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))


# Lengths.


def test_past_the_end_nothing_moves_and_weight_decay_ends_too():
    """After the end of a cosine decay, also with weight decay."""
    for weight_decay in (0.0, 0.1):
        tx = linear(4, weight_decay=weight_decay)
        updates, state = updates_of(tx, steps=4)
        assert all(np.any(u != 0) for u in jax.tree.leaves(updates))
        updates, _ = updates_of(tx, steps=3, state=state)
        assert not any(np.any(u) for u in jax.tree.leaves(updates))


def test_weight_decay_follows_the_decay_of_the_schedule():
    """``weight_decay cos^2(pi x / 2)`` of a parameter after a fraction x of the training."""
    plain, decayed = linear(8), linear(8, weight_decay=0.1)
    for steps in (1, 3, 7):
        share = np.cos(0.5 * np.pi * (steps - 1) / 8) ** 2
        difference = jax.tree.map(jnp.subtract, updates_of(decayed, steps)[0], updates_of(plain, steps)[0])
        for name, p in PARAMS.items():
            # One float32 rounding, relative to the parameter, of the step that is subtracted again.
            np.testing.assert_allclose(difference[name], -0.1 * share * p, atol=1e-6)


def test_a_run_is_extended_by_a_larger_num_steps_and_the_old_state():
    """At the old end the multiplier is that of the longer schedule, and the moments are those of the steps so far."""
    _, state = updates_of(linear(4), steps=4)
    updates, after = updates_of(linear(8), state=state)
    assert all(np.any(u != 0) for u in jax.tree.leaves(updates)) and int(after.count) == 5
    _, whole = updates_of(linear(8), steps=5)
    jax.tree.map(np.testing.assert_array_equal, after.momentum, whole.momentum)


def test_inside_multi_steps_num_steps_counts_updates():
    """Two gradients each: the fourth update, not the fourth gradient, is the last."""
    tx = optax.MultiSteps(linear(4), every_k_schedule=2)
    state = tx.init(PARAMS)
    moved = []
    for _ in range(12):
        updates, state = tx.update(GRADS, state, PARAMS, value=1.0)
        moved.append(any(np.any(u != 0) for u in jax.tree.leaves(updates)))
    assert moved == [False, True] * 4 + [False] * 4


def test_inside_multi_steps_a_loss_that_is_not_read_may_be_left_out():
    tx = optax.MultiSteps(linear(4), every_k_schedule=2)
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, PARAMS)
    expected, _ = updates_of(linear(4))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected
    )  # a mean of equal gradients


# The loss.


def test_a_loss_that_is_not_read_may_be_left_out():
    tx = linear()
    state = tx.init(PARAMS)
    updates, after = tx.update(GRADS, state, PARAMS)
    for value in (1.0, -3e38, float("nan")):
        again, same = tx.update(GRADS, state, PARAMS, value=value)
        jax.tree.map(np.testing.assert_array_equal, (again, same), (updates, after))


def test_a_loss_that_is_read_may_not():
    theta = linear_theta()
    network = theta["scheduler"]["step_size"]
    kernel = network["kernel"].at[12].set(0.1)  # one of the loss's features
    scheduler = {"step_size": {**network, "kernel": kernel}}
    reading = celo({**theta, "scheduler": scheduler}, 10, config=LINEAR)
    with pytest.raises(ValueError, match="celo needs the loss of this step"):
        reading.update(GRADS, reading.init(PARAMS), PARAMS)


def test_of_a_traced_theta_the_loss_is_read():
    with pytest.raises(ValueError, match="celo needs the loss of this step"):
        jax.eval_shape(lambda theta: celo(theta, 10, config=LINEAR).update(GRADS, None, PARAMS), linear_theta())


def test_without_a_scheduler_no_loss_is_needed():
    config = CeloConfig(scheduler=None)
    tx = scale_by_celo(Celo(config).init(jax.random.key(0)), 10, config=config)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert all(np.any(u != 0) for u in jax.tree.leaves(updates))


def test_means_of_the_loss_after_a_first_loss_of_zero():
    """Limited to twice the largest mean, 0, they would stay 0; the mean over the shortest time forgets the first loss."""
    buffer = loss_features.init_loss_buffer(10)
    take = jax.jit(loss_features.update_loss_buffer)
    for value in (0.0, *[1.0] * 150):
        buffer, _ = take(buffer, jnp.float32(value), jnp.float32(1000.0))
    rates = loss_features.loss_rates(jnp.float32(1000.0), 10)
    means = loss_features.corrected_means(buffer.means, jnp.float32(151.0), rates)
    np.testing.assert_allclose(means[0], 1.0, rtol=1e-5)  # the first loss has a weight of exp(-15)
    assert np.all(means > 0.5)


def test_nan_after_a_loss_of_zero_is_a_loss_of_zero():
    buffer = loss_features.init_loss_buffer(10)
    for value in (0.0, np.nan, np.inf):
        buffer, features = loss_features.update_loss_buffer(buffer, jnp.float32(value), jnp.float32(100.0))
    assert not np.any(buffer.means) and np.all(np.isfinite(features))


# Stacks.


def test_num_stacked_axes_are_a_number_a_tree_a_prefix_or_a_function():
    params = {"layers": {"b": jnp.ones((4, 3)), "w": jnp.ones((4, 3, 5))}, "head": jnp.ones((5, 2))}
    ways = (
        {"layers": {"b": 1, "w": 1}, "head": 0},
        {"layers": 1, "head": 0},
        lambda p: {"layers": 1, "head": 0},
        lambda p: jax.tree_util.tree_map_with_path(lambda path, _: int(path[0].key == "layers"), p),
    )
    expected = linear(num_stacked_axes=ways[0]).init(params)
    assert expected.factored.row[0]["layers"]["w"].shape == (4, 3)
    assert (
        expected.factored.row[0]["layers"]["b"].shape == (4, 3) and expected.factored.column[0]["layers"]["b"] is None
    )
    for way in ways[1:]:
        found = linear(num_stacked_axes=way).init(params)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("stacks", "message"),
    [
        ({"bias": 1, "kernel": 3}, r"\['kernel'\] must be a whole number from 0 to 2"),
        ({"bias": -1, "kernel": 0}, r"\['bias'\] must be a whole number"),
        (True, "must be a whole number"),
        ({"bias": 1}, "not a tree that fits the parameters"),
    ],
)
def test_num_stacked_axes_that_do_not_fit(stacks, message):
    with pytest.raises(ValueError, match=message):
        linear(num_stacked_axes=stacks).init(PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.usefixtures("as_for_users")
def test_a_stack_is_its_layers(large, monkeypatch):
    """On one device, where leaves are stacked anyway: bit for bit. Large layers are processed in a loop, and leaves of
    their size are not: XLA contracts other products and sums, half a unit in the last place each."""
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    rng = np.random.default_rng(0)
    shapes = {"w": (420, 330), "b": (330,)} if large else {"b": (6,), "kernel": (16, 16), "conv": (3, 3, 4, 8)}
    layers = [
        {name: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
        for scale in (0.01, 0.1, 1.0)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *layers)

    def run(tx, params):
        state = tx.init(params)
        for factor in (1.0, 2.0, 3.0):
            grads = jax.tree.map(lambda p, f=factor: jnp.sin(f * p), params)
            updates, state = jax.jit(tx.update)(grads, state, params)
        return updates

    found, expected = run(linear(num_stacked_axes=1), stacked), run(linear(), layers)
    for index, layer in enumerate(expected):
        for name, update in layer.items():
            atol = 2e-6 * np.abs(update).max() if large and update.ndim > 1 else 0.0
            np.testing.assert_allclose(found[name][index], update, rtol=0, atol=atol)


# Frozen parts.


def test_a_frozen_parameter_keeps_its_moments_and_does_not_decay():
    tx = linear(weight_decay=0.1)
    _, state = updates_of(tx)
    updates, after = tx.update({**GRADS, "bias": None}, state, PARAMS, value=1.0)
    assert not np.any(updates["bias"]) and np.any(updates["kernel"])
    for trees, kept in ((after.momentum, state.momentum), (after.factored.row, state.factored.row)):
        for new, old in zip(trees, kept, strict=True):
            np.testing.assert_array_equal(new["bias"], old["bias"])
            assert np.any(new["kernel"] != old["kernel"])


# Meshes.


@pytest.mark.parametrize("entered", [False, True], ids=["not entered", "entered"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_explicit_mesh(entered, compiled):
    """As `jax.make_mesh` returns it, whether or not the program enters it with `jax.set_mesh`."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    rng = np.random.default_rng(0)
    whole = {name: np.float32(rng.standard_normal(shape)) for name, shape in {"a": (16, 8), "b": (16, 8)}.items()}
    specs = {"a": PartitionSpec("x", None), "b": PartitionSpec()}
    tx = linear()
    params = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in whole.items()}
    with jax.set_mesh(mesh) if entered else contextlib.nullcontext():
        state = tx.init(params)
        update = jax.jit(tx.update) if compiled else tx.update
        updates, state = update(params, state, params)
        updates, state = update(params, state, params)
    for name, spec in specs.items():
        assert updates[name].sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
        assert state.momentum[0][name].sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    again, _ = tx.update(whole, tx.update(whole, tx.init(whole), whole)[1], whole)
    for name, update in again.items():
        np.testing.assert_allclose(updates[name], update, atol=1e-3 * np.abs(update).max())  # sums in another order


# States that come from a checkpoint.


def test_restored_without_a_target():
    """From the result of a reader without a target: dicts by field, and lists; also with another order of the fields."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), linear())
    state = tx.init(PARAMS)

    def plain(tree):
        if hasattr(tree, "_fields"):
            return {name: plain(getattr(tree, name)) for name in sorted(tree._fields)}
        if isinstance(tree, (list, tuple)):
            return [plain(x) for x in tree]
        return {name: plain(x) for name, x in tree.items()} if isinstance(tree, dict) else tree

    restored = restore_structure(jax.eval_shape(tx.init, PARAMS), plain(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    with pytest.raises(ValueError, match="of another optimizer or model"):
        restore_structure(jax.eval_shape(optax.adam(1e-3).init, PARAMS), plain(state))
    with pytest.raises(ValueError, match="leaves and not"):
        restore_structure(state, [{}, {**plain(state)[1], "more": 1}])
