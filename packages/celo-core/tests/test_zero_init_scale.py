"""Tensors that are all zeros at initialisation: the scale that `ParameterScale.zero_init` gives them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import Celo, CeloConfig, configs, kernels
from celo_core.architectures.celo import ParameterScale
from celo_core.kernels import pallas, xla
from celo_core.testing import check_optimizer

PUBLISHED = CeloConfig(scheduler=None)
FLOORED = CeloConfig(scale=ParameterScale(zero_init=0.5), scheduler=None)
# One for each code path of the fused update: single, stacked with another, packed with other vectors, and a scalar.
PARAMS = {
    "bias": jnp.zeros(5),
    "gain": jnp.full(7, 2.0),
    "head": jnp.zeros((4, 3)),
    "kernel": jnp.full((4, 3), -0.2),
    "temperature": jnp.zeros(()),
    "wide": jnp.zeros((3, 11)),
}
SMALLEST = 0.2
ZERO = {"bias", "head", "temperature", "wide"}

pytestmark = pytest.mark.slow


@functools.cache
def theta():
    return Celo(PUBLISHED).init(jax.random.key(3))


def step(config, params=PARAMS, factor=1.0):
    """Celo's first step under gradients of random numbers, on the host."""
    treedef = jax.tree.structure(params)
    keys = jax.tree.unflatten(treedef, list(jax.random.split(jax.random.key(1), treedef.num_leaves)))
    grads = jax.tree.map(lambda key, p: factor * jax.random.normal(key, p.shape), keys, params)
    tx = Celo(config).build(theta(), 10)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params, value=1.0)
    return jax.device_get(updates), state


def test_steps_are_as_of_a_tensor_of_that_size():
    """In closed form: without a floor such a tensor's scale is sqrt(1e-9); with it, sqrt(floor^2 + 1e-9). Others do not change."""
    published, floored = step(PUBLISHED)[0], step(FLOORED)[0]
    ratio = np.sqrt((0.5 * SMALLEST) ** 2 + 1e-9) / np.sqrt(1e-9)
    for name, expected in published.items():
        assert np.any(expected != 0)
        factor = ratio if name in ZERO else 1.0
        np.testing.assert_allclose(floored[name], factor * expected, rtol=1e-5)  # a rounding or two of float32 products


def test_the_floor_is_of_the_initial_parameters_and_stays():
    tx = Celo(FLOORED).build(theta(), 10)
    state = tx.init(PARAMS)
    floor = dict(zip(sorted(PARAMS), np.asarray(state.scale_floor), strict=True))
    assert floor == {name: pytest.approx(0.5 * SMALLEST if name in ZERO else 0.0) for name in PARAMS}
    grown = jax.tree.map(lambda p: p + 3.0, PARAMS)
    _, state = tx.update(grown, state, grown, value=1.0)
    assert dict(zip(sorted(PARAMS), np.asarray(state.scale_floor), strict=True)) == floor


def test_a_change_of_units_changes_the_floor_with_it():
    """With every parameter c times as large the floor is c times as large, so that such tensors keep their relative size."""
    floor = lambda params: Celo(FLOORED).build(theta(), 10).init(params).scale_floor
    c = 64.0  # a power of two, which rounds nothing
    np.testing.assert_array_equal(floor(jax.tree.map(lambda p: c * p, PARAMS)), c * floor(PARAMS))


def test_nothing_but_zeros_has_the_scale_of_a_usual_initialisation():
    """The closed form: the root mean square of weights drawn with a variance of 1 over the longest side of any tensor, 11."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    floored, published = step(FLOORED, zeros), step(PUBLISHED, zeros)
    np.testing.assert_allclose(floored[1].scale_floor, 0.5 / np.sqrt(11.0), rtol=1e-6)
    ratio = np.sqrt(0.25 / 11.0 + 1e-9) / np.sqrt(1e-9)
    for name, expected in published[0].items():
        np.testing.assert_allclose(
            floored[0][name], ratio * expected, rtol=1e-5
        )  # a rounding or two of float32 products


@pytest.mark.parametrize(
    ("shapes", "side"),
    [
        ({"a": ()}, 1),
        ({"a": (7,), "b": ()}, 7),
        ({"a": (3, 3, 4, 8)}, 32),  # as a matrix it has the shape 9 by 32
        ({"a": (6, 2, 40)}, 40),
    ],
)
def test_longest_side(shapes, side):
    state = Celo(FLOORED).build(theta(), 10).init({name: jnp.zeros(shape) for name, shape in shapes.items()})
    np.testing.assert_allclose(state.scale_floor, np.full(len(shapes), 0.5 / np.sqrt(side)), rtol=1e-6)


def test_each_tensor_of_a_stack_has_its_own_floor():
    """The second of three layers is zeros; the smallest of the others is the first."""
    layers = jnp.stack([jnp.full((4, 3), 0.5), jnp.zeros((4, 3)), jnp.full((4, 3), 2.0)])
    state = Celo(FLOORED).build(theta(), 10, num_stacked_axes=1).init({"layers": layers})
    np.testing.assert_allclose(state.scale_floor, [0.0, 0.25, 0.0], rtol=1e-6)


def test_state_is_one_number_per_tensor_more_and_none_by_default():
    size = lambda config: sum(x.nbytes for x in jax.tree.leaves(Celo(config).build(theta(), 10).init(PARAMS)))
    assert size(FLOORED) - size(PUBLISHED) == 4 * len(PARAMS)
    assert Celo(PUBLISHED).build(theta(), 10).init(PARAMS).scale_floor is None


def test_no_parameters_and_numbers_that_are_not_finite():
    tx = Celo(FLOORED).build(theta(), 10)
    assert tx.init({}).scale_floor == 0
    floor = tx.init({"a": jnp.array([jnp.nan, 1.0]), "b": jnp.zeros(2), "c": jnp.array([1.0, 1.0])}).scale_floor
    assert np.all(np.isfinite(floor))


def test_kernels_agree():
    """The Pallas kernels, interpreted, and XLA; on a stack of tensors of which one has a floor."""
    tx = Celo(FLOORED).build(theta(), 10)
    shape = (2, 9, 33)
    params = {"a": jnp.zeros(shape[1:]), "b": jnp.ones(shape[1:])}
    state = tx.init(params)
    stacked = lambda tree: jnp.stack([tree["a"], tree["b"]])
    moments = kernels.Accumulators(
        tuple(map(stacked, state.momentum)),
        stacked(state.second_moment),
        tuple(map(stacked, state.factored.row)),
        tuple(map(stacked, state.factored.column)),
    )
    gradient = jax.random.normal(jax.random.key(0), shape)
    batch = kernels.interface.Batch(gradient, stacked(params), moments, None, 1, (), {"scale_floor": state.scale_floor})
    weights = kernels.Weights((theta()["update_rule"]["mlp"],))
    arguments = (FLOORED.rule, weights, None, batch, jnp.uint32(1))
    found, expected = pallas.update_batch(*arguments, interpret=True).step, xla.update_batch(*arguments).step
    assert np.abs(expected[0]).max() > 1e-2 * np.abs(expected[1]).max(), "the first has no scale without the floor"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())  # sums in another order


def test_conformance():
    """The checks that the additional array in the state could affect."""
    whole = Celo(FLOORED).init(jax.random.key(0))
    state = {"check_state_types", "check_compiles_once", "check_vmap_over_params", "check_sharded_parameters"}
    trees = {
        "check_empty_tree",
        "check_none_leaves",
        "check_masked_nodes",
        "check_multi_steps",
        "check_extreme_numbers",
    }
    check_optimizer(lambda num_steps: Celo(FLOORED).build(whole, num_steps), only=state | trees)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bad_values_are_refused(value):
    with pytest.raises(ValueError, match="zero_init must be at least 0"):
        ParameterScale(zero_init=value)


def test_config_round_trips_and_older_ones_are_read():
    written = configs.to_json(FLOORED)
    assert configs.from_json(CeloConfig, written) == FLOORED
    del written["scale"]
    assert configs.from_json(CeloConfig, written) == PUBLISHED
