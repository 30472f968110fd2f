"""Fields of nested dataclasses by their full names, `contrast.temperature` for one: changed, listed, put together."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

Section = TypeVar("Section")

_UNIONS = (typing.Union, types.UnionType)


def override(config: Section, changes: Mapping[str, Any], path: str = "") -> Section:
    """Return the configuration with some fields changed; its checks run again.

    Args:
        config: A configuration dataclass.
        changes: Values by field name; a mapping for a section. Lists stand for tuples, as JSON has them.
        path: Name of `config` within the whole, for messages.

    Raises:
        ValueError: If a name is unknown (the message gives the nearest) or a value is of the wrong type.
    """
    hints = typing.get_type_hints(type(config))
    values: dict[str, Any] = {}
    for name, value in changes.items():
        full = f"{path}{name}"
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f" Did you mean {path}{near[0]}?" if near else ""
            raise ValueError(f"There is no setting {full}.{hint} There are: {', '.join(hints)}.")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ValueError(f"{full} is a section and takes its fields by name, but got {value!r}.")
            values[name] = override(getattr(config, name), value, f"{full}.")
            continue
        if isinstance(value, list):
            value = tuple(value)
        if not fits(value, hints[name]):
            raise ValueError(f"{full} takes {_type_name(hints[name])}, but got {value!r}.")
        values[name] = value
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def flatten(config: object, path: str = "") -> dict[str, Any]:
    """Return every field's value by its full name, `contrast.temperature` for one."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{path}{item.name}.")
        else:
            flat[f"{path}{item.name}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by full name as `override` takes them: those of a section in a mapping of its own."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is of a field's type: an int is a float too, but a bool is no number and 16.0 no 16."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return isinstance(value, tuple) and all(fits(one, args[0]) for one in value)
        return isinstance(value, tuple) and len(value) == len(args) and all(map(fits, value, args))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def words_of(hint: Any) -> list[Any]:
    """Return the words, or numbers, that a field's type names one by one, None among them; empty if it names none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return list(args)
    words = [word for arg in args for word in words_of(arg)] if origin in _UNIONS else []
    return [*words, None] if words and types.NoneType in args else words


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, words_of(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint)
