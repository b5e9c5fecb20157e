"""The families of meta-training: sound problems of many kinds, side by side for one theta."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_tasks import meta_training
from celo_tasks.families import ImageMLP, LogLoss
from celo_tasks.families.image_sets import ImageNetworks
from celo_tasks.meta_families import META_FAMILIES, Sources
from celo_tasks.meta_validation import VALIDATION_TASKS
from celo_tasks.registry import TASKS

SOURCES = Sources(("digits_8x8",))


@pytest.mark.parametrize("name", META_FAMILIES)
def test_family_is_sound_and_can_be_learned(name):
    """Its loss is a finite scalar, and Adam lowers it."""
    family = META_FAMILIES[name][1](SOURCES)
    data = jax.tree.map(jnp.asarray, family.load())
    optimizer = optax.adam(1e-2)
    config = family.sample(jax.random.key(0))
    params, model_state = family.init(jax.random.key(1), config)

    # Compiling takes most of the test's time, hence without optimisation.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(params, model_state, state, key):
        loss = lambda p: family.loss(p, model_state, key, config, family.batch(key, config, data))
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), model_state, state, value

    state, losses = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(2), 60):
        params, model_state, state, value = step(params, model_state, state, key)
        losses.append(value)
    assert np.shape(losses) == (60,) and np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 10_000


def shapes(family):
    """Shapes of the parameters, which tell networks apart."""
    key = jax.random.key(0)
    params, _ = jax.eval_shape(lambda key: family.init(key, family.sample(key)), key)
    return tuple(sorted(leaf.shape for leaf in jax.tree.leaves(params)))


def test_no_network_is_one_that_is_judged_or_validated_on():
    judged = {shapes(builder()) for _, builder in VALIDATION_TASKS.values()}
    judged |= {shapes(entry.make_with(entry.datasets[0])) for entry in TASKS.values()}
    assert not {shapes(builder(SOURCES)) for _, builder in META_FAMILIES.values()} & judged


def test_networks_reuse_what_image_mlps_draw():
    """A network of the same kind is the same problem."""
    plain = ImageMLP(("digits_8x8",))
    other = ImageNetworks(("digits_8x8",), input_shape=(64,))
    data, key = plain.load(), jax.random.key(3)
    config = plain.sample(key)
    params, state = plain.init(key, config)
    other_params, other_state = other.init(key, config)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, other_params)) and state is other_state is None
    batch = plain.batch(key, config, data)
    left = plain.loss(params, None, key, config, batch)[0]
    np.testing.assert_allclose(left, other.loss(params, None, key, config, batch)[0], rtol=1e-6)  # of float32


def test_log_loss():
    family = LogLoss(ImageMLP(("digits_8x8",)), floor=0.1)
    losses = jnp.asarray([1.0, 2.0, 0.01, jnp.nan, jnp.inf])
    upper = np.log(1.5 * np.log(10))
    np.testing.assert_allclose(family.normalizer(losses), [0.0, np.log(2), np.log(0.1), upper, upper], rtol=1e-6)
    assert family.name == "mlp_32_digits_8x8"
    with pytest.raises(AttributeError, match="test images"):
        _ = family.held_out_batch


SMALL = {"iterations": (2, 2), "truncation": 3, "min_length": 3, "max_length": 6, "num_pairs": 2}


@pytest.mark.slow
def test_meta_training_on_several_families(tmp_path):
    recipe = meta_training.Recipe(
        ("digits_8x8",), families=(("mlp", 4), ("autoencoder", 2)), objective="log_loss", **SMALL
    )
    theta = meta_training.meta_train(recipe, tmp_path)
    assert set(theta) == set(meta_training.PHASES)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(theta))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["inner_steps"] == 2 * 2 * 3 * 2 * (4 + 2)
    assert len(record["networks"]) == 2
    with pytest.raises(ValueError, match="family must be one of mlp,"):
        meta_training.meta_train(meta_training.Recipe(("digits_8x8",), families=(("cnn", 4),)), tmp_path / "other")


def test_one_family_is_that_of_before():
    """A recipe without families has the same problems as one that names the paper's."""
    trainers = []
    for more in ({}, {"families": (("mlp", 2),)}):
        recipe = meta_training.Recipe(("digits_8x8",), **SMALL, **more)
        families = meta_training._families(recipe, None)
        trainers.append(meta_training._trainer(recipe, 0, {}, families, [f.load() for f in families], None))
    assert trainers[0].estimator == trainers[1].estimator
