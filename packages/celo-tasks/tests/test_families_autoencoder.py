"""Losses of the autoencoders, computed a second time in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from celo_tasks.families import ImageAutoencoder, ImageVAE
from celo_tasks.families.image_autoencoder import gaussian_kl

VAE_FAMILY = ImageVAE("vae", "digits_8x8", 12, 6, encoder_sizes=(5,), num_latents=3, decoder_sizes=(4, 5))


def mlp(params: Any, x: np.ndarray) -> np.ndarray:
    layers = [
        {name: np.asarray(leaf, np.float64) for name, leaf in params[f"Dense_{i}"].items()} for i in range(len(params))
    ]
    for layer in layers[:-1]:
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def random_params(family: Any) -> Any:
    """Of the family's shapes, with biases that are not zero."""
    shapes = jax.eval_shape(lambda key: family.init(key, {}), jax.random.key(0))[0]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


def random_images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (6, 12)).astype(np.float32)


def negative_elbo(params: Any, images: np.ndarray, latent_noise: np.ndarray, pixel_noise: np.ndarray) -> np.ndarray:
    """In nats per pixel, float64; the noise may have more axes in front."""
    code = mlp(params["encoder"], images)
    mean, stddev = code[:, :3], np.exp(code[:, 3:])
    pixels = mlp(params["decoder"], mean + stddev * latent_noise)
    shifted = images + pixel_noise.astype(np.float64)
    log_probability = stats.norm.logpdf(shifted, pixels[..., :12], np.exp(pixels[..., 12:])) - np.log(255)
    kl = 0.5 * np.sum(stddev**2 + mean**2 - 1 - 2 * np.log(stddev), axis=-1)
    return np.mean(kl - np.sum(log_probability, axis=-1), axis=-1) / 12


def test_autoencoder_loss_is_the_squared_error_of_sigmoids() -> None:
    family = ImageAutoencoder("ae", "digits_8x8", 12, 6, hidden_sizes=(5, 3))
    params, images = random_params(family), random_images()
    found, state = jax.jit(family.loss)(params, None, jax.random.key(0), {}, images)
    expected = np.mean((special.expit(mlp(params, images)) - images) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 rounding of sums of a few dozen terms
    assert state is None


def test_negative_elbo_for_given_noise() -> None:
    params, images = random_params(VAE_FAMILY), random_images()
    rng = np.random.default_rng(2)
    latent_noise = rng.normal(size=(6, 3)).astype(np.float32)
    pixel_noise = rng.uniform(-1 / 510, 1 / 510, (6, 12)).astype(np.float32)
    found = jax.jit(VAE_FAMILY.negative_elbo)(params, images, latent_noise, pixel_noise)
    expected = negative_elbo(params, images, latent_noise, pixel_noise)
    # float32 rounding of a hundred terms, of which exponentials of up to about 5 magnify it a little.
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(("mean", "log_stddev"), [(0.0, 0.0), (1.5, -1.0), (-0.3, 0.7)])
def test_divergence_of_normals_is_the_integral(mean: float, log_stddev: float) -> None:
    q, p = stats.norm(mean, np.exp(log_stddev)), stats.norm()
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -15, 15)
    # The quadrature's own error is 1e-8; the rest is float32 rounding of terms near 1.
    np.testing.assert_allclose(gaussian_kl(jnp.float32(mean), jnp.float32(log_stddev)), expected, rtol=1e-5, atol=1e-6)


def test_losses_are_distributed_as_with_independent_noise() -> None:
    params, images = random_params(VAE_FAMILY), random_images()
    keys = jax.random.split(jax.random.key(3), 2000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: VAE_FAMILY.loss(params, None, key, {}, images)[0]))(keys))
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(2000, 6, 3)), rng.uniform(-1 / 510, 1 / 510, (2000, 6, 12))
    expected = negative_elbo(params, images, *noise)
    # Two samples of one distribution: the statistic exceeds 0.062 once in a thousand pairs of samples of this size.
    assert stats.ks_2samp(found, expected).statistic < 0.062


VALUE_AND_GRAD = jax.jit(
    jax.value_and_grad(lambda params, images: VAE_FAMILY.loss(params, None, jax.random.key(0), {}, images)[0])
)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_gradient_is_finite_when_log_variances_grow(part: str, scale: float) -> None:
    params = random_params(VAE_FAMILY)
    params[part] = jax.tree.map(lambda leaf: scale * leaf, params[part])
    value, grads = VALUE_AND_GRAD(params, random_images())
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    assert 0 <= float(VAE_FAMILY.normalizer(value)) <= 10
