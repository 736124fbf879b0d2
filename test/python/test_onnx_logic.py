"""Comparisons, truth values and whole numbers near others in ONNX files, against NumPy on the host."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from test_frontend_onnx import ints, loss_agrees, model, node, normal
from traindeeploy.frontend import import_model

CAST = node("Cast", "t", "y", to=TensorProto.FLOAT)
HALF = np.float32(0.5)


def relu_like(operator, function, **given):
    return [node(operator, "m", "y", **given)], lambda m: function(m)


FORMS = {
    "greater": ([node("Greater", "m half", "t"), CAST], lambda m: m > 0.5),
    "greater or equal": ([node("GreaterOrEqual", "m half", "t"), CAST], lambda m: m >= 0.5),
    "less": ([node("Less", "m b", "t"), CAST], lambda m, b: m < b),
    "less or equal": ([node("LessOrEqual", "m m", "t"), CAST], lambda m: m <= m),
    "equal": ([node("Equal", "m m", "t"), CAST], lambda m: m == m),
    "and": (
        [node("Greater", "m half", "p"), node("Less", "m b", "q"), node("And", "p q", "t"), CAST],
        lambda m, b: (m > 0.5) & (m < b),
    ),
    "or, not": (
        [node("Greater", "m half", "p"), node("Not", "p", "q"), node("Or", "p q", "t"), CAST],
        lambda m: np.ones_like(m),
    ),
    "xor": (
        [node("Greater", "m half", "p"), node("Less", "m b", "q"), node("Xor", "p q", "t"), CAST],
        lambda m, b: (m > 0.5) ^ (m < b),
    ),
    "where": (
        [node("Greater", "m half", "p"), node("Where", "p m b", "y")],
        lambda m, b: np.where(m > 0.5, m, b),
    ),
    "sign": relu_like("Sign", np.sign),
    "floor": relu_like("Floor", np.floor),
    "ceil": relu_like("Ceil", np.ceil),
    "round": relu_like("Round", np.round),
    "fmod": ([node("Mod", "m half", "y", fmod=1)], lambda m: np.fmod(m, 0.5)),
    "thresholded relu": relu_like("ThresholdedRelu", lambda m: np.where(m > 0.7, m, 0), alpha=0.7),
    "shrink": relu_like(
        "Shrink",
        lambda m: np.where(m > 0.6, m - 0.2, np.where(m < -0.6, m + 0.2, 0)),
        lambd=0.6,
        bias=0.2,
    ),
    "hardmax": relu_like("Hardmax", lambda m: np.eye(m.shape[1])[m.argmax(1)], axis=1),
    "argmax": ([node("ArgMax", "m", "t", axis=1, keepdims=0), CAST], lambda m: m.argmax(1)),
    "argmin": ([node("ArgMin", "m", "t", axis=-1), CAST], lambda m: m.argmin(1)[:, None]),
}


@pytest.mark.parametrize("name", FORMS)
def test_of_what_is_computed(name):
    """Beside what has a gradient, so that there is something to train."""
    nodes, function = FORMS[name]
    names = {operand for n in nodes for operand in n.input}
    tensors = {"w": normal(5, 7), "half": HALF, "b": normal(7)}
    places = name in ("argmax", "argmin")
    last = [node("Add", "z r" if places else "z m", "y")]
    if places:
        last.insert(0, node("ReduceSum", "m all", "r", keepdims=0))
        tensors["all"] = ints(0, 1)
    own = []
    for n in nodes:
        outputs = ["z" if output == "y" else output for output in n.output]
        own.append(helper.make_node(n.op_type, n.input, outputs))
        own[-1].attribute.extend(n.attribute)
    used = {"w", *names, *(operand for n in last for operand in n.input)}
    kept = {key: value for key, value in tensors.items() if key in used}
    proto = model([node("MatMul", "x w", "m"), *own, *last], kept, opset=20)

    def expected(x, w, **others):
        m = x @ w
        given = {"b": others["b"]} if "b" in names else {}
        return function(m, **given) + (m.sum() if places else m)

    loss_agrees(proto, expected)


def test_a_mask_of_indices():
    """ids != 0 hides what is padding from a mean of embeddings."""
    nodes = [
        node("Gather", "w x", "e"),
        node("Equal", "x zero", "p"),
        node("Not", "p", "q"),
        node("Cast", "q", "f", to=TensorProto.FLOAT),
        node("Unsqueeze", "f last", "u"),
        node("Mul", "e u", "y"),
    ]
    tensors = {"w": normal(6, 4), "zero": np.array(0), "last": ints(-1)}
    imported = import_model(model(nodes, tensors, x=(2, 3), dtype=TensorProto.INT64))
    assert [spec.dtype for spec in imported.inputs] == ["int32"]
    assert "train.compare" in imported.module_text
