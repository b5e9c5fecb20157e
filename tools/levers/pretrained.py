"""Networks that are trained already: fine-tuning of all parameters, and of factors of low rank."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from experiment import (
    ADAM,
    CELO_AND_WARM_UP,
    USUAL,
    Array,
    Experiment,
    Make,
    adam,
    curve,
    distance,
    images,
    mlp_init,
    network_loss,
    sampled,
    train,
)

WIDE = (784, 128, 64, 10)
FEW = 200
"""Steps of fine-tuning."""


def turned(x: np.ndarray) -> np.ndarray:
    """Square images turned by a right angle."""
    side = math.isqrt(x.shape[1])
    return np.rot90(x.reshape(-1, side, side), axes=(1, 2)).reshape(len(x), -1)


@functools.cache
def halves(kind: str) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Old and new data: ``"classes"`` 0 to 4 and 5 to 9, or ``"turned"``: upright images, and 500 others on their side."""
    sets = images("fashion_mnist_small_28")
    if kind == "classes":
        part = lambda x, y, new: (x[(y >= 5) == new], y[(y >= 5) == new])
        return {name: {which: part(*pair, name == "new") for which, pair in sets.items()} for name in ("old", "new")}
    x, y = sets["train"]
    old = {"train": (x[:1500], y[:1500]), "held_out": sets["held_out"]}
    held_out = turned(sets["held_out"][0]), sets["held_out"][1]
    return {"old": old, "new": {"train": (turned(x[1500:]), y[1500:]), "held_out": held_out}}


def pretrain(kind: str, key: Array) -> Any:
    """A network that Adam has trained on the old data."""
    key_init, key_train = jax.random.split(key)
    batch = sampled(*halves(kind)["old"]["train"], 64)
    params = mlp_init(key_init, WIDE)
    return train(lambda n: adam(n, 1e-3), params, network_loss, batch, key_train, [(1000, 1000)])[0]


def judged(kind: str, old: Any, new: Any, losses: Array) -> dict[str, Array]:
    """What fine-tuning has done to a network."""
    sets = halves(kind)
    return {
        "moved": distance(new, old),
        "new_training_loss": network_loss(new, sets["new"]["train"]),
        "new_loss": network_loss(new, sets["new"]["held_out"]),
        "old_loss": network_loss(new, sets["old"]["held_out"]),
        "new_loss_before": network_loss(old, sets["new"]["held_out"]),
        "old_loss_before": network_loss(old, sets["old"]["held_out"]),
        "curve": curve(losses),
    }


def fine_tune(kind: str, make: Make, key: Array, given: Any) -> dict[str, Array]:
    """All of a network."""
    batch = sampled(*halves(kind)["new"]["train"], 64)
    new, losses = train(make, given[kind], network_loss, batch, key, [(FEW, FEW)])
    return judged(kind, given[kind], new, losses)


def low_rank(kind: str, rank: int, make: Make, key: Array, given: Any) -> dict[str, Array]:
    """Factors of a change of every matrix; the second ones are 0 at first, as in LoRA."""
    base = given[kind]
    key_init, key_train = jax.random.split(key)
    keys = jax.random.split(key_init, len(base))
    factors = [
        {"a": jax.random.normal(k, (len(x["w"]), rank)) / math.sqrt(len(x["w"])), "b": jnp.zeros((rank, len(x["b"])))}
        for k, x in zip(keys, base, strict=True)
    ]
    change = lambda x, f: {"w": x["w"] + f["a"] @ f["b"], "b": x["b"]}
    merged = lambda factors: [change(x, f) for x, f in zip(base, factors, strict=True)]
    batch = sampled(*halves(kind)["new"]["train"], 64)
    loss = lambda p, batch: network_loss(merged(p), batch)
    new, losses = train(make, factors, loss, batch, key_train, [(FEW, FEW)])
    return judged(kind, base, merged(new), losses)


def both_pretrained(key: Array) -> Any:
    """A network for each kind of new data."""
    return {kind: pretrain(kind, key) for kind in ("classes", "turned")}


TUNED = {
    "data": "fashion_mnist_small_28",
    "network": "MLP 784-128-64-10",
    "steps": FEW,
    "batch": 64,
    "pretraining": "Adam at 0.001, 1000 steps",
}


def fine_tuning() -> Experiment:
    """All parameters of a trained network, on new data."""
    cases = {kind: functools.partial(fine_tune, kind) for kind in ("classes", "turned")}
    smaller = CELO_AND_WARM_UP._replace(members=(*CELO_AND_WARM_UP.members, ("celo", 0.01, (0.01, 0.0))))
    return Experiment(
        "all of a trained network, on new classes or on images on their side, 200 steps",
        cases,
        (smaller, ADAM),
        TUNED,
        both_pretrained,
    )


def lora() -> Experiment:
    """Factors of rank 4 and 8 only."""
    cases = {
        f"{kind}, rank {r}": functools.partial(low_rank, kind, r) for kind in ("classes", "turned") for r in (4, 8)
    }
    return Experiment(
        "LoRA: factors of a change of a trained network's matrices, 200 steps", cases, USUAL, TUNED, both_pretrained
    )
