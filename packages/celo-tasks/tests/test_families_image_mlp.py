"""Image MLPs and convolutions through patches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_tasks.families import MLP, ConvNet, ImageMLP, PatchConv
from celo_tasks.families.image_mlp import fan_in_normal


def test_initialisation_is_truncated_normal() -> None:
    sample = np.asarray(fan_in_normal(jax.random.key(0), (5, 5, 16, 300)))  # fan_in 400
    assert np.abs(sample).max() <= 2 / math.sqrt(400)
    # The standard normal cut at two standard deviations has a standard deviation of 0.8796; 120,000 draws estimate it to
    # about 0.2 %, so 1 % is five standard errors.
    assert sample.std() * math.sqrt(400) == pytest.approx(0.8796, rel=0.01)


def test_mlp_layers() -> None:
    params = MLP((32, 16), 10).init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {
        "Dense_0": (64, 32),
        "Dense_1": (32, 16),
        "Dense_2": (16, 10),
    }
    for layer in params.values():
        assert not np.any(layer["bias"])
        assert np.abs(layer["kernel"]).max() <= 2 / math.sqrt(layer["kernel"].shape[0])


def test_published_task_has_2410_parameters() -> None:
    params, model_state = jax.eval_shape(lambda key: ImageMLP(("digits_8x8",)).init(key, {}), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2410
    assert model_state is None


def test_batches_come_from_the_task_s_own_set() -> None:
    family = ImageMLP(("digits_8x8", "fashion_mnist_small_8x8"))
    data = family.load()
    assert data["size"].tolist() == [1457, 2000] and data["offset"].tolist() == [0, 1457]
    rows = {0: data["images"][:1457], 1: data["images"][1457:]}
    for dataset, own in rows.items():
        images, labels = family.batch(jax.random.key(dataset), {"dataset": jnp.int32(dataset)}, jax.device_put(data))
        assert images.shape == (64, 64) and labels.shape == (64,)
        known = {row.tobytes() for row in own}
        assert all(row.tobytes() in known for row in np.rint(np.asarray(images) * 255).astype(np.uint8))


def test_all_sets_are_sampled() -> None:
    family = ImageMLP(("digits_8x8", "fashion_mnist_small_8x8"))
    drawn = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 400))["dataset"]
    # A fair coin tossed 400 times shows 150 to 250 heads but once in a million.
    assert 150 < int(jnp.sum(drawn == 0)) < 250


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [((28, 28), 3, 1), ((28, 28), 3, 2), ((7, 10), 3, 2), ((7, 10), 3, 3), ((5, 6), 5, 1), ((7, 7), 1, 2)],
)
def test_patch_convolution_is_a_convolution(shape: tuple[int, int], size: int, stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    layer = PatchConv(4, kernel_size=size, stride=stride)
    params = layer.init(jax.random.key(1), x)["params"]
    params["bias"] = jnp.arange(4.0)
    assert params["kernel"].shape == (size, size, 3, 4)
    expected = jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    with jax.default_matmul_precision("highest"):
        found = jax.jit(layer.apply)({"params": params}, x)
    # Sums of at most 75 products of order 1/sqrt(75) in another order: a few units in the last place of numbers near 1.
    np.testing.assert_allclose(found, expected + params["bias"], atol=3e-6)


def test_patch_convolution_has_the_convolution_s_gradient() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    layer = PatchConv(4, stride=2)
    params = layer.init(jax.random.key(1), x)["params"]

    def reference(params: dict[str, jax.Array]) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x, params["kernel"], (2, 2), "SAME", dimension_numbers=dimensions)
        return jnp.sum(jnp.sin(out + params["bias"]))

    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply({"params": p}, x)))))(params)
        expected = jax.jit(jax.grad(reference))(params)
    for name in expected:
        # Sums over 32 positions of numbers of order 1, in another order.
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)


def test_convnet_strides() -> None:
    network = ConvNet((4, 8), (2, 2), 10)
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert variables["params"]["PatchConv_0"]["kernel"].shape == (3, 3, 1, 4)
    assert variables["params"]["PatchConv_1"]["kernel"].shape == (3, 3, 4, 8)
    images = jnp.zeros((5, 28, 28, 1))
    assert jax.eval_shape(network.apply, variables, images).shape == (5, 10)
    _, state = jax.eval_shape(lambda v: network.apply(v, images, capture_intermediates=True), variables)
    convolutions = [state["intermediates"][f"PatchConv_{i}"]["__call__"][0].shape for i in (0, 1)]
    assert convolutions == [(5, 14, 14, 4), (5, 7, 7, 8)]
