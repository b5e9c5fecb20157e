"""Reparametrisation: the same function in other coordinates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_tasks.families import LEVELS, PUBLISHED_LEVELS, PUBLISHED_RANGES, ImageMLP, Reparametrized, reparametrize

INNER = ImageMLP(("digits_8x8",), hidden_sizes=(8,), batch_size=16)


def sampled(level: str, seed: int = 0) -> tuple[Reparametrized, dict[str, Any]]:
    family = Reparametrized(INNER, (level,))
    return family, jax.jit(family.sample)(jax.random.key(seed))


@pytest.mark.parametrize("level", LEVELS)
def test_function_is_unchanged_and_gradient_scaled(level: str) -> None:
    family, config = sampled(level)
    key = jax.random.key(1)
    batch = family.batch(key, config, jax.device_put(family.load()))
    plain, _ = INNER.init(key, config["task"])
    scaled, _ = family.init(key, config)
    outer, inner = (
        jax.jit(jax.value_and_grad(lambda p, one=one, task=task: one.loss(p, None, key, task, batch)[0]))
        for one, task in ((family, config), (INNER, config["task"]))
    )
    (loss, grads), (expected_loss, expected) = outer(scaled), inner(plain)
    # x / c * c is x but for a rounding.
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    expected = jax.tree.map(jnp.multiply, expected, config["scale"])
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize(
    ("level", "distinct"), [("global", 1), ("tensor", 4), ("parameter", 64 * 8 + 8 + 8 * 10 + 10), ("none", 1)]
)
def test_levels(level: str, distinct: int) -> None:
    _, config = sampled(level)
    scales = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(config["scale"])])
    assert scales.min() >= 1e-3 * (1 - 1e-5) and scales.max() <= 1e3 * (1 + 1e-5)
    # Rounded, since an exponential may be rounded otherwise in another loop; a few of hundreds of draws may then agree.
    assert distinct - 5 <= len(np.unique(np.round(np.log10(scales), 5))) <= distinct


def test_scales_are_log_uniform() -> None:
    family = Reparametrized(ImageMLP(("digits_8x8",), hidden_sizes=(240,)), ("parameter",), low=1e-2, high=1e2)
    scales = jax.tree.leaves(jax.jit(family.sample)(jax.random.key(0))["scale"])
    logs = np.log10(np.concatenate([np.ravel(leaf) for leaf in scales]))
    # 18,010 draws: quantiles of a uniform distribution are known to about 0.4 % of its range of 4.
    np.testing.assert_allclose(np.quantile(logs, [0.1, 0.5, 0.9]), [-1.6, 0.0, 1.6], atol=0.08)


def test_a_level_named_twice_is_twice_as_likely() -> None:
    family = Reparametrized(INNER, ("global", "global", "tensor"))

    def is_global(key: jax.Array) -> jax.Array:
        first = jnp.stack([leaf.reshape(-1)[0] for leaf in jax.tree.leaves(family.sample(key)["scale"])])
        return jnp.allclose(first, first[0], rtol=1e-5)  # an exponential may be rounded otherwise in another loop

    share = float(jnp.mean(jax.jit(jax.vmap(is_global))(jax.random.split(jax.random.key(0), 900))))
    assert abs(share - 2 / 3) < 0.08  # five standard errors


def test_published_mixture_of_levels_and_ranges() -> None:
    """Two sevenths of the tasks are left as they are; levels and ranges are drawn with the published odds."""
    family = reparametrize(ImageMLP(("digits_8x8",), hidden_sizes=(2,)), ("published",))
    assert family.levels == PUBLISHED_LEVELS and family.ranges == PUBLISHED_RANGES
    number = 1400
    trees = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), number))["scale"]
    logs = [np.log10(np.asarray(leaf).reshape(number, -1)) for leaf in jax.tree.leaves(trees)]
    span = lambda x: np.ptp(x, axis=1) > 1e-4  # an exponential may be rounded otherwise in another loop
    whole = np.concatenate(logs, axis=1)
    level = np.where(np.any([span(x) for x in logs], axis=0), "parameter", np.where(span(whole), "tensor", "global"))
    level[np.all(whole == 0, axis=1)] = "none"
    largest = np.abs(whole).max(axis=1)
    for name in set(PUBLISHED_LEVELS):
        share = PUBLISHED_LEVELS.count(name) / 7
        assert abs(np.mean(level == name) - share) < 5 * np.sqrt(share * (1 - share) / number), name
    # With a scale per parameter, 160 in all, the largest tells the range: it is within a few per cent of the bound.
    bound = np.ceil(largest[level == "parameter"])
    assert largest.max() <= 3 * (1 + 1e-5) and set(bound) == {1, 2, 3}
    counts = np.array([np.sum(bound == i) for i in (1, 2, 3)])
    assert np.all(np.abs(counts - counts.sum() / 3) < 5 * np.sqrt(counts.sum() * 2 / 9))


def test_published_is_a_name_for_the_command() -> None:
    assert reparametrize(INNER, ("global", "tensor")) == Reparametrized(INNER, ("global", "tensor"))
    with pytest.raises(ValueError, match="give it alone"):
        reparametrize(INNER, ("published", "global"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": ((1.0, 2.0), (2.0, 1.0))}, "low <= high, not 2.0 and 1.0"),
        ({"levels": ("layer",)}, "layer"),
        ({"levels": ()}, "none"),
        ({"low": 0.0}, "low"),
        ({"low": 2.0, "high": 1.0}, "low"),
    ],
)
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reparametrized(INNER, **arguments)


@pytest.mark.parametrize("level", LEVELS)
def test_zeros_follow_the_tensor_that_becomes_smallest(level: str) -> None:
    """Biases begin as zeros; the kernels keep the scales that they would have without."""
    _, plain = sampled(level)
    family = Reparametrized(INNER, (level,), zeros_follow=True)
    config = jax.jit(family.sample)(jax.random.key(0))
    params, _ = INNER.init(jax.random.key(1), config["task"])
    kernels = []
    for p, own, before in zip(*map(jax.tree.leaves, (params, config["scale"], plain["scale"])), strict=True):
        if np.any(p):
            np.testing.assert_allclose(own, before, rtol=1e-6)  # an exponential, rounded in another program
            kernels.append(1 / np.sqrt(np.mean(np.asarray(own, np.float64) ** -2)))
    assert len(kernels) == 2
    for p, own in zip(jax.tree.leaves(params), jax.tree.leaves(config["scale"]), strict=True):
        if not np.any(p):
            np.testing.assert_allclose(own, max(kernels), rtol=1e-5)  # means of 512 float32 numbers


def test_of_nothing_but_zeros_none_follows() -> None:
    family = Reparametrized(ZeroTask(), ("tensor",), zeros_follow=True)
    config = family.sample(jax.random.key(0))
    np.testing.assert_array_equal(
        config["scale"]["w"], Reparametrized(ZeroTask(), ("tensor",)).sample(jax.random.key(0))["scale"]["w"]
    )


@dataclasses.dataclass(frozen=True)
class ZeroTask:
    """As much of a family as reparametrisation asks for; its parameters begin as zeros."""

    name = "zeros"

    def sample(self, key: Any) -> None:
        del key

    def init(self, key: Any, config: None) -> tuple[dict[str, Any], None]:
        del key, config
        return {"w": jnp.zeros(3)}, None
