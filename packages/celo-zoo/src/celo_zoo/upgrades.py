"""Upgrades of weights in older formats: for each version a function to the next one, of document and theta together.

Format 3 has configs that are composed of parts, each tagged by its type. Format 2 had flags, and stored fixed schedules in the
weights of a linear scheduler that read nothing else: these are priors now, without meta-parameters.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Document = dict[str, Any]
Leaves = dict[str, Any]
"""Arrays of theta by slash path."""

_NUM_TIMES = 9
"""Time features, the first inputs of a scheduler."""


def _from_1(document: Document, leaves: Leaves) -> tuple[Document, Leaves]:
    return {**document, "requires": {}, "evaluation": [], "repository": None}, leaves


def _from_2(document: Document, leaves: Leaves) -> tuple[Document, Leaves]:
    architecture, config = document.get("architecture"), document.get("config")
    if architecture not in _CONFIGS_OF_2 or not isinstance(config, Mapping):
        return document, leaves  # not format 2: reading it reports the error
    config, leaves = upgrade_config(str(architecture), config, leaves)
    return {**document, "config": config}, leaves


UPGRADES: Mapping[int, Callable[[Document, Leaves], tuple[Document, Leaves]]] = {1: _from_1, 2: _from_2}
"""Version -> function to the next version."""


def upgrade_config(architecture: str, config: Mapping[str, Any], leaves: Leaves) -> tuple[dict[str, Any], Leaves]:
    """Config and theta of format 2, of "celo" or "celo_adam", in format 3.

    Raises:
      ValueError: the config has a field that format 2 does not have, or a value of another type.
    """
    given = _checked(config, _CONFIGS_OF_2[architecture], "the config")
    scheduler, leaves = _upgrade_scheduler(given.pop("scheduler"), leaves)
    if architecture == "celo_adam":
        return {**given, "scheduler": scheduler}, leaves
    names = ("features", "hidden_sizes", "magnitude_scale")
    directions: list[dict[str, Any]] = [{"type": "mlp", **{name: given[name] for name in names}}]
    directions += [{"type": name} for name in ("adam", "orthogonal") if given[name]]
    moments = ("momentum_decays", "second_moment_decay", "factored_decays", "gradient_clip")
    layer = lambda path: path.split("/")[1] in ("adam", "orthogonal")
    moved = {
        path.replace("update_rule/", "update_rule/mlp/", 1)
        if path.startswith("update_rule/") and not layer(path)
        else path: leaf
        for path, leaf in leaves.items()
    }
    return {
        "moments": {name: given[name] for name in moments},
        "directions": directions,
        "scale": {"zero_init": given["zero_init_scale"]},
        "step_scale": given["step_scale"],
        "scheduler": scheduler,
    }, moved


_SCHEDULER_OF_2: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_timescales": 10,
    "multiplier": 0.1,
    "task_embedding": False,
    "horizon": False,
    "shortest_horizon": 1,
    "decay": "constant",
}
_CELO_OF_2: Mapping[str, Any] = {
    "features": [
        *("gradient", "clipped_gradient", "parameter", "momentum", "second_moment", "momentum_over_rms", "inverse_rms"),
        *("factored_gradient", "gradient_over_rms", "row", "column", "inverse_root_row", "inverse_root_column"),
        "factored_momentum",
    ],
    "hidden_sizes": [4, 4],
    "momentum_decays": [0.9, 0.99, 0.999],
    "second_moment_decay": 0.999,
    "factored_decays": [0.9, 0.99, 0.999],
    "gradient_clip": 1000.0,
    "step_scale": 1e-3,
    "magnitude_scale": 1e-3,
    "scheduler": {},
    "zero_init_scale": 0.0,
    "adam": False,
    "orthogonal": False,
}
_CELO_ADAM_OF_2: Mapping[str, Any] = {
    **{"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-10, "gradient_clip": 1000.0, "step_scale": 1e-3},
    "scheduler": {},
}
_CONFIGS_OF_2: Mapping[str, Mapping[str, Any]] = {"celo": _CELO_OF_2, "celo_adam": _CELO_ADAM_OF_2}
"""By architecture, the fields of configs and their defaults, which may be left out."""


def _checked(value: Mapping[str, Any], known: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Fields, completed by their defaults, with types that the rest of this module expects."""
    if unknown := sorted(set(map(str, value)) - set(known)):
        raise ValueError(f"{what} has no field {unknown[0]!r} in this format")
    for name, found in value.items():
        kind = type(known[name])
        kinds = (int, float) if kind is float else (Mapping, type(None)) if kind is dict else kind
        if not isinstance(found, kinds) or (isinstance(found, bool) and kind is not bool):
            raise ValueError(f"{name} must be of type {kind.__name__}, not {found!r}")
    return {**known, **value}


def _upgrade_scheduler(config: Any, leaves: Leaves) -> tuple[Any, Leaves]:
    if config is None:
        return None, leaves
    given = _checked(config, _SCHEDULER_OF_2, "the scheduler")
    size, timescales = given["hidden_size"], given["num_timescales"]
    inputs: list[dict[str, Any]] = [{"type": "time"}, {"type": "loss", "num_timescales": timescales}]
    inputs += [{"type": "horizon", "shortest": given["shortest_horizon"]}] * given["horizon"]
    inputs += [{"type": "task_embedding"}] * given["task_embedding"]
    moved = {path.replace("scheduler/network/", "scheduler/"): leaf for path, leaf in leaves.items()}
    prior: dict[str, Any] = {"type": "constant", "value": given["multiplier"]}
    if given["decay"] != "constant":
        kinds = {"linear": "linear_decay", "cosine": "cosine"}
        if given["decay"] not in kinds:
            raise ValueError(f"the scheduler's decay must be constant, linear or cosine, not {given['decay']!r}")
        prior = {"type": kinds[given["decay"]], "peak": given["multiplier"]}
    if size:
        return {"inputs": inputs, "network": {"type": "lstm", "size": size}, "prior": prior}, moved
    moved = {path: leaf for path, leaf in moved.items() if path not in _WITHOUT_AN_LSTM}
    horizon = _NUM_TIMES + timescales - 1 if given["horizon"] else None
    by_hand = _by_hand(prior, moved, horizon, given["shortest_horizon"])
    if by_hand is None:
        return {"inputs": inputs, "network": {"type": "linear"}, "prior": prior}, moved
    kept = {path: leaf for path, leaf in moved.items() if not path.startswith("scheduler/")}
    return {"inputs": [], "network": None, "prior": by_hand}, kept


_WITHOUT_AN_LSTM = ("scheduler/initial_hidden", "scheduler/initial_cell")
"""Arrays without elements."""


def _by_hand(prior: dict[str, Any], leaves: Leaves, horizon: int | None, shortest: int) -> dict[str, Any] | None:
    """The prior for a decay and a linear scheduler that reads only the length of training, else ``None``."""
    kernel, bias = (leaves.get(f"scheduler/step_size/{name}") for name in ("kernel", "bias"))
    if prior["type"] == "constant" or kernel is None or bias is None or np.shape(bias) != (1,) or np.ndim(kernel) != 2:
        return None
    weights = np.asarray(kernel, np.float64)[:, 0]
    if np.any(np.delete(weights, [] if horizon is None else [min(horizon, len(weights) - 1)]) != 0):
        return None
    slope = 0.0 if horizon is None else float(weights[min(horizon, len(weights) - 1)])
    # The horizon's feature is log(steps) - 7, within plus or minus 3.
    peak = prior["peak"] * math.exp(float(np.asarray(bias, np.float64)[0]) + slope * (math.log(1000.0) - 7.0))
    rounded = lambda x: float(f"{x:.6g}")  # the digits that float32 keeps of numbers given with fewer
    return {
        "type": prior["type"],
        "peak": rounded(peak),
        "exponent": rounded(-slope) + 0.0,
        "shortest": float(max(shortest, math.exp(4.0))) if slope else 1.0,
        "longest": math.exp(10.0),
    }
