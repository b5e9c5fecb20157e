"""Pretrained optimizers by name, from whatever packages are installed.

A package offers one through the entry-point group ``celo.optimizers``: its name there, and a callable
``(num_steps) -> optax.GradientTransformationExtraArgs``. Nothing of those packages is imported before it is asked for.
"""

import importlib.metadata
from collections.abc import Callable

import optax

GROUP = "celo.optimizers"

PretrainedOptimizer = Callable[[int], optax.GradientTransformationExtraArgs]
"""Builds the optimizer for a training of so many steps."""


def pretrained_names() -> tuple[str, ...]:
    """Names of the pretrained optimizers that installed packages offer, sorted."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)}))


def load_pretrained(name: str) -> PretrainedOptimizer:
    """Finds a pretrained optimizer.

    Args:
      name: its name in the entry-point group, e.g. ``"celo"``.

    Returns:
      ``(num_steps) -> optax.GradientTransformationExtraArgs``.

    Raises:
      ValueError: no installed package offers it, two offer different ones, or it cannot be imported.
    """
    points = importlib.metadata.entry_points(group=GROUP, name=name)
    targets = sorted({point.value for point in points})
    if not targets:
        raise ValueError(
            f"there is no optimizer {name!r}: the baselines adam and adamw are built in, and installed packages offer "
            f"{', '.join(pretrained_names()) or 'none'}; `pip install celo-zoo` brings the pretrained Celo."
        )
    if len(targets) > 1:
        raise ValueError(f"several packages offer an optimizer {name!r} ({', '.join(targets)}): uninstall all but one.")
    try:
        return next(iter(points)).load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the optimizer {name!r} cannot be imported from {targets[0]} ({error}): reinstall its package."
        ) from error
