"""Recipes: which parameters of a model a fine-tuning run trains.

A recipe selects names. `full` is every parameter, `linear-probe` the last layer that has
parameters, `last:N` the last N of them, `blocks:N` the weight matrices of the last N blocks and the layers
behind the blocks; or names and patterns (`*`, `?`, `[...]`) are given. `lora:N` rewrites the model first:
adapters train in place of the linear ones of these matrices.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend.model import ImportedModel

RECIPES = ("full", "linear-probe", "last:N", "blocks:N", "lora", "lora:N")


class RecipeError(TrainDeeployError):
    """A recipe that is unknown, or that selects nothing."""


@dataclass(frozen=True)
class LoraOptions:
    """What `lora` and `lora:N` leave open.

    rank:    of the adapters.
    alpha:   the adapters' output is multiplied with alpha / rank; None is alpha = rank.
    targets: names or patterns; of the weights that the recipe would adapt, those that match get adapters.
    seed:    of the values that A starts from.
    """

    rank: int = 4
    alpha: float | None = None
    targets: Sequence[str] | None = None
    seed: int = 0


def apply_recipe(
    model: ImportedModel,
    recipe: str | None = None,
    trainable: Sequence[str] | None = None,
    trainable_file: str | Path | None = None,
    lora: LoraOptions | None = None,
) -> tuple[ImportedModel, list[str]]:
    """The model that a recipe trains (with adapters, for LoRA), and the symbols to train in its order.

    Arguments and errors are those of `resolve_recipe`.
    """
    if recipe is None or recipe.partition(":")[0] != "lora":
        if lora is not None:
            raise RecipeError("options of LoRA need the recipe lora or lora:N")
        return model, resolve_recipe(model, recipe, trainable, trainable_file)
    if trainable is not None or trainable_file is not None:
        raise RecipeError("only one of recipe, trainable and trainable file can be given")
    from .lora import add_adapters

    lora = lora or LoraOptions()
    if lora.rank < 1:
        raise RecipeError(f"a rank of {lora.rank}: at least 1 is needed")
    weights, heads = _lora_weights(model, recipe)
    if not weights:
        raise RecipeError(f"recipe '{recipe}': {model.name} has no linear layer to adapt")
    if lora.targets is not None:
        chosen = _match(model, lora.targets)
        if chosen.isdisjoint(weights):
            raise RecipeError(
                f"the targets of LoRA match no weight that recipe '{recipe}' adapts:"
                f" {', '.join(sorted(chosen)[:3])} {'are' if len(chosen) > 1 else 'is'} none"
            )
        weights = [name for name in weights if name in chosen]
    if largest := [n for n in weights if lora.rank > min(model.parameters[n].shape)]:
        shape = "x".join(map(str, model.parameters[largest[0]].shape))
        raise RecipeError(f"a rank of {lora.rank} is larger than the weight '{largest[0]}' of {shape}")
    alpha = float(lora.rank) if lora.alpha is None else lora.alpha
    adapted, adapters = add_adapters(model, weights, lora.rank, alpha, lora.seed)
    train = heads | set(adapters)
    return adapted, [name for name in adapted.parameters if name in train]


def _lora_weights(model: ImportedModel, recipe: str) -> tuple[list[str], set[str]]:
    """The weights that `lora` or `lora:N` adapts, and the parameters of the layers that train beside them.

    The linear weights of all blocks, or of the last N, and the layers behind the blocks; in a model without
    blocks, of all linear layers but the last, or of the last N of these, and the last layer.
    """
    _, colon, number = recipe.partition(":")
    if colon and not (number.isascii() and number.isdigit()):
        raise RecipeError(f"recipe '{recipe}' is not lora:N with a number")
    if blocks := _blocks(model):
        inside, heads = _last_blocks(model, recipe, int(number) if colon else len(blocks))
        return [n for n in model.parameters if n in inside and n in model.matrices], heads
    heads = set(model.layers[-1].parameters) - model.frozen
    weights = [
        name
        for layer in model.layers[:-1]
        for name in layer.parameters
        if name in model.matrices and name not in model.frozen
    ]
    if colon and not 1 <= int(number) <= len(weights):
        raise RecipeError(
            f"recipe '{recipe}' needs a number from 1 to {len(weights)}:"
            f" {model.name} has no blocks, and {len(weights)} linear layers before the last layer"
        )
    return weights[-int(number) :] if colon else weights, heads


def _blocks(model: ImportedModel) -> list[list[str]]:
    """The model's blocks in their order: modules that only a number tells apart, of two or more weights each.

    Of several such lists the one with the most weights. Each block is its parameters' names.
    """
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in model.trainable_names():
        for match in re.finditer(r"(?:^|(?<=\.))(\d+)\.", name):
            groups[name[: match.start()]][int(match.group(1))].append(name)
    best: list[list[str]] = []
    for members in groups.values():
        blocks = [members[number] for number in sorted(members)]
        weights = [sum(model.parameters[n].ndim > 1 for n in block) for block in blocks]
        if min(weights) > 1 and sum(weights) > sum(
            model.parameters[n].ndim > 1 for block in best for n in block
        ):
            best = blocks
    return best


def _last_blocks(model: ImportedModel, recipe: str, count: int) -> tuple[set[str], set[str]]:
    """Weights of the last blocks, and all parameters of the layers with weights behind the blocks."""
    blocks = _blocks(model)
    if not blocks:
        raise RecipeError(
            f"recipe '{recipe}': {model.name} has no blocks (modules that only a number tells apart);"
            " last:N counts layers"
        )
    if not 1 <= count <= len(blocks):
        raise RecipeError(
            f"recipe '{recipe}' needs a number from 1 to {len(blocks)}, the blocks that {model.name} has"
        )
    inside = {name for block in blocks[-count:] for name in block if model.parameters[name].ndim > 1}
    everywhere = {name for block in blocks for name in block}
    last = max(i for i, layer in enumerate(model.layers) if everywhere.intersection(layer.parameters))
    behind = {
        name
        for layer in model.layers[last + 1 :]
        if any(model.parameters[n].ndim > 1 for n in layer.parameters)
        for name in layer.parameters
    }
    return inside - model.frozen, behind - model.frozen


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
    if kind == "blocks" and colon:
        if not (number.isascii() and number.isdigit()):
            raise RecipeError(f"recipe '{recipe}' is not blocks:N with a number")
        inside, behind = _last_blocks(model, recipe, int(number))
        return inside | behind
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
        near = difflib.get_close_matches(
            recipe, ("full", "linear-probe", "last:1", "blocks:1", "lora:1"), n=1
        )
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
