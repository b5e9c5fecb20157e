"""PES against the reference implementation's gradient, and properties that hold for every seed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import GradientEstimator, LogUniformLength, TruncatedPES
from celo_core.estimators import pair_gradient
from celo_core.testing.toys import LearnedSGD, Quadratic


def test_reference_gradient(golden_dir):
    """The reference implementation's gradients and accumulators, over windows with resets at every position.

    In the reference a new problem begins within the window of the last one, here with the next window: so steps before and after a
    reset are two calls, and those after it have no earlier perturbation. Float32 sums of three tasks in another order: 1e-6 of
    the largest entry of a leaf (observed: 3e-7).
    """
    data = np.load(golden_dir / "pes_quadratic.npz")
    for call in ("call0/", "call1/", "call2/"):
        trees = {
            part: {name: jnp.asarray(data[name]) for name in data.files if name.startswith(call + part + "/")}
            for part in ("accumulator_in", "accumulator_out", "vec_pos", "grad")
        }
        strip = lambda tree, part, call=call: {name.removeprefix(call + part): leaf for name, leaf in tree.items()}
        trees = {part: strip(tree, part) for part, tree in trees.items()}
        difference = data[call + "pos_loss"] - data[call + "neg_loss"]
        restarted = np.cumsum(data[call + "pos_is_done"], axis=0) > 0

        def one(difference, mask, restarted, earlier, perturbation):
            of = lambda steps, earlier: pair_gradient(
                difference * steps, mask, earlier, perturbation, float(data["std"])
            )
            (before, total), (after, alone) = (
                of(~restarted, earlier),
                of(restarted, jax.tree.map(jnp.zeros_like, earlier)),
            )
            return jax.tree.map(jnp.add, before, after), jax.tree.map(
                lambda t, e: jnp.where(restarted[-1], e, t), total, alone
            )

        gradient, accumulator = jax.vmap(one, in_axes=(1, 1, 1, 0, 0))(
            difference, data[call + "pos_mask"], restarted, trees["accumulator_in"], trees["vec_pos"]
        )
        for name, expected in trees["grad"].items():
            error = np.abs(np.mean(gradient[name], axis=0) - expected).max()
            assert error <= 1e-6 * np.abs(expected).max(), (call, name, error)
        chex.assert_trees_all_equal(accumulator, trees["accumulator_out"])


def test_pair_gradient_by_hand():
    difference = jnp.asarray([1.0, 2.0, 4.0, 8.0])
    mask = jnp.asarray([True, True, False, True])
    gradient, accumulator = pair_gradient(difference, mask, jnp.asarray(3.0), jnp.asarray(0.5), sigma=0.5)
    assert gradient == pytest.approx((1 + 2 + 8) / 3 * (3 + 0.5) / (2 * 0.25), rel=1e-6)
    assert accumulator == 3.5


@pytest.fixture(scope="module")
def noisy():
    """An estimator on noisy quadratics whose length is no multiple of the window, its theta, and a jitted estimate."""
    estimator = TruncatedPES(
        LearnedSGD(),
        Quadratic(noise=1.0, broken=0.25),
        num_pairs=8,
        sigma=1e-3,
        truncation=5,
        lengths=LogUniformLength(3, 17),
    )
    theta = LearnedSGD().init(jax.random.key(0))
    return estimator, theta, jax.jit(estimator.estimate)


def test_is_a_gradient_estimator(noisy):
    assert isinstance(noisy[0], GradientEstimator)


def test_accumulators_and_steps_at_every_boundary(noisy):
    estimator, theta, estimate = noisy
    state = estimator.init(jax.random.key(1), theta)
    assert len(np.unique(state.length)) > 1, "problems should begin out of phase"
    for number in range(12):
        before = jax.device_get(state)
        (gradient, loss, info), state = estimate(jax.random.key(number), theta, state, {})
        chex.assert_tree_all_finite((gradient, loss))
        reset = before.step >= before.length
        assert info["resets"] == reset.sum()
        np.testing.assert_array_equal(state.step, np.where(reset, 0, before.step) + estimator.truncation)
        kept = np.asarray(state.length) == np.asarray(before.length)
        assert np.all(kept | reset), "a problem keeps its length"
        moved = np.asarray(state.memory["unused"]["bias"]) - before.memory["unused"]["bias"]
        fresh = np.asarray(state.memory["unused"]["bias"])
        # sigma = 1e-3: a sum of one window's perturbations is below 6 sigma.
        assert np.abs(moved[~reset]).max(initial=0) < 6e-3
        assert np.abs(fresh[reset]).max(initial=0) < 6e-3


def test_antithetic_pairs_share_batches(noisy):
    """The loss difference is of the order of sigma although the noise in the batches is of order one."""
    estimator, theta, estimate = noisy
    (gradient, _, _), _ = estimate(jax.random.key(0), theta, estimator.init(jax.random.key(1), theta), {})
    # With batches of their own the difference would be of order 1 and the gradient of order 1 / sigma = 1000.
    assert abs(float(gradient["rule"]["log_learning_rate"])) < 100


def test_non_finite_losses_are_counted_and_harmless(noisy):
    estimator, theta, estimate = noisy
    (gradient, loss, info), _ = estimate(jax.random.key(3), theta, estimator.init(jax.random.key(2), theta), {})
    chex.assert_tree_all_finite((gradient, loss))
    assert 0 < info["non_finite"] < 1


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"truncation": 0}, {"sigma": 0.0}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TruncatedPES(LearnedSGD(), Quadratic(), **wrong)


def test_lengths_are_log_uniform():
    lengths = np.asarray(jax.vmap(LogUniformLength(100, 2000).sample)(jax.random.split(jax.random.key(0), 4000)))
    assert lengths.min() >= 100 and lengths.max() <= 2000
    # The median of a log-uniform law is the geometric mean, 447; its sample error here is about 2.4 %.
    assert np.median(lengths) == pytest.approx(np.sqrt(100 * 2000), rel=0.1)
    with pytest.raises(ValueError, match="minimum"):
        LogUniformLength(10, 5)
