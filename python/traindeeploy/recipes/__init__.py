"""Recipes: which parameters of a model a fine-tuning run trains.

A recipe only selects names. `full` is every parameter, `linear-probe` the last layer that has
parameters, `last:N` the last N of them; or names and patterns (`*`, `?`, `[...]`) are given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend.model import ImportedModel

RECIPES = ("full", "linear-probe", "last:N")


class RecipeError(TrainDeeployError):
    """A recipe that is unknown, or that selects nothing."""


def resolve_recipe(
    model: ImportedModel,
    recipe: str | None = None,
    trainable: Sequence[str] | None = None,
    trainable_file: str | Path | None = None,
) -> list[str]:
    """The symbols to train, in the model's order.

    At most one of: recipe (by default "full"); trainable, names or patterns; trainable_file, a text
    file with one of these a line (`#` starts a comment). What the model's author froze
    (`requires_grad=False`) is trained only when a name or pattern selects it.
    Errors: RecipeError.
    """
    given = [
        option
        for option, value in (
            ("recipe", recipe),
            ("trainable", trainable),
            ("trainable file", trainable_file),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise RecipeError(
            f"only one of recipe, trainable and trainable file can be given, not {' and '.join(given)}"
        )
    if trainable_file is not None:
        chosen = _match(model, _read(Path(trainable_file)))
    elif trainable is not None:
        chosen = _match(model, trainable)
    else:
        chosen = _named(model, "full" if recipe is None else recipe)
    if not chosen:
        raise RecipeError(f"the recipe trains nothing: {model.name} has no parameter that it selects")
    return [name for name in model.parameters if name in chosen]


def _named(model: ImportedModel, recipe: str) -> set[str]:
    free = [name for name in model.trainable_names() if name not in model.frozen]
    if recipe == "full":
        return set(free)
    layers = [names for layer in model.layers if (names := [n for n in layer.parameters if n in free])]
    kind, colon, number = recipe.partition(":")
    if recipe == "linear-probe":
        count = 1
    elif kind == "last" and colon:
        if not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= len(layers):
            there_are = f"{len(layers)} layers with parameters in {model.name}"
            raise RecipeError(
                f"recipe '{recipe}' needs a number from 1 to {len(layers)}: there are {there_are}"
            )
        count = int(number)
    else:
        near = difflib.get_close_matches(recipe, ("full", "linear-probe", "last:1"), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        there_are = f"{', '.join(RECIPES)}, or names of parameters to train"
        raise RecipeError(f"unknown recipe '{recipe}'{hint}; there are: {there_are}")
    return {name for names in layers[-count:] for name in names}


def _match(model: ImportedModel, patterns: Iterable[str]) -> set[str]:
    """Symbols that names or patterns select; every one must select something."""
    by_name = {name: name for name in model.trainable_names()} | model.aliases
    chosen: set[str] = set()
    for pattern in patterns:
        # A name may itself hold characters of a pattern.
        if pattern in by_name:
            chosen.add(by_name[pattern])
            continue
        matched = {symbol for name, symbol in by_name.items() if fnmatchcase(name, pattern)}
        if not matched:
            raise RecipeError(_nothing_matched(model, pattern, list(by_name)))
        chosen |= matched
    return chosen


def _nothing_matched(model: ImportedModel, pattern: str, names: list[str]) -> str:
    if pattern in model.constants:
        return f"'{pattern}' is a constant of the model (a buffer), not a parameter that can be trained"
    if pattern in model.unused:
        return f"parameter '{pattern}' is not used by the forward of {model.name}, so it cannot be trained"
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    if not near:
        near = names[:3] + ["..."] * (len(names) > 3)
    return f"no parameter matches '{pattern}'; near: {', '.join(near)}"


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot read the file of trainable parameters '{path}': {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"'{path}' is not a text file of parameter names") from error
    patterns = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [pattern for pattern in patterns if pattern]
