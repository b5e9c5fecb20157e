"""The planned number of steps: trainings that are stopped early or extended."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from experiment import (
    Array,
    Experiment,
    Make,
    Plan,
    celo,
    classify,
    cross_entropy,
    curve,
    mlp,
    mlp_init,
    over,
    train,
)

from celo_tasks import datasets

CONTEXT = 8


def text(make: Make, key: Array, given: Any, *, plan: Plan) -> dict[str, Array]:
    """An MLP that predicts the next byte of Shakespeare from the last eight."""
    del given
    data = datasets.load_text("shakespeare")
    key_init, key_embedding, key_train, key_end = jax.random.split(key, 4)
    params = {
        "embedding": jax.random.normal(key_embedding, (128, 16)),
        "network": mlp_init(key_init, (16 * CONTEXT, 128, 128)),
    }

    def loss(p: Any, rows: Array) -> Array:
        return cross_entropy(mlp(p["network"], p["embedding"][rows[:, :-1]].reshape(len(rows), -1)), rows[:, -1])

    def rows(data: Any, size: int, key: Array) -> Array:
        begin = jax.random.randint(key, (size, 1), 0, len(data) - CONTEXT)
        return jnp.asarray(data, jnp.int32)[begin + jnp.arange(CONTEXT + 1)]

    batch = lambda step, key: rows(data.train, 64, key)
    new, losses = train(make, params, loss, batch, key_train, plan)
    return {
        "training_loss": loss(new, rows(data.train, 4096, key_end)),
        "held_out_loss": loss(new, rows(data.valid, 4096, key_end)),
        "curve": curve(losses),
    }


PLANS: dict[str, Plan] = {
    "planned 1,000": [(1000, 1000)],
    "planned 2,000, stopped at 1,000": [(2000, 1000)],
    "planned 2,000": [(2000, 2000)],
    "planned 1,000, extended to 2,000 at 500": [(1000, 500), (2000, 2000)],
    "planned 1,000, extended to 2,000 at the end": [(1000, 1000), (2000, 2000)],
    "planned 1,000, 2,000 taken": [(1000, 2000)],
}


def planned() -> Experiment:
    """Trainings that are stopped early or extended."""
    cases: dict[str, Any] = {f"text; {name}": functools.partial(text, plan=plan) for name, plan in PLANS.items()}
    cases |= {f"images; {name}": functools.partial(classify, plan=plan) for name, plan in PLANS.items()}
    settings = {
        "text": "shakespeare, MLP of the last 8 bytes, 128-128-128",
        "images": "fashion_mnist_small_8x8, MLP 64-128-64-10",
        "batch": 64,
    }
    return Experiment("trainings that are stopped early or extended", cases, (over(celo, celo=(1.0,)),), settings)
