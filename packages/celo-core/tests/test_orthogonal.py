"""Orthogonalised momenta, against NumPy's singular values and Optax's Muon."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from test_adam_direction import gradients_of, trajectory

from celo_core import Celo, CeloConfig, scale_by_celo
from celo_core.architectures.celo import ParameterScale
from celo_core.directions import MLP, Orthogonal, orthogonal
from celo_core.directions.orthogonal import COEFFICIENTS, ITERATIONS, direction, matrix_shape, orthogonalize

CONFIG = CeloConfig(directions=(MLP(), Orthogonal()), scheduler=None)
PLAIN = dataclasses.replace(CONFIG, directions=(MLP(),))


def params_of(key):
    shapes = {"w": (5, 3), "same": (5, 3), "conv": (3, 2, 4, 6), "b": (4,), "s": ()}
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(jax.random.split(key, 5), shapes.items(), strict=True)}


def theta_of(momentum, length, config=CONFIG):
    """Theta with a network of zeros and the given meta-parameters of the orthogonalised momentum."""
    theta = jax.tree.map(jnp.zeros_like, Celo(config).init(jax.random.key(0)))
    theta["update_rule"]["orthogonal"] = {"momentum": jnp.asarray(momentum), "length": jnp.asarray(length)}
    return theta


@functools.cache
def update_of(config):
    """Compiled once for all theta."""
    return jax.jit(
        lambda theta, g, s, p: scale_by_celo(theta, 10, config=config).update(g, s, p, value=jnp.float32(1.0))
    )


def trajectory_of(theta, params, config=CONFIG):
    state, made = scale_by_celo(theta, 10, config=config).init(params), []
    for gradients in gradients_of(params):
        step, state = update_of(config)(theta, gradients, state, params)
        made.append(step)
    return made


def muon_trajectory(muon, params, name):
    """Muon's updates of one tensor for the gradients of `trajectory_of`.

    Muon is given tall matrices: before 0.2.6 Optax lengthens the updates of wide ones.
    """
    rows, columns = matrix_shape(params[name].shape)
    turned = lambda x: x.T if rows < columns else x
    as_matrix = lambda x: turned(x.reshape(rows, columns))
    state, made = muon.init(as_matrix(params[name])), []
    for gradients in gradients_of(params):
        update, state = muon.update(as_matrix(gradients[name]), state)
        made.append(turned(update).reshape(params[name].shape))
    return made


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        *(((7, 5), (7, 5)), ((3, 3, 8, 16), (72, 16)), ((32, 4, 8), (32, 32)), ((4, 8, 32), (32, 32))),
        *(((), None), ((7,), None), ((7, 1), None), ((1, 1, 9), None), ((1, 6, 4), (6, 4)), ((0, 3), None)),
    ],
)
def test_tensors_are_seen_as_matrices_as_square_as_can_be(shape, expected):
    assert matrix_shape(shape) == expected


@pytest.mark.parametrize("shape", [(12, 12), (40, 6), (6, 40), (3, 7, 5)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_singular_values_are_about_one_and_vectors_stay(shape, scale):
    matrix = np.random.default_rng(0).normal(size=shape)
    u, values, vt = np.linalg.svd(matrix, full_matrices=False)
    # The coefficients map values above a hundredth of the norm into [0.68, 1.21]; smaller ones they only increase.
    ours = np.asarray(orthogonalize(jnp.asarray(matrix * scale, jnp.float32)), np.float64)
    inner = np.swapaxes(u, -1, -2) @ ours @ np.swapaxes(vt, -1, -2)
    found = np.diagonal(inner, axis1=-2, axis2=-1)
    assert np.all(found[values > 0.01 * np.linalg.norm(matrix, axis=(-2, -1), keepdims=True)[..., 0]] > 0.68)
    assert np.all((found > 0) & (found < 1.21))
    # float32 of 15 products, of numbers of about 1.
    np.testing.assert_allclose(inner, found[..., None] * np.eye(found.shape[-1]), atol=1e-4)


@pytest.mark.parametrize("decades", [0, 3, 6, 12])
@pytest.mark.parametrize("columns", [16, 100])
def test_ill_conditioned_matrices_are_as_in_float64(decades, columns):
    """Both ways of iterating; values down to ``10^-decades`` of the largest."""
    rng = np.random.default_rng(1)
    u, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    v, _ = np.linalg.qr(rng.normal(size=(columns, 16)))
    matrix = u * 10 ** -np.linspace(0, decades, 16) @ v.T
    expected = matrix / np.linalg.norm(matrix)
    for _ in range(ITERATIONS):
        gram = expected @ expected.T
        expected = sum(c * p @ expected for c, p in zip(COEFFICIENTS, (np.eye(16), gram, gram @ gram), strict=True))
    # What float32 rounds the Gram matrix by, 6e-8, is multiplied by 3.4^10 at most.
    ours = orthogonalize(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-2 / np.sqrt(columns))


@pytest.mark.parametrize("shape", [(4, 3), (3, 9)])
def test_of_zeros_it_is_zeros(shape):
    np.testing.assert_array_equal(orthogonalize(jnp.zeros(shape)), jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(64, 48), (64, 6, 8), (48, 64)])
def test_root_mean_square_is_one_whatever_is_beside_it(shape):
    tensors = jax.random.normal(jax.random.key(0), (3, *shape))
    made = direction(tensors)
    assert made.shape == tensors.shape
    for index in range(3):
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(made[index] ** 2)), 1.0, atol=0.2)  # singular values 0.7 to 1.2
        np.testing.assert_allclose(made[index], direction(tensors[index : index + 1])[0], atol=1e-4)


def test_large_matrices_go_one_by_one_to_the_same(monkeypatch):
    tensors = jax.random.normal(jax.random.key(0), (3, 24, 16))
    expected = direction(tensors)
    monkeypatch.setattr(orthogonal, "STACKED", 100)
    monkeypatch.setattr(orthogonal.reductions, "on_one_device", lambda: True)
    np.testing.assert_allclose(direction(tensors), expected, atol=1e-4)  # another program


def test_vectors_have_none():
    assert direction(jnp.ones((3, 5))) is None and direction(jnp.ones((3, 1, 5))) is None


def test_it_is_optax_muon_relative_to_the_parameters():
    params = params_of(jax.random.key(1))
    ours = trajectory_of(theta_of([0.0, 1.0, 0.0, 0.0], [1.5, 0.0]), params)
    muon = optax.contrib.scale_by_muon(beta=0.9, nesterov=False)
    for name, p in params.items():
        if p.ndim < 2:
            assert not any(np.any(step[name]) for step in ours)
            continue
        matrix = p.reshape(matrix_shape(p.shape))
        length = 0.015 * jnp.sqrt(jnp.mean(p**2)) * np.sqrt(max(matrix.shape))
        for step, expected in zip(ours, muon_trajectory(muon, params, name), strict=True):
            # Optax adds 1e-8 to the norm of momenta, here down to 1e-2.
            np.testing.assert_allclose(step[name], length * expected.reshape(p.shape), rtol=1e-3, atol=1e-5)


def test_length_follows_the_root_mean_square_of_adams_direction():
    params = params_of(jax.random.key(1))
    adam = trajectory(optax.scale_by_adam(0.9, 0.999), params, gradients_of(params))
    one, by_adam = (
        trajectory_of(theta_of([0.1, 0.9, 0.2, 0.0], length), params) for length in ([1.0, 0.0], [0.0, 1.0])
    )
    for first, second, other in zip(one, by_adam, adam, strict=True):
        for name in ("w", "conv"):
            ratio = jnp.sqrt(jnp.mean(other[name] ** 2))
            # In Optax 1 - 0.999 has only four digits in float32.
            np.testing.assert_allclose(second[name], ratio * first[name], rtol=2e-3, atol=1e-7)


def test_it_is_added_to_the_network(as_for_users):
    params = params_of(jax.random.key(2))
    network = Celo(PLAIN).init(jax.random.key(3))
    extra = theta_of([0.1, 0.9, 0.0, 0.3], [1.0, 2.0])
    both = {"update_rule": {**network["update_rule"], "orthogonal": extra["update_rule"]["orthogonal"]}}
    runs = [
        trajectory_of(theta, params, config) for theta, config in ((both, CONFIG), (network, PLAIN), (extra, CONFIG))
    ]
    for whole, one, other in zip(*runs, strict=True):
        jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-4, atol=1e-7), whole, one, other)


def test_the_scheduler_multiplies_it_and_zeros_have_their_floor():
    config = CeloConfig(directions=(MLP(), Orthogonal()), scale=ParameterScale(zero_init=1.0))
    theta = theta_of([0.1, 0.9, 0.0, 0.0], [1.0, 0.0], config)
    params = {**params_of(jax.random.key(4)), "zeros": jnp.zeros((4, 4))}
    bias = theta["scheduler"]["step_size"]["bias"]
    runs = []
    for multiplier in (1.0, 3.0):
        theta["scheduler"]["step_size"]["bias"] = jnp.full_like(bias, np.log(10 * multiplier))
        runs.append(trajectory_of(theta, params, config))
    for one, three in zip(*runs, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-5, atol=1e-8), one, three)
    smallest = min(float(jnp.sqrt(jnp.mean(p**2))) for n, p in params.items() if n != "zeros")
    # 4 x 4 with singular values of 0.7 to 1.2: the root mean square of the direction is about 1.
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(runs[0][0]["zeros"] ** 2)), 0.01 * smallest, rtol=0.3)


def test_bad_gradients_and_half_precision_leave_it_finite():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params_of(jax.random.key(5)))
    theta = Celo(CONFIG).init(jax.random.key(0))
    state = scale_by_celo(theta, 10, config=CONFIG).init(params)
    for fill in (jnp.nan, jnp.inf, 0.0, 1e30):
        gradients = jax.tree.map(lambda p, fill=fill: jnp.full_like(p, fill), params)
        step, state = update_of(CONFIG)(theta, gradients, state, params)
        assert all(
            x.dtype == jnp.bfloat16 and np.all(np.isfinite(x.astype(jnp.float32))) for x in jax.tree.leaves(step)
        )


def test_derivatives_by_theta_are_finite():
    params = {"w": jax.random.normal(jax.random.key(6), (5, 3))}

    theta = Celo(CONFIG).init(jax.random.key(0))

    def total(orthogonal):
        rule = {**theta["update_rule"], "orthogonal": orthogonal}
        tx = scale_by_celo({"update_rule": rule}, 10, config=CONFIG)
        steps, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params, value=jnp.float32(1.0))
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(steps))

    made = jax.jit(jax.grad(total))(theta["update_rule"]["orthogonal"])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(made)) and np.all(made["length"] > 0)


def test_random_theta_begins_with_nesterov_momentum():
    theta = Celo(CONFIG).init(jax.random.key(0))["update_rule"]["orthogonal"]
    np.testing.assert_allclose(theta["momentum"], [0.1, 0.9, 0.0, 0.0])
    np.testing.assert_array_equal(theta["length"], [1.0, 2.0])
    assert "orthogonal" not in Celo().init(jax.random.key(0))["update_rule"]
