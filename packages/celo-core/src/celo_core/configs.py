"""Configs as JSON: frozen dataclasses of numbers, strings, tuples and other such dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """JSON form of a config dataclass; tuples become lists."""
    return {field.name: _encode(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """The config of ``cls`` from its JSON form; fields left out take their defaults.

    The data is treated as untrusted: unknown fields and wrong types are refused.

    Raises:
      ValueError: an unknown field, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{cls.__name__} must be an object, not {data!r}.")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(data) - {field.name for field in dataclasses.fields(cls)}):  # type: ignore[arg-type]
        raise ValueError(
            f"{cls.__name__} has no field {', '.join(map(repr, unknown))}: the config is of another version."
        )
    return cls(**{name: _decode(hints[name], value, f"{cls.__name__}.{name}") for name, value in data.items()})


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _decode(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, not {value!r}.")
        return tuple(_decode(arguments[0], item, where) for item in value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, not {value!r}.")
        return from_json(hint, value)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value
