"""Every task family keeps what `celo_core.TaskFamily` promises."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import TaskFamily
from celo_tasks.families import (
    MLP,
    ConvNet,
    ESWrapped,
    ImageAutoencoder,
    ImageClassifier,
    ImageMLP,
    ImageVAE,
    LanguageModel,
    RecurrentLM,
    Reparametrized,
    SampledImageMLP,
    TextTransformer,
)
from celo_tasks.families.held_out import HeldOut

SMALL_IMAGES = "fashion_mnist_small_8x8"


class Range(NamedTuple):
    """Where losses lie that are no cross entropies: at the beginning, and at most once they are normalised."""

    initial: float
    within: float
    limit: float

    @classmethod
    def of(cls, classes: "int | Range") -> "Range":
        # Logits of a freshly initialised network have a variance of at most about 1, which costs about half a nat.
        return classes if isinstance(classes, cls) else cls(math.log(classes), 0.8, 1.5 * math.log(classes))


BATCH_NORM = ConvNet((8,), (2,), 10, normalization="batch")
# Sigmoids of about 0 are 0.5, whose squared distance from pixels in [0, 1] is at most a quarter.
SQUARED_ERROR = Range(0.125, 0.125, 1.0)
# A standard normal's density at pixels in [0, 1], times 1/255, costs 6.5 to 7 nats. Untrained layers are not quite silent.
NEGATIVE_ELBO = Range(7.0, 0.6, 10.0)

FAMILIES: dict[str, tuple[TaskFamily, int | Range]] = {
    "image_mlp": (ImageMLP((SMALL_IMAGES, "digits_8x8"), hidden_sizes=(16,), batch_size=32), 10),
    "reparametrized": (Reparametrized(ImageMLP((SMALL_IMAGES,), hidden_sizes=(16,), batch_size=32)), 10),
    # The gain is at most 1 and every layer is in use, so that all that is said of plain networks holds.
    "sampled_mlp": (
        SampledImageMLP(
            (SMALL_IMAGES,), losses=("cross_entropy",), min_depth=2, max_depth=2, max_width=16, max_gain=1.0
        ),
        10,
    ),
    "classifier_mlp": (ImageClassifier("mlp", MLP((16, 16), 10), SMALL_IMAGES, (64,), batch_size=32), 10),
    "convnet": (ImageClassifier("conv", ConvNet((4, 8), (2, 1), 10), SMALL_IMAGES, (8, 8, 1), batch_size=32), 10),
    "batch_norm": (ImageClassifier("bn", BATCH_NORM, SMALL_IMAGES, (8, 8, 1), batch_size=32), 10),
    "autoencoder": (ImageAutoencoder("ae", SMALL_IMAGES, 64, 32, hidden_sizes=(16, 4, 16)), SQUARED_ERROR),
    "vae": (ImageVAE("vae", SMALL_IMAGES, 64, 32, None, (32,), 8, (32,)), NEGATIVE_ELBO),
    "transformer": (TextTransformer(width=16, batch_size=8, length=16), 256),
    "lstm": (LanguageModel("lstm", RecurrentLM("lstm", 16, 8), batch_size=8, length=16), 256),
    "es_wrapped": (ESWrapped(ImageMLP((SMALL_IMAGES,), hidden_sizes=(16,), batch_size=32), num_pairs=2), 10),
}
"""Families with the number of classes, or with the range of their loss."""

HELD_OUT = [name for name, (task, _) in FAMILIES.items() if isinstance(task, HeldOut)]
RUNNING_AVERAGES = ("batch_norm",)
"""Those with a model state, which are judged with it."""


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[TaskFamily, Range]:
    task, classes = FAMILIES[request.param]
    return task, Range.of(classes)


def nudged(leaf: jax.Array) -> jax.Array:
    """Moves numbers a little, each differently: some last layers begin as zeros, through which no gradient comes."""
    return leaf + 0.02 * jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape) + 0.5)


def make(family: TaskFamily, key: jax.Array, data: Any) -> tuple[Any, Any, Any, Any]:
    """Config, parameters (as good as the initial ones), model state and a batch."""
    keys = jax.random.split(key, 3)
    config = family.sample(keys[0])
    params, model_state = family.init(keys[1], config)
    params = jax.tree.map(nudged, params)
    return config, params, model_state, family.batch(keys[2], config, data)


def loss(family: TaskFamily, params: Any, model_state: Any, key: jax.Array, config: Any, batch: Any) -> jax.Array:
    return family.loss(params, model_state, key, config, batch)[0]


# Compiled once per family, for all tests.
jitted_make = jax.jit(make, static_argnums=0)
jitted_loss = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)


def problem(family: TaskFamily, seed: int) -> tuple[Any, Any, Any, Any]:
    return jitted_make(family, jax.random.key(seed), jax.device_put(family.load()))


def test_protocol(family: tuple[TaskFamily, Range]) -> None:
    assert isinstance(family[0], TaskFamily)
    assert family[0].name


def test_loss_and_gradient_at_init(family: tuple[TaskFamily, Range]) -> None:
    task, expected = family
    config, params, model_state, batch = problem(task, 0)
    value, grads = jitted_loss(task, params, model_state, jax.random.key(0), config, batch)
    assert value.shape == () and abs(float(value) - expected.initial) < expected.within
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path


def test_same_under_jit_and_vmap(family: tuple[TaskFamily, Range]) -> None:
    task, _ = family
    data = jax.device_put(task.load())

    def whole(key: jax.Array) -> jax.Array:
        config, params, model_state, batch = make(task, key, data)
        return loss(task, params, model_state, key, config, batch)

    def one(seed: int) -> jax.Array:
        config, params, model_state, batch = problem(task, seed)
        return jitted_loss(task, params, model_state, jax.random.key(seed), config, batch)[0]

    one_by_one = np.asarray([one(seed) for seed in (0, 1, 0)])
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1, 0)])
    # Batched matrix products sum in another order: float32 rounding of a few hundred terms.
    np.testing.assert_allclose(jax.jit(jax.vmap(whole))(keys), one_by_one, rtol=1e-5)
    assert one_by_one[0] == one_by_one[2] != one_by_one[1]  # the key matters, and nothing else does


def test_normalizer_is_finite_and_monotone(family: tuple[TaskFamily, Range]) -> None:
    task, (_, _, limit) = family
    values = jnp.asarray([jnp.nan, jnp.inf, 1e30, 1.0, 0.5, 0.0])
    np.testing.assert_allclose(task.normalizer(values), [limit, limit, limit, 1.0, 0.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_metrics(name: str) -> None:
    task, classes = FAMILIES[name]
    expected = Range.of(classes)
    config, params, model_state, _ = problem(task, 3)
    batch = task.load_held_out()
    metrics = jax.jit(task.metrics)(params, model_state, config, batch)
    assert abs(float(metrics["loss"]) - expected.initial) < expected.within
    assert 0 <= float(metrics.get("accuracy", 0)) <= 0.4  # an untrained network guesses
    assert (model_state is not None) == (name in RUNNING_AVERAGES)
    if model_state is None:
        value = jax.jit(loss, static_argnums=0)(task, params, model_state, jax.random.key(0), config, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_image_batches() -> None:
    task, _ = FAMILIES["convnet"]
    _, _, _, (images, labels) = problem(task, 4)
    assert images.shape == (32, 8, 8, 1) and images.dtype == jnp.float32
    assert labels.shape == (32,) and labels.dtype == jnp.int32
    assert 0 <= float(images.min()) and 0.5 < float(images.max()) <= 1
    data = task.load()
    known = {(image.tobytes(), int(label)) for image, label in zip(data["images"], data["labels"], strict=True)}
    pixels = np.rint(np.asarray(images) * 255).astype(np.uint8)
    assert all((image.tobytes(), int(label)) in known for image, label in zip(pixels, labels, strict=True))


def test_held_out_images_are_not_trained_on() -> None:
    task, _ = FAMILIES["classifier_mlp"]
    images, labels = task.load_held_out()
    assert images.shape == (500, 64) and labels.shape == (500,)
    trained = {image.tobytes() for image in task.load()["images"]}
    held_out = [np.rint(image * 255).astype(np.uint8).tobytes() for image in images]
    assert not trained.intersection(held_out)
