"""How long users wait for the first step: a convolutional network and a transformer in flax nnx, each optimizer in fresh processes.

    python tools/first_call.py

A training step is called once, without a compilation cache: loss, gradients and update, traced, compiled and run. It writes
docs/results/first-call.json, of which tools/pages.py makes the table of docs/using.md. Some two minutes on an
otherwise idle machine; no network.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import celo_zoo
from celo_core import files
from celo_tasks.reporting.machine import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results/first-call.json"

REPEATS = 3
WIDTH, LAYERS, WORDS, LENGTH = 192, 6, 512, 128


class ConvNet(nnx.Module):
    """Two convolutions, one with batch normalisation, and two dense layers, for 28x28 images."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.norm = nnx.Conv(1, 32, (3, 3), rngs=rngs), nnx.BatchNorm(32, rngs=rngs)
        self.second = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.hidden, self.output = nnx.Linear(3136, 256, rngs=rngs), nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of float32 (batch, 28, 28, 1)."""
        x = nnx.avg_pool(nnx.relu(self.norm(self.first(x))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.second(x)), (2, 2), (2, 2))
        return self.output(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class Block(nnx.Module):
    """Attention and a dense layer, both with a residual connection."""

    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(6, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 (batch, length, width) to the same."""
        x = x + self.attention(self.norms[0](x), mask=nnx.make_causal_mask(jnp.ones(x.shape[:2])))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    """A language model of six blocks."""

    def __init__(self, rngs: nnx.Rngs):
        self.words, self.places = nnx.Embed(WORDS, WIDTH, rngs=rngs), nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm, self.output = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of int32 (batch, length)."""
        h = self.words(x) + self.places(jnp.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.output(self.norm(h))


NETWORKS = {"convolutional network": ConvNet, "transformer": Transformer}
OPTIMIZERS = {
    "optax.adamw": lambda: optax.adamw(1e-3),
    "optax.contrib.muon": lambda: optax.contrib.muon(1e-3),
    "celo": lambda: celo_zoo.optimizer("celo", num_steps=1000),
}


def measure(network: str, optimizer: str) -> dict[str, float]:
    """Seconds for the optimizer's state and for the first step, in this process."""
    rng = np.random.default_rng(0)
    if network == "transformer":
        x = y = jnp.asarray(rng.integers(0, WORDS, (8, LENGTH)))
    else:
        x, y = jnp.asarray(rng.standard_normal((64, 28, 28, 1)), jnp.float32), jnp.asarray(rng.integers(0, 10, 64))
    model = NETWORKS[network](nnx.Rngs(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    begin = time.perf_counter()
    trained = nnx.Optimizer(model, OPTIMIZERS[optimizer](), wrt=nnx.Param)
    jax.block_until_ready(nnx.state(trained))
    made = time.perf_counter()

    @nnx.jit
    def step(model: Any, trained: Any) -> jax.Array:
        loss_of = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
        loss, gradients = nnx.value_and_grad(loss_of)(model)
        trained.update(model, gradients)
        return loss

    jax.block_until_ready((step(model, trained), nnx.state(model)))
    return {"parameters": count, "init": made - begin, "step": time.perf_counter() - made}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--inside", nargs=2, metavar=("NETWORK", "OPTIMIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(*options.inside)))
        return 0
    measured, environment = [], {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    for network in NETWORKS:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in OPTIMIZERS}
        for _ in range(REPEATS):  # interleaved: the machine's speed changes
            for name in OPTIMIZERS:
                command = [sys.executable, __file__, "--inside", network, name]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                runs[name].append(json.loads(done.stdout))
                print(network, name, runs[name][-1], file=sys.stderr, flush=True)
        for name, found in runs.items():
            medians = {key: round(statistics.median(one[key] for one in found), 2) for key in ("init", "step")}
            measured.append({"network": network, "optimizer": name, "parameters": found[0]["parameters"], **medians})
    results = {"machine": hardware(), "versions": versions(), "processes": REPEATS, "measured": measured}
    files.write_json(RESULTS, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
