"""Sampled image MLPs: masked networks are the plain ones, inactive parameters are inert, tasks are spread as documented."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import EMBEDDING_NAMES, embed_task
from celo_tasks.families import MLP, Reparametrized, SampledImageMLP
from celo_tasks.families.sampled_mlp import ACTIVATIONS, INITIALIZERS, LOSSES

FAMILY = SampledImageMLP(("digits_8x8", "fashion_mnist_small_8x8"), max_width=16, max_depth=3, max_batch_size=32)
RELU = SampledImageMLP(
    ("digits_8x8",),
    activations=("relu",),
    initializers=("normal",),
    losses=("cross_entropy",),
    max_width=16,
    max_depth=2,
    max_batch_size=32,
)
initialized_wide = jax.jit(SampledImageMLP(("digits_8x8",), max_width=300).init)
Config = dict[str, jax.Array]


@pytest.fixture(scope="module")
def data() -> Any:
    return jax.device_put(FAMILY.load())


def task(**properties: Any) -> Config:
    """A config of `FAMILY`; the largest ReLU network under the cross entropy unless said otherwise."""
    plain = {
        "dataset": 0,
        "activation": 0,
        "initializer": 0,
        "loss": 0,
        "depth": 3,
        "width": 16,
        "batch_size": 32,
        "gain": 1.0,
    }
    return {name: jnp.asarray(value) for name, value in {**plain, **properties}.items()}


def problem(key: jax.Array, config: Config, data: Any) -> tuple[Any, Any, jax.Array, Any]:
    """Parameters with biases, a batch, the loss and its gradient."""
    params, batch = start(key, config, data)
    return params, batch, *loss_and_gradient(params, config, batch)


@jax.jit
def start(key: jax.Array, config: Config, data: Any) -> tuple[Any, Any]:
    keys = jax.random.split(key, 3)
    params, _ = FAMILY.init(keys[0], config)
    biases = {name: 0.1 * jax.random.normal(keys[1], layer["bias"].shape) for name, layer in params.items()}
    params = {name: {**layer, "bias": biases[name]} for name, layer in params.items()}
    return params, FAMILY.batch(keys[2], config, data)


@jax.jit
def loss_and_gradient(params: Any, config: Config, batch: Any) -> tuple[jax.Array, Any]:
    return jax.value_and_grad(lambda p: FAMILY.loss(p, None, jax.random.key(0), config, batch)[0])(params)


@jax.jit
def active(config: Config) -> Any:
    return FAMILY._masks(config)


# The activations of another library.
REFERENCE_ACTIVATIONS = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.swish,
    "gelu": lambda x: x * jax.scipy.stats.norm.cdf(x),
    "leaky_relu": lambda x: jnp.maximum(x, 0.01 * x),
}


def plain_outputs(params: Any, config: Config, images: Any) -> jax.Array:
    """A network that has only the active units and layers, without masks."""
    width, depth = int(config["width"]), int(config["depth"])
    activation = REFERENCE_ACTIVATIONS[FAMILY.activations[int(config["activation"])]]
    x = images
    for layer in range(depth):
        kernel = params[f"hidden_{layer}"]["kernel"]
        x = activation(x @ kernel[: x.shape[1], :width] + params[f"hidden_{layer}"]["bias"][:width])
    return x @ params["output"]["kernel"][:width] + params["output"]["bias"]


def plain_loss(config: Config, outputs: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, 10)
    kind = FAMILY.losses[int(config["loss"])]
    if kind == "cross_entropy":
        return jnp.mean(optax.softmax_cross_entropy(outputs, one_hot))
    guesses = outputs / math.sqrt(10) if kind == "squared_error" else nn.softmax(outputs)
    return jnp.mean(jnp.sum((guesses - one_hot) ** 2, axis=1)) * math.log(10) / 0.9


CASES = [
    {"width": 5, "depth": 1},
    {"width": 16, "depth": 2, "activation": 1, "loss": 1, "dataset": 1},
    {"width": 7, "depth": 3, "activation": 2, "loss": 2, "batch_size": 9, "gain": 2.0},
    {"width": 4, "depth": 2, "activation": 3, "initializer": 1, "loss": 2},
    {"width": 11, "depth": 1, "activation": 4, "initializer": 2, "loss": 1, "batch_size": 8},
    {"width": 16, "depth": 3, "activation": 5, "initializer": 1, "gain": 0.5},
]


@pytest.mark.parametrize("properties", CASES, ids=str)
def test_masked_network_is_the_plain_one(properties: dict[str, Any], data: Any) -> None:
    """Its loss on a masked batch is that of the small network on the small batch."""
    config = task(**properties)
    params, (images, labels, counts), loss, _ = problem(jax.random.key(1), config, data)
    size = int(config["batch_size"])
    assert counts.tolist() == [True] * size + [False] * (32 - size)
    wanted = plain_loss(config, plain_outputs(params, config, images[:size]), labels[:size])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)  # float32 sums in another order


def test_masked_network_of_relu_is_the_library_s_mlp(data: Any) -> None:
    config = task(width=6, depth=2)
    params, (images, labels, _), loss, gradients = problem(jax.random.key(2), config, data)
    cut = {"Dense_0": (64, 6), "Dense_1": (6, 6), "Dense_2": (6, 10)}

    def small(tree: Any) -> Any:
        pairs = zip(cut.items(), ("hidden_0", "hidden_1", "output"), strict=True)
        return {
            name: {"kernel": tree[mine]["kernel"][:rows, :columns], "bias": tree[mine]["bias"][:columns]}
            for (name, (rows, columns)), mine in pairs
        }

    def reference(p: Any) -> jax.Array:
        logits = MLP((6, 6), 10).apply({"params": p}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    wanted_loss, wanted = jax.jit(jax.value_and_grad(reference))(small(params))
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    for found, expected in zip(jax.tree.leaves(small(gradients)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)  # gradients are below 1


@pytest.mark.parametrize("properties", CASES, ids=str)
def test_inactive_parameters_are_inert(properties: dict[str, Any], data: Any) -> None:
    """Whatever they are, NaN included, the loss stays, and their gradient is exactly zero; all others have one."""
    config = task(**properties)
    params, batch, loss, _ = problem(jax.random.key(3), config, data)
    masks = active(config)
    spoilt = jax.tree.map(lambda p, mask: jnp.where(mask, p, jnp.nan), params, masks)
    images, labels, counts = batch
    spoilt_batch = (jnp.where(counts[:, None], images, 7.0), jnp.where(counts, labels, 9), counts)
    found, gradients = loss_and_gradient(spoilt, config, spoilt_batch)
    assert found == loss
    for gradient, mask in zip(jax.tree.leaves(gradients), jax.tree.leaves(masks), strict=True):
        assert np.all(np.asarray(gradient)[~np.asarray(mask)] == 0.0)
        assert np.any(np.asarray(gradient)[np.asarray(mask)] != 0.0) == bool(np.any(mask))
    sizes = jax.tree.map(int, FAMILY.active_sizes(config))
    width, depth = int(config["width"]), int(config["depth"])
    hidden = [(64 if layer == 0 else width) * width if layer < depth else 0 for layer in range(3)]
    assert [sizes[f"hidden_{layer}"]["kernel"] for layer in range(3)] == hidden
    assert sizes["output"] == {"kernel": 10 * width, "bias": 10}


@pytest.mark.parametrize(("number", "name"), list(enumerate(FAMILY.initializers)))
def test_initial_kernels(number: int, name: str) -> None:
    config = task(width=200, depth=2, initializer=number, gain=1.5)
    params, model_state = initialized_wide(jax.random.key(0), config)
    assert model_state is None and not any(np.any(layer["bias"]) for layer in params.values())
    # The standard normal cut at two standard deviations has a standard deviation of 0.8796.
    deviation = {"truncated_normal": 0.8796, "normal": 1.0, "uniform": 1.0}[name]
    largest = {"truncated_normal": 2.0, "normal": 6.0, "uniform": math.sqrt(3)}[name]
    for layer, fan_in in (("hidden_0", 64), ("hidden_1", 200)):
        kernel = np.asarray(params[layer]["kernel"])[:fan_in, :200] * math.sqrt(fan_in) / 1.5
        # At least 12,800 draws estimate a standard deviation to 0.6 %: 3 % is five standard errors.
        assert kernel.std() == pytest.approx(deviation, rel=0.03)
        assert 0.99 * min(largest, 3) < np.abs(kernel).max() <= largest * (1 + 1e-6)
        assert not np.any(np.asarray(params[layer]["kernel"])[:, 200:])
    assert not np.any(params["hidden_2"]["kernel"]) and not np.any(params["hidden_1"]["kernel"][200:])


def test_every_loss_of_a_guess_is_log_classes() -> None:
    labels = jax.nn.one_hot(jnp.arange(10), 10)
    outputs = {"cross_entropy": 0.0, "squared_error": math.sqrt(10) / 10, "brier": 0.0}
    for name, value in outputs.items():
        np.testing.assert_allclose(LOSSES[name](jnp.full((10, 10), value), labels), math.log(10), rtol=1e-6)


NUM = 4000


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, np.ndarray]]:
    """Configs one by one, and the same number evenly spread."""
    keys = jax.random.split(jax.random.key(0), NUM)
    one_by_one = jax.jit(jax.vmap(FAMILY.sample))(keys)
    spread = jax.jit(FAMILY.sample_many, static_argnums=1)(jax.random.key(1), NUM)
    return {"sample": jax.device_get(one_by_one), "sample_many": jax.device_get(spread)}


def probabilities(name: str) -> tuple[int, np.ndarray]:
    """Smallest value of a property and the documented probability of each of its values."""
    names = {"dataset": 2, "activation": len(ACTIVATIONS), "initializer": len(INITIALIZERS), "loss": len(LOSSES)}
    if name in names:
        return 0, np.full(names[name], 1 / names[name])
    if name == "depth":
        return 1, np.full(3, 1 / 3)
    low, high = FAMILY._range(name)
    values = np.arange(low, high + 1)
    return low, np.log((values + 1) / values) / math.log((high + 1) / low)


# An additive recurrence whose step is badly approximable puts k / n of its points in an interval up to a few points, at any n;
# independent draws deviate by the square root of n p (1 - p), which is 15 to 32 points for the likely values here.
POINTS = 8


@pytest.mark.parametrize("how", ["sample", "sample_many"])
def test_marginals_are_as_documented(how: str, drawn: dict[str, dict[str, np.ndarray]]) -> None:
    for name in ("dataset", "activation", "initializer", "loss", "depth", "width", "batch_size"):
        low, wanted = probabilities(name)
        found = np.bincount(drawn[how][name] - low, minlength=len(wanted))
        assert len(found) == len(wanted), name
        deviation = np.sqrt(NUM * wanted * (1 - wanted))
        bound = 5 * deviation if how == "sample" else POINTS  # five standard errors
        assert np.all(np.abs(found - NUM * wanted) <= bound), (name, found - NUM * wanted)
    gain = drawn[how]["gain"]
    assert 0.5 <= gain.min() and gain.max() <= 2.0
    # Quantiles of a uniform distribution; 4,000 draws give them to 0.8 % of the range of 2.
    np.testing.assert_allclose(np.quantile(np.log2(gain), [0.1, 0.5, 0.9]), [-0.8, 0.0, 0.8], atol=0.08)


def test_spread_tasks_cover_pairs_of_properties_more_evenly(drawn: dict[str, dict[str, np.ndarray]]) -> None:
    """Cells of two properties, by the root mean square of the deviation over that of independent draws."""

    def deviation(configs: dict[str, np.ndarray], pair: tuple[str, str], number: int) -> float:
        groups = [configs[name][:number] for name in pair]
        table = np.zeros((len(probabilities(pair[0])[1]), len(probabilities(pair[1])[1])))
        np.add.at(table, tuple(g - probabilities(n)[0] for g, n in zip(groups, pair, strict=True)), 1)
        wanted = number * np.outer(probabilities(pair[0])[1], probabilities(pair[1])[1])
        return float(np.sqrt(np.mean((table - wanted) ** 2) / np.mean(wanted * (1 - wanted / number))))

    names = ("dataset", "activation", "initializer", "loss", "depth")
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    # Means over pairs at 40 other shifts are at most 0.50 and 0.22; those of independent draws are 1 but for noise.
    for number, bound in ((64, 0.6), (1000, 0.3)):
        assert np.mean([deviation(drawn["sample_many"], pair, number) for pair in pairs]) < bound < 0.7
        assert np.mean([deviation(drawn["sample"], pair, number) for pair in pairs]) > 0.7


def test_a_task_of_many_is_that_at_its_index_and_the_key_shifts_all() -> None:
    many = jax.jit(FAMILY.sample_many, static_argnums=1)
    at = jax.jit(FAMILY.sample_at)
    first, second = many(jax.random.key(0), 8), many(jax.random.key(1), 8)
    for index in (0, 5):
        one = at(jax.random.key(0), index)
        for name, value in one.items():
            assert value == first[name][index], name
    assert np.all(first["gain"] != second["gain"])


def test_many_kinds_train_side_by_side(data: Any) -> None:
    """One program, vmapped over tasks of all kinds: gradient descent lowers all losses, and all stay finite."""

    def one(key: jax.Array, config: Config) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key)
        params, _ = FAMILY.init(keys[0], config)
        batch = FAMILY.batch(keys[1], config, data)

        def step(params: Any, _: None) -> tuple[Any, jax.Array]:
            loss, gradients = loss_and_gradient(params, config, batch)
            return jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients), loss

        losses = jax.lax.scan(step, params, length=10)[1]
        return losses[0], losses[-1]

    configs = FAMILY.sample_many(jax.random.key(5), 64)
    first, last = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(6), 64), configs)
    assert np.all(last < first), first - last
    assert np.all(np.isfinite(FAMILY.normalizer(first)))


def test_embedding_counts_active_parameters_only() -> None:
    data, family = jax.device_put(RELU.load()), Reparametrized(RELU)

    @jax.jit
    def embed(config: Config, scale: float) -> jax.Array:
        params, _ = jax.eval_shape(RELU.init, jax.random.key(0), config)
        scales = jax.tree.map(lambda x: jnp.full(x.shape, scale), params)
        return embed_task(family, jax.random.key(0), {"task": config, "scale": scales}, data, 100)

    config = task(width=5, depth=1)
    one = embed(config, 1.0)
    entry = lambda name: float(one[EMBEDDING_NAMES.index(name)])
    # 64 * 5 + 5 + 5 * 10 + 10 parameters in four tensors
    assert entry("log_num_parameters") == pytest.approx((math.log(386) - 10) / 4, abs=1e-5)
    assert entry("log_num_tensors") == pytest.approx((math.log(5) - 2.5) / 1.5, abs=1e-5)
    assert not np.allclose(one, embed(task(width=16, depth=2), 1.0), atol=0.01)
    difference = np.asarray(embed(config, 2.0) - one)
    # The gradient is doubled and the parameters are halved; nothing else changes.
    wanted = {"log_gradient_norm": 1, "mean_log_gradient_rms": 1, "log_gradient_to_parameter_ratio": 2}
    expected = [wanted.get(name, 0) * math.log(2) / 4 for name in EMBEDDING_NAMES]
    np.testing.assert_allclose(difference, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activations": ("swish",)}, "activations must be one or more of relu"),
        ({"losses": ()}, "losses must be one or more of .* not none"),
        ({"datasets": ()}, "datasets must name"),
        ({"min_width": 9, "max_width": 8}, "min_width"),
        ({"min_depth": 0}, "1 <= min"),
        ({"min_gain": 0.0}, "0 < min"),
    ],
    ids=str,
)
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampledImageMLP(**{"datasets": ("digits_8x8",), **arguments})
