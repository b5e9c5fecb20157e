"""Celo and Celo-Adam against vectors of the reference implementation with its published weights.

Both sides are float32. Two builds of the reference differ by up to 3e-6 of a tensor's movement (1.5e-5 for the vectors with
gradients of 1e-20 to 1e4), 5e-6 in the multiplier, and 1e-4 in the loss features, where running means and their minimum
nearly cancel. The tolerances here are about 10 times as large.
"""

import functools
import unittest.mock

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo_core import CeloConfig, celo, celo_adam
from celo_core.kernels import reductions
from celo_core.schedulers.loss_features import init_loss_buffer, update_loss_buffer

# Largest error of a parameter over the largest movement of its tensor.
TOLERANCES = {
    "celo_phase1_official": 3e-5,
    "celo_phase2_official": 3e-5,
    "celo_phase2_overrun": 3e-5,
    "celo_phase2_edge": 1e-4,
    "celo_adam_official": 5e-5,
}
names = pytest.mark.parametrize("name", TOLERANCES)
modes = pytest.mark.parametrize("mode", ["one CPU", "many devices"])


@functools.cache
def jitted_update(kind, mode):
    """One compiled update per architecture, config and code path, with theta and num_steps as arguments."""
    config = CeloConfig() if kind == "phase2" else CeloConfig(scheduler=None)
    build = celo_adam if kind == "adam" else functools.partial(celo, config=config)
    update = lambda theta, num_steps, g, s, p, value: build(theta, num_steps).update(g, s, p, value=value)
    return build, jax.jit(update)


@functools.cache
def replay(path, mode="many devices"):
    """The vectors, and our parameters and states after every step."""
    with np.load(path) as file:
        data = dict(file)
    kind = path.stem.split("_")[1]
    theta = golden.theta_from_reference(data, rule=kind != "adam", scheduler=kind != "phase1")
    build, update = jitted_update(kind, mode)
    params, steps = golden.trajectory(data)
    params = jax.tree.map(jnp.asarray, params)
    num_steps = jnp.asarray(data["num_steps"])
    state, trajectory, states = build(theta, num_steps).init(params), [], []
    for grads, loss in steps:
        with unittest.mock.patch.object(reductions, "on_one_cpu", lambda: mode == "one CPU"):
            updates, state = update(theta, num_steps, grads, state, params, loss)
        params = optax.apply_updates(params, updates)
        trajectory.append(jax.device_get(params))
        states.append(jax.device_get(state))
    return data, trajectory, states


@names
@modes
def test_parameters(golden_dir, name, mode):
    data, trajectory, _ = replay(golden_dir / f"{name}.npz", mode)
    errors = {}
    for leaf in golden.LEAVES:
        wanted = data[f"params/{leaf}"]
        movement = np.abs(wanted - data[f"init/{leaf}"]).max()
        errors[leaf] = np.abs(np.stack([p[leaf] for p in trajectory]) - wanted).max() / movement
    assert max(errors.values()) < TOLERANCES[name], f"{name}: error over movement, per tensor: {errors}"


def moments_of(state, leaf, celo_state):
    """Our accumulators of one tensor under the reference's names."""
    if not celo_state:
        return {
            "mom_rolling/m": state.momentum[leaf][..., None],
            "rms_rolling/rms": state.second_moment[leaf][..., None],
        }
    stack = lambda trees: np.stack([tree[leaf] for tree in trees], axis=-1)
    moments = {"mom_rolling/m": stack(state.momentum), "rms_rolling/rms": state.second_moment[leaf][..., None]}
    if state.factored.column[0][leaf] is None:
        return {**moments, "fac_rolling/v_diag": stack(state.factored.row)}
    return {
        **moments,
        "fac_rolling/v_row": stack(state.factored.row),
        "fac_rolling/v_col": stack(state.factored.column),
    }


@names
@modes
def test_states(golden_dir, name, mode):
    data, _, states = replay(golden_dir / f"{name}.npz", mode)
    recorded = sorted({int(key.split("/")[1].removeprefix("step")) for key in data if key.startswith("state/")})
    assert recorded
    for step in recorded:
        state, prefix = states[step - 1], f"state/step{step}"
        for leaf in golden.LEAVES:
            for kind, ours in moments_of(state, leaf, "adam" not in name).items():
                wanted = data[f"{prefix}/{kind}/{leaf}"]
                # Sums of products of float32; the tolerance is relative to the tensor's largest entry, since entries may cancel.
                np.testing.assert_allclose(
                    ours,
                    wanted,
                    rtol=1e-5,
                    atol=1e-5 * np.abs(wanted).max(),
                    err_msg=f"{name} {kind} {leaf} step {step}",
                )
        assert state.count == data[f"{prefix}/iteration"] == step
        if state.scheduler is None:
            continue
        losses = state.scheduler.inputs[1]
        assert losses.count == step
        pairs = {
            "lstm_hidden_state/hidden": (state.scheduler.network.hidden, data[f"{prefix}/lstm_hidden_state/hidden"][0]),
            "lstm_hidden_state/cell": (state.scheduler.network.cell, data[f"{prefix}/lstm_hidden_state/cell"][0]),
            "loss_buffer/means": (losses.means, data[f"{prefix}/loss_buffer/means"]),
            "loss_buffer/running_min": (losses.running_min, data[f"{prefix}/loss_buffer/running_min"]),
        }
        for kind, (ours, wanted) in pairs.items():
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4 * scale, err_msg=f"{name} {kind} step {step}")


@pytest.mark.parametrize("name", [name for name in TOLERANCES if "phase1" not in name])
def test_multiplier_and_loss_features(golden_dir, name):
    data, _, states = replay(golden_dir / f"{name}.npz")
    assert (
        np.ptp(data["sched/lr_mult"], axis=1) <= 1e-6 * data["sched/lr_mult"].max(axis=1)
    ).all()  # one for all tensors
    kernel, bias = data["theta/rnn_params/step_size/w"], data["theta/rnn_params/step_size/b"]
    hidden = np.stack([state.scheduler.network.hidden for state in states]).astype(np.float64)
    multipliers = 0.1 * np.exp(hidden @ kernel + bias)[:, 0]
    error = np.abs(multipliers / data["sched/lr_mult"][:, 0] - 1).max()
    assert error < 5e-5, f"{name}: worst relative error of the multiplier {error}"
    features = np.stack([f for _, f in replay_losses(data["loss"], data["num_steps"])])
    error = np.abs(features - data["sched/loss_features"]).max()
    assert error < 5e-4, f"{name}: worst error of a loss feature {error}"


def replay_losses(losses, num_steps):
    """Buffer and features after each loss."""
    buffer = init_loss_buffer(10)
    step = jax.jit(update_loss_buffer)
    result = []
    for value in losses:
        buffer, features = step(buffer, value, jnp.float32(num_steps))
        result.append(jax.device_get((buffer, features)))
    return result


def test_loss_buffer(golden_dir):
    """A long run with a spike and a negative loss."""
    data = dict(np.load(golden_dir / "loss_buffer.npz"))
    result = replay_losses(data["loss"], data["num_steps"])
    stack = lambda get: np.stack([get(buffer) for buffer, _ in result])
    np.testing.assert_allclose(stack(lambda b: b.means), data["means"], rtol=2e-4)
    # The reference computes 1 - decay^t in float32, which for the longest half-life has four digits at the first losses.
    np.testing.assert_allclose(stack(lambda b: b.running_min), data["running_min"], rtol=2e-4)
    features = np.stack([features for _, features in result])
    assert np.all(features[:2] == 0.0)
    error = np.abs(features[2:] - data["features"][2:]).max()
    assert error < 5e-4, f"worst error of a loss feature {error}"
