"""What to do where training is unstable or ends badly: the levers of Celo, measured on small problems beside Adam.

    python tools/levers.py --out docs/results/levers                  # all experiments, up to an hour on two cores
    python tools/levers.py --out levers --only gan,log_alpha --seeds 5  # two of them

Every experiment trains small networks with the Celo of celo-zoo at several values of `step_multiplier`, and with Adam at several
learning rates that decay to 0 along a cosine, from the same initial parameters and on the same batches. Nothing is downloaded.

What an experiment found is written as FOLDER/NAME.json, with the machine, the versions, the settings and every run, after each
of its cases. Started again, the same command measures what is missing; with `--again`, all once more.
At the end results.md and levers.png are made of all files in the folder; `python tools/update_readme.py` writes the tables of
docs/unstable.md from them.

Experiments:
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import levers_report
import numpy as np
import optax

import celo_zoo
from celo_core import files
from celo_tasks import datasets
from celo_tasks.reporting.figures import png
from celo_tasks.reporting.machine import hardware, versions
from celo_tasks.spelling import nearest

Array = jax.Array
Make = Callable[[int], Any]
"""An optimizer of a planned number of steps."""

MULTIPLIERS = (1.0, 0.5, 0.25, 0.1, 0.03)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
POINTS = 50
"""Of a curve: means over stretches of a training."""


class Optimizers(NamedTuple):
    """Optimizers that differ in numbers alone, so that they are compiled once.

    Attributes:
      make: an optimizer of the planned number of steps and the numbers, which are traced.
      members: name, the number that tells it from others of the name, and what ``make`` gets, of each.
    """

    make: Callable[..., Any]
    members: tuple[tuple[str, float, tuple[float, ...]], ...]


def over(make: Callable[..., Any], **values: Sequence[float]) -> Optimizers:
    """Optimizers of one number."""
    return Optimizers(make, tuple((name, value, (value,)) for name, of in values.items() for value in of))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Problems on which optimizers are compared.

    Attributes:
      title: what it is about, in one line.
      cases: what is trained: a function of the optimizers' `Make`, a key, and what ``prepare`` returned for that key. It returns
        numbers, and curves of one number for each step.
      optimizers: those compared.
      settings: what the problems are, for the file.
      prepare: of a key, what is done before the optimizers that are compared take part.
    """

    title: str
    cases: Mapping[str, Callable[[Make, Array, Any], dict[str, Array]]]
    optimizers: Sequence[Optimizers]
    settings: Mapping[str, Any]
    prepare: Callable[[Array], Any] = lambda key: ()


def celo(num_steps: int, multiplier: Any = 1.0, warm_up: Any = None, **options: Any) -> Any:
    """The Celo of celo-zoo; ``warm_up``: share of the steps in which the multiplier rises, as by `optax.linear_schedule`."""
    if warm_up is None:
        return celo_zoo.optimizer("celo", num_steps, step_multiplier=multiplier, **options)
    rising = jnp.maximum(warm_up * num_steps, 1e-9)
    return celo(
        num_steps, lambda count: multiplier * jnp.where(warm_up > 0, jnp.minimum(count / rising, 1.0), 1.0), **options
    )


def adam(num_steps: int, rate: Any, **options: Any) -> Any:
    """Adam with a cosine decay to 0."""
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps), **options)


CELO = over(celo, celo=MULTIPLIERS)
CELO_AND_WARM_UP = Optimizers(
    celo, (*(("celo", value, (value, 0.0)) for value in MULTIPLIERS), ("celo_warm_up", 1.0, (1.0, 0.05)))
)
ADAM = over(adam, adam=RATES)
USUAL = (CELO_AND_WARM_UP, ADAM)


# Networks and data.


def mlp_init(key: Array, sizes: Sequence[int]) -> list[dict[str, Array]]:
    """Matrices of variance 1 over inputs, biases of 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [{"w": jax.random.normal(k, (n, m)) / math.sqrt(n), "b": jnp.zeros(m)} for k, n, m in pairs]


def mlp(params: Any, x: Array, activation: Callable[[Array], Array] = jax.nn.relu) -> Array:
    """Outputs of a multilayer perceptron."""
    for layer in params[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over examples, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@functools.cache
def images(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and held-out images as rows of 0 to 1, and their labels."""
    data = datasets.load_images(name)
    flat = lambda x: (x.reshape(len(x), -1) / 255).astype(np.float32)
    pair = lambda x, y: (flat(x), y.astype(np.int32))
    return {"train": pair(data.x_train, data.y_train), "held_out": pair(data.x_test, data.y_test)}


def curve(values: Array) -> Array:
    """At most `POINTS` means over stretches of equal length."""
    return values.reshape(POINTS, -1).mean(axis=1) if len(values) % POINTS == 0 else values


def distance(new: Any, old: Any) -> Array:
    """How far parameters have moved, over their norm."""
    return optax.tree.norm(optax.tree.sub(new, old)) / optax.tree.norm(old)


Loss = Callable[[Any, Any], Array]
Plan = Sequence[tuple[int, int]]
"""Planned number of steps, and the step up to which that plan is followed; the state is kept from one plan to the next."""


def train(make: Make, params: Any, loss: Loss, batch: Callable[[Array, Array], Any], key: Array, plan: Plan) -> Any:
    """Trains.

    Args:
      make: the optimizer.
      params: where it begins.
      loss: of parameters and a batch.
      batch: of the step and a key.
      key: of all batches.
      plan: see `Plan`.

    Returns:
      Parameters, and the loss of every step.
    """
    optimizer = optax.with_extra_args_support(make(plan[0][0]))
    state, begin, losses = optimizer.init(params), 0, []
    keys = jax.random.split(key, plan[-1][1])

    def body(optimizer: Any, carry: Any, at: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, batch(*at))
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    for planned, end in plan:
        optimizer = optax.with_extra_args_support(make(planned))
        at = jnp.arange(begin, end), keys[begin:end]
        (params, state), values = jax.lax.scan(functools.partial(body, optimizer), (params, state), at)
        begin, losses = end, [*losses, values]
    return params, jnp.concatenate(losses)


def sampled(x: Any, y: Any, size: int) -> Callable[[Array, Array], Any]:
    """Batches drawn with replacement."""
    x, y = jnp.asarray(x), jnp.asarray(y)

    def batch(step: Array, key: Array) -> Any:
        chosen = jax.random.randint(key, (size,), 0, len(x))
        return x[chosen], y[chosen]

    return batch


def classify(
    make: Make,
    key: Array,
    given: Any = (),
    *,
    data: str = "fashion_mnist_small_8x8",
    hidden: Sequence[int] = (128, 64),
    steps: int = 1000,
    size: int = 64,
    factor: float = 1.0,
    plan: Plan | None = None,
    corrupt: Callable[[Array, Array, Array], Array] | None = None,
) -> dict[str, Array]:
    """An MLP on images.

    Args:
      make: the optimizer.
      key: of the network and the batches.
      given: nothing.
      data: which images.
      hidden: widths.
      steps: as planned, and taken.
      size: of a batch.
      factor: on the inputs, which are 0 to 1 without it.
      plan: instead of steps.
      corrupt: of the step, a key and inputs, what the network gets for inputs in training.
    """
    del given
    sets = images(data)
    loss = lambda p, batch: cross_entropy(mlp(p, factor * batch[0]), batch[1])
    key_init, key_train = jax.random.split(key)
    params = mlp_init(key_init, (sets["train"][0].shape[1], *hidden, 10))
    clean = sampled(*sets["train"], size)

    def batch(step: Array, key: Array) -> Any:
        x, y = clean(step, key)
        return (x if corrupt is None else corrupt(step, jax.random.fold_in(key, 1), x)), y

    new, losses = train(make, params, loss, batch, key_train, plan or [(steps, steps)])
    accuracy = jnp.mean(jnp.argmax(mlp(new, factor * sets["held_out"][0]), axis=1) == sets["held_out"][1])
    return {
        "first_loss": loss(params, sets["train"]),
        "training_loss": loss(new, sets["train"]),
        "held_out_loss": loss(new, sets["held_out"]),
        "held_out_accuracy": accuracy,
        "curve": curve(losses),
    }


# Small batches, units, bad batches, learning by heart.

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


def by_heart() -> Experiment:
    """A network that can learn its data by heart: held-out loss under weight decay, smaller steps, fewer steps."""
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
    return Experiment("2,000 images of 28x28 and a network that learns them by heart", cases, optimizers, settings)


def adamw(num_steps: int, weight_decay: Any) -> Any:
    """AdamW at 0.001 with a cosine decay to 0."""
    return optax.adamw(optax.cosine_decay_schedule(1e-3, num_steps), weight_decay=weight_decay)


# Networks that are trained already.

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


def network_loss(params: Any, batch: Any) -> Array:
    """Of an MLP on images."""
    return cross_entropy(mlp(params, batch[0]), batch[1])


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


# Losses that change.


def permuted(make: Make, key: Array, given: Any, *, anew: bool = False) -> dict[str, Array]:
    """Labels are permuted in the middle; an optimizer that begins anew then plans half of the steps twice."""
    del given
    sets, half = images("fashion_mnist_small_8x8"), 1000
    x, y = sets["train"]
    key_init, *keys = jax.random.split(key, 3)
    params = mlp_init(key_init, (64, 128, 64, 10))
    after = jnp.roll(jnp.arange(10), 3)
    if anew:
        plain, shuffled = sampled(x, y, 64), sampled(x, after[y], 64)
        params, first = train(make, params, network_loss, plain, keys[0], [(half, half)])
        params, second = train(make, params, network_loss, shuffled, keys[1], [(half, half)])
        losses = jnp.concatenate([first, second])
    else:
        draw = sampled(x, y, 64)

        def batch(step: Array, key: Array) -> Any:
            x, y = draw(step, key)
            return x, jnp.where(step < half, y, after[y])

        params, losses = train(make, params, network_loss, batch, keys[0], [(2 * half, 2 * half)])
    return {
        "loss_before": jnp.mean(losses[half - 50 : half]),
        "training_loss": network_loss(params, (x, after[y])),
        "held_out_loss": network_loss(params, (sets["held_out"][0], after[sets["held_out"][1]])),
        "curve": curve(losses),
    }


def changed() -> Experiment:
    """Labels that are permuted in the middle."""
    cases = {"one plan": permuted, "begun anew at the change": functools.partial(permuted, anew=True)}
    settings = {"data": "fashion_mnist_small_8x8", "network": "MLP 64-128-64-10", "steps": 2000, "batch": 64}
    return Experiment("labels are permuted at step 1,000 of 2,000, an MLP on 8x8 images", cases, USUAL, settings)


STATES, DISCOUNT, TD_STEPS = 64, 0.97, 3000


def value_of_states(make: Make, key: Array, given: Any, *, period: int) -> dict[str, Array]:
    """Values of a random walk on a ring by temporal differences; the true ones are known.

    Args:
      make: the optimizer.
      key: of all.
      given: nothing.
      period: steps between copies into the target network; 1 for none.
    """
    del given
    key_features, key_rewards, key_init, key_train = jax.random.split(key, 4)
    features = jax.random.normal(key_features, (STATES, 32))
    rewards = jax.random.normal(key_rewards, (STATES,))
    moves = jnp.array([-2, -1, 1, 2, 3])
    at = jnp.arange(STATES)
    transition = sum(jax.nn.one_hot((at + move) % STATES, STATES) for move in moves) / len(moves)
    true = jnp.linalg.solve(jnp.eye(STATES) - DISCOUNT * transition, rewards)
    value = lambda p: mlp(p, features)[:, 0]
    params = mlp_init(key_init, (32, 64, 64, 1))
    optimizer = optax.with_extra_args_support(make(TD_STEPS))

    def loss(p: Any, target: Any, state: Array, following: Array) -> Array:
        goal = rewards[state] + DISCOUNT * value(target)[following]
        return jnp.mean(optax.huber_loss(value(p)[state], goal))

    def body(carry: Any, at: Any) -> Any:
        params, target, state = carry
        step, key = at
        target = jax.tree.map(lambda new, old: jnp.where(step % period == 0, new, old), params, target)
        key_state, key_move = jax.random.split(key)
        states = jax.random.randint(key_state, (32,), 0, STATES)
        following = (states + jax.random.choice(key_move, moves, (32,))) % STATES
        told, gradient = jax.value_and_grad(loss)(params, target, states, following)
        updates, state = optimizer.update(gradient, state, params, value=told)
        params = optax.apply_updates(params, updates)
        return (params, target, state), jnp.sqrt(jnp.mean(jnp.square(value(params) - true))) / jnp.std(true)

    steps = jnp.arange(TD_STEPS), jax.random.split(key_train, TD_STEPS)
    errors = jax.lax.scan(body, (params, params, optimizer.init(params)), steps)[1]
    return {"error": jnp.mean(errors[-50:]), "worst_error": jnp.max(errors), "curve": curve(errors)}


def bootstrapped() -> Experiment:
    """Values learned from their own estimates, as in reinforcement learning."""
    cases = {
        "copied every 20 steps": functools.partial(value_of_states, period=20),
        "no target network": functools.partial(value_of_states, period=1),
    }
    settings = {"states": STATES, "discount": DISCOUNT, "network": "MLP 32-64-64-1", "steps": TD_STEPS, "batch": 32}
    return Experiment("temporal differences with a target network: error of the values", cases, USUAL, settings)


# Two networks against each other.

MODES, SPREAD, GAN_STEPS = 8, 0.1, 2000


def gan(make: Make, key: Array, given: Any) -> dict[str, Array]:
    """A generator of points on a ring of Gaussians, and a discriminator, an optimizer each."""
    del given
    key_g, key_d, key_train, key_end = jax.random.split(key, 4)
    angles = 2 * jnp.pi * jnp.arange(MODES) / MODES
    centres = 2.0 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    generator, discriminator = mlp_init(key_g, (16, 64, 64, 2)), mlp_init(key_d, (2, 64, 64, 1))
    optimizer = optax.with_extra_args_support(make(GAN_STEPS))
    act = jax.nn.leaky_relu

    def real(key: Array, size: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        modes = jax.random.randint(key_mode, (size,), 0, MODES)
        return centres[modes] + SPREAD * jax.random.normal(key_noise, (size, 2))

    def fake(params: Any, key: Array, size: int) -> Array:
        return mlp(params, jax.random.normal(key, (size, 16)), act)

    def loss_d(params: Any, generator: Any, key: Array) -> Array:
        keys = jax.random.split(key)
        true, false = mlp(params, real(keys[0], 128), act), mlp(params, fake(generator, keys[1], 128), act)
        return jnp.mean(jax.nn.softplus(-true)) + jnp.mean(jax.nn.softplus(false))

    def loss_g(params: Any, discriminator: Any, key: Array) -> Array:
        return jnp.mean(jax.nn.softplus(-mlp(discriminator, fake(params, key, 128), act)))

    def descend(loss: Any, params: Any, state: Any, *rest: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *rest)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    def body(carry: Any, key: Array) -> Any:
        g, d, state_g, state_d = carry
        keys = jax.random.split(key)
        d, state_d, value = descend(loss_d, d, state_d, g, keys[0])
        g, state_g, _ = descend(loss_g, g, state_g, d, keys[1])
        return (g, d, state_g, state_d), value

    carry = generator, discriminator, optimizer.init(generator), optimizer.init(discriminator)
    (generator, *_), losses = jax.lax.scan(body, carry, jax.random.split(key_train, GAN_STEPS))
    keys = jax.random.split(key_end, 4)
    points, others = fake(generator, keys[0], 1000), real(keys[1], 1000)
    away = jnp.linalg.norm(points[:, None] - centres, axis=2)
    near = jnp.min(away, axis=1) < 4 * SPREAD
    counts = jnp.sum(jax.nn.one_hot(jnp.argmin(away, axis=1), MODES) * near[:, None], axis=0)
    between = lambda a, b: jnp.mean(jnp.linalg.norm(a[:, None] - b, axis=2))
    energy = lambda a, b: 2 * between(a, b) - between(a, a) - between(b, b)
    return {
        "modes": jnp.sum(counts >= 20),
        "near_a_mode": jnp.mean(near),
        "energy_distance": energy(points, others),
        "energy_distance_of_data": energy(real(keys[2], 1000), others),
        "curve": curve(losses),
    }


def gans() -> Experiment:
    """A GAN of points."""
    without = over(functools.partial(adam, b1=0.5), **{"adam_b1_0.5": RATES})
    settings = {"modes": MODES, "standard_deviation": SPREAD, "steps": GAN_STEPS, "batch": 128}
    settings |= {"networks": "MLP 16-64-64-2 and MLP 2-64-64-1", "covered": "2 % of 1,000 points within 4 deviations"}
    return Experiment("a GAN of points on a ring of 8 Gaussians", {"ring": gan}, (*USUAL, without), settings)


# A scalar that starts at 0.

ALPHA_STEPS, ENTROPY = 2000, -1.0


def temperature(make: Make, key: Array, given: Any, *, sharpness: float) -> dict[str, Array]:
    """Soft actor-critic's log alpha, of a policy that Adam trains; the best one is known.

    The policy is a Gaussian of mean and deviation by an MLP of the state, its value ``-sharpness (a - f(s))^2``.
    """
    del given
    key_init, key_train = jax.random.split(key)
    policy_optimizer, optimizer = optax.adam(1e-3), optax.with_extra_args_support(make(ALPHA_STEPS))
    best = math.log(2 * sharpness) + 2 * ENTROPY - math.log(2 * math.pi * math.e)
    policy, log_alpha = mlp_init(key_init, (4, 64, 64, 2)), jnp.zeros(())

    def draw(policy: Any, key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key)
        states = jax.random.normal(keys[0], (64, 4))
        mean, log_std = jnp.moveaxis(mlp(policy, states), 1, 0)
        log_std = jnp.clip(log_std, -5.0, 2.0)
        noise = jax.random.normal(keys[1], mean.shape)
        action = mean + jnp.exp(log_std) * noise
        log_prob = -0.5 * jnp.square(noise) - log_std - 0.5 * math.log(2 * math.pi)
        return -sharpness * jnp.square(action - jnp.sin(states[:, 0])), log_prob

    def loss_policy(policy: Any, log_alpha: Array, key: Array) -> tuple[Array, Array]:
        value, log_prob = draw(policy, key)
        return jnp.mean(jnp.exp(log_alpha) * log_prob - value), jnp.mean(log_prob)

    def body(carry: Any, key: Array) -> Any:
        policy, log_alpha, policy_state, state = carry
        (_, log_prob), gradient = jax.value_and_grad(loss_policy, has_aux=True)(policy, log_alpha, key)
        updates, policy_state = policy_optimizer.update(gradient, policy_state)
        loss = lambda log_alpha: -log_alpha * (log_prob + ENTROPY)
        value, slope = jax.value_and_grad(loss)(log_alpha)
        change, state = optimizer.update(slope, state, log_alpha, value=value)
        policy, log_alpha = optax.apply_updates(policy, updates), optax.apply_updates(log_alpha, change)
        return (policy, log_alpha, policy_state, state), (log_alpha, log_prob)

    carry = policy, log_alpha, policy_optimizer.init(policy), optimizer.init(log_alpha)
    path, log_prob = jax.lax.scan(body, carry, jax.random.split(key_train, ALPHA_STEPS))[1]
    return {
        "best": jnp.asarray(best),
        "error": jnp.abs(jnp.mean(path[-50:]) - best),
        "furthest": jnp.max(jnp.abs(path - best)),
        "entropy_error": jnp.abs(jnp.mean(log_prob[-50:]) + ENTROPY),
        "curve": curve(path),
    }


def log_alpha() -> Experiment:
    """Soft actor-critic's temperature."""
    cases = {
        "best at -1.8": functools.partial(temperature, sharpness=10.0),
        "best at 2.8": functools.partial(temperature, sharpness=1000.0),
    }
    settings = {"steps": ALPHA_STEPS, "batch": 64, "target_entropy": ENTROPY, "policy": "MLP 4-64-64-2, Adam at 0.001"}
    larger = Optimizers(celo, (("celo", 4.0, (4.0, 0.0)), ("celo", 2.0, (2.0, 0.0)), *CELO_AND_WARM_UP.members))
    return Experiment("soft actor-critic's log alpha, a scalar that starts at 0", cases, (larger, ADAM), settings)


# The planned number of steps.

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


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "small_batches": small_batches,
    "pixels": pixels,
    "bad_batches": bad_batches,
    "by_heart": by_heart,
    "fine_tuning": fine_tuning,
    "lora": lora,
    "changed": changed,
    "bootstrapped": bootstrapped,
    "gan": gans,
    "log_alpha": log_alpha,
    "planned": planned,
}


def measure(name: str, seeds: int, file: Path) -> None:
    """Runs what an experiment's file lacks, which is written anew after every case.

    Raises:
      ValueError: what is there was measured otherwise.
    """
    experiment = EXPERIMENTS[name]()
    record: dict[str, Any] = {
        "experiment": name,
        "title": experiment.title,
        "settings": {**experiment.settings, "seeds": seeds},
        "weights": celo_zoo.load("celo").reference,
        "machine": hardware(),
        "versions": versions(),
        "seconds": 0.0,
        "runs": [],
    }
    if file.exists():
        old = json.loads(file.read_text())
        for field in ("settings", "weights", "machine", "versions"):
            if old[field] != record[field]:
                raise ValueError(f"{file} has other {field} than this run would have: give --again to measure it anew.")
        members = {member[:2] for optimizers in experiment.optimizers for member in optimizers.members}
        still = lambda run: run["case"] in experiment.cases and (run["optimizer"], run["value"]) in members
        record |= {"seconds": old["seconds"], "runs": list(filter(still, old["runs"]))}
    known = {(run["case"], run["optimizer"], run["value"]) for run in record["runs"]}
    keys = jax.random.split(jax.random.key(0), seeds)
    given = None
    for number, (case, run) in enumerate(experiment.cases.items(), start=1):
        for optimizers in experiment.optimizers:
            members = [member for member in optimizers.members if (case, *member[:2]) not in known]
            if not members:
                continue
            begin = time.monotonic()
            names = ", ".join(dict.fromkeys(member[0] for member in members))
            print(f"{name}, case {number} of {len(experiment.cases)}: {case}; {names}", file=sys.stderr, flush=True)
            if given is None:
                given = jax.jit(lambda keys: jax.lax.map(experiment.prepare, keys))(keys)
            numbers = jnp.array([member[2] for member in members])
            found = jax.device_get(_all(run, optimizers.make)(numbers, keys, given))
            for i, (title, value, _) in enumerate(members):
                for seed in range(seeds):
                    one = {key: _plain(values[i, seed]) for key, values in found.items()}
                    record["runs"].append({"case": case, "optimizer": title, "value": value, "seed": seed, **one})
            record["runs"].sort(key=functools.partial(_place, experiment))
            record["seconds"] = round(record["seconds"] + time.monotonic() - begin, 1)
            _write(file, record)


def _write(file: Path, record: Mapping[str, Any]) -> None:
    """As JSON, with a line for each run."""
    head = json.dumps({**record, "runs": []}, indent=2, allow_nan=False)
    runs = ",\n    ".join(json.dumps(run, allow_nan=False) for run in record["runs"])
    files.write_bytes(file, f"{head[: head.rindex('[]')]}[\n    {runs}\n  ]\n}}\n".encode())


def _place(experiment: Experiment, run: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of a run among all: by case, optimizer and seed."""
    members = [member[:2] for optimizers in experiment.optimizers for member in optimizers.members]
    member = (run["optimizer"], run["value"])
    return list(experiment.cases).index(run["case"]), members.index(member), run["seed"]


def _all(run: Any, make: Callable[..., Any]) -> Any:
    """Of numbers, keys and what was prepared for each key, what ``run`` returns, by numbers and key."""

    def of_numbers(numbers: Array, keys: Array, given: Any) -> Any:
        one = lambda pair: run(lambda num_steps: make(num_steps, *numbers), *pair)
        return jax.lax.map(one, (keys, given))

    return jax.jit(lambda numbers, keys, given: jax.lax.map(lambda some: of_numbers(some, keys, given), numbers))


def _plain(value: np.ndarray, digits: int = 5) -> Any:
    """For JSON, which has neither infinities nor NaN: they become ``None``."""
    if value.ndim:
        return [_plain(one, 4) for one in value]
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            hint = nearest(name, EXPERIMENTS)
            raise argparse.ArgumentTypeError(f"there is no experiment {name!r}{hint}: see --help.")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}.")
    return int(text)


def main() -> int:
    """Runs the command."""
    listed = "\n".join(f"  {name:14} {make().title}" for name, make in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write, and to go on")
    parser.add_argument("--only", type=_names, default=list(EXPERIMENTS), metavar="NAME,...", help="these (all)")
    parser.add_argument("--seeds", type=_positive, default=3, help="trainings of each kind (3)")
    parser.add_argument("--again", action="store_true", help="forget what is there already")
    options = parser.parse_args()
    try:
        for name in options.only:
            file = options.out / f"{name}.json"
            if options.again:
                file.unlink(missing_ok=True)
            measure(name, options.seeds, file)
        found = levers_report.read(options.out)
        files.write_bytes(options.out / "results.md", levers_report.page(found).encode())
        files.write_bytes(options.out / "levers.png", png(levers_report.draw(found)))
    except (ValueError, OSError) as error:
        print(f"levers: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
