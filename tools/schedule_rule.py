"""What schedule_learning.py may learn of an update rule besides a scheduler for it."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import celo_zoo
from celo_core import CeloConfig
from celo_core import features as features_lib
from celo_core.accumulators import Moments
from celo_core.directions import MLP
from celo_core.meta_training import checkpoints

RULE: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "adam": ("adam", "kernel", (0.5, 0.5, 0.5)),
    "length": ("orthogonal", "length", (2.0, 1.0)),
    "momentum": ("orthogonal", "momentum", (0.5, 0.5, 0.5, 0.5)),
}
"""Entries of the update rule that --rule learns: direction, name and by how much they change for a 1 in what is learned. The tenth
number is the logarithm of a factor on the network's direction."""
NETWORK = 0.2
"""By how much a number of the update rule's network changes for a 1 in what --network learns."""


def changes_of(rule: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Zeros for what --rule or --network learns: the update rule as it is."""
    if options.network:
        return {"mlp": jax.tree.map(np.zeros_like, rule["mlp"])}
    if not options.rule:
        return {}
    found = {name: np.zeros(len(units)) for name, (part, _, units) in RULE.items() if part in rule}
    return {**found, "network": np.zeros(())}


def changed_rule(rule: Any, changes: dict[str, Any]) -> Any:
    """The update rule with what --rule or --network has learned; as it is where that is empty."""
    if "mlp" in changes:
        return {**rule, "mlp": jax.tree.map(lambda x, change: x + NETWORK * change, rule["mlp"], changes["mlp"])}
    for name in changes.keys() & RULE:
        part, entry, units = RULE[name]
        old = rule[part][entry]
        new = old + (jnp.asarray(units, jnp.float32) * changes[name]).reshape(old.shape)
        rule = {**rule, part: {**rule[part], entry: new}}
    if "network" in changes:
        factors = jnp.stack([jnp.exp(changes["network"]), jnp.ones(())])  # the second output is a logarithm
        output = jax.tree.map(lambda x: x * factors, rule["mlp"]["output"])
        rule = {**rule, "mlp": {**rule["mlp"], "output": output}}
    return rule


class Rule(NamedTuple):
    """What is read of weights: theta and config."""

    theta: Any
    config: CeloConfig


HAND_SET = "adam_network"
"""In place of weights: the paper's network, set by hand."""

BLEND = {
    ("momentum_over_rms", 0): 0.35,
    ("gradient_over_rms", 0): 0.15,
    ("factored_momentum", 0): 0.35,
    ("factored_gradient", 2): 0.15,
}
"""What `adam_network` adds up: features and which decay, with weights."""


def adam_network(length: float = 10.0) -> dict[str, Any]:
    """Weights of the paper's network whose output is linear in its inputs, steps as those of Adam with Nesterov's momentum.

    Half of them are over the root of the full second moment and half over that of the factored one. A hidden unit and its opposite
    pass a number through a ReLU; the other two units have outputs of 0, for what is to be learned.

    Args:
      length: of a step of one unit's input, in thousandths of a tensor's root mean square.
    """
    features, decays = MLP().features, len(Moments().momentum_decays)
    first = {name: features_lib.num_features(features[: features.index(name)], decays) for name in features}
    gain = length ** (1 / 3)  # of each layer, so that perturbations of one size suit all
    inputs = np.zeros((MLP().num_features(Moments()), 4), np.float32)
    for (name, decay), weight in BLEND.items():
        inputs[first[name] + decay, :2] = weight, -weight
    output = np.zeros((4, 2), np.float32)
    output[:2, 0] = 1.0, -1.0
    layer = lambda kernel: {"kernel": gain * kernel, "bias": np.zeros(kernel.shape[1], np.float32)}
    return {"hidden_0": layer(inputs), "hidden_1": layer(np.eye(4, dtype=np.float32)), "output": layer(output)}


def load_rule(reference: str) -> Any:
    """Weights by name or folder; or the update rule in a theta.npz, or `HAND_SET`, as one of the paper's Celo."""
    if reference == HAND_SET:
        return Rule({"update_rule": {"mlp": adam_network()}}, CeloConfig())
    if not reference.endswith(".npz"):
        return celo_zoo.load(reference)
    return Rule({"update_rule": {"mlp": checkpoints.load_theta(Path(reference))["update_rule"]["mlp"]}}, CeloConfig())
