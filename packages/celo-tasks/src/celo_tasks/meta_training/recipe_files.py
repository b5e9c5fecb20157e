"""Recipes as TOML: those in the package, those in files, and single settings changed. Nothing here takes time to import."""

import importlib.resources
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from celo_tasks.spelling import nearest

PAPER_DATASETS = ("mnist_8x8", "fashion_mnist_8x8", "cifar10_8x8", "svhn_cropped_8x8")
OFFLINE_DATASETS = ("digits_8x8", "fashion_mnist_small_8x8")
"""Those inside the package, for where the paper's are not on the machine."""

_FOLDER = importlib.resources.files("celo_tasks.meta_training") / "recipes"


def names() -> tuple[str, ...]:
    """Names of the recipes in the package, sorted."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml")))


def text(reference: str) -> str:
    """A recipe as it was written, comments included.

    Args:
      reference: the name of one in the package, or the path of a TOML file or of a run's folder.

    Raises:
      ValueError: there is none; one sentence.
    """
    if reference in names():
        return (_FOLDER / f"{reference}.toml").read_text()
    path = pathlib.Path(reference).expanduser()
    path = path / "recipe.toml" if path.is_dir() else path
    try:
        return path.read_text()
    except OSError as error:
        known = ", ".join(names())
        raise ValueError(
            f"there is no recipe {reference!r}{nearest(reference, names())} ({error.strerror}): choose from {known}, or "
            "name a TOML file."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: name a TOML file.") from None


def read(reference: str) -> dict[str, Any]:
    """The tables of a recipe; arguments and errors as of `text`, and ValueError if it is not TOML."""
    try:
        return tomllib.loads(text(reference))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the recipe {reference} is not TOML ({error}): correct it.") from error


def write(tables: Mapping[str, Any]) -> str:
    """Tables as TOML, which has no null: it is written as "none"."""
    return tomli_w.dumps(_without_null(tables))


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_null(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_null(item) for item in value]
    return "none" if value is None else value


def change(tables: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Tables with some settings changed.

    Args:
      tables: of a recipe, whole: see `celo_tasks.meta_training.recipe.whole`.
      settings: ``"path.to.field=value"``, the value in TOML, or text without quotes. A new ``type`` of a part takes that type's
        defaults for the part's other fields, and a new ``architecture.name`` that architecture's, with one phase "all".

    Raises:
      ValueError: it is no such setting, or leads into something that is no table; one sentence.
    """
    changed = _copy(tables)
    for setting in settings:
        path, equals, value = (part.strip() for part in setting.partition("="))
        *parents, name = path.split(".")
        if not equals or not all([*parents, name]):
            raise ValueError(f"{setting!r} is no setting: write path.to.field=value, such as estimator.sigma=0.05.")
        table = changed
        for depth, parent in enumerate(parents):
            if table.get(parent) is None:
                table[parent] = {}
            table = table[parent]
            if not isinstance(table, dict):
                where = ".".join(parents[: depth + 1])
                raise ValueError(f"{where} has no fields, so there is no {path}: set {where} itself.")
        if name == "type":
            table.clear()
        elif path == "architecture.name" and value != table.get("name"):
            table["config"], changed["phases"] = {}, {"all": {}}
        table[name] = _value(value)
    return changed


def _copy(value: Any) -> Any:
    return {name: _copy(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
