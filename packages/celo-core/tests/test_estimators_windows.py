"""Resets, masks, accumulators, resume buffers and schedules at every boundary, on a problem whose meta-gradient is exact.

After t steps of a trajectory with paces a_1, ..., a_t the loss is their sum, so a window's gradient follows by hand from the
perturbations, which are in the estimators' memory.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo_core import (
    ConstantLength,
    FullBackprop,
    FullES,
    GradientEstimator,
    GrowingLength,
    LogUniformLength,
    MeanOfEstimators,
    NoiseReuseES,
    ResumeBuffer,
    TruncatedBackprop,
    TruncatedES,
    TruncatedPES,
)
from celo_core.estimators._problems import Window
from celo_core.meta_training.lengths import LengthSchedule
from celo_core.testing.toys import Clock, LearnedSGD, LearnedWalk, Quadratic

THETA = LearnedWalk().init(jax.random.key(0))
TRUNCATED = [TruncatedES, TruncatedPES, NoiseReuseES, TruncatedBackprop]
EVOLUTION = [TruncatedES, TruncatedPES, NoiseReuseES, FullES]


def count(cls, number):
    return {"num_pairs" if cls in EVOLUTION else "num_problems": number}


def histories(estimator, windows=40, seed=0):
    """States before and after each window, and its gradient and loss, as NumPy arrays (windows, ...)."""

    def body(state, key):
        (gradient, loss, info), new = estimator.estimate(key, THETA, state, {})
        return new, (state, new, gradient["pace"], loss, info)

    state = estimator.init(jax.random.key(seed), THETA)
    keys = jax.random.split(jax.random.key(seed + 1), windows)
    return jax.device_get(jax.jit(lambda s, k: jax.lax.scan(body, s, k))(state, keys)[1])


def test_pairs_begin_with_perturbations_of_their_own():
    """From the start and not only after their first reset: a mean over pairs that share their noise is no better than one pair."""
    state = NoiseReuseES(LearnedWalk(), Clock(), num_pairs=256).init(jax.random.key(0), THETA)
    units = np.ravel(state.memory["pace"])
    assert len(np.unique(units)) == 256
    assert abs(units.mean()) < 5 / 16 and units.std() == pytest.approx(1.0, abs=5 / 22), "five standard errors"


CASES = [(1, LogUniformLength(1, 4)), (3, LogUniformLength(2, 13)), (4, ConstantLength(4)), (5, LogUniformLength(2, 7)),
         (2, ConstantLength(9))]  # fmt: skip


@pytest.mark.parametrize(("truncation", "lengths"), CASES)
@pytest.mark.parametrize("cls", TRUNCATED)
def test_every_window_by_hand(cls, truncation, lengths):
    """One problem, so that gradients are its own; float32 sums of up to 13 terms: 1e-5."""
    kwargs = {} if cls is TruncatedBackprop else {"sigma": 0.5}
    estimator = cls(LearnedWalk(), Clock(), truncation=truncation, lengths=lengths, **count(cls, 1), **kwargs)
    before, after, gradients, losses, info = histories(estimator)
    sums = np.zeros(2)  # distances walked by the two members
    lives = 0
    for window in range(len(gradients)):
        step, length = int(before.step[window, 0]), int(before.length[window, 0])
        ended = step >= length
        lives += ended
        assert info["resets"][window] == ended
        if ended:
            step, length, sums = 0, int(after.length[window, 0]), np.zeros(2)
        assert after.step[window, 0] == step + truncation and after.length[window, 0] == length
        assert after.estimates[window, 0] == window + 1
        np.testing.assert_array_equal(after.trainee.params[window, 0, :, 0], step + truncation, "the clock")
        active = np.arange(truncation)[step + np.arange(truncation) < length]
        assert len(active), "a window has at least one step that counts"
        if cls is TruncatedBackprop:
            # The slope of the k-th loss of the window is k: earlier steps are constants.
            assert gradients[window] == pytest.approx(active.mean(), rel=1e-6)
            assert losses[window] == pytest.approx(step + active.mean(), rel=1e-6)
            continue
        if cls is TruncatedES:
            continue  # keeps no perturbation: see below
        memory = float(after.memory["pace"][window, 0])
        earlier = 0.0 if ended else float(before.memory["pace"][window, 0])
        noise = memory - earlier if cls is TruncatedPES else 0.5 * memory
        if cls is NoiseReuseES and not ended:
            assert memory == earlier, "the noise of a trajectory is drawn once"
        assert cls is TruncatedPES or memory != 0
        paces = np.asarray([1 + noise, 1 - noise])
        walked = sums[None] + active[:, None] * paces[None]
        assert losses[window] == pytest.approx(walked.mean(), rel=1e-5, abs=1e-5)
        difference = walked.mean(axis=0) @ [1, -1]
        score = (memory if cls is TruncatedPES else noise) / (2 * 0.5**2)
        assert gradients[window] == pytest.approx(difference * score, rel=1e-4, abs=1e-4)
        sums = sums + truncation * paces
        np.testing.assert_allclose(after.trainee.params[window, 0, :, 1], sums, rtol=1e-5, atol=1e-5)
    assert lives > 2


@pytest.mark.parametrize("cls", TRUNCATED)
def test_late_weights_by_hand(cls):
    """A trajectory of 12 steps in 3 windows, whose k-th loss is k (members' noise cancels in the mean): weights (1 + w) x^w."""
    kwargs = {} if cls is TruncatedBackprop else {"sigma": 0.5}
    settings = {"truncation": 4, "lengths": ConstantLength(12), **count(cls, 1), **kwargs}
    plain, weighted = (
        histories(cls(LearnedWalk(), Clock(), late_weight=weight, **settings), 12) for weight in (0.0, 2.0)
    )
    np.testing.assert_array_equal(plain[0].step, weighted[0].step)
    step = plain[0].step[:, 0]
    whole = (step + 4 <= plain[0].length[:, 0]) & (plain[1].length[:, 0] == 12)
    weights = 3 * ((np.arange(12) + 0.5) / 12) ** 2
    assert weights.mean() == pytest.approx(1.0, abs=0.01)  # the midpoint rule
    assert whole.sum() >= 6
    for window in np.flatnonzero(whole):
        places = step[window] + np.arange(4)
        if cls is TruncatedBackprop:
            # The slope of the k-th loss of the window is k.
            assert weighted[2][window] == pytest.approx((weights[places] * np.arange(4)).mean(), rel=1e-5)
        if cls is not TruncatedES:  # it continues from one member, so that the distance depends on noise
            assert weighted[3][window] == pytest.approx((weights[places] * places).mean(), rel=1e-5)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_bad_late_weights_are_refused(weight):
    with pytest.raises(ValueError, match="late_weight must be at least 0"):
        TruncatedPES(LearnedWalk(), Clock(), late_weight=weight)


def test_truncated_es_starts_both_members_from_one_network():
    """With e^2 (mean of k) / sigma^2 the gradient is positive in every window, and one network is carried on."""
    estimator = TruncatedES(LearnedWalk(), Clock(), truncation=3, lengths=ConstantLength(9), num_pairs=1, sigma=0.5)
    before, after, gradients, _, _ = histories(estimator, 400)
    assert after.trainee.params.shape == (400, 1, 1, 2)
    assert np.all(gradients >= 0)
    whole = before.step[:, 0] % 9 + 3 <= after.length[:, 0]
    # E e^2 / sigma^2 = 1, with a relative standard error of sqrt(2 / 400) = 0.07.
    assert gradients[whole].mean() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("objective", "slope"), [("mean", 3.5), ("last", 7.0)])
def test_full_unrolls(objective, slope):
    lengths = ConstantLength(8)
    exact = FullBackprop(LearnedWalk(), Clock(), lengths=lengths, objective=objective, num_problems=1)
    assert histories(exact, 2)[2] == pytest.approx([slope, slope], rel=1e-6)
    estimator = FullES(LearnedWalk(), Clock(), lengths=lengths, objective=objective, num_pairs=8, sigma=0.5)
    _, _, gradients, _, _ = histories(estimator, 200)
    # slope * e^2 / sigma^2: relative standard error sqrt(2 / 1600) = 0.035.
    assert gradients.mean() == pytest.approx(slope, rel=0.15)


def test_full_unroll_masks_what_is_past_the_end():
    estimator = FullBackprop(LearnedWalk(), Clock(), lengths=LogUniformLength(1, 9), objective="last", num_problems=1)
    slopes = histories(estimator, 50)[2]
    assert set(np.round(slopes, 5)) <= set(range(9)) and len(set(slopes)) > 4, (
        "the slope of the last step is length - 1"
    )


@dataclasses.dataclass(frozen=True)
class FewerThanLongest(LengthSchedule):
    """One length, in unrolls that could be longer."""

    steps: int
    longest = 12

    def sample(self, key, estimates=0):
        del key, estimates
        return jnp.int32(self.steps)


@pytest.mark.parametrize("objective", ["mean", "last", "final"])
@pytest.mark.parametrize("steps", [1, 7, 12])
def test_an_unroll_that_ends_early_is_the_masked_one(steps, objective):
    """Problems that learn, with batches of their own. The same arithmetic, which a compiler may order in other ways."""
    make = lambda **kwargs: FullES(
        LearnedSGD(), Quadratic(noise=0.5), num_pairs=3, sigma=0.3, objective=objective,
        lengths=FewerThanLongest(steps), **kwargs,
    )  # fmt: skip
    theta = LearnedSGD().init(jax.random.key(0))
    results = []
    for same_length in (False, True):
        estimator = make(same_length=same_length)
        state = estimator.init(jax.random.key(0), theta)
        (gradient, loss, info), _ = jax.jit(estimator.estimate)(jax.random.key(4), theta, state, {})
        assert info["non_finite"] == 0 and info["resets"] == 3 and info["step_size"] > 0
        results.append((gradient, loss))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_problems_of_an_estimate_share_their_length_and_end_there():
    """The steps that are done are counted: a loss is asked for once per step and network."""
    counted = []

    @dataclasses.dataclass(frozen=True)
    class Counting(Clock):
        def loss(self, params, model_state, key, config, batch):
            jax.debug.callback(lambda clock: counted.append(int(clock)), params[0])
            return super().loss(params, model_state, key, config, batch)

    lengths = LogUniformLength(2, 40)
    estimator = FullES(LearnedWalk(), Counting(), num_pairs=3, sigma=0.5, lengths=lengths, same_length=True)
    state = estimator.init(jax.random.key(0), THETA)
    run = jax.jit(estimator.estimate)
    seen = set()
    for seed in range(6):
        counted.clear()
        jax.block_until_ready(run(jax.random.key(seed), THETA, state, {}))
        jax.effects_barrier()
        steps = max(counted) + 1
        assert sorted(counted) == sorted([*range(steps)] * 6), "three pairs of two, each of as many steps"
        seen.add(steps)
    assert len(seen) > 3 and min(seen) >= 2 and max(seen) <= 40


def test_what_an_estimate_of_one_length_costs():
    make = lambda **kwargs: FullES(LearnedWalk(), Clock(), num_pairs=2, lengths=LogUniformLength(20, 300), **kwargs)
    assert make().inner_steps == 2 * 2 * 300
    drawn = np.asarray(jax.vmap(LogUniformLength(20, 300).sample)(jax.random.split(jax.random.key(0), 20_000)))
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - LogUniformLength(20, 300).mean) < 4 * error
    assert make(same_length=True).inner_steps == 2 * 2 * round(LogUniformLength(20, 300).mean)
    assert LogUniformLength(5, 5).mean == ConstantLength(5).mean == 5 and GrowingLength().mean == 20_000


@pytest.mark.parametrize("cls", [FullES, FullBackprop])
@pytest.mark.parametrize("steps", [1, 9, 30, 47, 50, 70, 200])
def test_final_objective_is_the_mean_of_the_last_twentieth(cls, steps):
    """Against NumPy, from the curve; a walk's loss after t steps is t times the pace, of the pair's mean 1."""
    kwargs = {} if cls is FullBackprop else {"sigma": 0.25}
    estimator = cls(LearnedWalk(), Clock(), lengths=ConstantLength(steps), objective="final", **count(cls, 4), **kwargs)
    _, _, gradients, losses, _ = histories(estimator, 1)
    curve = np.arange(steps, dtype=np.float64)
    expected = curve[-max(1, round(0.05 * steps)) :].mean()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    if cls is FullBackprop:
        np.testing.assert_allclose(gradients, expected, rtol=1e-5)
    else:
        masked = FullES(LearnedWalk(), Clock(), num_pairs=4, sigma=0.25, lengths=ConstantLength(2), objective="last")
        ratio = gradients / histories(masked, 1)[2]  # the same perturbations, of a loss of 1 pace
        np.testing.assert_allclose(ratio, expected, rtol=1e-4)


def test_the_final_loss_of_every_length_in_longer_unrolls():
    estimator = FullBackprop(LearnedWalk(), Clock(), num_problems=1, objective="final", lengths=ConstantLength(400))
    losses, lengths = np.sin(np.arange(400.0)), np.arange(1, 401)

    def judged(steps):
        mask = jnp.arange(400) < steps
        return estimator._judged(Window(jnp.float32(losses)[:, None], mask, jnp.float32(0), jnp.zeros(1)), steps)

    expected = [losses[:n][-max(1, round(0.05 * n)) :].mean() for n in lengths]
    np.testing.assert_allclose(jax.vmap(judged)(jnp.int32(lengths))[:, 0], expected, rtol=1e-4, atol=1e-6)


def differences(losses, **kwargs):
    estimator = FullES(LearnedWalk(), Clock(), **kwargs)
    return [float(estimator._difference(jnp.asarray(pair, jnp.float32))) for pair in losses]


def test_differences_are_clipped_and_those_that_are_not_finite_do_no_harm():
    nan, inf = np.nan, np.inf
    losses = [(3.0, 2.5), (9.0, 2.0), (2.0, 9.0), (nan, 2.0), (2.0, inf), (nan, nan), (inf, nan)]
    assert differences(losses, clip_difference=1.0) == [0.5, 1, -1, 1, -1, 0, 0], "what diverges is the worse of two"
    assert differences(losses, sign_delta=0.1) == pytest.approx([0.1, 0.1, -0.1, 0.1, -0.1, 0, 0])
    assert differences(losses) == [0.5, 7, -7, 0, 0, 0, 0], "without a bound it has no size"


def test_a_problem_whose_loss_is_not_finite_leaves_the_mean_of_the_others():
    @dataclasses.dataclass(frozen=True)
    class Unbounded(Quadratic):
        def normalizer(self, loss):
            return loss

    theta = LearnedSGD().init(jax.random.key(0))
    estimator = FullES(
        LearnedSGD(), Unbounded(broken=0.5), num_pairs=16, sigma=0.1, lengths=ConstantLength(5), clip_difference=1.0
    )
    (gradient, _, info), _ = jax.jit(estimator.estimate)(
        jax.random.key(1), theta, estimator.init(jax.random.key(0), theta), {}
    )
    assert 0 < info["non_finite"] < 1
    assert np.isfinite(gradient["rule"]["log_learning_rate"]) and gradient["rule"]["log_learning_rate"] < 0


@pytest.mark.parametrize("cls", [*TRUNCATED, FullES, FullBackprop])
def test_is_a_gradient_estimator_of_stable_structure(cls):
    kwargs = {"truncation": 3} if cls in TRUNCATED else {}
    estimator = cls(LearnedSGD(), Quadratic(noise=0.1), lengths=LogUniformLength(3, 9), **kwargs, **count(cls, 4))
    assert isinstance(estimator, GradientEstimator)
    theta = LearnedSGD().init(jax.random.key(0))
    state = estimator.init(jax.random.key(0), theta)
    (gradient, loss, info), new = jax.jit(estimator.estimate)(jax.random.key(1), theta, state, {})
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, theta)
    assert loss.shape == () and {"non_finite", "step_size", "step_size_max", "resets"} <= set(info)
    assert all(len(leaf) == estimator.num_problems for leaf in jax.tree.leaves(state)), "split over devices"


@pytest.mark.parametrize("cls", EVOLUTION)
def test_antithetic_pairs_share_data_and_keys(cls):
    """The loss difference is of the order of sigma although the noise in the batches is of order one."""
    kwargs = {"truncation": 5} if cls in TRUNCATED else {}
    estimator = cls(LearnedSGD(), Quadratic(noise=1.0), num_pairs=8, sigma=1e-3, lengths=ConstantLength(10), **kwargs)
    theta = LearnedSGD().init(jax.random.key(0))
    state = estimator.init(jax.random.key(1), theta)
    (gradient, _, _), _ = jax.jit(estimator.estimate)(jax.random.key(0), theta, state, {})
    # With batches of their own the difference would be of order 1 and the gradient of order 1 / sigma = 1000.
    assert abs(float(gradient["rule"]["log_learning_rate"])) < 100


def test_problems_are_their_own_whatever_shares_the_work():
    """A problem's random numbers depend on its number only: half of the problems give the same as among all."""
    estimator = TruncatedPES(LearnedSGD(), Quadratic(noise=1.0), num_pairs=8, truncation=5, lengths=ConstantLength(7))
    theta = LearnedSGD().init(jax.random.key(0))
    state = estimator.init(jax.random.key(1), theta)
    half = jax.tree.map(lambda x: x[4:], state)
    estimate = jax.jit(estimator.estimate)
    for number in range(4):
        _, state = estimate(jax.random.key(number), theta, state, {})
        _, half = estimate(jax.random.key(number), theta, half, {})
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[4:], state), half, rtol=1e-6)


@pytest.mark.parametrize("cls", TRUNCATED)
def test_resumed_problems_go_on_where_their_snapshot_was(cls):
    buffer = ResumeBuffer(capacity=3, rate=0.5, probability=0.7)
    estimator = cls(
        LearnedWalk(), Clock(), truncation=2, lengths=LogUniformLength(2, 15), resume=buffer, **count(cls, 4)
    )
    before, after, gradients, _, _ = histories(estimator, 120)
    assert np.all(np.isfinite(gradients))
    np.testing.assert_array_equal(after.trainee.params[..., 0], np.repeat(after.step[..., None], estimator.members, -1))
    ended = before.step >= before.length
    resumed = ended & (after.step > 2)
    fresh = ended & (after.step == 2)
    assert resumed.sum() > 10 and fresh.sum() > 10
    for window, slot in np.argwhere(resumed):
        snapshots = jax.tree.map(lambda x, w=window, s=slot: x[w, s], before.snapshots)
        kept = snapshots.filled & (snapshots.config == after.config[window, slot])
        assert np.any(kept & (snapshots.step == after.step[window, slot] - 2)), "one of the snapshots of this slot"
        assert after.length[window, slot] in snapshots.length[kept]
        if cls is TruncatedPES:
            # A sum of one perturbation (sigma = 0.01) only: the snapshot is a constant.
            assert abs(after.memory["pace"][window, slot]) < 0.06


def test_no_snapshot_of_a_problem_that_is_about_to_end():
    buffer = ResumeBuffer(rate=1.0)
    estimator = TruncatedPES(
        LearnedWalk(), Clock(), truncation=2, lengths=ConstantLength(7), resume=buffer, num_pairs=2
    )
    snapshots = histories(estimator, 60)[1].snapshots
    left = (snapshots.length - snapshots.step)[snapshots.filled]
    assert left.size and left.min() >= 2


@pytest.mark.parametrize("cls", [TruncatedPES, TruncatedBackprop, FullES])
def test_held_out_meta_loss(cls):
    """The meta-loss is that of held-out batches; training, and so the gradient of this linear loss, is unchanged."""
    kwargs = {"truncation": 3} if cls in TRUNCATED else {}
    make = lambda **more: cls(
        LearnedWalk(), Clock(held_out_offset=2.0), lengths=ConstantLength(6), **kwargs, **count(cls, 2), **more
    )
    _, _, gradients, losses, _ = histories(make(), 5)
    _, _, held_out_gradients, held_out_losses, _ = histories(make(meta_loss="held_out"), 5)
    np.testing.assert_allclose(held_out_losses, losses + 2.0, rtol=1e-6)
    np.testing.assert_allclose(held_out_gradients, gradients, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="no held-out data"):
        cls(LearnedSGD(), Quadratic(), meta_loss="held_out", **count(cls, 2))


@pytest.mark.parametrize("cls", EVOLUTION)
def test_constant_schedule_of_sigma_is_that_number(cls):
    kwargs = {"truncation": 3} if cls in TRUNCATED else {}
    run = lambda sigma: histories(
        cls(LearnedWalk(), Clock(), lengths=ConstantLength(6), num_pairs=2, sigma=sigma, **kwargs), 6
    )[2]
    np.testing.assert_allclose(run(lambda estimates: 0.25), run(0.25), rtol=1e-5)


def test_pes_counts_each_perturbation_with_its_own_sigma():
    """Sigma halves in every window: divided by this window's sigma^2, the accumulator is the sum of all e / sigma^2."""
    schedule = lambda estimates: 0.5 ** (1.0 + estimates)
    estimator = TruncatedPES(
        LearnedWalk(), Clock(), truncation=2, lengths=ConstantLength(1000), num_pairs=1, sigma=schedule
    )
    _, after, _, _, _ = histories(estimator, 4)
    walked = np.diff(after.trainee.params[:, 0, :, 1] @ [0.5, -0.5], prepend=0.0) / 2  # the perturbations
    for window in range(1, 4):
        scores = sum(walked[v] / schedule(v) ** 2 for v in range(window + 1))
        assert after.memory["pace"][window, 0] / schedule(window) ** 2 == pytest.approx(scores, rel=1e-3)


def test_clipping_bounds_every_problem():
    estimator = TruncatedPES(
        LearnedWalk(), Clock(), truncation=5, lengths=ConstantLength(50), num_pairs=4, sigma=0.5, clip_problem=0.5
    )
    gradients = histories(estimator, 40)[2]
    assert np.abs(gradients).max() <= 0.5 + 1e-6 and np.abs(gradients).max() > 0.3


def test_mean_of_estimators():
    parts = [
        TruncatedBackprop(LearnedWalk(), Clock(), truncation=3, lengths=ConstantLength(3), num_problems=2),
        TruncatedBackprop(LearnedWalk(), Clock(), truncation=5, lengths=ConstantLength(5), num_problems=4),
    ]
    both = MeanOfEstimators(parts, weights=(3.0, 1.0))
    assert isinstance(both, GradientEstimator) and both.num_problems == 2 and both.inner_steps == 26
    (gradient, loss, info), _ = both.estimate(jax.random.key(0), THETA, both.init(jax.random.key(1), THETA), [{}, {}])
    keys = lambda number, i: jax.random.fold_in(jax.random.key(number), i)
    singles = [one.estimate(keys(0, i), THETA, one.init(keys(1, i), THETA), {})[0] for i, one in enumerate(parts)]
    assert gradient["pace"] == pytest.approx(0.75 * singles[0][0]["pace"] + 0.25 * singles[1][0]["pace"])
    assert loss == pytest.approx(0.75 * singles[0][1] + 0.25 * singles[1][1])
    assert info["step_size_max"] == max(one[2]["step_size_max"] for one in singles)
    both.check([{}, {}])
    with pytest.raises(ValueError, match="2 estimators needs as many data"):
        both.check([{}])
    longer = both.with_truncation(2)
    assert longer.inner_steps == 2 * 2 + 4 * 2 and longer.weights == (3.0, 1.0)
    with pytest.raises(ValueError, match="full_es has no truncation"):
        MeanOfEstimators([FullES(LearnedWalk(), Clock())]).with_truncation(2)
    with pytest.raises(ValueError, match="share one architecture"):
        MeanOfEstimators([parts[0], TruncatedPES(LearnedSGD(), Quadratic())])


def test_lengths_grow():
    schedule = GrowingLength(minimum=100, first=200, maximum=20_000, duration=1000)
    keys = jax.random.split(jax.random.key(0), 2000)
    for estimates, longest in ((0, 200), (500, 2000), (1000, 20_000), (5000, 20_000)):
        lengths = np.asarray(jax.vmap(schedule.sample, in_axes=(0, None))(keys, jnp.asarray(estimates)))
        assert lengths.min() >= 100 and 0.95 * longest < lengths.max() <= longest
    estimator = TruncatedPES(
        LearnedWalk(), Clock(), truncation=2, lengths=GrowingLength(2, 2, 40, duration=30), num_pairs=4
    )
    lengths = histories(estimator, 60)[1].length
    assert lengths[:5].max() < 4 and lengths[30:].max() > 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedES(LearnedWalk(), Clock(), truncation=0), "truncation >= 1"),
        (lambda: NoiseReuseES(LearnedWalk(), Clock(), num_pairs=0), "num_pairs >= 1"),
        (lambda: FullES(LearnedWalk(), Clock(), num_pairs=0), "num_pairs >= 1"),
        (lambda: TruncatedBackprop(LearnedWalk(), Clock(), num_problems=0), "num_problems >= 1"),
        (lambda: NoiseReuseES(LearnedWalk(), Clock(), sigma=0.0), "sigma"),
        (lambda: FullES(LearnedWalk(), Clock(), sigma=lambda estimates: -1.0), "sigma"),
        (lambda: FullES(LearnedWalk(), Clock(), sign_delta=0.0), "sign_delta"),
        (lambda: FullES(LearnedWalk(), Clock(), objective="best"), "objective must be one of mean, last, final"),
        (lambda: FullES(LearnedWalk(), Clock(), clip_difference=0.0), "clip_difference must be a positive number"),
        (lambda: FullES(LearnedWalk(), Clock(), clip_difference=1.0, sign_delta=1.0), "no difference to be clipped"),
        (lambda: FullBackprop(LearnedWalk(), Clock(), same_length=True), "same_length ends the unroll .* use full_es"),
        (lambda: TruncatedPES(LearnedWalk(), Clock(), meta_loss="test"), "meta_loss must be one of training, held_out"),
        (lambda: TruncatedPES(LearnedWalk(), Clock(), clip_problem=0.0), "clip_problem"),
        (lambda: TruncatedPES(LearnedWalk(), Clock(), truncation=50, lengths=ConstantLength(20)), "longer than any problem"),
        (lambda: ResumeBuffer(capacity=0), "capacity >= 1"),
        (lambda: GrowingLength(minimum=10, first=5), "minimum <= first"),
        (lambda: GrowingLength(duration=0), "at least 1 estimate"),
        (lambda: MeanOfEstimators([]), "at least one"),
    ],
)  # fmt: skip
def test_contradictory_settings_give_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
