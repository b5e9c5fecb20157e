"""The Pallas kernels, interpreted on the CPU, against the implementation in XLA; and their lowering for CUDA."""

import contextlib
import functools
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from celo_core import Celo, CeloConfig, celo
from celo_core.accumulators import factored_axes
from celo_core.directions import MLP, Adam
from celo_core.features import CELO_FEATURES, num_features
from celo_core.kernels import pallas, reductions, xla
from celo_core.kernels.interface import Accumulators, Batch, UpdateRule, Weights

SEED = jnp.uint32(12345)
DECAYS = CeloConfig().moments.momentum_decays
SOME_FEATURES = ("second_moment", "inverse_root_column", "gradient", "factored_momentum")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that small tensors have many, and of different shapes in the two kernels."""
    monkeypatch.setattr(pallas, "STATISTICS_TILE", 128)
    monkeypatch.setattr(pallas, "UPDATE_TILE", 32)
    monkeypatch.setattr(pallas, "WIDTH", 16)
    # As on a GPU, a stack is rounded as one array.
    monkeypatch.setattr(reductions, "on_one_cpu", lambda: False)


class Case(NamedTuple):
    shape: tuple[int, ...]
    stacked: int = 0
    dtype: str = "float32"
    kept: str = "float32"
    features: tuple[str, ...] = CELO_FEATURES
    multiplier: bool = True
    adam: bool = False
    bank: int = 1

    def __str__(self):
        options = ["stacked" * self.stacked, self.dtype, self.kept, "some" if self.features != CELO_FEATURES else ""]
        options += ["adam" * self.adam]
        return "-".join(["x".join(map(str, self.shape)), *filter(None, options)])

    @property
    def rule(self):
        return UpdateRule(CeloConfig().moments, (MLP(self.features, bank=self.bank), *[Adam()] * self.adam))

    def weights(self, seed=0):
        """A network with biases, and three units to compile less than Celo's four."""
        rng = np.random.default_rng(seed)
        sizes = (num_features(self.features, len(DECAYS)), 3, 3, 2)
        names = ("hidden_0", "hidden_1", "output")
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)
        layers = zip(names, sizes, sizes[1:], strict=False)
        adam = [{"kernel": draw(len(DECAYS), 1)}] * self.adam
        network = {name: {"kernel": draw(rows, units), "bias": draw(units)} for name, rows, units in layers}
        return Weights((network, *adam))

    def batch(self, seed=0, mask=None):
        """A batch in mid-training. Elements' sizes differ by some powers of ten, as do those of the tensors of a stack."""
        rng = np.random.default_rng(seed)
        stack, own = self.shape[: self.stacked], self.shape[self.stacked :]

        def draw(shape, dtype, power=1, size=1.0):
            scale = 10.0 ** -np.arange(np.prod(stack, dtype=int)).reshape(stack + (1,) * len(shape))
            return jnp.asarray((size * scale * rng.standard_normal(stack + shape)) ** power, dtype)

        axes = factored_axes(own)
        row, column = (
            (own, None) if axes is None else (own[: axes[1]] + own[axes[1] + 1 :], own[: axes[0]] + own[axes[0] + 1 :])
        )
        masked = lambda x: x if mask is None or x is None else x * mask.astype(x.dtype)
        moments = Accumulators(
            momenta=tuple(masked(draw(own, self.kept, size=0.1)) for _ in DECAYS),
            second_moment=masked(draw(own, self.kept, 2)),
            rows=tuple(masked(draw(row, self.kept, 2)) for _ in DECAYS),
            columns=tuple(None if column is None else draw(column, self.kept, 2) for _ in DECAYS),
        )
        gradient, parameter = (masked(draw(own, self.dtype, 3)), masked(draw(own, self.dtype)))
        return Batch(gradient, parameter, moments, mask, self.stacked)

    def run(self, update, batch):
        """Step and new moments, on the host."""
        multiplier = jnp.float32(0.7) if self.multiplier else None
        return jax.device_get(compiled(update, self)(self.weights(), multiplier, batch._replace(stacked=None), SEED))[
            :2
        ]


interpreted = functools.partial(pallas.update_batch, interpret=True)


@functools.cache
def compiled(update, case):
    return jax.jit(lambda w, m, batch, seed: update(case.rule, w, m, batch._replace(stacked=case.stacked), seed))


def assert_same(actual, expected, case):
    """Equal up to the order of sums, and rare ties with the random bits in rounding to bfloat16."""
    (step, moments), (expected_step, expected_moments) = actual, expected
    assert jax.tree.structure(moments) == jax.tree.structure(expected_moments)
    agree = np.ones(step.shape, bool)
    for a, b in zip(jax.tree.leaves(moments), jax.tree.leaves(expected_moments), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if case.kept == "float32":
            # Elementwise in both, so that the compilers differ by an ulp or two of each product and sum.
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * np.abs(b).max())
        else:
            # The random bits are the same. An ulp of float32 changes what is rounded up with a probability of 2^-16.
            np.testing.assert_allclose(a, b, rtol=2**-7)
            assert np.sum(a != b) <= 1 + 1e-3 * a.size
            agree &= (a == b) if a.shape == step.shape else True
    assert (step.dtype, step.shape) == (expected_step.dtype, expected_step.shape)
    a, b = np.asarray(step, np.float64), np.asarray(expected_step, np.float64)
    largest = np.abs(b).max(axis=tuple(range(case.stacked, b.ndim)), keepdims=True)  # of each tensor
    # Mean squares are sums of float32 in another order, an error of some 1e-7 of them, and a preactivation is the
    # difference of terms some ten times its size. Where a moment was rounded differently, so is the step.
    rtol = {"float32": 0.0, "bfloat16": 2**-7, "float16": 2**-10}[str(step.dtype)]
    assert np.all((np.abs(a - b) <= 1e-5 * largest + rtol * np.abs(b)) | ~agree)


CASES = [
    *(Case((37, 53)), Case((53, 37), multiplier=False), Case((32, 32)), Case((2, 150), adam=True), Case((40, 1))),
    *(Case((6, 10, 14)), Case((14, 3, 10)), Case((3, 3, 9, 8)), Case((11, 12, 3, 3)), Case((9, 2, 12, 3))),
    *(Case((700,)), Case((1,)), Case((3, 33), 1), Case((3, 9, 14), 1, adam=True), Case((2, 2, 9, 5), 1)),
    *(Case((37, 53), dtype="bfloat16"), Case((130,), dtype="float16")),
    *(Case((37, 53), kept="bfloat16"), Case((700,), kept="bfloat16"), Case((3, 3, 9, 8), 1, "bfloat16", "bfloat16")),
    *(Case((14, 11), features=SOME_FEATURES), Case((77,), features=SOME_FEATURES)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gives_what_xla_gives(case):
    batch = case.batch()
    assert_same(case.run(interpreted, batch), case.run(xla.update_batch, batch), case)


def test_masked_vectors():
    """Vectors of different lengths, padded: as in XLA, and each as without the others."""
    case, lengths = Case((4, 33), 1), (33, 1, 16, 20)
    mask = jnp.asarray(np.arange(33) < np.array(lengths)[:, None], jnp.float32)
    batch = case.batch(mask=mask)
    step, new = case.run(interpreted, batch)
    assert_same((step, new), case.run(xla.update_batch, batch), case)
    index, length = 2, lengths[2]
    alone = jax.tree.map(lambda x: x[index, :length], batch._replace(mask=None, stacked=None))._replace(stacked=0)
    case = Case((length,))
    expected = case.run(xla.update_batch, alone)
    assert_same(jax.tree.map(lambda x: x[index, :length], (step, new)), expected, case)


@pytest.mark.parametrize("case", [Case((37, 53)), Case((700,))], ids=str)
def test_gradients_that_are_not_finite(case):
    batch = case.batch()
    bad = np.array(batch.gradient)
    bad.reshape(-1)[[0, 30, 31, 200, 699]] = (np.nan, np.inf, -np.inf, 3e38, np.nan)
    batch = batch._replace(gradient=jnp.asarray(bad))
    result = case.run(interpreted, batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))
    assert_same(result, case.run(xla.update_batch, batch), case)


def test_a_parameter_that_is_not_a_number_is_seen_in_every_step():
    case = Case((37, 53))
    batch = case.batch()
    batch = batch._replace(parameter=batch.parameter.at[3, 4].set(jnp.nan))
    step, _ = case.run(interpreted, batch)
    assert np.isnan(step).all()


@pytest.mark.slow
def test_weights_of_each_tensor_of_a_stack():
    """Mixtures of a bank of networks, and a multiplier for each; also for a single tensor."""
    case = Case((3, 9, 14), 1, bank=2)
    weights = [case.weights(seed) for seed in range(2)]
    bank = jax.tree.map(lambda *x: jnp.stack(x), *weights)
    own = {"mlp": jnp.array([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]), "multiplier": jnp.array([1.0, 0.5, 2.0])}
    batch = case.batch()._replace(own=own)
    step = jax.jit(lambda w: interpreted(case.rule, w, None, batch, SEED).step)(bank)
    for index in range(3):
        alone = jax.tree.map(lambda x, i=index: x[i], batch._replace(stacked=None))._replace(stacked=0)
        same = jax.jit(lambda w, alone=alone: interpreted(case.rule, w, None, alone, SEED).step)(bank)
        one = jax.tree.map(lambda a, b, i=index: own["mlp"][i, 0] * a + own["mlp"][i, 1] * b, *weights)
        plain, factor = alone._replace(own={}), own["multiplier"][index]
        expected = xla.update_batch(Case((9, 14)).rule, one, factor, plain, SEED).step
        np.testing.assert_allclose(same, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # float32 sums
        np.testing.assert_allclose(step[index], expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # float32 sums


def test_vmap_over_weights_and_multiplier():
    case = Case((14, 11))
    weights = [case.weights(seed) for seed in range(2)]
    multipliers = jnp.array([0.5, 2.0])
    update = lambda w, m: interpreted(case.rule, w, m, case.batch(), SEED)
    step, moments, _ = jax.jit(jax.vmap(update))(jax.tree.map(lambda *x: jnp.stack(x), *weights), multipliers)
    for index, one in enumerate(weights):
        expected = xla.update_batch(case.rule, one, multipliers[index], case.batch(), SEED)[:2]
        result = jax.tree.map(lambda x, i=index: np.asarray(x[i]), (step, moments))
        assert_same(result, jax.device_get(expected), case)


def test_derivative_is_that_of_xla():
    case = Case((14, 11), features=SOME_FEATURES)

    def gradient(update):
        loss = lambda w: jnp.sum(jnp.square(1e3 * update(case.rule, w, jnp.float32(0.7), case.batch(), SEED)[0]))
        return jax.jit(jax.grad(loss))(case.weights())

    actual, expected = gradient(interpreted), gradient(xla.update_batch)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())  # the same program


def test_donated_buffers():
    case = Case((37, 53))
    update = lambda moments: interpreted(
        case.rule, case.weights(), jnp.float32(0.7), case.batch()._replace(accumulators=moments), SEED
    )
    donated = case.batch().accumulators
    result = jax.device_get(jax.jit(update, donate_argnums=0)(donated))[:2]
    assert all(x.is_deleted() for x in jax.tree.leaves(donated))
    assert_same(result, case.run(xla.update_batch, case.batch()), case)


def test_inside_shard_map():
    """Each device has its own tensors, and the weights are shared."""
    case, devices = Case((2, 14, 11), 1), jax.devices()[:2]
    batch, mesh = case.batch(), Mesh(np.asarray(devices), "x")
    spec = PartitionSpec("x")

    def update(batch, interpret):
        return pallas.update_batch(
            case.rule, case.weights(), None, batch._replace(stacked=1), SEED, interpret=interpret
        )

    # The interpreter does not support the check of varying axes of the mesh; the lowering is tested with it below.
    sharded = jax.shard_map(
        functools.partial(update, interpret=True), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    step, *_ = jax.jit(sharded)(batch._replace(stacked=None))
    expected = xla.update_batch(case.rule, case.weights(), None, batch, SEED).step
    largest = np.abs(expected).max(axis=(1, 2), keepdims=True)
    assert np.all(np.abs(step - expected) <= 1e-5 * largest)  # float32 sums, as in assert_same
    with a_gpu() as kind:
        if kind:
            mesh = jax.sharding.AbstractMesh((2,), ("x",), (jax.sharding.AxisType.Auto,), **kind)
        checked = jax.shard_map(functools.partial(update, interpret=False), mesh=mesh, in_specs=spec, out_specs=spec)
        assert lowered_for_cuda(checked, batch._replace(stacked=None)).count("gpu.triton") == 2


@contextlib.contextmanager
def a_gpu():
    """The GPU to lower for, which some versions of JAX need where there is none, under the keyword for it."""
    try:
        device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    except (AttributeError, TypeError):  # an older JAX, which needs no GPU
        yield {}
        return
    kind = {"abstract_device": device}
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), **kind)):
        yield kind


def lowered_for_cuda(function, *arguments):
    """StableHLO in which the kernels are Triton's intermediate representation: all that JAX does without a GPU."""
    with a_gpu():
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(700,), (37, 53), (3, 3, 16, 8), "masked", "stacked"], ids=str)
def test_lowers_for_cuda(shape, dtype, kept, monkeypatch):
    """Every operation is supported by Triton, and the moments are updated in place."""
    monkeypatch.undo()  # the actual sizes of tiles
    mask = None
    case = Case({"masked": (4, 33), "stacked": (2, 9, 14)}.get(shape, shape), int(isinstance(shape, str)), dtype, kept)
    if shape == "masked":
        mask = jnp.ones(case.shape).at[1:, 20:].set(0.0)
    batch = case.batch(mask=mask)
    update = lambda w, batch: pallas.update_batch(case.rule, w, None, batch._replace(stacked=case.stacked), SEED)
    text = lowered_for_cuda(update, case.weights(), batch._replace(stacked=None))
    assert text.count("gpu.triton") == 2
    assert text.count("stablehlo.output_operand_alias") == (7 if batch.axes is None else 4)


def test_lowers_for_cuda_under_vmap():
    case = Case((14, 11))
    together = jax.tree.map(lambda *x: jnp.stack(x), case.weights(0), case.weights(1))
    update = jax.vmap(lambda w, m: pallas.update_batch(case.rule, w, m, case.batch(), SEED))
    assert lowered_for_cuda(update, together, jnp.ones(2)).count("gpu.triton") == 2


SHAPES = [
    *((1,), (5,), (1000,), (100_003,), (1, 1), (3, 700), (700, 3), (1000, 1000), (50_257, 768), (1000, 1)),
    *((3, 3, 64, 128), (128, 64, 3, 3), (1024, 16, 64), (16, 64, 1024), (12, 1024, 4096), (16, 16, 3, 768)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [128, 256])
def test_tiles_cover_a_tensor(shape, size, monkeypatch):
    monkeypatch.undo()
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    tiling = pallas._tiling(Batch(x, x, Accumulators((), x, (), ()), None, 0), size)
    elements, tile = np.prod(shape), np.prod(tiling.tile)
    assert np.prod(tiling.shape) == elements
    assert tile <= size and tile & (tile - 1) == 0
    assert [axis for axis in range(6) if tiling.tile[axis] > 1 and axis not in tiling.axes] == []
    covered = np.array(tiling.counts) * tiling.tile
    assert np.all(covered >= tiling.shape) and np.all(covered - tiling.tile < tiling.shape)
    assert elements < size or np.prod(tiling.counts) * tile < 3 * elements, "most of the work is on padding"


def test_chosen_where_the_program_is_lowered(monkeypatch):
    """On a machine with a GPU, ``auto`` means the kernels in a program for the GPU, and XLA in one for the CPU."""
    monkeypatch.undo()
    tx = {name: celo(Celo().init(jax.random.key(0)), 10, implementation=name) for name in ("auto", "xla")}
    params = {"large": jnp.full((300, 300), 0.5), "small": jnp.ones((5, 3))}
    state = tx["xla"].init(params)
    update = {name: functools.partial(one.update, params, state, params, value=1.0) for name, one in tx.items()}
    expected = jax.jit(update["xla"])()
    monkeypatch.setattr(reductions, "on_one_device", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.tree.map(np.testing.assert_array_equal, jax.jit(update["auto"])(), expected)
    assert lowered_for_cuda(update["auto"]).count("gpu.triton") == 2
    assert "gpu.triton" not in lowered_for_cuda(update["xla"])


class TestSupports:
    @pytest.fixture(autouse=True)
    def one_device(self, monkeypatch):
        monkeypatch.setattr(jax, "device_count", lambda: 1)

    def large(self, **dtypes):
        return jax.eval_shape(lambda: Case((300, 300), **dtypes).batch()._replace(stacked=None))._replace(stacked=0)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_large_tensors(self, dtype):
        assert pallas.supports(self.large(dtype=dtype)) is None
        assert pallas.supports(self.large(kept=dtype)) is None

    def test_not_small_ones(self):
        assert "fewer than 65536 elements" in pallas.supports(Case((30, 30)).batch())

    def test_not_other_types(self):
        batch = self.large()
        batch = batch._replace(parameter=jax.ShapeDtypeStruct(batch.parameter.shape, jnp.float8_e4m3fn))
        assert "float8_e4m3fn" in pallas.supports(batch)

    def test_not_what_may_be_sharded(self, monkeypatch):
        monkeypatch.setattr(jax, "device_count", lambda: 2)
        assert "jax.shard_map" in pallas.supports(self.large())
        mesh = Mesh(np.asarray(jax.devices()[:2]), "x")
        inside = jax.shard_map(
            lambda: jnp.float32(pallas.supports(self.large()) is None),
            mesh=mesh,
            in_specs=(),
            out_specs=PartitionSpec(),
        )
        assert inside() == 1.0

    def test_not_without_triton(self, monkeypatch):
        monkeypatch.setattr(pallas, "triton", None)
        assert "no Triton back end" in pallas.supports(self.large())


def test_pallas_is_imported_only_where_it_is_used():
    code = "import sys, celo_core; sys.exit('celo_core.kernels.pallas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
