"""Configs as JSON: frozen dataclasses of numbers, strings, tuples, other such dataclasses, and parts of several types.

Where a field may hold any of several configs, such as the network of a scheduler, these are a family: a subclass of `Part` of
which each of them is a subclass with a ``type``. In JSON they are tagged by it::

    class Network(Part): ...

    @dataclasses.dataclass(frozen=True)
    class LSTM(Network, type="lstm"):
        size: int = 64

    to_json(LSTM())  # {"type": "lstm", "size": 64}
"""

import collections.abc
import dataclasses
import importlib.metadata
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from celo_core.checks import nearest

T = TypeVar("T")


class Part:
    """A family of configs, of which a field may hold any; see the module.

    Attributes:
      type: what tells it from the others of its family, in JSON.
      kinds: of a family, its classes by type. Who imports a module with another one adds it.
      group: of a family, the entry-point group in which other packages name theirs, as ``type = "module:class"``; "" for none.
    """

    type: ClassVar[str] = ""
    kinds: ClassVar[dict[str, Any]]
    group: ClassVar[str] = ""

    def __init_subclass__(cls, *, type: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.kinds = {}
        if type:
            if type in cls.kinds:
                raise TypeError(f"there are two of type {type!r}: {cls.kinds[type].__name__} and {cls.__name__}.")
            cls.type = type
            cls.kinds[type] = cls

    @classmethod
    def names(cls) -> list[str]:
        """Types of the family, those of other packages included, sorted."""
        points = importlib.metadata.entry_points(group=cls.group) if cls.group else ()
        return sorted({*cls.kinds, *(point.name for point in points)})

    @classmethod
    def kind(cls, name: str) -> Any:
        """The class of a type of the family, which another package may have.

        Raises:
          ValueError: there is none, or its module cannot be imported or has another one.
        """
        if name not in cls.kinds and cls.group:
            for point in importlib.metadata.entry_points(group=cls.group, name=name):
                _import_kind(cls, point)
        if name not in cls.kinds:
            known = cls.names()
            raise ValueError(f"has the unknown type {name!r}{nearest(name, known)}: choose from {', '.join(known)}.")
        return cls.kinds[name]


def _import_kind(family: Any, point: importlib.metadata.EntryPoint) -> None:
    """Imports a class of another package, which makes it known to its family."""
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"has the type {point.name!r}, which cannot be imported from {point.value} ({error}): reinstall its package."
        ) from error
    if family.kinds.get(point.name) is not found:
        raise ValueError(
            f"has the type {point.name!r}, but {point.value} is no {family.__name__} of that type: derive it, with "
            f"type={point.name!r}."
        )


def to_json(config: Any) -> dict[str, Any]:
    """JSON form of a config dataclass: tuples become lists, and parts have a type. Fields that are not in it are left out."""
    tag = {"type": config.type} if isinstance(config, Part) else {}
    return tag | {field.name: _encode(getattr(config, field.name)) for field in fields(type(config))}


def fields(cls: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a config that its JSON form has: all but those with ``{"json": False}`` for metadata."""
    return [field for field in dataclasses.fields(cls) if field.metadata.get("json", True) and field.init]


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    return [_encode(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(cls: type[T], data: Mapping[str, Any], where: str | None = None) -> T:
    """The config of ``cls``, a dataclass or a family of `Part`, from its JSON form; fields left out take their defaults.

    The data is treated as untrusted: unknown types and fields, and values of another type, are refused.

    Args:
      cls: what it is to be.
      data: its JSON form.
      where: what messages call it; by default the name of the class.

    Raises:
      ValueError: one sentence, which names the field and what it takes.
    """
    return _decode(cls, data, where or cls.__name__)


def field_hints(cls: Any) -> dict[str, Any]:
    """Type hints of the fields in a config's JSON form, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} must be one of {', '.join(map(repr, arguments))}, not {value!r}.")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin in (dict, collections.abc.Mapping):
        _check_object(value, where)
        return {str(name): _decode(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Part):
        return _decode_part(hint, value, where)
    if dataclasses.is_dataclass(hint):
        _check_object(value, where)
        return _decode_fields(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    # Functions have no JSON form.
    is_function = lambda hint: typing.get_origin(hint) is collections.abc.Callable
    choices = [argument for argument in arguments if argument is not type(None) and not is_function(argument)]
    is_object = isinstance(value, Mapping)
    # An object is one of the configs, everything else one of the other types; of several the last one says what was wrong.
    fit = [choice for choice in choices if _takes_object(choice) == is_object] or choices
    for choice in fit[:-1]:
        try:
            return _decode(choice, value, where)
        except ValueError:
            continue
    return _decode(fit[-1], value, where)


def _takes_object(hint: Any) -> bool:
    if isinstance(hint, type):
        return issubclass(hint, Part) or dataclasses.is_dataclass(hint)
    return typing.get_origin(hint) in (dict, collections.abc.Mapping)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} must be a list, not {value!r}.")
    hints = list(arguments)
    if arguments[-1] is Ellipsis:
        hints = [arguments[0]] * len(value)
    elif len(value) != len(arguments):
        raise ValueError(f"{where} must be a list of {len(arguments)}, not {value!r}.")
    return tuple(_decode(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(hints, value, strict=True)))


def _decode_part(family: Any, value: Any, where: str) -> Any:
    _check_object(value, where)
    if family.type:
        if value.get("type", family.type) != family.type:
            raise ValueError(f"{where} must be of type {family.type!r}, not {value['type']!r}.")
        return _decode_fields(family, {name: item for name, item in value.items() if name != "type"}, where)
    kind = value.get("type")
    if not isinstance(kind, str):
        what = 'must have a "type"' if kind is None else f"must have a string for its type, not {kind!r}"
        raise ValueError(f"{where} {what}: choose from {', '.join(family.names())}.")
    try:
        found = family.kind(kind)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    return _decode_fields(found, {name: x for name, x in value.items() if name != "type"}, where)


def _decode_fields(cls: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = field_hints(cls)
    if unknown := sorted(set(map(str, value)) - set(hints)):
        raise ValueError(
            f"{where} has no field {unknown[0]!r}{nearest(unknown[0], hints)}: it takes {', '.join(hints) or 'none'}."
        )
    given = {name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    required = (f.name for f in fields(cls) if f.default is f.default_factory is dataclasses.MISSING)
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"{where} must have {' and '.join(missing)}.")
    return cls(**given)


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, not {value!r}.")
