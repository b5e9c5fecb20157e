"""Sizes of the image tasks, against closed forms. Nothing is loaded: shapes are enough."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from celo_core import TaskFamily
from celo_tasks.datasets import IMAGE_SPECS
from celo_tasks.families.held_out import HeldOut
from celo_tasks.tasks.registry import TASKS as REGISTERED


def dense(*sizes: int) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def convolutions(*channels: int) -> int:
    return sum(9 * inputs * outputs + outputs for inputs, outputs in pairwise(channels))


def transformer_block(width: int, hidden: int) -> int:
    return 4 * width + dense(width, 3 * width) + dense(width, width) + dense(width, hidden, width)


def vision_transformer(pixels: int, tokens: int, width: int, hidden: int, layers: int, classes: int) -> int:
    ends = dense(pixels, width) + width + (tokens + 1) * width + 2 * width + dense(width, classes)
    return ends + layers * transformer_block(width, hidden)


def mixer_block(tokens: int, width: int, token_hidden: int, channel_hidden: int) -> int:
    return 4 * width + dense(tokens, token_hidden, tokens) + dense(width, channel_hidden, width)


def bottleneck(inputs: int, outputs: int) -> int:
    """A projected shortcut, 1x1, 3x3 and 1x1 without biases, and three normalisations."""
    inner = outputs // 4
    return inputs * outputs + inputs * inner + 9 * inner**2 + inner * outputs + 2 * (inputs + 2 * inner)


CONV_32 = convolutions(3, 32, 64, 64) + dense(64, 10)

# data set, images per batch, number of parameters
TASKS: dict[str, tuple[str, int, int]] = {
    "image_mlp_cifar100_relu_128x128x128": ("cifar100_32rgb", 128, dense(3072, 128, 128, 128, 100)),
    "image_mlp_fashion_mnist_relu_128x128": ("fashion_mnist_28", 128, dense(784, 128, 128, 10)),
    "image_mlp_cifar10_tanh_128x128x128": ("cifar10_32rgb", 128, dense(3072, 128, 128, 128, 10)),
    "mlp_autoencoder_cifar10_32x32x32": ("cifar10_32rgb", 128, dense(3072, 32, 32, 32, 3072)),
    "mlp_autoencoder_fashion_mnist_128x32x128": ("fashion_mnist_28", 128, dense(784, 128, 32, 128, 784)),
    "vae_fashion_mnist": ("fashion_mnist_28", 128, dense(784, 32, 32, 64) + dense(32, 32, 32, 1568)),
    "conv_cifar10_32x64x64": ("cifar10_32rgb", 128, 56_970),
    "conv_cifar10_32x64x64_batchnorm": ("cifar10_32rgb", 128, CONV_32 + 2 * (32 + 64 + 64)),
    "conv_cifar10_32x64x64_layernorm": ("cifar10_32rgb", 128, CONV_32 + 2 * (32 + 64 + 64)),
    "resnet_cifar10_16x16": (
        "cifar10_16rgb",
        64,
        27 * 64 + bottleneck(64, 8) + bottleneck(8, 16) + 2 * bottleneck(16, 16) + 2 * 16 + dense(16, 10),
    ),
    "vit_cifar100_wide_shallow": ("cifar100_32rgb", 128, 10_983_652),
    "vit_cifar100_skinny_deep": ("cifar100_32rgb", 128, vision_transformer(768, 4, 128, 512, 10, 100)),
    "mixer_cifar100_tiny16": (
        "cifar100_32rgb",
        128,
        dense(768, 512) + 5 * mixer_block(4, 512, 384, 2048) + 2 * 512 + dense(512, 100),
    ),
    "small_mlp": ("fashion_mnist_small_28", 64, dense(784, 64, 64, 10)),
    "small_autoencoder": ("fashion_mnist_small_28", 64, dense(784, 64, 16, 64, 784)),
    "small_vae": ("digits_8x8", 64, dense(64, 64, 64, 16) + dense(8, 64, 64, 128)),
    "small_conv": ("fashion_mnist_small_28", 32, 9 * 8 + 9 * 8 * 16 + 2 * 24 + dense(16, 10)),
    "small_vit": ("fashion_mnist_small_28", 16, vision_transformer(49, 16, 32, 64, 2, 10)),
}


@pytest.mark.parametrize("name", TASKS)
def test_size(name: str) -> None:
    dataset, batch_size, num_parameters = TASKS[name]
    family = REGISTERED[name].make_with(dataset, "nowhere")
    assert isinstance(family, TaskFamily) and isinstance(family, HeldOut)
    assert (family.name, family.dataset, family.data_dir) == (name, dataset, "nowhere")

    def first_step(key: jax.Array, data: Any) -> Any:
        params, state = family.init(key, {})
        batch = family.batch(key, {}, data)
        return params, state, family.loss(params, state, key, {}, batch), batch

    spec = IMAGE_SPECS[dataset]
    shape = family.input_shape if hasattr(family, "input_shape") else (family.num_pixels,)
    data = {"images": jnp.zeros((3, *shape), jnp.uint8), "labels": jnp.zeros(3, jnp.uint8)}
    params, state, (loss, moved), batch = jax.eval_shape(first_step, jax.random.key(0), data)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_parameters
    assert loss.shape == () and state == moved
    assert (state is not None) == (name in ("resnet_cifar10_16x16", "conv_cifar10_32x64x64_batchnorm", "small_conv"))
    images = jax.tree.leaves(batch)[0]
    assert images.shape[0] == batch_size and images.size == batch_size * jnp.zeros(spec.shape).size
    limit = float(family.normalizer(jnp.float32(jnp.nan)))
    if hasattr(family, "num_classes"):
        assert limit == pytest.approx(1.5 * float(jnp.log(spec.num_classes)))


def test_the_resnet_halves_its_pictures_to_one_pixel() -> None:
    network = REGISTERED["resnet_cifar10_16x16"].make_with("cifar10_16rgb").network
    images = jnp.zeros((2, 16, 16, 3))
    _, state = jax.eval_shape(
        lambda key: network.apply(network.init(key, images), images, capture_intermediates=True), jax.random.key(0)
    )
    groups = [state["intermediates"][f"group_{i}_block_0"]["__call__"][0].shape for i in range(4)]
    assert groups == [(2, 4, 4, 8), (2, 2, 2, 16), (2, 1, 1, 16), (2, 1, 1, 16)]
