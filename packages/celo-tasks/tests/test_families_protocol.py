"""Every task family keeps what `celo_core.TaskFamily` promises."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import TaskFamily
from celo_tasks.comparison import HeldOut
from celo_tasks.families import MLP, ConvNet, ImageClassifier, ImageMLP, Reparametrized, TextTransformer

pytestmark = pytest.mark.usefixtures("fast_compilation")

SMALL_IMAGES = "fashion_mnist_small_8x8"

FAMILIES: dict[str, tuple[TaskFamily, int]] = {
    "image_mlp": (ImageMLP((SMALL_IMAGES, "digits_8x8"), hidden_sizes=(16,), batch_size=32), 10),
    "reparametrized": (Reparametrized(ImageMLP((SMALL_IMAGES,), hidden_sizes=(16,), batch_size=32)), 10),
    "classifier_mlp": (ImageClassifier("mlp", MLP((16, 16), 10), SMALL_IMAGES, (64,), batch_size=32), 10),
    "convnet": (ImageClassifier("conv", ConvNet((4, 8), (2, 1), 10), SMALL_IMAGES, (8, 8, 1), batch_size=32), 10),
    "transformer": (TextTransformer(width=16, batch_size=8, length=16), 256),
}
"""Families with the number of classes."""


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[TaskFamily, int]:
    return FAMILIES[request.param]


def make(family: TaskFamily, key: jax.Array, data: Any) -> tuple[Any, Any, Any, Any]:
    """Config, parameters, model state and a batch."""
    keys = jax.random.split(key, 3)
    config = family.sample(keys[0])
    params, model_state = family.init(keys[1], config)
    return config, params, model_state, family.batch(keys[2], config, data)


def loss(family: TaskFamily, params: Any, model_state: Any, key: jax.Array, config: Any, batch: Any) -> jax.Array:
    return family.loss(params, model_state, key, config, batch)[0]


# Compiled once per family, for all tests.
jitted_make = jax.jit(make, static_argnums=0)
jitted_loss = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)


def problem(family: TaskFamily, seed: int) -> tuple[Any, Any, Any, Any]:
    return jitted_make(family, jax.random.key(seed), jax.device_put(family.load()))


def test_protocol(family: tuple[TaskFamily, int]) -> None:
    assert isinstance(family[0], TaskFamily)
    assert family[0].name


def test_loss_and_gradient_at_init(family: tuple[TaskFamily, int]) -> None:
    task, classes = family
    config, params, model_state, batch = problem(task, 0)
    value, grads = jitted_loss(task, params, model_state, jax.random.key(0), config, batch)
    # Logits of a freshly initialised network have a variance of at most about 1, which costs about half a nat.
    assert value.shape == () and abs(float(value) - math.log(classes)) < 0.8
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path


def test_same_under_jit_and_vmap(family: tuple[TaskFamily, int]) -> None:
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


def test_normalizer_is_finite_and_monotone(family: tuple[TaskFamily, int]) -> None:
    task, classes = family
    limit = np.float32(1.5 * math.log(classes))
    values = jnp.asarray([jnp.nan, jnp.inf, 1e30, 1.0, 0.5, 0.0])
    np.testing.assert_allclose(task.normalizer(values), [limit, limit, limit, 1.0, 0.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["classifier_mlp", "convnet", "transformer"])
def test_held_out_metrics(name: str) -> None:
    task, classes = FAMILIES[name]
    assert isinstance(task, HeldOut)
    config, params, model_state, _ = problem(task, 3)
    batch = task.load_held_out()
    metrics = jax.jit(task.metrics)(params, model_state, config, batch)
    value = jax.jit(loss, static_argnums=0)(task, params, model_state, jax.random.key(0), config, batch)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert abs(float(value) - math.log(classes)) < 0.8
    assert 0 <= float(metrics["accuracy"]) <= 0.4  # an untrained network guesses


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
