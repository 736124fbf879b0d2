"""Choices that are written as NAME or NAME:KEY=VALUE,...: schedules, optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from .errors import TrainDeeployError


def chosen(what: str, kinds: Mapping[str, Any], text: str) -> Any:
    """The object that a text names, with the parameters that it gives.

    what: "schedule", or what else it is, for messages. kinds: dataclasses by name, of whose fields the
    metadata "kind" is a function that reads a value from text (ValueError if it is none).

    Raises TrainDeeployError for a name or parameter that there is not, a wrong value, and a missing one.
    """
    name, _, given = text.partition(":")
    if name not in kinds:
        raise TrainDeeployError(f"unknown {what} '{name}'; there are: {', '.join(kinds)}")
    known: dict[str, Field[Any]] = {item.name: item for item in fields(kinds[name])}
    values: dict[str, Any] = {}
    for part in given.split(",") if given else ():
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            has = ", ".join(f"{key}=" for key in known) or "no parameters"
            raise TrainDeeployError(f"{what} {name} does not take '{part}'; it takes {has}")
        try:
            values[key] = known[key].metadata["kind"](value)
        except (ValueError, OverflowError):
            raise TrainDeeployError(f"'{value}' is no {key} of {what} {name}") from None
    missing = [key for key, item in known.items() if item.default is MISSING and key not in values]
    if missing:
        raise TrainDeeployError(f"{what} {name} needs {', '.join(f'{key}=' for key in missing)}")
    return kinds[name](**values)
