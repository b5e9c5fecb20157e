"""Learned optimizers, one file each, and the registry that finds them by name.

A new architecture is one file beside these and one line in `ARCHITECTURES`; the conformance suite picks it up from there.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from celo_core import configs
from celo_core.protocols import LearnedOptimizer

ARCHITECTURES: dict[str, str] = {
    "celo": "celo_core.architectures.celo:Celo",
    "celo_adam": "celo_core.architectures.celo_adam:CeloAdam",
}
"""Name -> "module:class", imported when asked for."""


def get_architecture(name: str, config: Any | Mapping[str, Any] | None = None) -> LearnedOptimizer:
    """The learned optimizer ``name``.

    Args:
      name: a key of `ARCHITECTURES`.
      config: its config dataclass, or the JSON form of one, or ``None`` for the defaults.

    Raises:
      ValueError: unknown name, or a config that does not fit.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}: choose from {', '.join(sorted(ARCHITECTURES))}.")
    module, attribute = ARCHITECTURES[name].split(":")
    architecture = getattr(importlib.import_module(module), attribute)
    if config is None:
        return architecture()
    if isinstance(config, Mapping):
        config = configs.from_json(architecture.config_class, config)
    return architecture(config)
