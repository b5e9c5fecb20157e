"""Small batches, inputs that are not normalised, bad batches, and a network that memorises its data."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from experiment import ADAM, CELO, MULTIPLIERS, RATES, USUAL, Array, Experiment, Optimizers, adam, celo, classify, over

BATCHES = (1, 4, 16, 64)


def small_batches() -> Experiment:
    """Batches of 1, 4, 16 and 64."""
    cases = {f"{size}": functools.partial(classify, size=size) for size in BATCHES}
    settings = {"data": "fashion_mnist_small_8x8", "network": "MLP 64-128-64-10", "steps": 1000}
    return Experiment("batches of 1 to 64 images, an MLP on 8x8 images", cases, USUAL, settings)


def pixels() -> Experiment:
    """Inputs that are not normalised."""
    cases = {"0 to 1": classify, "0 to 255": functools.partial(classify, factor=255.0)}
    settings = {"data": "fashion_mnist_small_8x8", "network": "MLP 64-128-64-10", "steps": 1000, "batch": 64}
    return Experiment("pixels of 0 to 255 instead of 0 to 1, an MLP on 8x8 images", cases, USUAL, settings)


def bad_batches() -> Experiment:
    """Batches that are wrong: a thousand times too large, or NaN."""

    def corrupt(by: float, step: Array, key: Array, x: Array) -> Array:
        del step
        return jnp.where(jax.random.bernoulli(key, 0.02), x * by, x)

    clip = lambda optimizer: optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    finite = lambda optimizer: optax.apply_if_finite(optimizer, max_consecutive_errors=10)
    optimizers = (
        CELO,
        over(lambda n, m: clip(celo(n, m)), celo_clip=(1.0, 0.25)),
        over(lambda n, m: finite(celo(n, m)), celo_finite=(1.0,)),
        ADAM,
        over(lambda n, r: clip(adam(n, r)), adam_clip=RATES),
        over(lambda n, r: finite(adam(n, r)), adam_finite=RATES),
    )
    cases = {
        "none": classify,
        "inputs x 1000": functools.partial(classify, corrupt=functools.partial(corrupt, 1000.0)),
        "NaN": functools.partial(classify, corrupt=functools.partial(corrupt, math.nan)),
    }
    settings = {
        "data": "fashion_mnist_small_8x8",
        "network": "MLP 64-128-64-10",
        "steps": 1000,
        "batch": 64,
        "share": 0.02,
    }
    return Experiment("one batch in fifty is wrong, an MLP on 8x8 images", cases, optimizers, settings)


DECAYS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SHORT = (50, 100, 200, 400)


def memorisation() -> Experiment:
    """A network that can memorise its data: held-out loss under weight decay, smaller steps, fewer steps."""
    options = {"data": "fashion_mnist_small_28", "hidden": (64,)}
    members = [("celo", m, (m, 0.0)) for m in MULTIPLIERS] + [("celo_weight_decay", w, (1.0, w)) for w in DECAYS]
    optimizers = (
        Optimizers(lambda n, m, w: celo(n, m, weight_decay=w), tuple(members)),
        ADAM,
        over(adamw, adamw=(0.1, 1.0, 3.0, 10.0)),
    )
    cases: dict[str, Any] = {"800": functools.partial(classify, steps=800, **options)}
    cases |= {f"{n}": functools.partial(classify, steps=n, **options) for n in SHORT}
    settings = {"data": "fashion_mnist_small_28", "network": "MLP 784-64-10", "batch": 64, "adamw_rate": 1e-3}
    return Experiment("2,000 images of 28x28 and a network that memorises them", cases, optimizers, settings)


def adamw(num_steps: int, weight_decay: Any) -> Any:
    """AdamW at 0.001 with a cosine decay to 0."""
    return optax.adamw(optax.cosine_decay_schedule(1e-3, num_steps), weight_decay=weight_decay)
