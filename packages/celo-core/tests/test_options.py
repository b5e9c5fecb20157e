"""Weight decay, its mask, and the accumulators' dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import ARCHITECTURES, get_architecture
from celo_core.testing import check_optimizer

PARAMS = {"bias": jnp.array([1.0, -2.0]), "kernel": jnp.arange(6.0).reshape(3, 2)}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.3, PARAMS)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@functools.cache
def theta_of(architecture):
    return get_architecture(architecture).init(jax.random.key(0))


def update(architecture, **options):
    tx = get_architecture(architecture).build(theta_of(architecture), 10, **options)
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))


@architectures
def test_weight_decay_is_added_to_the_learned_step(architecture):
    plain, _ = update(architecture)
    decayed, _ = update(architecture, weight_decay=0.01)
    for name, p in PARAMS.items():
        np.testing.assert_allclose(decayed[name] - plain[name], -0.01 * p, rtol=1e-4, atol=1e-7)  # float32 differences


@architectures
def test_mask_of_weight_decay(architecture):
    plain, _ = update(architecture)
    mask = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    decayed, _ = update(architecture, weight_decay=0.01, mask=mask)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
    assert np.any(decayed["kernel"] != plain["kernel"])


@architectures
def test_accumulator_dtype(architecture):
    """Moments are kept in bfloat16, updates stay float32 and are close to those of float32 moments."""
    build = lambda num_steps: get_architecture(architecture).build(
        theta_of(architecture), num_steps, accumulator_dtype=jnp.bfloat16
    )
    check_optimizer(build, only={"check_state_types", "check_dtypes", "check_mixed_precision"})
    state = build(10).init(PARAMS)
    moments = [
        x for x in jax.tree.leaves(state) if x.dtype != jnp.int32 and x.shape in {p.shape for p in PARAMS.values()}
    ]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(jnp.bfloat16)}
    updates, _ = update(architecture, accumulator_dtype=jnp.bfloat16)
    # The rule reads its moments as they are kept: each is off by up to a unit in the last place, 2^-7 of it.
    for name, expected in update(architecture)[0].items():
        np.testing.assert_allclose(updates[name], expected, atol=2**-5 * np.abs(expected).max())


def test_unknown_implementation():
    with pytest.raises(ValueError, match="implementation must be one of auto, xla, pallas, not 'cuda'"):
        update("celo", implementation="cuda")


def test_pallas_falls_back_with_a_reason():
    """On the CPU, and for tensors that are too small for the launch of a kernel to be worthwhile."""
    with pytest.warns(UserWarning, match="celo: XLA instead of Pallas"):
        updates, _ = update("celo", implementation="pallas")
    jax.tree.map(np.testing.assert_array_equal, updates, update("celo", implementation="xla")[0])


def test_updates_descend():
    """The sign of the whole optimizer: Celo-Adam's first update is against the gradient."""
    updates, _ = update("celo_adam")
    for name, grad in GRADS.items():
        np.testing.assert_array_equal(np.sign(updates[name]), -np.sign(grad))
