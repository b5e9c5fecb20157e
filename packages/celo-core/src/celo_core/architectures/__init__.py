"""Learned optimizers, one file each, and the registry that finds them by name.

A new architecture is one file here and one line in `ARCHITECTURES`, or a class in another package and an entry point. The
conformance suite is run on all architectures here.
"""

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from celo_core import configs
from celo_core.checks import nearest
from celo_core.protocols import LearnedOptimizer

ARCHITECTURES: dict[str, str] = {
    "celo": "celo_core.architectures.celo:Celo",
    "celo_adam": "celo_core.architectures.celo_adam:CeloAdam",
    "momentum_sgd": "celo_core.architectures.momentum_sgd:MomentumSGD",
}
"""Name -> "module:class", imported on first use."""


GROUP = "celo.architectures"
"""Entry-point group in which other packages name theirs, as ``name = "module:class"``."""


def architecture_names() -> list[str]:
    """Names of all learned optimizers, those of other packages included, sorted."""
    return sorted({*ARCHITECTURES, *(point.name for point in importlib.metadata.entry_points(group=GROUP))})


def architecture_class(name: str) -> Any:
    """The class of the learned optimizer ``name``.

    Raises:
      ValueError: the name is unknown, or its module cannot be imported.
    """
    where = ARCHITECTURES.get(name)
    if where is None:
        points = importlib.metadata.entry_points(group=GROUP, name=name)
        where = next((point.value for point in points), None)
    if where is None:
        known = architecture_names()
        raise ValueError(f"unknown architecture {name!r}{nearest(name, known)}: choose from {', '.join(known)}.")
    module, attribute = where.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the architecture {name!r} cannot be imported from {where} ({error}): reinstall it."
        ) from error


def get_architecture(name: str, config: Any | Mapping[str, Any] | None = None) -> LearnedOptimizer:
    """The learned optimizer ``name``.

    Args:
      name: a key of `ARCHITECTURES`, or in the entry-point group `GROUP`.
      config: its config dataclass, or the JSON form of one, or ``None`` for the defaults.

    Raises:
      ValueError: unknown name, or a config that does not fit.
    """
    architecture = architecture_class(name)
    if config is None:
        return architecture()
    if isinstance(config, Mapping):
        config = configs.from_json(architecture().config_class, config)
    return architecture(config)
