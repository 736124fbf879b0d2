"""What parameters do in a model: biases, and the scales and shifts of norms."""

from __future__ import annotations

import re
from math import prod

from traindeeploy.frontend.builder import PRODUCTS
from traindeeploy.frontend.model import ImportedModel

from .graph import steps_of

_SAME_VALUES = ("train.reshape", "train.permute")
# Modules and operators of norms, at the end of a place: "blocks.0.norm (LayerNorm)".
_NORM = re.compile(r"\((?:\w*Norm\w*)\)$|\((?:\w*Norm\w*)\): ")


def norms_and_biases(model: ImportedModel) -> tuple[set[str], set[str]]:
    """Scales and shifts of norms; and what is added: biases of products, and shifts of norms.

    A norm is an operator of that kind, also one that is written out in primitives, or a module that is
    called one. A bias has one dimension and is added to a product of matrices or a convolution.
    """
    steps = steps_of(model, composites=True)
    candidates = {
        name
        for name in model.trainable_names()
        if max(model.parameters[name].shape, default=1) == prod(model.parameters[name].shape)
    }
    norms: set[str] = set()
    scales: set[str] = set()
    added: set[str] = set()
    of_product: set[int] = set()
    of_norm: set[int] = set()
    for at, step in enumerate(steps):
        own = candidates.intersection(step.parameters)
        is_sum = step.operator in ("train.add", "train.sub")
        from_product = not of_product.isdisjoint(step.operands)
        if step.operator == "train.normalize" or _NORM.search(step.place):
            of_norm.add(at)
            norms |= own
            scales |= set() if is_sum else own
        elif is_sum and not of_norm.isdisjoint(step.operands):
            norms |= own
        elif step.operator in PRODUCTS or (is_sum and from_product):
            of_product.add(at)
            added |= own if is_sum else own.intersection(step.bias)
        elif step.operator in _SAME_VALUES:
            of_product |= {at} if from_product else set()
            of_norm |= set() if of_norm.isdisjoint(step.operands) else {at}
    return norms, (added | norms) - scales
