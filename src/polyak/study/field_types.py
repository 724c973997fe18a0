"""Settings that have another type than they should: a number where a list is wanted, text, None.

Python checks no types, and what a user writes in a study file is met by code far from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from polyak.errors import unknown

Config = TypeVar("Config")

_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "True or False"}
_PLURALS = {float: "numbers", int: "whole numbers", str: "texts"}
_STAND_INS: dict[Any, Any] = {float: 1.0, int: 0, str: "", bool: False}


def with_right_types(config: Config, *, within: str = "") -> tuple[Config, list[str]]:
    """A dataclass with tuples where sequences were given, and a phrase for each wrong type in it.

    Args:
        config: With type hints; dataclasses in it are looked at too.
        within: What its fields are parts of, for messages: "rows[0]." for example.

    Returns:
        Fields of a wrong type have their default, or another value of the right type, in what
        comes back, so that all else can be checked.
    """
    hints = get_type_hints(type(config))
    values, faults = {}, []
    for field in fields(config):  # type: ignore[arg-type]  # any dataclass
        given = getattr(config, field.name)
        value, found = _right(given, hints[field.name], f"{within}{field.name}")
        values[field.name] = _stand_in(hints[field.name], field) if value is _WRONG else value
        faults += found
    return replace(config, **values), faults  # type: ignore[type-var]  # as above


_WRONG = object()
Checked = tuple[Any, list[str]]
"""The value, or `_WRONG`, and what is wrong with it."""


def _right(value: Any, hint: Any, name: str) -> Checked:
    kind, choices = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        if value is None and NoneType in choices:
            return None, []
        # No setting has two types of values beside None.
        return _right(value, next(x for x in choices if x is not NoneType), name)
    if kind is Literal:
        if value in choices:
            return value, []
        return _WRONG, [unknown(name, str(value), [str(x) for x in choices]).rstrip(".")]
    if kind is tuple:
        return _right_tuple(value, choices, name)
    if isinstance(hint, type) and is_dataclass(hint):
        if isinstance(value, hint):
            return with_right_types(value, within=f"{name}.")
        return _WRONG, [f"{name} is {_shown(value)}; expected a {hint.__name__}"]
    if hint in _WORDS:
        found = _plain(value, hint)
        return found, [f"{name} is {_shown(value)}; expected {_WORDS[hint]}"] * (found is _WRONG)
    return value, []


def _right_tuple(value: Any, kinds: tuple[Any, ...], name: str) -> Checked:
    each, length = kinds[0], None if kinds[-1] is Ellipsis else len(kinds)
    wanted = _PLURALS.get(each, f"{each.__name__}s" if isinstance(each, type) else "names")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        example = "" if _right(value, each, name)[1] else f", such as ({_shown(value)},)"
        return _WRONG, [f"{name} is {_shown(value)}; expected a tuple of {wanted}{example}"]
    if length not in (None, len(value)):
        return _WRONG, [f"{name} is {_shown(value)}; expected {length} {wanted}"]
    checked = [_right(item, each, f"{name}[{i}]") for i, item in enumerate(value)]
    faults = [fault for _, found in checked for fault in found]
    items = tuple(item for item, _ in checked)
    return (_WRONG if _WRONG in items else items), faults


def _plain(value: Any, kind: type) -> Any:
    """The value as Python's own number where it is one of a library's."""
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        number: int | float = value if isinstance(value, int) else float(value)
        return number if isfinite(number) else _WRONG
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return value if kind in (str, bool) and isinstance(value, kind) else _WRONG


def _stand_in(hint: Any, field: "Field[Any] | None" = None) -> Any:
    if field is not None and field.default is not MISSING:
        return field.default
    if field is not None and field.default_factory is not MISSING:
        return field.default_factory()
    if get_origin(hint) is tuple:
        return (_stand_in(get_args(hint)[0]),)
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{each.name: _stand_in(hints[each.name], each) for each in fields(hint)})  # type: ignore[operator]  # a class
    return _STAND_INS[hint] if hint in _STAND_INS else hint()


def _shown(value: Any) -> str:
    if is_dataclass(value):
        return f"one {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def repeated(**settings: Sequence[Any]) -> Iterator[str]:
    """A phrase for each setting in which a value stands twice."""
    for name, values in settings.items():
        if len(set(values)) != len(values):
            yield f"{name} is {values!r}; expected nothing twice"
