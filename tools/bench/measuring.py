"""What `nox -s bench` measures: steps of optimizers, inside and outside of a scan, and the machine's ceilings."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo_core
from celo_core.kernels import grouping, reductions

Shapes = list[tuple[int, ...]]
Makers = Mapping[str, Callable[[], optax.GradientTransformationExtraArgs]]


def gpt2(width: int, layers: int) -> Shapes:
    """Leaves of a GPT-2 of that width, with tied embeddings."""
    block: Shapes = [(width,)] * 4 + [(width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *block * layers, (width,), (width,)]


CASES: dict[str, tuple[str, Shapes]] = {
    "mlp": ("MLP 64-32-10", [(64, 32), (32,), (32, 10), (10,)]),
    "fifty": ("25 x 128x128 and biases", [(128, 128), (128,)] * 25),
    "six": ("MLP 784-512-512-512", [(784, 512), (512,), (512, 512), (512,), (512, 512), (512,)]),
    "ten-million": ("5 x 2048x1024 and biases", [(2048, 1024), (1024,)] * 5),
    "gpt2": ("GPT-2", gpt2(768, 12)),
    "gpt2-medium": ("GPT-2 medium", gpt2(1024, 24)),
}
PAPER = "celo, the paper's"
LEAST_BYTES = {"adam": 28, "celo_adam": 28, PAPER: 72, f"{PAPER}, bfloat16 moments": 52}
"""Bytes that the best schedule moves per float32 parameter of a matrix; docs/performance.md counts them."""


def optimizers() -> dict[str, Callable[[], optax.GradientTransformationExtraArgs]]:
    """What is measured; Adam comes first, then the config of the weights in celo-zoo."""
    shipped, paper, celo_adam = celo_core.Celo(celo_core.ADAPTIVE), celo_core.Celo(), celo_core.CeloAdam()
    key = jax.random.key(0)
    theta, paper_theta, adam_theta = shipped.init(key), paper.init(key), celo_adam.init(key)
    made: dict[str, Any] = {
        "adam": lambda: optax.with_extra_args_support(optax.adam(1e-3)),
        "celo": lambda: shipped.build(theta, 1000),
        PAPER: lambda: paper.build(paper_theta, 1000),
        f"{PAPER}, bfloat16 moments": lambda: paper.build(paper_theta, 1000, accumulator_dtype=jnp.bfloat16),
        "celo_adam": lambda: celo_adam.build(adam_theta, 1000),
    }
    if jax.default_backend() != "cpu":
        made["celo, in XLA"] = lambda: shipped.build(theta, 1000, implementation="xla")
        made[f"{PAPER}, in XLA"] = lambda: paper.build(paper_theta, 1000, implementation="xla")
    return made


PARTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    PAPER: contextlib.nullcontext,
    "sums left to XLA": lambda: mock.patch.object(reductions, "on_one_cpu", lambda: False),
    "both passes share features": lambda: mock.patch.object(jax.lax, "optimization_barrier", lambda x: x),
    "leaf by leaf": lambda: mock.patch.object(grouping, "plan", lambda leaves: [[i] for i in range(len(leaves))]),
}
"""The paper's Celo without one of the things that make it fast on a CPU."""


def without_each_part() -> dict[str, Callable[[], optax.GradientTransformationExtraArgs]]:
    """Adam, and the paper's Celo whole and without each of `PARTS`."""
    celo = celo_core.Celo()
    theta = celo.init(jax.random.key(0))

    def patched(part: str) -> optax.GradientTransformationExtraArgs:
        tx = celo.build(theta, 1000)

        def update(*arguments: Any, **options: Any) -> Any:
            with PARTS[part]():  # while it is traced
                return tx.update(*arguments, **options)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return {"adam": optimizers()["adam"], **{part: functools.partial(patched, part) for part in PARTS}}


def problem(shapes: Shapes) -> tuple[Any, Any]:
    """Parameters and gradients."""
    rng = np.random.default_rng(0)
    draw = lambda scale: [jnp.asarray(scale * rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    return draw(1.0), draw(0.1)


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(f"{median:.4g}"), "low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")}


def seconds_per_call(run: Callable[[], Any], least_seconds: float) -> float:
    """Mean time of a call over at least ``least_seconds``."""
    calls, begin = 0, time.perf_counter()
    while True:
        jax.block_until_ready(run())
        calls += 1
        if (passed := time.perf_counter() - begin) >= least_seconds:
            return passed / calls


def measure(shapes: Shapes, makers: Makers, rounds: int, least_seconds: float) -> dict[str, Any]:
    """One step of each optimizer on leaves of these shapes."""
    params, gradients = problem(shapes)
    count = sum(x.size for x in params)
    runs: dict[str, Callable[[], Any]] = {}
    results: dict[str, Any] = {}
    for name, make in makers.items():
        tx = make()
        carry = [(jax.tree.map(jnp.copy, params), tx.init(params))]

        def step(params: Any, state: Any, gradients: Any, tx: Any = tx) -> Any:
            updates, state = tx.update(gradients, state, params, value=jnp.float32(1.0))
            return optax.apply_updates(params, updates), state

        begin = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry[0], gradients).compile()
        compile_seconds = time.perf_counter() - begin
        memory = compiled.memory_analysis()
        results[name] = {
            "compile_seconds": round(compile_seconds, 2),
            "temporary_bytes_per_parameter": round(memory.temp_size_in_bytes / count, 2) if memory else None,
            "state_bytes_per_parameter": round(sum(x.nbytes for x in jax.tree.leaves(carry[0][1])) / count, 2),
        }

        def run(compiled: Any = compiled, carry: Any = carry) -> Any:
            carry[0] = compiled(*carry[0], gradients)
            return carry[0]

        jax.block_until_ready(run())
        runs[name] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds_per_call(run, least_seconds))
    for name, one in results.items():
        one["milliseconds"] = quartiles([1e3 * t for t in times[name]])
        one["times_adam"] = quartiles([t / a for t, a in zip(times[name], times["adam"], strict=True)])
    return results


def measure_in_scan(shapes: Shapes, makers: Makers, rounds: int, steps: int = 2000) -> dict[str, Any]:
    """Microseconds of a step inside ``lax.scan``, where nothing is launched from Python; the gradient costs a product."""
    params, gradients = problem(shapes)
    runs: dict[str, Callable[[], Any]] = {}
    for name, make in makers.items():
        tx = make()

        def step(carry: Any, _: Any, tx: Any = tx) -> Any:
            params, state = carry
            products = [g * p for g, p in zip(gradients, params, strict=True)]
            updates, state = tx.update(products, state, params, value=jnp.float32(1.0))
            return (optax.apply_updates(params, updates), state), None

        scan = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, length=steps)[0])
        runs[name] = functools.partial(scan, (params, tx.init(params)))
        jax.block_until_ready(runs[name]())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds_per_call(run, 0.0) / steps)
    return {
        name: {
            "microseconds": quartiles([1e6 * t for t in times[name]]),
            "times_adam": quartiles([t / a for t, a in zip(times[name], times["adam"], strict=True)]),
        }
        for name in runs
    }


def ceilings(rounds: int) -> dict[str, Any]:
    """The machine's memory bandwidth and arithmetic rate, as XLA programs of one operation reach them."""
    size = 2**27  # beyond any cache
    x, y = [jnp.ones(size)], jnp.ones(size)
    add = jax.jit(lambda x, y: x + 0.5 * y, donate_argnums=0)

    def triad() -> Any:
        x[0] = add(x[0], y)
        return x[0]

    def horner(z: Any) -> Any:
        chains = [z + i for i in range(8)]  # independent, so that none waits for its own last result
        for _ in range(32):
            chains = [c * 0.999 + 0.001 for c in chains]
        return sum(chains)

    in_cache = jnp.ones(2**19)
    arithmetic = functools.partial(jax.jit(horner), in_cache)
    jax.block_until_ready((triad(), arithmetic()))
    return {
        "gigabytes_per_second": quartiles([12e-9 * size / seconds_per_call(triad, 0.2) for _ in range(rounds)]),
        "gigaflops": quartiles([512e-9 * in_cache.size / seconds_per_call(arithmetic, 0.2) for _ in range(rounds)]),
    }


def operations_per_parameter() -> dict[str, float]:
    """Elementwise operations of a step on a 512x512 matrix, per parameter, as traced (a fused one may do fewer)."""
    shape = (512, 512)
    counts = {}
    made = optimizers()
    for name in LEAST_BYTES:  # of products of matrices the count would say nothing
        tx = made[name]()
        params = [jnp.zeros(shape)]
        with mock.patch.object(reductions, "on_one_cpu", lambda: False):  # loops over blocks would be counted once
            jaxpr = jax.make_jaxpr(lambda g, s, p, tx=tx: tx.update(g, s, p, value=1.0))(
                params, tx.init(params), params
            )
        counts[name] = round(sum(_operations(jaxpr.jaxpr)) / np.prod(shape), 1)
    return counts


_FREE = (
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "convert_element_type",
    "optimization_barrier",
    "slice",
    "pjit",
    "jit",
)


def _operations(jaxpr: Any) -> list[int]:
    found = []
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "jaxpr")]
        for value in inner:
            found += _operations(value.jaxpr)
        if not inner and equation.primitive.name not in _FREE:
            largest = max((v.aval.size for v in [*equation.invars, *equation.outvars] if hasattr(v, "aval")), default=0)
            found.append(largest)
    return found
