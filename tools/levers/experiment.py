"""What all experiments share: optimizers that are compared, networks, data and training."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo_zoo
from celo_tasks import datasets

Array = jax.Array
Make = Callable[[int], Any]
"""An optimizer of a planned number of steps."""

MULTIPLIERS = (1.0, 0.5, 0.25, 0.1, 0.03)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
POINTS = 50
"""Of a curve: means over parts of a training."""


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


def network_loss(params: Any, batch: Any) -> Array:
    """Of an MLP on images."""
    return cross_entropy(mlp(params, batch[0]), batch[1])


@functools.cache
def images(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and held-out images as rows of 0 to 1, and their labels."""
    data = datasets.load_images(name)
    flat = lambda x: (x.reshape(len(x), -1) / 255).astype(np.float32)
    pair = lambda x, y: (flat(x), y.astype(np.int32))
    return {"train": pair(data.x_train, data.y_train), "held_out": pair(data.x_test, data.y_test)}


def curve(values: Array) -> Array:
    """At most `POINTS` means over parts of equal length."""
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
