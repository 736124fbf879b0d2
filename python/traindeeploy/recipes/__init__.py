"""Recipes: which parameters of a model a fine-tuning run trains.

A recipe selects names. `full` is every parameter, `linear-probe` the last layer that has
parameters, `last:N` the last N of them, `blocks:N` the weight matrices of the last N blocks and the layers
behind the blocks, `bias-only` what is added to products and in norms, `norm-only` the scales and shifts of
norms; or names and patterns (`*`, `?`, `[...]`) are given. `lora:N` rewrites the model first: adapters
train in place of the linear ones of these matrices.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend.model import ImportedModel, listed

from .blocks import BY_NAMES, Blocks, find_blocks, module_names
from .roles import norms_and_biases

RECIPES = ("full", "linear-probe", "last:N", "blocks:N", "bias-only", "norm-only", "lora", "lora:N")


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
        names = resolve_recipe(model, recipe, trainable, trainable_file)
        if recipe is not None and recipe.startswith("blocks:") and (blocks := find_blocks(model)):
            model = replace(model, notes=(*model.notes, *blocks_note(blocks)))
        return model, names
    if trainable is not None or trainable_file is not None:
        raise RecipeError("only one of recipe, trainable and trainable file can be given")
    from .lora import adapter_names, add_adapters

    lora = lora or LoraOptions()
    if lora.rank < 1:
        raise RecipeError(f"a rank of {lora.rank}: at least 1 is needed")
    weights, heads, notes = _lora_weights(model, recipe)
    if lora.targets is not None:
        weights = _targeted(model, recipe, weights, lora.targets)
    widths = {name: min(model.parameters[name].shape) for name in weights}
    if max(widths.values()) < lora.rank:
        widest = max(weights, key=widths.__getitem__)
        shape = "x".join(map(str, model.parameters[widest].shape))
        raise RecipeError(
            f"a rank of {lora.rank} is larger than every weight that recipe '{recipe}' adapts;"
            f" '{widest}' of {shape} takes up to {widths[widest]}"
        )
    if narrow := [name for name in weights if widths[name] < lora.rank]:
        verb = "are" if len(narrow) > 1 else "is"
        notes.append(f"{listed(narrow)} {verb} narrower than the rank {lora.rank} and get no adapters")
    taken = [n for n in weights if not model.parameters.keys().isdisjoint(adapter_names(n))]
    if taken:
        own = " and ".join(adapter_names(taken[0]))
        notes.append(f"{listed(taken)} get no adapters: the model has parameters {own} already")
    weights = [name for name in weights if name not in {*narrow, *taken}]
    if not weights:
        raise RecipeError(f"recipe '{recipe}' adapts nothing: {notes[-1]}")
    alpha = float(lora.rank) if lora.alpha is None else lora.alpha
    adapted, adapters = add_adapters(model, weights, lora.rank, alpha, lora.seed)
    train = heads | set(adapters)
    adapted = replace(adapted, notes=(*model.notes, *notes))
    return adapted, [name for name in adapted.parameters if name in train]


def _targeted(model: ImportedModel, recipe: str, weights: Sequence[str], targets: Iterable[str]) -> list[str]:
    """Of `weights` those that targets select, each of which must select some parameter.

    A target is a name or pattern of a parameter or of its module, or the end of one behind a dot, as PEFT
    has them ("q_proj"); "all-linear" is every weight.
    """
    names = [(name, name) for name in model.trainable_names()]
    names += [*model.aliases.items(), *((name, symbol) for symbol, name in module_names(model).items())]
    names += [(name.rpartition(".")[0], symbol) for name, symbol in names if "." in name]
    chosen: set[str] = set()
    for target in (part.strip() for text in targets for part in text.split(",")):
        matched = {s for name, s in names if name == target or _matches_end(name, target)}
        if target == "all-linear":
            matched = set(weights)
        if not matched:
            raise RecipeError(_nothing_matched(model, target, list(dict(names))))
        chosen |= matched
    if chosen.isdisjoint(weights):
        raise RecipeError(
            f"the targets of LoRA match no weight that recipe '{recipe}' adapts:"
            f" {', '.join(sorted(chosen)[:3])} {'are' if len(chosen) > 1 else 'is'} none"
        )
    return [name for name in weights if name in chosen]


def _matches_end(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _lora_weights(model: ImportedModel, recipe: str) -> tuple[list[str], set[str], list[str]]:
    """The weights that `lora` or `lora:N` adapts, the parameters of layers that train beside them, notes.

    The linear weights of all blocks, or of the last N, and the layers behind the blocks; in a model without
    blocks of linear layers, of all linear layers but the last, or of the last N of these, and the last layer.
    """
    _, colon, number = recipe.partition(":")
    if colon and not (number.isascii() and number.isdigit()):
        raise RecipeError(f"recipe '{recipe}' is not lora:N with a number")
    blocks = find_blocks(model)
    if blocks and model.matrices.intersection(chain.from_iterable(blocks.members)):
        inside, heads = _last_blocks(model, recipe, blocks, int(number) if colon else len(blocks.members))
        weights = [n for n in model.parameters if n in inside and n in model.matrices]
        return weights, heads, blocks_note(blocks)
    heads = set(model.layers[-1].parameters) - model.frozen
    weights = [
        name
        for layer in model.layers[:-1]
        for name in layer.parameters
        if name in model.matrices and name not in model.frozen
    ]
    if not weights:
        convolutions = sum(model.parameters[name].ndim > 2 for name in model.trainable_names())
        has = f" (it has {convolutions} convolutions, which LoRA does not adapt)" if convolutions else ""
        several = f"--recipe last:2 trains the last two of its {len(model.layers)} layers"
        raise RecipeError(
            f"recipe '{recipe}': {model.name} has no linear layer before the last one to adapt{has};"
            f" {several if len(model.layers) > 1 else '--recipe full trains it'}"
        )
    if colon and not 1 <= int(number) <= len(weights):
        raise RecipeError(
            f"recipe '{recipe}' needs a number from 1 to {len(weights)}:"
            f" {model.name} has no blocks, and {len(weights)} linear layers before the last layer"
        )
    return weights[-int(number) :] if colon else weights, heads, []


@dataclass(frozen=True)
class Places:
    """Where parameters are in their model, for people.

    layers, blocks: by symbol, the number of the layer and block from the end on, as recipes count.
    summary:        how many there are, and what told blocks apart.
    """

    layers: dict[str, int]
    blocks: dict[str, int]
    summary: list[str]


def places(model: ImportedModel) -> Places:
    """Layers and blocks of a model's parameters."""
    if not model.layers:
        return Places({}, {}, [])
    layers = {
        name: number for number, layer in enumerate(reversed(model.layers), 1) for name in layer.parameters
    }
    summary = [f"{len(model.layers)} layers; the last is '{model.layers[-1].name}'"]
    found = find_blocks(model)
    if found is None:
        return Places(layers, {}, [*summary, "no blocks"])
    blocks = {name: number for number, block in enumerate(reversed(found.members), 1) for name in block}
    return Places(layers, blocks, [*summary, f"{len(found.members)} blocks, found by {found.found_by}"])


def blocks_note(blocks: Blocks) -> list[str]:
    """A sentence about blocks that names do not tell; [] for others."""
    if blocks.found_by == BY_NAMES:
        return []
    return [f"{len(blocks.members)} blocks are found by {blocks.found_by}"]


def _last_blocks(model: ImportedModel, recipe: str, blocks: Blocks, count: int) -> tuple[set[str], set[str]]:
    """Weights of the last blocks, and all parameters of the layers with weights behind the blocks."""
    if not 1 <= count <= len(blocks.members):
        raise RecipeError(
            f"recipe '{recipe}' needs a number from 1 to {len(blocks.members)},"
            f" the blocks that {model.name} has"
        )
    last = blocks.members[-count:]
    inside = {name for block in last for name in block if model.parameters[name].ndim > 1}
    everywhere = {name for block in blocks.members for name in block}
    last_layer = max(i for i, layer in enumerate(model.layers) if everywhere.intersection(layer.parameters))
    behind = {
        name
        for layer in model.layers[last_layer + 1 :]
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
        blocks = find_blocks(model)
        if blocks is None:
            raise RecipeError(
                f"recipe '{recipe}': {model.name} has no blocks (modules that only a number tells apart, or a"
                " part of the graph that is repeated); last:N counts layers"
            )
        inside, behind = _last_blocks(model, recipe, blocks, int(number))
        return inside | behind
    if recipe in ("bias-only", "norm-only"):
        norms, biases = norms_and_biases(model)
        chosen = (norms if recipe == "norm-only" else biases).intersection(free)
        if not chosen:
            what = "norm with parameters" if recipe == "norm-only" else "bias"
            raise RecipeError(f"recipe '{recipe}': {model.name} has no {what} that can be trained")
        return chosen
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
            recipe, [name.replace("N", "1") for name in RECIPES if name != "lora"], n=1
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
