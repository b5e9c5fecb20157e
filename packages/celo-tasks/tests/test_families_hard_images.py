"""Families of explosive losses and noisy gradients: they are what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core.checks import check_family
from celo_tasks.families import EstimatedImageMLP, ImageMLP, ImageVAE, ImageVAEs, SameBatch

SETS = ("digits_8x8",)


def started(family, seed=0):
    config = family.sample(jax.random.key(seed))
    params, _ = family.init(jax.random.key(1), config)
    data = jax.tree.map(jnp.asarray, family.load())
    return config, params, data


def test_vaes_are_those_of_one_set():
    family = ImageVAEs(SETS, (12,), 16, latents=3)
    one = ImageVAE("vae", SETS[0], 64, 16, encoder_sizes=(12,), num_latents=3, decoder_sizes=(12,))
    config, params, data = started(family)
    expected, _ = one.init(jax.random.key(1), {})
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    batch, key = family.batch(jax.random.key(2), config, data), jax.random.key(3)
    found, _ = family.loss(params, None, key, config, batch)
    np.testing.assert_allclose(found, one.loss(expected, None, key, {}, batch[0])[0], rtol=1e-6)  # of float32
    assert float(family.normalizer(jnp.float32(jnp.nan))) == float(one.normalizer(jnp.float32(jnp.nan)))
    assert family.name == "vae_12_3_digits_8x8"
    check_family(family, data)


def test_estimated_gradients_are_right_in_the_mean_and_noisy():
    family, plain = EstimatedImageMLP(SETS, (4,), 32, num_pairs=2), ImageMLP(SETS, (4,), 32)
    config, params, data = started(family)
    batch = plain.batch(jax.random.key(2), config, data)
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    exact = flat(jax.grad(lambda p: plain.loss(p, None, jax.random.key(0), config, batch)[0])(params))
    estimate = jax.jit(jax.vmap(jax.grad(lambda p, key: family.loss(p, None, key, config, batch)[0]), (None, 0)))
    keys = jax.random.split(jax.random.key(4), 8192)
    found = np.concatenate([np.reshape(x, (len(keys), -1)) for x in jax.tree.leaves(estimate(params, keys))], axis=1)
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    # With N pairs in d dimensions a cosine of sqrt(N / (N + d)): 0.08 for 2 in 310, and 0.99 for the mean of 16,384.
    assert cosine(found.mean(axis=0), exact) > 0.97
    assert abs(np.mean([cosine(one, exact) for one in found[:64]])) < 0.2
    assert family.name == "es_2pair_mlp_4_digits_8x8"


def test_the_same_batch_in_every_step():
    family = SameBatch(ImageMLP(SETS, (4,), 8))
    config, params, data = started(family)
    batches = [family.batch(jax.random.key(seed), config, data) for seed in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *batches)
    first, second = (family.loss(params, None, jax.random.key(seed), config, batches[0])[0] for seed in range(2))
    assert first == second == family.family.loss(params, None, jax.random.key(0), config, batches[0])[0]
    check_family(family, data)


@pytest.mark.parametrize(
    "make", [lambda: EstimatedImageMLP(SETS, (4,), num_pairs=0), lambda: ImageVAEs(SETS, latents=0)]
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match="at least"):
        make()
