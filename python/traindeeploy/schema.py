"""Checks what was read from JSON against type hints."""

from __future__ import annotations

from types import UnionType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from .errors import TrainDeeployError


def check_json(value: Any, hint: Any, where: str) -> None:
    """Raises TrainDeeployError, with the place, unless `value` is what the type `hint` says.

    hint: a TypedDict (other keys may be there, too), list[...], dict[str, ...], tuple[...] (a list of that
        many), a union, str, int, float (also a whole number), bool or Any.
    """
    if not _fits(value, hint, where):
        raise TrainDeeployError(f"{where} is damaged or was edited: {_shown(value)} is not {_name(hint)}")


def _fits(value: Any, hint: Any, where: str) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if is_typeddict(hint):
        if not isinstance(value, dict):
            return False
        for key, kind in get_type_hints(hint, include_extras=True).items():
            optional = get_origin(kind) is NotRequired
            if key in value:
                check_json(value[key], get_args(kind)[0] if optional else kind, f"{where}: {key}")
            elif not optional:
                raise TrainDeeployError(f"{where} is damaged or was edited: it has no {key}")
        return True
    if origin is list:
        return isinstance(value, list) and _all(((item, arguments[0]) for item in value), where)
    if origin is dict:
        return isinstance(value, dict) and _all(((item, arguments[1]) for item in value.values()), where)
    if origin is tuple:
        same = isinstance(value, list) and len(value) == len(arguments)
        return same and _all(zip(value, arguments, strict=True), where)
    if origin is UnionType:
        return any(value is None if kind is type(None) else _fits(value, kind, where) for kind in arguments)
    if hint is float:
        hint = int | float
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _all(pairs: Any, where: str) -> bool:
    for value, hint in pairs:
        check_json(value, hint, where)
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
