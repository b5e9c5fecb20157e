"""Whether steps are too long: what a scheduler is told of the loss and of its last step, and what it makes of it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import Celo, CeloConfig, SchedulerConfig, celo, celo_adam
from celo_core.architectures._common import outcome
from celo_core.architectures.celo_adam import CeloAdam, CeloAdamConfig
from celo_core.schedulers import (
    Constant,
    Cosine,
    GainRatio,
    LinearIntegral,
    LossTrend,
    MomentumAlignment,
    Outcome,
    RelativeStep,
    Scheduler,
    Signal,
    Time,
)
from celo_core.schedulers.feedback import MeanAlignment

STEPS = 600


def features(part, losses, predicted=None, relative=0.01, num_steps=STEPS):
    """Features of an input at every step, float32 (steps, size)."""
    losses = jnp.asarray(losses, jnp.float32)
    predicted = jnp.zeros_like(losses) if predicted is None else jnp.asarray(predicted, jnp.float32)
    # What is known in a step is what came of the one before.
    before = jnp.concatenate([jnp.zeros((1,)), predicted[:-1]])

    def step(state, at):
        count, value, promised, size = at
        signal = Signal(count, value, jnp.float32(num_steps), outcome=Outcome(promised, size, promised))
        return part.update(state, signal)

    sizes = jnp.full_like(losses, relative).at[0].set(0.0)
    return np.asarray(
        jax.jit(lambda: jax.lax.scan(step, part.init_state(), (jnp.arange(losses.size), losses, before, sizes))[1])()
    )


def ratio_of(values):
    """The ratio of which a feature of `GainRatio` is made."""
    return np.exp(1.5 * values - 3.0)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
def test_gain_ratio_of_a_loss_that_falls_by_a_share_of_what_was_promised(share):
    predicted = np.random.default_rng(0).uniform(0.5, 1.5, STEPS) / np.arange(1, STEPS + 1)
    losses = 9.0 - share * np.concatenate([[0.0], np.cumsum(predicted)[:-1]])
    found = features(GainRatio(), losses, predicted)
    assert np.all(found[0] == 0.0), "nothing is known before the second step"
    # Losses of 9 have rounding errors of 1e-6, decreases at the end are 1e-3 and ratios are of sums over windows.
    np.testing.assert_allclose(ratio_of(found[1:]), share, rtol=0.03)


@pytest.mark.parametrize("length", [0.2, 1.0, 1.8])
def test_gain_ratio_on_a_parabola_tells_the_step(length):
    """``L = x^2 / 2`` under ``x <- (1 - s) x``: the gain is ``1 - s / 2`` of the promise, 0 where it diverges."""
    x = np.float64(1.0) * (1 - length) ** np.arange(40)
    found = features(GainRatio((0.5,)), 0.5 * x**2, length * x**2)
    np.testing.assert_allclose(ratio_of(found[1:12, 0]), 1 - length / 2, rtol=1e-3)


def noisy(seed=0):
    rng = np.random.default_rng(seed)
    return 2.0 + rng.standard_normal(STEPS) * 0.3 - np.linspace(0, 1, STEPS), rng.uniform(0.002, 0.02, STEPS)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("part", [GainRatio(), LossTrend()])
def test_the_scale_of_the_loss_has_no_effect(part, scale):
    losses, predicted = noisy()
    np.testing.assert_allclose(
        features(part, scale * losses, scale * predicted), features(part, losses, predicted), atol=3e-3
    )


def test_gain_ratio_does_not_depend_on_an_added_constant():
    losses, predicted = noisy()
    found = features(GainRatio(), losses - 2.0, predicted)  # of both signs
    np.testing.assert_allclose(found, features(GainRatio(), losses, predicted), atol=3e-3)


def test_losses_that_do_not_fall_have_the_least_ratio():
    predicted = np.full(STEPS, 0.1)
    assert np.allclose(ratio_of(features(GainRatio(), np.full(STEPS, 3.0), predicted)[1:]), 3e-3)
    assert np.allclose(ratio_of(features(GainRatio(), np.arange(STEPS) + 1.0, predicted)[1:]), 3e-3)
    uphill = features(GainRatio(), np.arange(STEPS) + 1.0, -predicted)
    assert np.allclose(ratio_of(uphill[1:]), 3e-3), "a step that promised an increase was not a good one"


def test_trend_of_a_line_and_of_noise():
    line = features(LossTrend(), 100.0 - 0.1 * np.arange(STEPS))
    np.testing.assert_allclose(line[-1, :2], 1.0, atol=0.02)
    np.testing.assert_allclose(features(LossTrend(), 0.1 * np.arange(STEPS) - 100.0)[-1, :2], -1.0, atol=0.02)
    noise = features(LossTrend(), 2.0 + 0.2 * np.random.default_rng(0).standard_normal(STEPS))
    assert np.all(np.abs(noise[100:, :2]).mean(axis=0) < 0.3)
    # A standard deviation of a tenth of the mean.
    np.testing.assert_allclose(noise[200:, 3].mean(), 0.5 * (math.log(0.1) + 3.0), atol=0.15)


@pytest.mark.parametrize("part", [GainRatio(), LossTrend(), RelativeStep()])
@pytest.mark.parametrize(
    "losses", [[np.nan], [np.inf], [-np.inf], [0.0], [-1.0], [1e38, -1e38], [1e-38, 0.0], [np.inf, 1.0, -np.inf, 0.0]]
)
def test_any_loss_leaves_features_finite_and_bounded(part, losses):
    values = np.tile(np.asarray(losses, np.float32), 50)
    for predicted in (0.0, 1e38, -1e38, 1e-38):
        found = features(part, values, np.full(len(values), predicted), num_steps=50)
        assert np.all(np.isfinite(found)) and np.all(np.abs(found) <= 3.0)


@pytest.mark.parametrize("part", [GainRatio(), LossTrend()])
def test_a_loss_that_is_not_finite_is_as_if_it_had_repeated_the_last(part):
    losses, predicted = noisy()
    holes = losses.copy()
    holes[100::50] = np.nan
    found, whole = features(part, holes, predicted), features(part, losses, predicted)
    assert np.median(np.abs(found - whole)) < 0.15


@pytest.mark.parametrize("factor", [30.0, 1e6])
def test_a_single_outlier_is_forgotten(factor):
    losses, predicted = noisy()
    spiked = losses.copy()
    spiked[200] *= factor
    found, whole = features(GainRatio(), spiked, predicted), features(GainRatio(), losses, predicted)
    np.testing.assert_array_equal(found[:200], whole[:200])
    assert np.abs(found[400:] - whole[400:])[:, 1].mean() < 0.5


# What a step is told to have been.


def outcome_of(tx, params, gradients, value=1.0):
    _, state = jax.jit(tx.update)(gradients, tx.init(params), params, value=jnp.float32(value))
    return jax.tree.map(float, state.scheduler.outcome)


READS = SchedulerConfig(
    inputs=(GainRatio(), RelativeStep()), network=LinearIntegral(), prior=Constant(1.0), bounds=(0.25, 4.0)
)


def architecture(kind):
    if kind == "celo":
        made = Celo(dataclasses.replace(Celo().config, scheduler=READS))
        return made, celo
    return CeloAdam(CeloAdamConfig(scheduler=READS)), celo_adam


def tensors(seed=0, shapes=((5, 4), (4,), (), (3, 2, 6), (300, 70))):
    rng = np.random.default_rng(seed)
    make = lambda: {str(n): jnp.asarray(rng.standard_normal(shape), jnp.float32) for n, shape in enumerate(shapes)}
    return make(), make()


@pytest.mark.parametrize("kind", ["celo", "celo_adam"])
@pytest.mark.parametrize("multiplier", [1.0, 0.25])
def test_outcome_is_that_of_the_updates(kind, multiplier):
    made, build = architecture(kind)
    params, gradients = tensors()
    tx = build(made.init(jax.random.key(0)), 100, config=made.config, step_multiplier=multiplier)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params, value=jnp.float32(1.0))
    wide = lambda tree: [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    g, u, p = wide(gradients), wide(updates), wide(params)
    found = outcome_of(tx, params, gradients)
    np.testing.assert_allclose(
        found.predicted_decrease, -sum(np.sum(a * b) for a, b in zip(g, u, strict=True)), rtol=1e-4
    )
    expected = math.sqrt(np.mean([np.sum(a**2) / np.sum(b**2) for a, b in zip(u, p, strict=True)]))
    np.testing.assert_allclose(found.relative_step, expected, rtol=1e-4)
    assert found.alignment == 0  # there is no momentum before the first step


@pytest.mark.parametrize("kind", ["celo", "celo_adam"])
def test_alignment_is_the_mean_cosine_of_gradient_and_momentum(kind):
    made, build = architecture(kind)
    params, gradients = tensors()
    tx = build(made.init(jax.random.key(0)), 100, config=made.config)
    state = tx.init(params)
    _, second = tensors(seed=1)
    for now in (gradients, second):
        _, state = jax.jit(tx.update)(now, state, params, value=jnp.float32(1.0))
    # After one step the momentum is parallel to its gradient.
    cosine = lambda a, b: np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(second), strict=True)
    expected = np.mean([cosine(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs])
    np.testing.assert_allclose(state.scheduler.outcome.alignment, expected, rtol=1e-3, atol=1e-5)


def test_outcome_does_not_depend_on_the_units_of_a_tensor():
    """Of steps that are in the parameters' units, as all are that are relative to their size; gradients are in the inverse."""
    (params, gradients), (steps, _) = tensors(), tensors(seed=1)
    in_units = lambda tree, power: {name: x * 2.0 ** (power * (n - 2)) for n, (name, x) in enumerate(tree.items())}
    momentum = jax.tree.map(lambda g: g**3, gradients)
    found = outcome(in_units(gradients, -1), in_units(params, 1), in_units(momentum, -1), in_units(steps, 1), 1e4)
    # Powers of two are exact.
    assert jax.tree.map(float, found) == jax.tree.map(float, outcome(gradients, params, momentum, steps, 1e4))


def test_outcome_of_a_stack_is_that_of_its_layers():
    made, build = architecture("celo")
    theta = made.init(jax.random.key(0))
    params, gradients = tensors(shapes=((3, 5, 4), (3, 4)))
    apart = lambda tree: {f"{n}{i}": x[i] for n, x in tree.items() for i in range(3)}
    stacked = build(theta, 100, config=made.config, num_stacked_axes=1)
    found = outcome_of(stacked, params, gradients)
    expected = outcome_of(build(theta, 100, config=made.config), apart(params), apart(gradients))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tensors_without_gradient_or_size_are_left_out():
    made, build = architecture("celo")
    tx = build(made.init(jax.random.key(0)), 100, config=made.config)
    params, gradients = tensors()
    expected = outcome_of(tx, params, gradients)
    more = {"empty": jnp.zeros((0, 3)), "frozen": jnp.ones((7,)), "zeros": jnp.zeros((4, 4))}
    none = {"empty": jnp.zeros((0, 3)), "frozen": None, "zeros": jnp.zeros((4, 4))}
    found = outcome_of(tx, {**params, **more}, {**gradients, **none})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    alone = outcome_of(tx, {"frozen": jnp.ones((7,))}, {"frozen": None})
    assert alone == Outcome(0.0, 0.0, 0.0)


def test_inside_multi_steps_an_update_counts_once():
    made, build = architecture("celo")
    theta = jax.tree.map(lambda x: x + 1e-3, made.init(jax.random.key(0)))
    params, gradients = tensors()
    plain = build(theta, 100, config=made.config)
    several = optax.MultiSteps(plain, 2)
    state, wanted = several.init(params), plain.init(params)
    step = jax.jit(several.update)
    for value in (3.0, 3.0, 2.0, 2.0):
        _, state = step(gradients, state, params, value=jnp.float32(value))
    for value in (3.0, 2.0):
        _, wanted = jax.jit(plain.update)(gradients, wanted, params, value=jnp.float32(value))
    found, expected = state.inner_opt_state.scheduler, wanted.scheduler
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_momentum_alignment_is_a_running_mean_that_begins_at_the_first_value():
    window, cosines = 1 / 6, np.random.default_rng(0).uniform(-1, 1, STEPS)
    found = features(MomentumAlignment((window,)), np.ones(STEPS), cosines)
    decay = math.exp(-4 / (window * STEPS))
    assert (found[:2] == 0).all()  # there is no momentum before the first step
    for step in (2, 3, 50, STEPS - 1):
        weights = decay ** np.arange(step - 1)[::-1]
        np.testing.assert_allclose(
            found[step, 0], 2 * np.average(cosines[1:step], weights=weights), rtol=1e-3, atol=1e-4
        )


def test_momentum_alignment_tells_noise_from_overshooting():
    """Momenta of gradients on a quadratic: with short steps, with noise alone, and with steps beyond the stable length."""

    def alignment(curvature, noise):
        rng, x, momentum, seen = np.random.default_rng(1), np.ones(200), np.zeros(200), []
        for _ in range(STEPS):
            gradient = curvature * x + noise * rng.standard_normal(200)
            norms = np.linalg.norm(gradient) * np.linalg.norm(momentum)
            seen.append(np.dot(gradient, momentum) / norms if norms else 0.0)
            momentum = 0.9 * momentum + 0.1 * gradient
            x = x - momentum
        return features(MomentumAlignment(), np.ones(STEPS), seen)[-1]

    signal, noise, overshooting = alignment(1e-3, 0.0), alignment(0.0, 1.0), alignment(35.0, 0.0)
    assert (signal > noise + 0.5).all() and (noise > overshooting + 0.2).all()


# The bounds and the network.


def with_cosines(part, cosines, ratio=0.01):
    """Features of `GainRatio` where losses fall by ``ratio`` of what was promised and gradients have these cosines."""

    def step(state, at):
        count, value, cosine = at
        seen = Outcome(jnp.float32(0.1), jnp.float32(0.01), cosine)
        return part.update(state, Signal(count, value, jnp.float32(STEPS), outcome=seen))

    losses = 9.0 - 0.1 * ratio * jnp.arange(STEPS, dtype=jnp.float32)
    every = (jnp.arange(STEPS), losses, jnp.broadcast_to(jnp.asarray(cosines, jnp.float32), (STEPS,)))
    return np.asarray(jax.lax.scan(step, part.init_state(), every)[1])


@pytest.mark.parametrize("cosine", [-0.5, -0.05, 0.01, 0.05, 0.5])
def test_gain_ratio_counts_little_where_gradients_are_noise(cosine):
    plain, gated = (with_cosines(GainRatio(noise=noise), cosine) for noise in (0.0, 0.05))
    share = cosine**2 / (cosine**2 + 0.05**2)
    np.testing.assert_allclose(gated[3:], share * plain[3:], rtol=1e-3)


def test_gain_ratio_tells_noise_of_gradients_from_overshooting():
    cosines = 0.02 * np.random.default_rng(0).standard_normal(STEPS)
    part = GainRatio(noise=0.05)
    # The mean over the shorter window has a standard deviation of 0.006: a share of 0.17 at 3.5 of these.
    assert np.all(np.abs(with_cosines(part, cosines)[20:]) < 0.2)
    assert np.all(with_cosines(part, cosines - 0.2)[20:] < -0.8)


def test_before_it_has_learned_the_schedule_is_the_prior():
    prior = Cosine(peak=0.7, exponent=0.5)
    config = SchedulerConfig(
        inputs=(Time(), GainRatio(), LossTrend()), network=LinearIntegral(), prior=prior, bounds=(0.1, 2.0)
    )
    scheduler = Scheduler(config)
    theta = scheduler.init(jax.random.key(0))
    state = scheduler.init_state(theta)
    for count in range(5):
        controls, state = scheduler.step(theta, state, Signal(jnp.int32(count), jnp.float32(5.0 - count), 40))
        expected = float(prior.height(40)) * float(prior.decay(jnp.float32(count / 40)))
        np.testing.assert_allclose(controls.multiplier, expected, rtol=1e-6)


def test_without_the_loss_steps_follow_the_prior_and_a_warning_says_so():
    learned = CeloConfig(scheduler=READS)
    theta = Celo(learned).init(jax.random.key(0))
    theta["scheduler"] = jax.tree.map(jnp.ones_like, theta["scheduler"])
    params = {"w": jnp.ones((4, 3))}
    plain = CeloConfig(scheduler=SchedulerConfig((), None, READS.prior))
    found = celo(theta, 50, config=learned)
    expected = celo({"update_rule": theta["update_rule"]}, 50, config=plain)
    state, other = found.init(params), expected.init(params)
    for _ in range(3):
        with pytest.warns(UserWarning, match=r"celo adapts its steps to the loss, and got none.*value=loss"):
            steps, state = found.update(params, state, params)
        prior, other = expected.update(params, other, params)
        np.testing.assert_allclose(steps["w"], prior["w"], rtol=1e-6)
    # With the loss the network is heard again.
    steps, _ = found.update(params, state, params, value=1.0)
    prior, _ = expected.update(params, other, params)
    assert not np.allclose(steps["w"], prior["w"], rtol=0.1)


@pytest.mark.parametrize("bounds", [(0.25, 1.5), (0.5, 4.0)])
def test_the_network_changes_the_prior_within_the_bounds(bounds):
    config = SchedulerConfig(inputs=(Time(),), network=LinearIntegral(), prior=Constant(0.3), bounds=bounds)
    scheduler = Scheduler(config)

    def multiplier(weight):
        theta = jax.tree.map(lambda x: jnp.full_like(x, weight), scheduler.init(jax.random.key(0)))
        signal = Signal(jnp.int32(99), None, 99)
        return float(scheduler.step(theta, scheduler.init_state(theta), signal)[0].multiplier)

    least, most = bounds
    np.testing.assert_allclose(multiplier(-100.0), 0.3 * least, rtol=1e-3)
    np.testing.assert_allclose(multiplier(100.0), 0.3 * most, rtol=1e-3)
    # Of slope 1 at 0 on either side, whatever the bounds.
    step = 1e-3
    slopes = [math.log(multiplier(sign * step) / 0.3) / (sign * step) for sign in (-1, 1)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=0.02)


def test_before_a_cosine_is_known_nothing_is_divided_by_nothing_in_a_compiled_program():
    """With a constant count XLA knows the sum of weights to be 0, and may square above and below a line apart."""

    def shares():
        seen = Signal(jnp.int32(0), None, jnp.float32(10.0), outcome=Outcome(*map(jnp.float32, (0.0, 0.0, 0.0))))
        return MeanAlignment.first(2).after(seen, (0.1, 0.2)).share(0.05)

    assert np.all(np.asarray(jax.jit(shares)()) == 0)


@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.04, 0.3])
def test_where_gradients_are_noise_the_prior_is_followed(cosine):
    config = SchedulerConfig(
        inputs=(Time(),), network=LinearIntegral(), prior=Constant(1.0), bounds=(0.25, 4.0), noise=0.04
    )
    theta = Scheduler(config).init(jax.random.key(0))
    theta["step_size"]["bias"] += jnp.asarray([-0.7, 0.0])

    def multipliers(config):
        def step(state, count):
            if state.outcome is not None:
                state = state._replace(outcome=Outcome(jnp.float32(0.1), jnp.float32(0.01), jnp.float32(cosine)))
            controls, state = Scheduler(config).step(theta, state, Signal(count, None, 100.0))
            return state, controls.multiplier

        return np.asarray(jax.lax.scan(step, Scheduler(config).init_state(theta), jnp.arange(50))[1])

    share = cosine**2 / (cosine**2 + 0.04**2)
    whole = np.log(multipliers(dataclasses.replace(config, noise=0.0)))
    found = np.log(multipliers(config))
    np.testing.assert_allclose(found[2:], share * whole[2:], rtol=1e-3, atol=1e-6)
    assert np.all(found[:2] == 0), "of the first two steps no alignment is known"


def test_linear_integral_in_closed_form():
    network = LinearIntegral(rate=8.0, limit=0.5)
    rng = np.random.default_rng(0)
    kernel, bias, inputs = rng.standard_normal((3, 2)), rng.standard_normal(2), rng.standard_normal((30, 3))
    theta = {"step_size": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}
    state, z = network.init_state(theta), 0.0
    for x in inputs:
        found, state = network.apply(theta, jnp.asarray(x, jnp.float32), state, jnp.float32(40))
        level, rate = x @ kernel + bias
        z = float(np.clip(z + 8.0 / 40 * np.tanh(rate), -0.5, 0.5))
        np.testing.assert_allclose(found, level + z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GainRatio(()), "windows must be shares of a training"),
        (lambda: GainRatio(noise=-0.1), "noise must be a cosine from 0 to 1, not -0.1."),
        (lambda: LossTrend((0.1, 2.0)), "windows must be shares of a training"),
        (lambda: LinearIntegral(rate=0.0), "rate must be a positive number, not 0.0."),
        (lambda: LinearIntegral(limit=math.inf), "limit must be a positive number, not inf."),
        (
            lambda: SchedulerConfig(bounds=(0.5, 1.0)),
            "bounds must be factors below and above 1, such as 0.25 and 4, not",
        ),
        (lambda: SchedulerConfig(noise=2.0), "noise must be a cosine from 0 to 1, not 2.0."),
        (lambda: SchedulerConfig(bounds=(-1.0, 2.0)), "bounds must be factors below and above 1"),
        (lambda: SchedulerConfig(bounds=(0.5, math.nan)), "bounds must be factors below and above 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
