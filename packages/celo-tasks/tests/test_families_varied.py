"""Varied families: what each knob does, how the knobs are drawn, and that numbered tasks are of the same kind."""

import functools
import importlib.util
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core.checks import check_family
from celo_tasks.families import (
    ImageAutoencoders,
    ImageMLP,
    ImageRegression,
    ImageRestoration,
    LanguageModel,
    RecurrentLM,
    SampledImageMLP,
    Varied,
)
from celo_tasks.families.varied import FEW, FEW_BYTES, FEW_IMAGES, INPUTS, TARGETS, WRONG
from celo_tasks.meta_training.families import META_FAMILIES, Sources

SETS = ("digits_8x8", "fashion_mnist_small_8x8")
MLP = Varied(ImageMLP(SETS, (8,), batch_size=16))
SAMPLED = Varied(SampledImageMLP(SETS, max_width=8, max_batch_size=16))
REGRESSION = Varied(ImageRegression(SETS, (8,), batch_size=16))
RESTORATION = Varied(ImageRestoration(SETS, (8, 4, 8), batch_size=16))
TEXT = Varied(LanguageModel("gru", RecurrentLM("gru", 8, 4), batch_size=8, length=6))
ALL = {"mlp": MLP, "sampled": SAMPLED, "regression": REGRESSION, "restoration": RESTORATION, "text": TEXT}

ROOT = pathlib.Path(__file__).resolve().parents[3]


@functools.cache
def data_of(family: Varied) -> Any:
    """What it loads, on the device."""
    return jax.tree.map(jnp.asarray, family.load())


@functools.cache
def sampled(family: Varied) -> dict[str, Any]:
    """A config."""
    return jax.jit(family.sample)(jax.random.key(0))


def plain(family: Varied, **knobs: Any) -> dict[str, Any]:
    """A config in which nothing varies but what is given."""
    config = sampled(family)
    neutral = {
        "batch_size": jnp.int32(family.batch_size),
        "gain": jnp.ones(family.num_pixels),
        "offset": jnp.float32(0),
        "wrong": jnp.float32(0),
        "target_scale": jnp.float32(1),
        "few": jnp.bool_(False),
    }
    assert set(config["knobs"]) == set(neutral)
    return {**config, "scale": jax.tree.map(jnp.ones_like, config["scale"]), "knobs": {**neutral, **knobs}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_it_is_a_sound_family_that_can_be_traced(name: str) -> None:
    family = ALL[name]
    check_family(family, data_of(family))
    configs = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), 3))
    one = sampled(family)
    assert jax.tree.structure(configs) == jax.tree.structure(one)
    assert [leaf.dtype for leaf in jax.tree.leaves(configs)] == [leaf.dtype for leaf in jax.tree.leaves(one)]
    assert not family.has_held_out and family.name.startswith("varied_")
    assert (family.active_sizes(one) is None) == (name != "sampled")


@pytest.mark.parametrize("name", ["mlp", "text"])
def test_without_variation_it_is_the_family(name: str) -> None:
    family, key = ALL[name], jax.random.key(3)
    config, data = plain(family), data_of(family)
    params, state = family.init(key, config)
    expected, _ = family.family.init(key, config["task"])
    assert jax.tree.all(jax.tree.map(np.array_equal, params, expected))
    batch = family.batch(key, config, data)
    np.testing.assert_array_equal(
        family.loss(params, state, key, config, batch)[0],
        family.family.loss(params, state, key, config["task"], batch)[0],
    )
    if name == "mlp":  # a text's places are drawn in another shape
        for mine, theirs in zip(batch, family.family.batch(key, config["task"], data), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    else:
        np.testing.assert_array_equal(batch[0][:, 1:], batch[1][:, :-1], "successors")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [4, 8])
def test_a_small_batch_has_each_example_as_often(name: str, size: int) -> None:
    """So its loss is the mean over that many."""
    family, data, key = ALL[name], data_of(ALL[name]), jax.random.key(1)
    batch = family.batch(key, plain(family, batch_size=jnp.int32(size)), data)
    whole = family.batch(key, plain(family), data)
    for few, all_ in zip(batch, whole, strict=True):
        for begin in range(0, family.batch_size, size):
            np.testing.assert_array_equal(few[begin : begin + size], all_[:size])
    assert np.all(batch[2]) if name == "sampled" else len(batch) == 2


def test_inputs_are_scaled_and_moved() -> None:
    data, key = data_of(MLP), jax.random.key(1)
    images, labels = MLP.batch(key, plain(MLP), data)
    gain = jnp.geomspace(0.03, 30.0, MLP.num_pixels)
    moved, same = MLP.batch(key, plain(MLP, gain=gain, offset=jnp.float32(5)), data)
    np.testing.assert_allclose(moved, np.asarray(images) * np.asarray(gain) + 5, rtol=1e-6)
    np.testing.assert_array_equal(same, labels)
    inputs, targets = RESTORATION.batch(key, plain(RESTORATION, offset=jnp.float32(5)), data_of(RESTORATION))
    np.testing.assert_allclose(inputs, targets + 5, rtol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "text", "regression"])
def test_wrong_labels_are_a_share_and_always_the_same(name: str) -> None:
    family, data = ALL[name], data_of(ALL[name])
    right, wrong = plain(family), plain(family, wrong=jnp.float32(0.3))
    keys = jax.random.split(jax.random.key(2), 400)
    drawn = lambda config: jax.vmap(lambda key: family.batch(key, config, data))(keys)
    (inputs, expected), (same, found) = drawn(right), drawn(wrong)
    np.testing.assert_array_equal(inputs, same)
    differs = np.asarray(found != expected)
    differs = np.any(differs, axis=-1) if name == "regression" else differs
    # 0.31 of the levels are below 30 in float32, and of what replaces a label some is the label; a fixed draw of data.
    assert 0.2 < differs.mean() < 0.35
    if name == "mlp":
        seen: dict[bytes, set[int]] = {}
        flat = zip(np.asarray(inputs).reshape(-1, 64), np.ravel(found), strict=True)
        for image, label in flat:
            seen.setdefault(image.tobytes(), set()).add(int(label))
        assert sum(len(labels) > 1 for labels in seen.values()) <= 0.01 * len(seen), (
            "but for images that are there twice"
        )


def test_targets_are_scaled() -> None:
    data, key = data_of(REGRESSION), jax.random.key(1)
    _, labels = MLP.batch(key, plain(MLP), data)
    config = plain(REGRESSION, target_scale=jnp.float32(100))
    batch = REGRESSION.batch(key, config, data)
    np.testing.assert_array_equal(batch[1], 100 * np.eye(10)[labels])
    zeros = jax.tree.map(jnp.zeros_like, REGRESSION.init(key, config)[0])
    np.testing.assert_allclose(REGRESSION.loss(zeros, None, key, config, batch)[0], 1e4, rtol=1e-6)
    np.testing.assert_array_equal(REGRESSION.normalizer(jnp.asarray([1e4, jnp.nan, 1e12])), np.float32([1e4, 1e9, 1e9]))


@pytest.mark.parametrize("few", [False, True])
def test_few_examples_are_the_first(few: bool) -> None:
    data = data_of(MLP)
    for index, begin in enumerate(data["offset"]):
        config = {**plain(MLP, few=jnp.bool_(few)), "task": {"dataset": jnp.int32(index)}}
        keys = jax.random.split(jax.random.key(2), 60)
        images = jax.vmap(lambda key, config=config: MLP.batch(key, config, data)[0])(keys).reshape(-1, 64)
        known = {row.tobytes() for row in np.asarray(data["images"])[begin : begin + FEW_IMAGES]}
        inside = [np.asarray(np.round(255 * row), np.uint8).tobytes() in known for row in np.asarray(images)]
        assert all(inside) == few
    zeros = jnp.zeros(20_000, jnp.uint8)
    text = {"text": jnp.arange(20_000, dtype=jnp.uint16), "level": zeros, "other": zeros}  # a token is its place
    config = plain(TEXT, few=jnp.bool_(few))
    places = np.concatenate([TEXT.batch(key, config, text)[1] for key in jax.random.split(jax.random.key(0), 20)])
    assert (places.max() < FEW_BYTES) == few


def test_knobs_have_their_probabilities() -> None:
    number = 4000
    knobs = jax.jit(jax.vmap(lambda key: REGRESSION.sample(key)["knobs"]))(jax.random.split(jax.random.key(0), number))
    gain, offset = np.asarray(knobs["gain"]), np.asarray(knobs["offset"])
    uneven = np.ptp(gain, axis=1) > 0
    kinds = {
        "times_255": gain[:, 0] == 255,
        "times_0.01": gain[:, 0] == np.float32(0.01),
        "plus_5": offset == 5,
        "uneven": uneven,
        "plain": ~uneven & (gain[:, 0] == 1) & (offset == 0),
    }
    assert np.all(sum(map(np.asarray, kinds.values())) == 1), "one of them"
    assert gain[uneven].min() >= 0.03 * (1 - 1e-5) and gain[uneven].max() <= 30 * (1 + 1e-5)
    assert abs(np.log(gain[uneven]).mean() - np.log(0.03 * 30) / 2) < 0.05
    drawn = [(kinds[name], share) for name, share in INPUTS.items()]
    drawn += [(knobs["wrong"] == np.float32(value), share) for value, share in WRONG.items()]
    drawn += [(knobs["target_scale"] == np.float32(value), share) for value, share in TARGETS.items()]
    drawn += [(knobs["batch_size"] == size, 1 / 3) for size in (4, 8, 16)] + [(knobs["few"], FEW)]
    for found, share in drawn:
        assert abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / number)


@pytest.mark.slow
def test_what_has_no_labels_or_pixels_has_knobs_without_effect() -> None:
    knobs = jax.vmap(lambda key: RESTORATION.sample(key)["knobs"])(jax.random.split(jax.random.key(0), 20))
    assert not np.any(knobs["wrong"]) and np.all(knobs["target_scale"] == 1)
    assert sampled(TEXT)["knobs"]["gain"].shape == (0,)


def test_a_restoration_of_images_themselves_is_an_autoencoder() -> None:
    restoration, autoencoder = ImageRestoration(SETS, (8, 4, 8), 16), ImageAutoencoders(SETS, (8, 4, 8), 16)
    key, data = jax.random.key(0), autoencoder.load()
    config = autoencoder.sample(key)
    params, _ = autoencoder.init(key, config)
    losses = [
        one.loss(params, None, key, config, one.batch(key, config, data))[0] for one in (restoration, autoencoder)
    ]
    assert losses[0] == losses[1]
    regression = ImageRegression(SETS, (8,), 16)
    check_family(regression, regression.load())
    assert regression.name == "regression_8_digits_8x8_fashion_mnist_small_8x8"


def test_what_cannot_be_varied() -> None:
    with pytest.raises(ValueError, match="batches of 4 or more, not of 2"):
        Varied(ImageMLP(SETS, batch_size=2))
    with pytest.raises(ValueError, match="augmentation levels are"):
        Varied(ImageMLP(SETS), levels=("some",))
    with pytest.raises(ValueError, match="no held-out data"):
        MLP.held_out_batch(jax.random.key(0), None, None)


@pytest.fixture(scope="module")
def numbered() -> Any:
    path = ROOT / "tools" / "schedule_tasks.py"
    if not path.is_file():
        pytest.skip("the numbered tasks are part of the repository, not of the package")
    spec = importlib.util.spec_from_file_location("schedule_tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", [0, 3, 9, 25])
def test_numbered_tasks_are_those_on_record_and_have_such_configs(task: int, numbered: Any) -> None:
    family = numbered.shape_of(task).build(SETS, None)
    draw = numbered.Draw(task, 0, family)
    record = json.loads((ROOT / "docs" / "results" / "schedule-labels" / "index.json").read_text())["tasks"][str(task)]
    assert {name: record[name] for name in draw.described} == draw.described
    shapes = lambda config: jax.tree.map(lambda leaf: (np.shape(leaf), jnp.result_type(leaf)), config)
    assert shapes(family.config(draw)) == shapes(family.sample(jax.random.key(0)))


def test_the_families_that_recipes_name_are_varied_and_as_large_as_they_are_said_to_be() -> None:
    sources = Sources(("digits_8x8",))
    for name, (_, make) in META_FAMILIES.items():
        family = make(sources)
        assert isinstance(family, Varied) == name.startswith("varied_")
        if isinstance(family, Varied):
            key = jax.random.key(0)
            params, _ = jax.eval_shape(lambda key, one=family: one.family.init(key, one.family.sample(key)), key)
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            assert (17_000 < size < 51_000) if "large_" in name and "batch" not in name else size < 14_000
