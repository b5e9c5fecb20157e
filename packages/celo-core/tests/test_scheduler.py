"""The scheduler: evaluated once per step, bounded features, closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import Celo, CeloAdam, Scheduler, SchedulerConfig, get_architecture
from celo_core.schedulers import (
    LSTM,
    Constant,
    Cosine,
    GradientAlignment,
    Horizon,
    Linear,
    LinearDecay,
    Loss,
    Signal,
    SignalToNoise,
    Time,
)
from celo_core.schedulers.loss_features import (
    horizon_feature,
    init_loss_buffer,
    loss_rates,
    time_features,
    update_loss_buffer,
)
from celo_core.schedulers.statistics import Averages, Observed, gradient_alignment, signal_to_noise

buffer_step = jax.jit(update_loss_buffer)


def products_with(jaxpr, shape):
    """Number of matrix products in a jaxpr, at any depth, that have an operand of ``shape``."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            count += any(variable.aval.shape == shape for variable in equation.invars)
        for parameter in equation.params.values():
            for item in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
                inner = getattr(item, "jaxpr", item)
                count += products_with(inner, shape) if hasattr(inner, "eqns") else 0
    return count


@functools.cache
def theta_of(architecture):
    return get_architecture(architecture).init(jax.random.key(0))


@pytest.mark.parametrize("architecture", ["celo", "celo_adam"])
@pytest.mark.parametrize("num_tensors", [0, 1, 5])
def test_one_lstm_whatever_the_number_of_tensors(architecture, num_tensors):
    tx = get_architecture(architecture).build(theta_of(architecture), 100)
    params = [jnp.ones((3, 2))] * num_tensors
    step = lambda grads, state, value: tx.update(grads, state, params, value=value)
    jaxpr = jax.make_jaxpr(step)(params, tx.init(params), jnp.float32(1.0))
    assert products_with(jaxpr.jaxpr, (128, 256)) == 1


def test_counting_of_products():
    """The counter above includes products inside nested functions."""
    kernel = jnp.ones((128, 256))
    twice = jax.jit(lambda x: jax.lax.cond(x[0] > 0, lambda: x @ kernel, lambda: 2 * x @ kernel))
    assert products_with(jax.make_jaxpr(twice)(jnp.ones((128,))).jaxpr, (128, 256)) == 2


def at(count, value, num_steps, **more):
    return Signal(jnp.int32(count), jnp.float32(value), num_steps, **more)


def test_lstm_in_closed_form():
    """With zero kernels only biases matter: every gate is known."""
    scheduler = Scheduler(SchedulerConfig(inputs=(Time(), Loss(num_timescales=3)), network=LSTM(2)))
    theta = jax.tree.map(jnp.zeros_like, scheduler.init(jax.random.key(0)))
    theta["gates"]["bias"] = jnp.repeat(jnp.array([0.5, 0.25, -1.0, 2.0]), 2)  # input, cell, forget, output
    theta["step_size"]["bias"] = jnp.array([3.0])
    theta["initial_cell"] = jnp.array([0.4, -0.2])
    state = scheduler.init_state(theta)
    controls, state = scheduler.step(theta, state, at(0, 1.0, 10))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    cell = sigmoid(-1.0 + 1.0) * np.array([0.4, -0.2]) + sigmoid(0.5) * np.tanh(0.25)
    np.testing.assert_allclose(state.network.cell, cell, rtol=1e-6)
    np.testing.assert_allclose(state.network.hidden, sigmoid(2.0) * np.tanh(cell), rtol=1e-6)
    np.testing.assert_allclose(controls.multiplier, 0.1 * np.exp(3.0), rtol=1e-6)


def test_a_linear_network_is_linear_in_the_inputs():
    """In the nine time features, nine loss features and the horizon, with nothing else to learn."""
    scheduler = Scheduler(SchedulerConfig(inputs=(Time(), Loss(), Horizon()), network=Linear()))
    theta = scheduler.init(jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 19 + 1
    kernel = jnp.arange(19.0)[:, None] / 19
    theta["step_size"] = {"kernel": kernel, "bias": jnp.array([0.5])}
    state = scheduler.init_state(theta)
    for count, loss in enumerate([3.0, 2.0, 2.5]):
        _, loss_features = update_loss_buffer(state.inputs[1], jnp.float32(loss), jnp.float32(60))
        inputs = np.concatenate([time_features(jnp.float32(count / 60)), loss_features, [np.log(60.0) - 7]])
        controls, state = scheduler.step(theta, state, at(count, loss, 60))
        np.testing.assert_allclose(controls.multiplier, 0.1 * np.exp(inputs @ kernel[:, 0] + 0.5), rtol=1e-5)  # float32


@pytest.mark.parametrize(
    ("prior", "schedule"),
    [
        (Constant(0.3), optax.constant_schedule(0.3)),
        (LinearDecay(0.3), optax.linear_schedule(0.3, 0.0, 50)),
        (Cosine(0.3), optax.cosine_decay_schedule(0.3, 50)),
    ],
)
def test_priors_are_optax_schedules(prior, schedule):
    """Also after the planned end. Without a network they are the multiplier, without meta-parameters or state; else a factor."""
    alone = Scheduler(SchedulerConfig(inputs=(), network=None, prior=prior))
    assert alone.init(jax.random.key(0)) == {} and jax.tree.leaves(alone.init_state({})) == []
    for count in range(0, 60, 7):
        controls, _ = alone.step({}, alone.init_state({}), at(count, 2.0, 50))
        np.testing.assert_allclose(controls.multiplier, schedule(count), atol=1e-7)  # of 1, float32
    plain, modulated = (Scheduler(SchedulerConfig(network=LSTM(3), prior=one)) for one in (Constant(1.0), prior))
    theta = plain.init(jax.random.key(2))
    made = [one.step(theta, one.init_state(theta), at(14, 2.0, 50))[0].multiplier for one in (plain, modulated)]
    np.testing.assert_allclose(made[1], made[0] * schedule(14), rtol=1e-6)


@pytest.mark.parametrize("name", ["celo", "celo_adam"])
def test_a_prior_alone_schedules_an_optimizer(name):
    """Files of weights hold arrays only, so that a scheduler without meta-parameters is missing from what they give."""
    registered = get_architecture(name)
    prior = SchedulerConfig(inputs=(), network=None, prior=Constant(0.25))
    architecture = dataclasses.replace(registered, config=dataclasses.replace(registered.config, scheduler=prior))
    unit = SchedulerConfig(inputs=(), network=None, prior=Constant(1.0))
    theta = architecture.init(jax.random.key(0))
    assert theta.get("scheduler", {}) == {}
    from_file = {part: leaves for part, leaves in theta.items() if part != "scheduler"}
    params = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}
    steps = []
    for config, given in ((prior, theta), (prior, from_file), (unit, theta)):
        whole = dataclasses.replace(registered, config=dataclasses.replace(registered.config, scheduler=config))
        optimizer = whole.build(given, 10)
        steps.append(optimizer.update(params, optimizer.init(params), params)[0]["w"])
    np.testing.assert_array_equal(steps[0], steps[1])
    np.testing.assert_allclose(steps[0], 0.25 * steps[2], rtol=1e-6)  # float32


def test_height_of_a_prior_follows_the_length_of_training():
    """Against the power law, within the shortest and longest lengths."""
    prior = Cosine(peak=2.0, exponent=0.7, shortest=500, longest=20_000)
    for steps, counted in ((10, 500), (500, 500), (1000, 1000), (4000, 4000), (10**6, 20_000)):
        np.testing.assert_allclose(prior.height(steps), 2.0 * (counted / 1000) ** -0.7, rtol=1e-6)
    assert Cosine(peak=2.0).height(7) == Cosine(peak=2.0).height(10**9) == 2.0


@pytest.mark.parametrize("network", [Linear(), LSTM()], ids=["linear", "lstm"])
@pytest.mark.parametrize("prior", [Constant(), Cosine(3.0)], ids=["constant", "cosine"])
def test_random_scheduler_starts_near_one(network, prior):
    scheduler = Scheduler(SchedulerConfig(network=network, prior=prior))
    theta = scheduler.init(jax.random.key(3))
    controls, _ = scheduler.step(theta, scheduler.init_state(theta), at(0, 2.0, 1000))
    assert 0.5 < controls.multiplier < 2.0


def test_the_loss_is_read_where_it_can_matter():
    linear = Scheduler(SchedulerConfig(inputs=(Time(), Loss(), Horizon()), network=Linear()))
    kernel = np.zeros((19, 1), np.float32)
    of = lambda rows: {"step_size": {"kernel": np.where(np.isin(np.arange(19), rows)[:, None], 1.0, kernel)}}
    assert not linear.reads_loss(of([])) and not linear.reads_loss(of([0, 8, 18]))
    assert linear.reads_loss(of([9])) and linear.reads_loss(of([17]))
    assert Scheduler(SchedulerConfig()).reads_loss({})
    assert not Scheduler(SchedulerConfig(inputs=(Time(), Horizon()))).reads_loss({})
    assert not Scheduler(SchedulerConfig(inputs=(), network=None)).reads_loss({})


@pytest.mark.parametrize("architecture", [Celo, CeloAdam])
def test_statistics_reach_the_scheduler(architecture):
    """The alignment of the gradient with the momentum: 0 at first, 1 for a constant gradient, -1 for one that flips its sign."""
    scheduler = SchedulerConfig(inputs=(GradientAlignment(),), network=Linear(), prior=Constant(1.0))
    learned = architecture(dataclasses.replace(architecture().config, scheduler=scheduler))
    theta = learned.init(jax.random.key(0))
    theta["scheduler"]["step_size"] = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    still = {**theta, "scheduler": jax.tree.map(jnp.zeros_like, theta["scheduler"])}
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3), "frozen": jnp.ones(2)}
    updates = []
    for one in (theta, still):
        tx = learned.build(one, 100)
        state, made = tx.init(params), []
        for sign in (1.0, 1.0, -1.0):
            grads = {"w": sign * jnp.arange(12.0).reshape(4, 3), "b": -sign * jnp.arange(3.0), "frozen": None}
            update, state = tx.update(grads, state, params, value=jnp.float32(1.0))
            made.append(update["w"][1, 1])
        updates.append(np.array(made))
    np.testing.assert_allclose(np.log(updates[0] / updates[1]), [0.0, 1.0, -1.0], atol=1e-5)  # float32


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_gradient_alignment_is_a_cosine_whatever_the_scale(scale):
    g, m = np.random.default_rng(0).normal(size=(2, 50))
    observed = Observed(
        [jnp.float32(scale * g[:20]), jnp.float32(scale * g[20:])], [jnp.float32(m[:20]), jnp.float32(m[20:])]
    )
    np.testing.assert_allclose(gradient_alignment(observed), g @ m / np.linalg.norm(g) / np.linalg.norm(m), rtol=1e-5)
    assert gradient_alignment(Observed([jnp.zeros(3)], [jnp.ones(3)])) == 0 == gradient_alignment(Observed([], []))


def averages_after(gradients, decays=(0.9, 0.99, 0.999), second=0.999, units=(1.0,)):
    """Moments of gradients (steps, size), of one tensor for each of ``units`` by which they are multiplied."""
    momenta, v = np.zeros((len(decays), gradients.shape[1])), np.zeros(gradients.shape[1])
    for g in gradients:
        momenta = np.stack([b * m + (1 - b) * g for b, m in zip(decays, momenta, strict=True)])
        v = second * v + (1 - second) * g**2
    of = lambda x, power: [jnp.float32(unit**power * x) for unit in units]
    return Averages([of(m, 1) for m in momenta], of(v, 2), decays, second, jnp.int32(len(gradients)))


def told(averages):
    return np.asarray(signal_to_noise(Observed([], [], averages)))


@pytest.mark.parametrize("steps", [5, 60, 400])
def test_signal_to_noise_is_zero_for_noise_and_known_for_equal_gradients(steps):
    rng = np.random.default_rng(0)
    noise = told(averages_after(rng.standard_normal((steps, 20_000))))
    np.testing.assert_allclose(noise, 0.0, atol=0.03)  # 20,000 entries: a relative error of 1 % of the energy
    equal = told(averages_after(np.broadcast_to(rng.standard_normal(50), (steps, 50))))
    b = np.array([0.9, 0.99, 0.999])
    expected = 0.5 * np.log((1 - b**steps) ** 2 * (1 + b) / (1 - b) / (1 - b ** (2 * steps)))
    np.testing.assert_allclose(equal, expected, atol=2e-3)


def test_signal_to_noise_is_negative_where_gradients_alternate():
    signs = np.where(np.arange(100) % 2 == 0, 1.0, -1.0)[:, None]
    assert np.all(told(averages_after(signs * np.ones((1, 30))))[:2] < -0.5)


def test_signal_to_noise_does_not_depend_on_units_and_is_zero_where_nothing_is_known():
    gradients = np.random.default_rng(1).standard_normal((30, 40)) + 0.2
    np.testing.assert_allclose(
        told(averages_after(gradients, units=(1e-12, 1.0, 1e12))), told(averages_after(gradients)), atol=1e-4
    )
    for few in (gradients[:0], gradients[:1], 0 * gradients):
        assert np.all(told(averages_after(few)) == 0)


@pytest.mark.parametrize(("architecture", "momenta"), [("celo", 3), ("celo_adam", 1)])
def test_a_scheduler_reads_the_signal_to_noise_of_the_moments_that_there_are(architecture, momenta):
    scheduler = SchedulerConfig(inputs=(SignalToNoise(momenta),), network=Linear())
    made = get_architecture(architecture)
    made = dataclasses.replace(made, config=dataclasses.replace(made.config, scheduler=scheduler))
    theta = made.init(jax.random.key(0))
    kernel = theta["scheduler"]["step_size"]["kernel"]
    params = {"w": jnp.ones((4, 3)), "frozen": jnp.ones(2)}

    def sizes(weight):
        tx = made.build(
            {**theta, "scheduler": {"step_size": {"kernel": 0 * kernel + weight, "bias": jnp.zeros(1)}}}, 100
        )
        state, found = tx.init(params), []
        for _ in range(4):
            steps, state = tx.update({"w": jnp.ones((4, 3)), "frozen": None}, state, params, value=jnp.float32(1.0))
            found.append(float(jnp.linalg.norm(steps["w"])))
        return np.array(found)

    with_it, without = sizes(1.0), sizes(0.0)
    np.testing.assert_allclose(with_it[:2], without[:2], rtol=1e-5)
    b = np.array([0.9, 0.99, 0.999])[:momenta] if architecture == "celo" else np.array([made.config.b1])
    equal = lambda k: np.sum(0.5 * np.log((1 - b**k) ** 2 * (1 + b) / (1 - b) / (1 - b ** (2 * k))))
    np.testing.assert_allclose(np.log(with_it[2:] / without[2:]), [equal(2), equal(3)], rtol=2e-3)


def test_another_number_of_momenta_is_refused_in_a_sentence():
    part = SignalToNoise(2)
    with pytest.raises(ValueError, match="signal_to_noise: momenta is 2, but the optimizer keeps 3"):
        part.update(None, Signal(0, 1.0, 100.0, None, {"signal_to_noise": jnp.zeros(3)}))


def test_time_features():
    np.testing.assert_allclose(time_features(jnp.float32(0.4))[3], 0.0, atol=1e-6)
    np.testing.assert_allclose(time_features(jnp.float32(0.2))[0], np.tanh(1.7), rtol=1e-6)
    assert time_features(jnp.float32(0.0)).shape == (9,)


def test_horizon_feature():
    found = [horizon_feature(steps).item() for steps in (1, 1000, 10_000, 10**9)]
    np.testing.assert_allclose(found, [-3.0, np.log(1000) - 7, np.log(10_000) - 7, 3.0], atol=2e-6)  # float32 near 7
    assert horizon_feature(300, 700) == horizon_feature(700) and horizon_feature(800, 700) == horizon_feature(800)


def test_only_a_scheduler_with_horizon_tells_lengths_apart():
    """Three trainings at the same fraction of their planned lengths, at the first step, before any loss."""

    def multipliers(*more):
        scheduler = Scheduler(SchedulerConfig(inputs=(Time(), Loss(), *more), network=LSTM(4)))
        theta = scheduler.init(jax.random.key(0))
        theta["step_size"]["kernel"] += 1.0
        step = lambda length: scheduler.step(theta, scheduler.init_state(theta), at(0, 1.0, length))[0].multiplier
        return step(100), step(200), step(10_000)

    assert len({float(x) for x in multipliers()}) == 1
    shortest, short, long = multipliers(Horizon())
    assert abs(shortest - short) > 1e-3 and abs(short - long) > 1e-3
    shortest, short, long = multipliers(Horizon(shortest=200))
    assert shortest == short and abs(short - long) > 1e-3
    with pytest.raises(ValueError, match="shortest must be at least 1, not 0"):
        Horizon(shortest=0)


def test_half_lives():
    """From 10 to num_steps, in equal ratios."""
    half_lives = 1 / np.asarray(loss_rates(jnp.float32(10_000), 10), np.float64)
    np.testing.assert_allclose(half_lives, np.logspace(1, 4, 10), rtol=1e-5)  # float32 powers


def run_losses(losses, num_steps=100.0):
    buffer, features = init_loss_buffer(10), []
    for value in losses:
        buffer, made = buffer_step(buffer, jnp.float32(value), jnp.float32(num_steps))
        features.append(np.asarray(made))
    return buffer, np.array(features)


def test_constant_loss():
    """All corrected means and minima equal the loss; features are zero for two steps and bounded."""
    buffer, features = run_losses([2.0] * 5)
    np.testing.assert_allclose(buffer.running_min, 2.0, rtol=1e-6)
    assert np.all(features[:2] == 0)
    assert np.all(np.abs(features) <= 1)


def test_decreasing_and_increasing_loss_differ():
    _, down = run_losses(np.linspace(5, 1, 20))
    _, up = run_losses(np.linspace(1, 5, 20))
    assert np.all(down[-1] == -1.0)  # every mean is at its minimum
    assert np.all(up[-1] > -1.0)


def test_spike_is_limited():
    """A loss counts as at most twice the largest mean, taken with the next step's correction."""
    steady, _ = run_losses([1.0] * 10)
    spiked, _ = run_losses([1.0] * 10 + [1e6])
    decay = np.exp(-np.asarray(loss_rates(jnp.float32(100.0), 10), np.float64))
    limit = 2 * np.max(np.asarray(steady.means, np.float64) / (1 - decay**11))
    expected = decay * np.asarray(steady.means, np.float64) + (1 - decay) * limit
    np.testing.assert_allclose(spiked.means, expected, rtol=1e-5)  # float32
    assert 1.5 < limit <= 2.0


def test_first_loss_is_not_limited():
    buffer, _ = run_losses([1e6])
    np.testing.assert_allclose(buffer.running_min, 1e6, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_first_loss_is_left_out(bad):
    left_out, _ = run_losses([bad])
    assert left_out.count == 0
    with_bad, _ = run_losses([bad, 3.0, 2.0])
    without, _ = run_losses([3.0, 2.0])
    jax.tree.map(np.testing.assert_array_equal, with_bad, without)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_later_loss_counts_as_the_limit(bad):
    with_bad, _ = run_losses([3.0, 2.0, bad])
    with_huge, _ = run_losses([3.0, 2.0, 1e20])
    jax.tree.map(np.testing.assert_array_equal, with_bad, with_huge)
