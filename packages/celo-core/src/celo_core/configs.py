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
    """Base class of a family of configs: a field of its type may hold any of them; see the module.

    Attributes:
      type: tag that identifies the class within its family, in JSON.
      kinds: of a family, its classes by type. Importing a module that defines another one adds it.
      group: of a family, the entry-point group in which other packages name theirs, as ``type = "module:class"``; each is
        imported when its type is first looked up.
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


def kind_of(family: type[Part], name: str, where: str) -> Any:
    """The class of a family whose type is ``name``, imported if another package defines it.

    Raises:
      ValueError: no class has that type, or its module cannot be imported.
    """
    points = importlib.metadata.entry_points(group=family.group) if family.group else ()
    for point in points:
        if point.name == name and name not in family.kinds:
            try:
                point.load()
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"{where}: {point.value} cannot be imported ({error}): reinstall its package."
                ) from error
            if name not in family.kinds:
                raise ValueError(
                    f"{where}: {point.value} is no {family.__name__} of type {name!r}: derive it, with type={name!r}."
                )
    if name not in family.kinds:
        known = sorted({*family.kinds, *(point.name for point in points)})
        raise ValueError(
            f"{where} has the unknown type {name!r}{nearest(name, known)}: choose from {', '.join(known)}."
        )
    return family.kinds[name]


def to_json(config: Any, *, defaults: bool = True) -> dict[str, Any]:
    """JSON form of a config dataclass: tuples become lists, and parts have a type.

    Args:
      config: the config. Fields that its JSON form does not have are left out.
      defaults: whether to include fields at their default values. Without them, the JSON form stays the same when later
        versions add fields.
    """
    found = {"type": config.type} if isinstance(config, Part) else {}
    for field in fields(type(config)):
        value = getattr(config, field.name)
        if defaults or not _is_default(field, value):
            found[field.name] = _encode(value, defaults)
    return found


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return bool(value == field.default)


def fields(cls: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a config that are part of its JSON form: all but those with the metadata ``{"json": False}``."""
    return [field for field in dataclasses.fields(cls) if field.metadata.get("json", True) and field.init]


def _encode(value: Any, defaults: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value, defaults=defaults)
    if isinstance(value, Mapping):
        return {name: _encode(item, defaults) for name, item in value.items()}
    return [_encode(item, defaults) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(cls: type[T], data: Mapping[str, Any], where: str | None = None) -> T:
    """The config of ``cls``, a dataclass or a family of `Part`, from its JSON form; fields left out take their defaults.

    The data is treated as untrusted: unknown types and fields, and values of another type, raise an error. Where ``None`` is
    allowed, ``"none"`` is read as ``None`` too, for formats without a null, such as TOML.

    Args:
      cls: the class.
      data: its JSON form.
      where: name of the config in error messages; by default the class's name.

    Raises:
      ValueError: the data does not fit; the message names the field and what it takes.
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
    if type(None) in arguments and (value is None or value == "none"):
        return None
    is_data = lambda hint: hint is not type(None) and typing.get_origin(hint) is not collections.abc.Callable
    choices = [argument for argument in arguments if is_data(argument)]
    is_object = isinstance(value, Mapping)
    # An object can only be a config, everything else only another type. If no candidate fits, the last one's error is raised.
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
    if value.get("type") is None:
        raise ValueError(f'{where} must have a "type": choose from {", ".join(sorted(family.kinds))}.')
    kind = kind_of(family, str(value["type"]), where)
    return _decode_fields(kind, {name: x for name, x in value.items() if name != "type"}, where)


def _decode_fields(cls: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = field_hints(cls)
    if unknown := sorted(set(map(str, value)) - set(hints)):
        raise ValueError(
            f"{where} has no field {unknown[0]!r}{nearest(unknown[0], hints)}: it takes {', '.join(hints) or 'none'}."
        )
    given = {name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    required = [field.name for field in fields(cls) if field.default is field.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"{where} must have {' and '.join(missing)}: it takes {', '.join(hints)}.")
    try:
        return cls(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object, not {value!r}.")
