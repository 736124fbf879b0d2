"""What a diagnostic says about an operator that has no place in the training graph."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

PAGE = "docs/operators.md"
"""Where the operators that are supported are listed."""

_QUANTIZED = "the model is quantized; export it in float32, or with QuantizeLinear and DequantizeLinear"
# What does nearly the same and is supported, or what to do instead; by the name without its dialect.
_INSTEAD = {
    "Atan": "Tanh is, and Softsign",
    "BitShift": "only operators on float32 are trained",
    "ConvInteger": _QUANTIZED,
    "DynamicQuantizeLinear": "the model is quantized; export it in float32",
    "If": "export the branch that is taken",
    "Loop": "export the loop unrolled",
    "MatMulInteger": _QUANTIZED,
    "NonZero": "export with indices or masks that are constant",
    "QLinearConv": _QUANTIZED,
    "QLinearMatMul": _QUANTIZED,
    "Scan": "export the loop unrolled",
    "TopK": "the largest element is a ReduceMax",
    "Sin": "sines of positions are, as constants",
    "Cos": "cosines of positions are, as constants",
    "cond": "export the branch that is taken",
    "scan": "write the loop out",
    "topk": "the largest element is aten.amax",
    "while_loop": "write the loop out",
}


_TRAINS = re.compile(r"(Grad|Optimizer)(V\d)?$|^ai\.onnx\.preview\.training\.")


def ends_support(operator: str) -> bool:
    """Whether an operator says of the whole model that it is quantized, or a training graph already."""
    return bool(_TRAINS.search(operator)) or "the model is quantized" in _INSTEAD.get(operator, "")


def not_supported(operator: str, place: str, supported: Collection[str]) -> str:
    """One line about an operator: what is nearest to it, and where all are listed.

    operator: as the model's author knows it; supported: the operators of that kind of model.
    """
    what = f"operator {operator} at '{place}' is not supported"
    names = set(supported)
    if operator in names or ".".join(operator.split(".")[:2]) in names:
        return f"{what} with these operands; see {PAGE}"
    if _TRAINS.search(operator):
        return f"{what}: the model is a training graph already; give the graph of its forward"
    short = operator.split(".")[1] if operator.startswith("aten.") else operator
    if short in _INSTEAD:
        return f"{what}: {_INSTEAD[short]}; {PAGE} lists what is"
    near = get_close_matches(operator, sorted(names), 3, 0.85)
    nearest = f"nearest: {', '.join(near)}; " if near else ""
    return f"{what}; {nearest}{PAGE} lists what is"
