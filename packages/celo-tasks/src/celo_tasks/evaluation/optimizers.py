"""Pretrained optimizers by name, from whatever packages are installed.

A package offers one through the entry-point group ``celo.optimizers``: its name there, and a callable
``(num_steps) -> optax.GradientTransformationExtraArgs``, with a string ``fingerprint`` if it wants its results to be told
from those of other weights. Nothing of those packages is imported before it is asked for.
"""

import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Callable

import optax

from celo_core import get_architecture
from celo_core.meta_training import checkpoints
from celo_tasks.spelling import nearest

GROUP = "celo.optimizers"
WEIGHTS_GROUP = "celo.weights"
"""Entry-point group of callables ``(path) -> PretrainedOptimizer`` that read weights from a folder."""

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
        meant = nearest(name, ("adam", "adamw", *pretrained_names()))
        raise ValueError(
            f"there is no optimizer {name!r}{meant}: the baselines adam and adamw are built in, and installed packages offer "
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


def load_weights(path: str | os.PathLike[str]) -> PretrainedOptimizer:
    """Meta-trained weights as an optimizer.

    Args:
      path: the folder of a finished ``celo-tasks meta-train`` run or its ``theta.npz``; or a folder that a package offers
        to read through the entry-point group ``celo.weights`` (celo-zoo reads those that it wrote).

    Returns:
      ``(num_steps) -> optax.GradientTransformationExtraArgs``, with a string ``fingerprint``.

    Raises:
      ValueError: there is nothing that can be read; one sentence.
    """
    path = pathlib.Path(path)
    file = path / "theta.npz" if path.is_dir() else path
    if file.name.endswith(".npz") and file.is_file():
        return MetaTrained(file)
    if not path.exists():
        raise ValueError(f"there are no weights {path}: give the folder of a meta-training run or of exported weights.")
    points = sorted(importlib.metadata.entry_points(group=WEIGHTS_GROUP), key=lambda point: point.name)
    if not points:
        raise ValueError(
            f"{path} holds no theta.npz, and no installed package reads other weights: `pip install celo-zoo`."
        )
    try:
        return points[0].load()(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error


class MetaTrained:
    """The result of a meta-training run: ``(num_steps) -> optax.GradientTransformationExtraArgs``.

    Args:
      file: a theta.npz.

    Attributes:
      architecture: the learned optimizer.
      theta: its meta-parameters, a nested dict of float32 arrays.
      fingerprint: SHA-256 of the file.

    Raises:
      ValueError: the file is no result of meta-training.
    """

    def __init__(self, file: pathlib.Path) -> None:
        try:
            self.theta = checkpoints.load_theta(file)
        except KeyError as error:
            raise ValueError(f"{file} is no result of meta-training: it does not list {error}.") from error
        found = checkpoints.load_metadata(file)
        if found.get("format_version", 2) < 3:
            raise ValueError(
                f"{file} was written by an earlier version: `celo-zoo convert RUN --out FOLDER` makes weights of its run that "
                "this version reads."
            )
        self.architecture = get_architecture(found["architecture"], found["config"])
        self.fingerprint = f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"

    def __call__(self, num_steps: int) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training of so many steps."""
        return self.architecture.build(self.theta, num_steps)
