"""Image networks against other ways to compute them: normalised convnets, ResNet, vision transformer, MLP-mixer."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from celo_tasks.families import MLP, Attention, ConvNet, ImageClassifier, MLPMixer, ResNet, VisionTransformer
from celo_tasks.families.image_conv import max_pool
from celo_tasks.families.vision_transformer import split_into_patches


def randomized(tree: Any, seed: int = 0) -> Any:
    """Random positive numbers around 0.1 to 0.5, signs mixed for kernels only: variances must be positive."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        size = rng.uniform(0.1, 0.5, leaf.shape)
        return (size * rng.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else size).astype(np.float32)

    return jax.tree.map(draw, tree)


def variables_of(network: nn.Module, images: np.ndarray) -> dict[str, Any]:
    return randomized(jax.eval_shape(network.init, jax.random.key(0), images))


def float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def images_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 1, shape).astype(np.float32)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A "SAME" convolution in float64, window by window; of an even length a stride of 2 pads at the end only."""
    size, (height, width) = len(kernel), x.shape[1:3]
    total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (height, width)]
    x = np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("nrcihw,hwio->nrco", windows, kernel)


def normalize(x: np.ndarray, p: Any, axes: tuple[int, ...], state: Any = None) -> np.ndarray:
    mean = x.mean(axes, keepdims=True) if state is None else state["mean"]
    var = x.var(axes, keepdims=True) if state is None else state["var"]
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def test_activations() -> None:
    x = images_of(4, 6)
    variables = variables_of(MLP((5,), 3), x)
    p = float64(variables["params"])
    for name, function in (("relu", relu), ("tanh", np.tanh)):
        hidden = function(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        found = MLP((5,), 3, activation=name).apply(variables, x)
        np.testing.assert_allclose(found, hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"], rtol=1e-5)
    with pytest.raises(ValueError, match="no activation 'gelu': use one of relu, tanh"):
        MLP((5,), 3, activation="gelu").apply(variables, x)


@pytest.mark.parametrize("after", ["convolution", "relu"])
@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_normalized_convnet(kind: str, after: str) -> None:
    network = ConvNet((3, 4), (2, 1), 5, normalization=kind, normalize_after=after)  # type: ignore[arg-type]
    x = images_of(3, 6, 6, 2)
    variables = variables_of(network, x)
    if kind == "batch":
        found, state = jax.jit(lambda v: network.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
        assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    else:
        found = jax.jit(lambda v: network.apply(v, x, train=True))(variables)
    p, axes = float64(variables["params"]), {"batch": (0, 1, 2), "layer": (3,)}[kind]
    y = x.astype(np.float64)
    for i, stride in enumerate((2, 1)):
        norm, layer = p[f"{kind.title()}Norm_{i}"], p[f"PatchConv_{i}"]
        y = convolve(y, layer["kernel"], stride) + layer.get("bias", 0)
        assert ("bias" in layer) == ((kind, after) != ("batch", "convolution"))
        y = relu(normalize(y, norm, axes)) if after == "convolution" else normalize(relu(y), norm, axes)
    expected = y.mean((1, 2)) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    # float32 rounding, magnified where a variance over few numbers is small.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_normalization_is_checked() -> None:
    with pytest.raises(ValueError, match="no normalization 'group'"):
        ConvNet((3,), (1,), 5, normalization="group").init(jax.random.key(0), images_of(1, 4, 4, 1))  # type: ignore[arg-type]


def test_running_averages() -> None:
    """They move by a tenth towards the batch's statistics, and evaluation normalises by them alone."""
    network = ConvNet((3,), (2,), 5, normalization="batch")
    family = ImageClassifier("bn", network, "digits_8x8", (6, 6, 2), 4, num_classes=5)
    x, labels = images_of(4, 6, 6, 2), np.asarray([0, 1, 2, 3], np.int32)
    params, state = (randomized(tree) for tree in jax.eval_shape(lambda key: family.init(key, {}), jax.random.key(0)))
    _, moved = jax.jit(family.loss)(params, state, jax.random.key(0), {}, (x, labels))
    p, old = float64(params), float64(state["BatchNorm_0"])
    y = convolve(x.astype(np.float64), p["PatchConv_0"]["kernel"], 2)
    for name, value in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        # float32 rounding; a variance is the difference of two numbers of its own order.
        np.testing.assert_allclose(moved["BatchNorm_0"][name], 0.9 * old[name] + 0.1 * value, rtol=2e-5)
    hidden = relu(normalize(y, p["BatchNorm_0"], (), old)).mean((1, 2))
    logits = hidden @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(4), labels]
    metrics = jax.jit(family.metrics)(params, state, {}, (x, labels))
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(logits.argmax(-1) == labels))


@pytest.mark.parametrize("count", [1000, 1203])
def test_many_images_are_judged_in_parts(count: int) -> None:
    family = ImageClassifier("mlp", MLP((), 10), "digits_8x8", (4,))
    images, labels = images_of(count, 4), np.arange(count, dtype=np.int32) % 10
    params = variables_of(family.network, images)["params"]
    metrics = jax.jit(family.metrics)(params, None, {}, (images, labels))
    p = float64(params)["Dense_0"]
    logits = images @ p["kernel"] + p["bias"]
    expected = np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(count), labels])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)  # float32 rounding of a mean
    np.testing.assert_allclose(metrics["accuracy"], np.mean(logits.argmax(-1) == labels), rtol=1e-6)


@pytest.mark.parametrize("length", [7, 8])
def test_max_pool(length: int) -> None:
    x = images_of(2, length, 5, 3) - 0.9  # negative numbers too: a border of zeros would show
    np.testing.assert_array_equal(max_pool(x, 3, 2), nn.max_pool(x, (3, 3), (2, 2), "SAME"))


def test_resnet_computed_again() -> None:
    network = ResNet((4, 8), 5, blocks=(1, 2), stem_channels=6)
    x = images_of(3, 12, 12, 3)
    variables = variables_of(network, x)
    found, _ = jax.jit(lambda v: network.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    p = float64(variables["params"])

    def prepared(y: np.ndarray, norm: Any) -> np.ndarray:
        return relu(normalize(y, norm, (0, 1, 2)))

    y = np.asarray(nn.max_pool(convolve(x.astype(np.float64), p["stem"]["kernel"], 2), (3, 3), (2, 2), "SAME"))
    assert y.shape == (3, 3, 3, 6)
    for name, stride in (("group_0_block_0", 1), ("group_1_block_0", 2), ("group_1_block_1", 1)):
        block = p[name]
        z = prepared(y, block["BatchNorm_0"])
        shortcut = convolve(z, block["shortcut"]["kernel"], stride) if "shortcut" in block else y
        assert ("shortcut" in block) == (name != "group_1_block_1")
        z = prepared(convolve(z, block["PatchConv_0"]["kernel"], 1), block["BatchNorm_1"])
        z = prepared(convolve(z, block["PatchConv_1"]["kernel"], stride), block["BatchNorm_2"])
        y = shortcut + convolve(z, block["PatchConv_2"]["kernel"], 1)
    assert y.shape == (3, 2, 2, 8)
    hidden = prepared(y, p["BatchNorm_0"]).mean((1, 2))
    # float32 rounding through ten normalisations over a dozen numbers each.
    np.testing.assert_allclose(found, hidden @ p["logits"]["kernel"] + p["logits"]["bias"], rtol=1e-3)


def test_attention_is_jax_s() -> None:
    layer, x = Attention(num_heads=2, causal=False), images_of(3, 5, 8)
    variables = variables_of(layer, x)
    p = variables["params"]
    qkv = (x @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(3, 5, 3, 2, 4)
    heads = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    expected = heads.reshape(3, 5, 8) @ p["output"]["kernel"] + p["output"]["bias"]
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, rtol=1e-5, atol=1e-6)  # float32 rounding


def test_patches() -> None:
    x = images_of(2, 4, 6, 3)
    patches = split_into_patches(x, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4].ravel())
    with pytest.raises(ValueError, match="patches of 4x4 do not fill images of 4x6"):
        split_into_patches(x, 4)


def test_a_vision_transformer_knows_places_by_its_positions_only() -> None:
    network = VisionTransformer(2, 8, 12, num_heads=2, num_layers=2, num_outputs=5)
    x = images_of(1, 4, 4, 1)
    swapped = x[:, [2, 3, 0, 1]]  # the upper two patches for the lower two
    last = x.copy()
    last[:, 2:, 2:] += 1  # the class token comes first: it sees this patch because attention looks ahead
    params = variables_of(network, x)["params"]
    apply = jax.jit(lambda p: network.apply({"params": p}, np.concatenate([x, swapped, last])))
    here, there, other = apply(params | {"positions": 0 * params["positions"]})
    np.testing.assert_allclose(there, here, atol=2e-6)  # float32 sums of numbers about 1 in another order
    assert np.abs(other - here).max() > 1e-3
    here, there, _ = apply(params)
    assert np.abs(there - here).max() > 1e-3


@pytest.mark.parametrize(
    "network",
    [
        ResNet((4,), 5, blocks=(1,), stem_channels=4, stem_pool=False),
        VisionTransformer(4, 8, 12, num_heads=2, num_layers=1, num_outputs=5),
        MLPMixer(4, 8, 1, token_mlp_width=6, channel_mlp_width=12, num_outputs=5),
    ],
    ids=lambda network: type(network).__name__,
)
def test_every_parameter_has_a_gradient(network: nn.Module) -> None:
    family = ImageClassifier("any", network, "digits_8x8", (8, 8, 1), 4, num_classes=5)
    params, state = jax.eval_shape(lambda key: family.init(key, {}), jax.random.key(0))
    batch = images_of(4, 8, 8, 1), np.asarray([0, 1, 2, 3], np.int32)
    gradient = jax.jit(jax.grad(lambda p, s: family.loss(p, s, jax.random.key(0), {}, batch)[0]))
    for path, leaf in jax.tree.leaves_with_path(gradient(randomized(params), randomized(state))):
        assert np.all(np.isfinite(leaf)) and np.any(np.asarray(leaf) != 0), path
