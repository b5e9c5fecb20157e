"""The fused update in XLA: its two code paths, batches of leaves, memory, sharding."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo_core import Celo, CeloConfig, Scheduler, SchedulerConfig, celo, kernels, scale_by_celo
from celo_core.accumulators import Moments
from celo_core.directions import MLP, Direction
from celo_core.kernels import grouping, reductions, xla
from celo_core.kernels.interface import Accumulators, Leaf
from celo_core.schedulers import Controls

RULE_ONLY = CeloConfig(scheduler=None)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theta():
    return Celo(RULE_ONLY).init(jax.random.key(0))


@pytest.fixture
def one_cpu(monkeypatch):
    """As on a machine with one CPU device: the tests have eight simulated ones, where sums are left to XLA."""
    assert not reductions.on_one_cpu()
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)


def draw(shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def run(theta, params, steps=3, **options):
    """Steps on gradients of a fixed seed; the last updates and the state."""
    tx = celo(theta, 10, config=RULE_ONLY, **options)
    state = tx.init(params)
    update = jax.jit(lambda grads, state: tx.update(grads, state, params, value=jnp.float32(1.0)))
    for seed in range(steps):
        grads = [
            0.1 * x.astype(p.dtype) for x, p in zip(draw([p.shape for p in params], 10 + seed), params, strict=True)
        ]
        updates, state = update(grads, state)
    return jax.device_get((updates, state))


def assert_same(actual, expected, rtol=1e-4):
    """Equal up to the order of sums, as a fraction of the largest number in each array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0, atol=rtol * np.abs(b).max()
        )


SHAPES = [
    *((), (1,), (7,), (700,), (5, 3), (3, 5), (64, 32), (37, 53), (1, 1, 40, 30), (3, 3, 16, 8), (2, 700)),
    (40_000,),
    (300, 200),
    (200, 301),
    (2, 3, 150, 100),
    (3, 20_000),
    (100, 3, 150),
]
"""Below and above the size of a block, with remainders of every kind."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_float64(one_cpu, shape):
    """Sums in parts and in blocks, of a product with row and column factors."""
    if not shape:
        shape = (1,)
    (x,) = draw([shape])
    a, b = draw([(*shape[:-1], 1), (1,) * (len(shape) - 1) + shape[-1:]], seed=1)
    actual = jax.jit(
        lambda arrays: reductions.sums(lambda y: [y[0] ** 2 * y[1] * y[2] ** 2, y[0]], arrays, shape, 0, 2)
    )((x, a, b))
    x, a, b = (np.asarray(y, np.float64) for y in (x, a, b))
    for result, terms in zip(actual, (x**2 * a * b**2, x), strict=True):
        terms = np.broadcast_to(terms, shape)
        # Float32: an error of 2^-24 per addition of a tree of some depth, relative to the sum of magnitudes.
        np.testing.assert_allclose(result, terms.sum(), rtol=0, atol=1e-6 * np.abs(terms).sum())


@pytest.mark.parametrize(
    "shape", [(5, 3), (300, 200), (200, 301), (2, 3, 150, 100), (150, 3, 100), (50_001, 2)], ids=str
)
def test_means_over_axes_are_those_of_float64(one_cpu, shape):
    (x,) = draw([shape])
    axes = (0, len(shape) - 1)
    for axis, mean in zip(axes, reductions.means_over(jnp.square, x, axes, 0), strict=True):
        np.testing.assert_allclose(mean, np.mean(np.asarray(x, np.float64) ** 2, axis=axis), rtol=1e-5)  # float32 sums


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_cpu_gives_what_plain_reductions_give(theta, shape, monkeypatch):
    params = draw([shape])
    plain = run(theta, params)
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    assert_same(run(theta, params), plain)


@pytest.mark.parametrize("mode", ["one CPU", "one GPU", "many devices"])
def test_leaves_together_are_as_leaves_alone(theta, mode, monkeypatch):
    """Stacked matrices, vectors of one length and packed vectors of several lengths, and scalars.

    On many devices leaves of one shape may be sharded differently, so none are batched.
    """
    if mode != "many devices":
        monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    if mode == "one GPU":
        monkeypatch.setattr(reductions, "on_one_cpu", lambda: False)
    shapes = [(6, 5), (7,), (6, 5), (), (9,), (5, 6), (12,), (), (6, 5), (2, 3, 4), (7,), (2, 3, 4), (1,), (3,)]
    params = draw(shapes)
    leaves = [leaf_of(p) for p in params]
    batches = grouping.plan(leaves)
    assert sorted(itertools.chain(*batches)) == list(range(len(shapes)))
    assert ([0, 2, 8] in batches and [9, 11] in batches) == (mode != "many devices")
    assert ([1, 4, 6, 10, 3, 7, 12, 13] in batches) == (mode == "one CPU")
    updates, _ = run(theta, params)
    for index, (one, update) in enumerate(zip(params, updates, strict=True)):
        tx = celo(theta, 10, config=RULE_ONLY)
        state = tx.init([one])
        for seed in range(3):
            grads = [0.1 * draw(shapes, 10 + seed)[index]]
            alone, state = tx.update(grads, state, [one], value=jnp.float32(1.0))
        assert_same(update, alone[0])


def leaf_of(p):
    rows, columns = ((), ()) if p.ndim < 2 else ((p,), (p,))
    return Leaf(p, p, Accumulators((p,), p, rows, columns))


def test_plan_separates_dtypes_and_large_leaves(monkeypatch):
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    small, low = jnp.zeros((4, 4)), jnp.zeros((4, 4), jnp.bfloat16)
    large = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    assert grouping.plan([leaf_of(x) for x in (small, low, small)]) == [[0, 2], [1]]
    assert grouping.plan([Leaf(large, large, Accumulators((), large, (), ())) for _ in range(2)]) == [[0], [1]]


def test_plan_bounds_a_batch(monkeypatch):
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    leaves = [Leaf(x, x, Accumulators((), x, (), ())) for x in [jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 20]
    batches = grouping.plan(leaves)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5], "equal batches are one program"
    assert list(itertools.chain(*batches)) == list(range(20))
    assert [len(batch) for batch in grouping.plan(leaves[:16])] == [8, 8]
    assert [len(batch) for batch in grouping.plan(leaves[:11])] == [6, 5], "no more batches than twice the fewest"


def test_short_vectors_are_one_batch_while_that_is_small(one_cpu):
    """Up to 4,096 elements with their padding; beyond, lengths within a factor of four."""
    few = [leaf_of(jnp.zeros(n)) for n in (32, 10, 200, 3)]
    assert grouping.plan(few) == [[0, 1, 2, 3]]
    many = [leaf_of(jnp.zeros(n)) for n in (192, 7, *[192] * 20, 600)]
    assert sorted(map(len, grouping.plan(many))) == [2, 21]


def test_a_program_does_not_grow_with_equal_leaves(theta, one_cpu):
    """The rule is in the program once, however many leaves share a shape."""

    def rules(count):
        params = [jnp.zeros((16, 8))] * count
        tx = celo(theta, 10, config=RULE_ONLY)
        state = jax.eval_shape(tx.init, params)
        jaxpr = jax.make_jaxpr(lambda g, s, p: tx.update(g, s, p, value=1.0))(params, state, params)
        return str(jaxpr).count(" exp ")

    assert rules(2) == rules(40) == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1024, 512), (2, 2, 256, 512), (524_288,)], ids=str)
def test_temporary_memory_is_of_the_order_of_a_float_per_parameter(theta, one_cpu, as_for_users, shape, dtype):
    """Compiled memory analysis of a donated step; the reference holds some 36 floats per parameter."""
    params = [jnp.zeros(shape)]
    tx = celo(theta, 10, config=RULE_ONLY, accumulator_dtype=dtype)
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    floats = memory.temp_size_in_bytes / 4 / params[0].size
    # The XLA of older versions makes some float32 copies of bfloat16 arrays.
    limit = 5 if dtype == jnp.bfloat16 and jax.__version_info__ < (0, 10) else 1.5
    assert floats < limit, f"{floats:.2f} floats of temporary memory per parameter"
    # In place: all outputs except a few scalars reuse the memory of inputs.
    assert memory.alias_size_in_bytes > 0.99 * memory.output_size_in_bytes


def test_state_takes_16_bytes_per_parameter_or_half():
    tx = lambda dtype: celo(Celo().init(jax.random.key(0)), 10, accumulator_dtype=dtype)
    params = [jnp.zeros((1000, 1000))]
    size = lambda dtype: sum(x.nbytes for x in jax.tree.leaves(tx(dtype).init(params))) / params[0].size
    assert 16 < size(jnp.float32) < 16.1
    assert 8 < size(jnp.bfloat16) < 8.1


def test_sharded_matrices_are_not_gathered(theta, as_for_users):
    """On eight devices no collective moves an array of a parameter's size: statistics are reduced on each device first."""
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    specs = {
        "both": PartitionSpec("data", "model"),
        "rows": PartitionSpec("data", None),
        "columns": PartitionSpec(None, "model"),
        "vector": PartitionSpec("model"),
    }
    shapes = {"both": (512, 256), "rows": (256, 512), "columns": (384, 256), "vector": (4096,)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    tx = celo(theta, 10, config=RULE_ONLY)
    state = jax.eval_shape(tx.init, params)
    of = {shapes[name]: NamedSharding(mesh, spec) for name, spec in specs.items()}
    shardings = lambda tree: jax.tree.map(lambda x: of.get(x.shape, NamedSharding(mesh, PartitionSpec())), tree)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    arguments = (params, state, params)
    compiled = jax.jit(
        step, in_shardings=tuple(map(shardings, arguments)), out_shardings=tuple(map(shardings, arguments[:2]))
    )
    text = compiled.lower(*arguments).compile().as_text()
    moved = re.findall(r"= \(?\w+\[([\d,]*)\][^=]* (all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    sizes = {kind: np.prod([int(n) for n in dims.split(",") if n] or [1]) for dims, kind in moved}
    assert "all-reduce" in text, "nothing is reduced across devices: the test does not see what it should"
    assert all(size < 4096 for size in sizes.values()), f"collectives of a parameter's size: {sizes}"


def test_gradient_with_respect_to_theta(theta, one_cpu):
    """Through blocks, parts and packed vectors, against finite differences along a random direction."""
    params = draw([(200, 200), (16, 40), (7,), (9,)])
    grads = draw([p.shape for p in params], 1)

    def loss(theta):
        tx = celo(theta, 10, config=RULE_ONLY)
        updates, _ = tx.update(grads, tx.init(params), params, value=jnp.float32(1.0))
        return sum(jnp.sum(jnp.square(1e3 * u)) for u in updates)

    theta = jax.tree.map(jnp.asarray, theta)
    direction = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(0).standard_normal(x.shape), jnp.float32), theta
    )
    along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.jit(jax.grad(loss))(theta), direction)))
    value = jax.jit(lambda e: loss(jax.tree.map(lambda x, d: x + e * d, theta, direction)))
    # A central difference of a piecewise smooth function in float32.
    np.testing.assert_allclose(along, (value(1e-3) - value(-1e-3)) / 2e-3, rtol=0.02)


def test_vmap_over_theta(one_cpu):
    params = draw([(64, 32), (7,), (7,)])
    thetas = [Celo(RULE_ONLY).init(jax.random.key(seed)) for seed in range(2)]

    def update(theta):
        tx = celo(theta, 10, config=RULE_ONLY)
        return tx.update(params, tx.init(params), params, value=jnp.float32(1.0))[0]

    together = jax.vmap(update)(jax.tree.map(lambda *x: jnp.stack(x), *thetas))
    for index, theta in enumerate(thetas):
        assert_same(jax.tree.map(lambda x, i=index: x[i], together), update(theta))


@pytest.mark.parametrize("mode", ["one CPU", "many devices"])
def test_weights_may_differ_from_tensor_to_tensor(mode, monkeypatch):
    """As in VeLO: a stack of tensors with a stack of networks is as each tensor with its own."""
    if mode == "one CPU":
        monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    networks = [Celo(RULE_ONLY).init(jax.random.key(seed))["update_rule"]["mlp"] for seed in range(2)]
    leaves = [leaf_with_moments((6, 5), seed) for seed in range(2)]
    seed = jnp.uint32(1)
    bank = kernels.Weights((jax.tree.map(lambda *x: jnp.stack(x), *networks),))
    rule = dataclasses.replace(RULE_ONLY.rule, elementwise=(MLP(bank=2),))
    shares = jnp.array([[0.25, 0.75], [1.0, 0.0]])
    own = [{"mlp": share, "multiplier": jnp.float32(i + 1)} for i, share in enumerate(shares)]
    mine = [dataclasses.replace(leaf, own=one) for leaf, one in zip(leaves, own, strict=True)]
    steps = xla.update_batch(rule, bank, None, grouping.gather(mine), seed).step
    for index, (leaf, share, step) in enumerate(zip(leaves, shares, steps, strict=True)):
        mixed = jax.tree.map(lambda a, b, share=share: share[0] * a + share[1] * b, *networks)
        weights = kernels.Weights((mixed,))
        alone = xla.update_batch(RULE_ONLY.rule, weights, jnp.float32(index + 1), grouping.gather([leaf]), seed).step
        assert_same(step, alone)


@pytest.mark.parametrize("mode", ["one CPU", "many devices"])
def test_a_scheduler_may_tell_tensors_apart(mode, monkeypatch):
    """In the whole update, with stacked layers and packed vectors: each tensor is as under a scheduler of its own."""
    if mode == "one CPU":
        monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    config = CeloConfig(directions=(MLP(bank=3),), scheduler=SchedulerConfig())
    theta = Celo(config).init(jax.random.key(0))
    shapes = {"a": (6, 5), "b": (7,), "c": (6, 5), "layers": (2, 6, 5), "s": (), "t": (3,)}
    params = dict(zip(shapes, draw(shapes.values()), strict=True))
    grads = dict(zip(shapes, draw(shapes.values(), 1), strict=True))
    shares = jax.nn.softmax(draw([(7, 3)], 2)[0])
    multipliers = jnp.arange(1.0, 8.0)

    def steps(controls, config, theta, num_stacked_axes):
        monkeypatch.setattr(Scheduler, "step", lambda self, theta, state, signal: (controls, state))
        tx = scale_by_celo(theta, 10, config=config, num_stacked_axes=num_stacked_axes)
        return tx.update(grads, tx.init(params), params, value=1.0)[0]

    stacked = {name: int(name == "layers") for name in shapes}
    found = steps(Controls(multipliers, {"mlp": shares}), config, theta, stacked)
    flat = [(name, step) for name, x in found.items() for step in (x if name == "layers" else [x])]
    for index, (name, step) in enumerate(flat):
        mixed = jax.tree.map(lambda x, i=index: jnp.tensordot(shares[i], x, 1), theta["update_rule"])
        one = CeloConfig(scheduler=SchedulerConfig())
        alone = steps(Controls(multipliers[index]), one, {**theta, "update_rule": mixed}, stacked)[name]
        assert_same(step, alone[index - 3] if name == "layers" else alone)


class Trace(Direction, type="trace_of_a_test"):
    """Heavy-ball momentum with its own state, for matrices: a direction per tensor with a state."""

    is_elementwise = False

    def init(self, key, moments):
        return {"decay": jnp.float32(0.8)}

    def init_state(self, parameter, dtype):
        return {"trace": jnp.zeros_like(parameter, dtype)}

    def applies(self, shape):
        return len(shape) == 2

    def statistic(self, values):
        return values.gradient

    def step(self, moments, weights, batch, new, mean, state):
        trace = weights["decay"] * state["trace"] + batch.gradient
        return 100.0 * trace, {"trace": trace}


@pytest.mark.parametrize("mode", ["one CPU", "many devices"])
def test_a_direction_per_tensor_may_keep_a_state(mode, monkeypatch):
    """Against Optax's trace; vectors, to which it does not apply, keep none and do not move."""
    if mode == "one CPU":
        monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    config = CeloConfig(directions=(Trace(),), scale=None, step_scale=0.01, scheduler=None)
    theta = Celo(config).init(jax.random.key(0))
    params = dict(zip("abcv", draw([(6, 5), (6, 5), (4, 3), (7,)]), strict=True))
    tx, trace = scale_by_celo(theta, 10, config=config), optax.trace(0.8)
    state, other = tx.init(params), trace.init(params)
    assert state.directions[0]["v"] is None and state.directions[0]["a"]["trace"].shape == (6, 5)
    update = jax.jit(tx.update)
    for seed in range(3):
        grads = dict(zip("abcv", draw([p.shape for p in params.values()], seed), strict=True))
        steps, state = update(grads, state, params, value=1.0)
        expected, other = trace.update(grads, other)
        assert_same({n: steps[n] for n in "abc"}, {n: expected[n] for n in "abc"}, rtol=1e-6)
        np.testing.assert_array_equal(steps["v"], np.zeros(7))


class Means(Trace, type="means_of_a_test"):
    """Its step is the mean of its statistic, in every element."""

    def statistic(self, values):
        return jnp.square(values.momenta[0]) / (values.second_moment + 1e-3)

    def step(self, moments, weights, batch, new, mean, state):
        return jnp.broadcast_to(mean[..., None, None], batch.gradient.shape), state


@pytest.mark.parametrize("shape", [(6, 5), (64, 32), (300, 200)], ids=str)
def test_means_for_directions_per_tensor(shape, one_cpu):
    """Those of pass 1, those of a whole stack, and those that are computed without a pass 1, against float64."""
    leaf = dataclasses.replace(leaf_with_moments(shape, 0), states=(None,))
    rule = kernels.UpdateRule(Moments(), (), (Means(),), relative=True, step_scale=1.0)
    weights, seed, batch = kernels.Weights((), ({},)), jnp.uint32(1), grouping.gather([leaf])
    found = xla.update_batch(rule, weights, None, batch, seed)
    stack = xla.update_batch(rule, weights, None, grouping.gather([leaf, leaf]), seed).step
    bare = xla.update_batch(rule, weights, None, batch, seed, finished=False)
    later = xla.finish(rule, weights, None, batch, bare).step
    wide = lambda x: np.asarray(x, np.float64)
    new = found.accumulators
    mean = np.mean(wide(new.momenta[0]) ** 2 / (wide(new.second_moment) + 1e-3))
    expected = np.sqrt(np.mean(wide(leaf.parameter) ** 2) + 1e-9) * mean
    for value in (found.step, stack[0], stack[1], later):
        np.testing.assert_allclose(value, np.full(shape, expected), rtol=1e-5)  # float32 sums


def leaf_with_moments(shape, seed):
    g, p, m, v, r, c = draw([shape, shape, shape, shape, shape[:1], shape[1:]], seed)
    squares = [jnp.square(x) for x in (v, c, r)]  # the row statistic of a tall matrix has the length of its last axis
    return Leaf(g, p, Accumulators((m,) * 3, squares[0], (squares[1],) * 3, (squares[2],) * 3))


@pytest.mark.parametrize("shape", [(64, 32), (9,)], ids=str)
def test_bfloat16_state_differs_by_rounding_and_is_repeatable(theta, shape):
    params = draw([shape])
    once, state = run(theta, params, accumulator_dtype=jnp.bfloat16)
    again, _ = run(theta, params, accumulator_dtype=jnp.bfloat16)
    assert_same(again, once, rtol=0.0)
    _, exact = run(theta, params)
    for low, high in zip(jax.tree.leaves(state.momentum), jax.tree.leaves(exact.momentum), strict=True):
        assert low.dtype == jnp.bfloat16
        # Three roundings, each by less than one unit in the last place, 2^-7 of the number's size at most.
        np.testing.assert_allclose(low.astype(np.float32), high, rtol=0, atol=3 * 2**-7 * np.abs(high).max())


@pytest.mark.parametrize(
    "features", [("row",), ("row", "column"), ("gradient",), ("factored_momentum", "column")], ids=str
)
def test_a_rule_of_some_features(features):
    config = CeloConfig(directions=(MLP(features=features),), scheduler=None)
    theta = Celo(config).init(jax.random.key(0))
    tx = celo(theta, 10, config=config)
    params = draw([(6, 5), (7,)])
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    for update, p in zip(updates, params, strict=True):
        assert update.shape == p.shape
        assert np.all(np.isfinite(update))
