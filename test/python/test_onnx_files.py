"""ONNX files as exporters write them: order of nodes, types, opsets, quantized weights, windows."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from test_frontend_onnx import (
    check,
    ints,
    layer_norm,
    loss_agrees,
    model,
    node,
    normal,
    refused,
    rms_norm,
    without_output_shape,
)
from traindeeploy.frontend import UnsupportedOperator, import_model, training_mode
from traindeeploy.frontend.operators import not_supported


def test_nodes_in_any_order():
    nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "r"), node("Add", "r b", "y")]
    tensors = {"w": normal(5, 7), "b": normal(7)}
    texts = {check(model([nodes[i] for i in order], tensors)).module_text for order in ((0, 1, 2), (0, 1, 2))}
    assert len(texts) == 1
    sorted_text = texts.pop().replace("_0", "")
    assert import_model(model(nodes[::-1], tensors)).module_text.replace("_0", "") == sorted_text
    assert import_model(model([nodes[1], nodes[0], nodes[2]], tensors)).module_text.replace("_0", "") == (
        sorted_text
    )


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("Add", "x y", "y", "a")], "operator Add at 'a' depends on its own result"),
        (
            [node("Add", "x t", "s", "a"), node("Relu", "s", "t", "b"), node("Relu", "t", "y", "c")],
            "operator Add at 'a' depends on its own result",
        ),
    ],
)
def test_circles(nodes, said):
    assert refused(model(nodes, {})) == said


def test_a_file_of_two_opsets_of_one_domain():
    proto = model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}, opset=17)
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 20))
    assert refused(proto) == "the ONNX model imports opsets 17 and 20 of domain 'ai.onnx'; it may import one"


def test_a_model_of_float16():
    """Inputs, weights, constants and casts: all are float32 then."""
    half = {"w": normal(5, 7).astype(np.float16), "b": normal(7).astype(np.float16)}
    two = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float16(2)))
    nodes = [two, node("MatMul", "x w", "m"), node("Mul", "m c", "s"), node("Add", "s b", "t")]
    nodes.append(node("Cast", "t", "y", to=TensorProto.FLOAT))
    imported = import_model(model(nodes, half, dtype=TensorProto.FLOAT16))
    assert imported.notes == ("4 tensors of float16 in the file: trained as float32",)
    assert [p.dtype for p in imported.parameters.values()] == [np.float32] * 2
    assert imported.constants == frozenset()


def test_weights_in_constant_nodes():
    w = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(5, 7)))
    imported = check(model([w, node("MatMul", "x w", "y")], {}))
    assert imported.constants == frozenset() and list(imported.parameters) == ["w"]
    assert imported.notes == ("w: weights in Constant nodes, trained as parameters",)
    # Beside initializers they are constants.
    imported = check(model([w, node("MatMul", "x w", "m"), node("Add", "m b", "y")], {"b": normal(7)}))
    assert imported.constants == {"w"}
    assert imported.notes == (
        "w: weights in Constant nodes beside initializers, so constants, never trained",
    )


def quantized(name, values, scale, zero, suffix="_quantized"):
    """What quantizes to `values`: initializers of a DequantizeLinear, and the node."""
    tensors = {
        f"{name}{suffix}": np.round(values / scale).clip(-128, 127).astype(np.int8),
        f"{name}_scale": np.asarray(scale, np.float32),
        f"{name}_zero": np.asarray(zero, np.int8),
    }
    return tensors, node("DequantizeLinear", " ".join(tensors), f"{name}_float", f"{name}_dequantize")


@pytest.mark.parametrize("relu", [True, False])
def test_quantized_models(relu):
    """QDQ: weights become what they stand for; a pair whose range begins at 0 is a Relu where none is."""
    scale = np.float32(1 / 64)
    tensors, weight = quantized("w", normal(5, 7), scale, 0)
    tensors |= {"s": np.float32(0.02), "z": np.int8(-128), "zx": np.int8(3), "v": normal(7, 2)}
    nodes = [
        node("QuantizeLinear", "x s zx", "q"),
        node("DequantizeLinear", "q s zx", "d"),
        weight,
        node("MatMul", "d w_float", "m"),
        *([node("Relu", "m", "r")] if relu else []),
        node("QuantizeLinear", "r s z" if relu else "m s z", "qm"),
        node("DequantizeLinear", "qm s z", "dm"),
        node("MatMul", "dm v", "y"),
    ]
    proto = model(nodes, tensors)
    imported = import_model(proto)
    assert list(imported.parameters) == ["v", "w"] and imported.constants == frozenset()
    assert (
        "a quantized model (1 weights, 2 pairs of QuantizeLinear and DequantizeLinear)" in imported.notes[0]
    )
    expected = tensors["w_quantized"].astype(np.float32) * scale
    np.testing.assert_array_equal(imported.parameters["w"], expected)
    assert imported.module_text.count("train.relu") == 1
    loss_agrees(proto, lambda x, v, **_: np.maximum(x @ expected.astype(np.float64), 0) @ v)


@pytest.mark.parametrize("opset", [10, 13, 18, 19])
def test_quantized_weights_of_any_opset_and_name(opset):
    tensors, weight = quantized("w", normal(5, 7), np.float32(1 / 64), 0, suffix="8")
    imported = import_model(model([weight, node("MatMul", "x w_float", "y")], tensors, opset=opset))
    np.testing.assert_array_equal(imported.parameters["w_float"], tensors["w8"].astype(np.float32) / 64)


def test_quantized_operators_are_refused_with_advice():
    tensors = {"w": np.ones((5, 7), np.int8), "x0": np.ones((3, 5), np.int8)}
    nodes = [node("MatMulInteger", "x w", "m", "mm"), node("Cast", "m", "y", to=TensorProto.FLOAT)]
    message = refused(model(nodes, {"w": tensors["w"]}, dtype=TensorProto.INT8))
    what = "operator MatMulInteger at 'mm (MatMulInteger)' is not supported"
    assert message.startswith(f"{what}: the model is quantized; export it in float32, or with QuantizeLinear")


def test_a_training_graph_is_called_one():
    supported = ("Softmax",)
    message = not_supported("com.microsoft.SoftmaxGrad", "g", supported)
    assert message.endswith("the model is a training graph already; give the graph of its forward")
    assert "training graph" in not_supported("ai.onnx.preview.training.Adam", "g", supported)
    assert "training graph" not in not_supported("Grade", "g", supported)
    gradient = node("Gradient", "w", "g", "tape", domain="ai.onnx.preview.training", xs=["w"], y="y")
    proto = model([node("MatMul", "x w", "y"), gradient], {"w": normal(5, 7)})
    proto.graph.output.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, None))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    assert "the model is a training graph already" in refused(proto)


@pytest.mark.parametrize("value", [-np.inf, np.float32(np.finfo(np.float32).min)])
def test_masks_of_infinity(value):
    mask = np.where(np.triu(np.ones((7, 7)), 1), value, 0).astype(np.float32)
    nodes = [node("MatMul", "x w", "m"), node("Add", "m mask", "s"), node("Softmax", "s", "y")]
    imported = import_model(model(nodes, {"w": normal(5, 7), "mask": mask}, x=(7, 5)))
    assert imported.constants == {"mask"} and np.isfinite(imported.parameters["mask"]).all()
    if np.isinf(value):  # with numbers for distances
        mask -= np.abs(np.subtract.outer(np.arange(7), np.arange(7))).astype(np.float32) / 4
        imported = import_model(model(nodes, {"w": normal(5, 7), "mask": mask}, x=(7, 5)))
        assert imported.constants == {"mask"}


def test_infinity_among_weights_is_a_mistake():
    w = normal(5, 7)
    w[1, 2] = -np.inf
    assert refused(model([node("MatMul", "x w", "y")], {"w": w})) == (
        "parameter 'w' holds NaN or infinity in 1 of 35 values"
    )


@pytest.mark.parametrize("operator", ["RMSNorm", "RmsNorm", "SimplifiedLayerNormalization"])
def test_norms_of_domains_of_their_own(operator):
    """As exporters of PyTorch's own modules write them."""
    last = helper.make_node(operator, ["m", "b"], ["y"], name="n", domain="my.exporter", eps=1e-3)
    proto = model([node("MatMul", "x w", "m"), last], {"w": normal(5, 7), "b": normal(7)})
    proto.opset_import.append(helper.make_opsetid("my.exporter", 1))
    text = loss_agrees(proto, lambda x, w, b: rms_norm(x @ w, b, 1e-3))
    assert "rsqrt" in text


@pytest.mark.parametrize("opset", [11, 13])
def test_batch_norm_in_training_mode_of_older_opsets(opset):
    """It has five results there, and no attribute that says so."""
    tensors = {"w": normal(5, 4), "s": normal(4), "b": normal(4), "mean": normal(4), "var": normal(4) ** 2}
    norm = helper.make_node(
        "BatchNormalization", ["m", "s", "b", "mean", "var"], ["y", "m1", "v1", "m2", "v2"], name="n"
    )
    proto = model([node("MatMul", "x w", "m"), norm], tensors, opset=opset)
    assert refused(proto).startswith("operator BatchNormalization at 'n' takes the statistics of the batch")
    imported = import_model(proto, mode=training_mode(batch_norm="batch"))
    assert imported.running == {"mean", "var"} and "train.normalize" in imported.module_text


def test_a_batch_that_the_export_has_fixed():
    """The node is said, and the size that the file was exported for."""
    nodes = [
        node("Expand", "token shape", "t", "expand"),
        node("Concat", "t x", "c", "cat", axis=1),
        node("MatMul", "c w", "y"),
    ]
    tensors = {"token": normal(1, 1, 5), "shape": ints(3, 1, 5), "w": normal(5, 2)}
    proto = model(nodes, tensors, x=("N", 4, 5))
    message = refused(proto)
    assert message.startswith(
        "the shapes of the ONNX model do not fit together at batch size 1: operator Concat"
    )
    assert "at 'cat (Concat)'" in message
    assert message.endswith("; the file was exported for a fixed batch: --batch-size 3 fits")


def test_a_second_result_that_nothing_reads():
    norm = helper.make_node("LayerNormalization", ["m", "s"], ["y", "mean", "deviation"], name="n")
    proto = model([node("MatMul", "x w", "m"), norm], {"w": normal(5, 7), "s": normal(7)})
    loss_agrees(proto, lambda x, w, s: layer_norm(x @ w, s, 0, 1e-5))
    assert import_model(proto).module_text.count("train.normalize") == 1


ATTENTION = {
    "causal": {"is_causal": 1},
    "shared heads and a scale": {"kv_num_heads": 2, "scale": 0.3},
    "capped": {"softcap": 2.0},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    """Against onnx's reference, of weights that are trained."""
    given = {"q_num_heads": 4, "kv_num_heads": 4} | ATTENTION[name]
    width = 3 * given["kv_num_heads"]
    tensors = {"q": normal(5, 12), "k": normal(5, width), "v": normal(5, width)}
    nodes = [node("MatMul", f"x {n}", f"m{n}") for n in "qkv"]
    proto = model(
        [*nodes, node("Attention", "mq mk mv", "y", "att", **given)], tensors, x=(2, 7, 5), opset=23
    )
    reference = ReferenceEvaluator(proto)
    loss_agrees(proto, lambda x, **_: reference.run(None, {"x": x.astype(np.float32)})[0])


def test_attention_of_a_query_that_sees_nothing():
    mask = np.ones((3, 3), bool)
    mask[1] = False
    nodes = [node("MatMul", "x w", "m"), node("Attention", "m m m mask", "y")]
    proto = model(nodes, {"w": normal(5, 4), "mask": mask}, x=(1, 2, 3, 5), opset=23)

    def attend(x, w, **_):
        m = x @ w
        scores = m @ m.swapaxes(-1, -2) / 2
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        return np.where(mask.any(1)[:, None], weights, 0) @ m

    loss_agrees(proto, attend)


# Windows.

X = (1, 2, 5, 5)
WEIGHTS = {"w": normal(4, 2, 3, 3), "b": normal(4)}


@pytest.mark.parametrize(
    ("given", "x", "said"),
    [
        ({}, (1, 3, 5, 5), "has an input of 3 channels, a weight of shape [4, 2, 3, 3] and group 1, which"),
        (
            {"group": 3},
            (1, 6, 5, 5),
            "has an input of 6 channels, a weight of shape [4, 2, 3, 3] and group 3",
        ),
        ({"kernel_shape": [3, 2]}, X, "has the kernel_shape [3, 2] and a weight of shape [4, 2, 3, 3]"),
        ({"pads": [1, 1]}, X, "has the pads [1, 1]; it needs 4 numbers for 2 axes"),
        ({"pads": [-1, 0, 0, 0]}, X, "has the pads [-1, 0, 0, 0]; numbers from 0 on are supported"),
        ({"strides": [0, 1]}, X, "has the strides [0, 1]; numbers from 1 on are supported"),
        (
            {"auto_pad": "BOGUS"},
            X,
            "has the auto_pad 'BOGUS'; there are NOTSET, SAME_LOWER, SAME_UPPER, VALID",
        ),
        ({}, (1, 2, 2, 5), "has windows of [3, 3], larger than its padded input of shape [1, 2, 2, 5]"),
        ({}, (1, 2, 5), "has a weight of shape [4, 2, 3, 3] for an input of shape [1, 2, 5]"),
    ],
)
def test_convolutions_that_do_not_fit(given, x, said):
    message = refused(model([node("Conv", "x w b", "y", "c", **given)], WEIGHTS, x=x), UnsupportedOperator)
    assert message.startswith(f"operator Conv at 'c (Conv)' {said}")


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool"])
def test_pools_that_hold_nothing_but_padding(operator):
    pool = node(operator, "c", "y", "p", kernel_shape=[2, 2], pads=[2, 0, 0, 0])
    message = refused(model([node("Conv", "x w b", "c"), pool], WEIGHTS, x=(1, 2, 5, 5)), UnsupportedOperator)
    assert message.startswith(f"operator {operator} at 'p ({operator})' is padded by [2, 0, 0, 0]")


POOLS = {
    "ceil": {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceil and padding": {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 0, 1], "ceil_mode": 1},
    "sides": {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0]},
    "same": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "gaps": {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [1, 0, 1, 0]},
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_pools(operator, name):
    nodes = [node("Conv", "x w b", "c"), node(operator, "c", "y", **POOLS[name])]
    proto = without_output_shape(model(nodes, WEIGHTS, x=(2, 2, 8, 9), opset=20))
    reference = ReferenceEvaluator(proto)
    loss_agrees(proto, lambda x, **_: reference.run(None, {"x": x.astype(np.float32)})[0])


REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
"""Their axes are an operand from opset 13 (ReduceSum) or 18 on; files before 15 are converted."""


@pytest.mark.parametrize(
    ("operator", "opset"),
    [*((name, 18) for name in REDUCTIONS), *((REDUCTIONS[i], (11, 13, 17, 20)[i % 4]) for i in range(10))],
)
def test_reductions_of_all_opsets(operator, opset):
    """With axes (once an attribute, then an operand), negative ones, and without any."""
    as_operand = opset >= (13 if operator == "ReduceSum" else 18)
    nodes, tensors = [node("MatMul", "x w", "m"), node("Exp", "m", "e")], {"w": normal(5, 3) / 8}
    parts = []
    for number, (axes, keep) in enumerate([([1], 1), ([-1, 0], 0), ([0], 0), (None, 1)]):
        operands, given = "e", {"keepdims": keep}
        if axes is not None and as_operand:
            tensors[f"axes{number}"] = ints(*axes)
            operands += f" axes{number}"
        elif axes is not None:
            given["axes"] = axes
        nodes.append(node(operator, operands, f"r{number}", **given))
        nodes.append(node("Reshape", f"r{number} flat", f"f{number}"))
        parts.append(f"f{number}")
    nodes.append(helper.make_node("Concat", parts, ["y"], axis=0))
    proto = model(nodes, tensors | {"flat": ints(-1)}, opset=opset)
    functions = {
        "ReduceL1": lambda a, i: np.abs(a).sum(i),
        "ReduceL2": lambda a, i: np.sqrt((a * a).sum(i)),
        "ReduceLogSum": lambda a, i: np.log(a.sum(i)),
        "ReduceLogSumExp": lambda a, i: np.log(np.exp(a).sum(i)),
        "ReduceMax": lambda a, i: a.max(i),
        "ReduceMean": lambda a, i: a.mean(i),
        "ReduceMin": lambda a, i: a.min(i),
        "ReduceProd": lambda a, i: a.prod(i),
        "ReduceSum": lambda a, i: a.sum(i),
        "ReduceSumSquare": lambda a, i: (a * a).sum(i),
    }

    def expected(x, w, **_):
        e = np.exp(x @ w)
        return np.concatenate([functions[operator](e, axes).ravel() for axes in ((1,), (0, 1), (0,), None)])

    loss_agrees(proto, expected)


def test_images_of_bytes():
    """A Cast of what is fed as whole numbers is a float32 input, with a note."""
    nodes = [node("Cast", "x", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")]
    imported = import_model(model(nodes, {"w": normal(5, 7)}, dtype=TensorProto.UINT8))
    assert imported.inputs[0].dtype == "float32"
    assert imported.notes == ("input 'x' of uint8 in the file: fed as float32",)


def test_parts_without_elements():
    nodes = [
        node("MatMul", "x w", "m"),
        helper.make_node("Split", ["m", "sizes"], ["a", "b"], axis=1),
        node("Tanh", "a", "t"),
        node("Concat", "t b", "y", axis=1),
    ]
    proto = model(nodes, {"w": normal(5, 7), "sizes": ints(7, 0)})
    loss_agrees(proto, lambda x, w, **_: np.tanh(x @ w))
