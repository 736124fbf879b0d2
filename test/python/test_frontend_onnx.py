"""ONNX to the training graph: structure, values against onnx.reference, and what is refused in words."""

import itertools
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from level2 import evaluate, forward_ops, ops
from traindeeploy.driver import training_graph
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import BatchSizeError, ModelError, UnsupportedOperator, import_model
from traindeeploy.host import HostStep
from traindeeploy.recipes import resolve_recipe

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def node(operator, inputs, output, name="", **attributes):
    return helper.make_node(operator, inputs.split(), [output], name=name, **attributes)


def model(nodes, tensors, x=(3, 5), y=None, opset=20, outputs=("y",), also=(), dtype=TensorProto.FLOAT):
    """An ONNX model of an input `x` and the output `y`, of unknown sizes unless given."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, x), *also],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, y or ("?",)) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def without_output_shape(proto):
    proto.graph.output[0].type.tensor_type.shape.Clear()
    return proto


def check(proto, batch_size=None, x=None):
    """Import, and compare @forward with onnx.reference."""
    imported = import_model(proto, None, batch_size)
    x = normal(*imported.inputs[0].shape) if x is None else x
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    found = evaluate(imported, x)
    assert found.shape == expected.shape == imported.output.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
    return imported


def refused(proto, kind=ModelError, batch_size=None):
    """The one line that refuses the model."""
    with pytest.raises(TrainDeeployError) as error:
        import_model(proto, None, batch_size)
    assert isinstance(error.value, kind), error.value
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("opset", [12, 13, 15, 18, 20, 21])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_of_every_opset(opset, bias):
    sizes = (5, 17, 1, 13)
    nodes, tensors, value = [], {}, "x"
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        tensors[f"fc{i}.weight"] = normal(fan_out, fan_in)
        operands = f"{value} fc{i}.weight"
        if bias:
            tensors[f"fc{i}.bias"] = normal(fan_out)
            operands += f" fc{i}.bias"
        nodes.append(node("Gemm", operands, f"g{i}", f"/fc{i}/Gemm", transB=1))
        value = f"a{i}" if fan_out != sizes[-1] else "y"
        nodes.append(node("Sigmoid" if i else "Relu", f"g{i}", value, f"/act{i}"))
    imported = check(model(nodes, tensors, opset=opset))
    assert ops(imported) == ["linear", "relu", "linear", "sigmoid", "linear", "sigmoid"]
    assert forward_ops(imported)[0] == ("train.linear", "/fc0/Gemm (Gemm)")
    assert list(imported.parameters) == list(tensors)
    assert imported.inputs[0].name == "x" and imported.output.name == "y"
    assert imported.name == "net" and imported.batch_size == 3
    last = ["fc2.weight", "fc2.bias"] if bias else ["fc2.weight"]
    assert resolve_recipe(imported, "linear-probe") == last


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("c", [None, (7,), (1, 7), (3, 1), (3, 7), (1,)])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(trans_b, c, alpha, beta):
    tensors = {"w": normal(7, 5) if trans_b else normal(5, 7)}
    operands = "x w"
    if c is not None:
        tensors["c"] = normal(*c)
        operands += " c"
    imported = check(model([node("Gemm", operands, "y", alpha=alpha, beta=beta, transB=trans_b)], tensors))
    assert len(imported.layers) == 1


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_of_a_transposed_input(trans_b):
    tensors = {"w": normal(7, 3) if trans_b else normal(3, 7), "b": normal(7)}
    check(model([node("Gemm", "x w b", "y", transA=1, transB=trans_b)], tensors))


FORMS = {
    "matmul and add": [node("MatMul", "x w", "m"), node("Add", "m b", "y")],
    "add first": [node("MatMul", "x w", "m"), node("Add", "b m", "y")],
    "tanh": [node("MatMul", "x w", "m"), node("Tanh", "m", "y")],
    "sub and mul": [node("MatMul", "x w", "m"), node("Sub", "b m", "s"), node("Mul", "s m", "y")],
    "scalar": [node("MatMul", "x w", "m"), node("Mul", "m two", "y")],
    "constant node": [
        node("MatMul", "x w", "m"),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(0.3))),
        helper.make_node("Constant", [], ["d"], value_float=-2.0),
        helper.make_node("Constant", [], ["e"], value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        helper.make_node(
            "Constant", [], ["f"], value=numpy_helper.from_array(np.full((1, 7), 0.5, np.float32))
        ),
        node("Mul", "m c", "m1"),
        node("Add", "d m1", "m2"),
        node("Mul", "m2 e", "m3"),
        node("Add", "m3 f", "y"),
    ],
    "transposed weight": [node("Transpose", "v", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
    "shapes": [
        node("MatMul", "x w", "m"),
        node("Unsqueeze", "m axis1", "u"),
        node("Squeeze", "u axis1", "s"),
        node("Unsqueeze", "s axis1", "t"),
        node("Flatten", "t", "f", axis=1),
        node("Reshape", "f split", "r"),
        node("Reshape", "r join", "y"),
    ],
    "nothing": [node("MatMul", "x w", "m"), node("Identity", "m", "i"), node("Dropout", "i", "y")],
    "cast to the same type": [node("Cast", "x", "c", to=TensorProto.FLOAT), node("MatMul", "c w", "y")],
    "three dimensions": [
        node("Unsqueeze", "x axis1", "u"),
        node("MatMul", "u w", "m"),
        node("Add", "m b", "y"),
    ],
    "a size that is computed": [
        node("MatMul", "x w", "m"),
        node("Shape", "m", "shape"),
        node("Gather", "shape zero", "rows"),
        node("Unsqueeze", "rows zeros", "rows1"),
        helper.make_node("Concat", ["rows1", "minus"], ["target"], axis=0),
        node("Reshape", "m target", "y"),
    ],
}
TENSORS = {
    "w": normal(5, 7),
    "v": normal(7, 5),
    "b": normal(7),
    "two": np.array(2, np.float32),
    "axis1": ints(1),
    "split": ints(-1, 7, 1),
    "join": ints(3, 7),
    "zero": np.array(0, np.int64),
    "zeros": ints(0),
    "minus": ints(-1),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    used = {value for n in FORMS[name] for value in n.input}
    imported = check(model(FORMS[name], {key: value for key, value in TENSORS.items() if key in used}))
    assert set(imported.parameters) - imported.constants <= {"w", "v", "b"}


def test_layers_of_arbitrary_names():
    nodes = [node("MatMul", "x kernel_9", "m"), node("Add", "m q", "a"), node("Relu", "a", "r")]
    nodes += [node("MatMul", "r other", "m2"), node("Add", "zz m2", "y")]
    tensors = {"zz": normal(4), "other": normal(7, 4), "q": normal(7), "kernel_9": normal(5, 7)}
    imported = check(model(nodes, tensors))
    assert [set(layer.parameters) for layer in imported.layers] == [{"kernel_9", "q"}, {"other", "zz"}]
    assert resolve_recipe(imported, "last:1") == ["zz", "other"]
    assert [place for _, place in forward_ops(imported)] == [
        "MatMul_0 (MatMul)",
        "Add_0 (Add)",
        "Relu_0 (Relu)",
        "MatMul_1 (MatMul)",
        "Add_1 (Add)",
    ]


def test_an_initializer_used_twice_is_one_parameter():
    nodes = [node("Gemm", "x w", "h", "enc", transB=1), node("Gemm", "h w", "y", "dec")]
    imported = check(model(nodes, {"w": normal(7, 5)}))
    assert list(imported.parameters) == ["w"]
    assert [layer.parameters for layer in imported.layers] == [("w",)]
    assert imported.module_text.count("train.read @w") == 1


def test_names_that_mlir_must_quote():
    imported = check(
        model([node("MatMul", "x model/dense/Read:0", "y")], {"model/dense/Read:0": normal(5, 7)})
    )
    assert 'train.parameter @"model/dense/Read:0"' in imported.module_text


def test_initializers_that_are_inputs_as_well():
    also = [helper.make_tensor_value_info("w", TensorProto.FLOAT, (5, 7))]
    imported = check(model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}, also=also))
    assert [spec.name for spec in imported.inputs] == ["x"]


def test_dead_nodes_and_unused_initializers():
    nodes = [node("NonZero", "x", "dead"), node("MatMul", "x w", "y")]
    imported = check(
        model(nodes, {"w": normal(5, 7), "left": normal(2), "right": np.zeros(2)[:0].astype(np.float32)})
    )
    assert list(imported.parameters) == ["w"]
    assert imported.notes == ("left, right are not used by the forward; they are left out",)


def test_the_model_of_the_caller_is_not_changed():
    proto = model([node("Gemm", "x w", "y")], {"w": normal(5, 7)}, opset=12)
    before = proto.SerializeToString()
    import_model(proto)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("x", [(3, 5), ("N", 5), (None, 5)])
def test_batch_size(x, batch_size):
    nodes = [node("Gemm", "x w b", "g", transB=1), node("Reshape", "g split", "r"), node("Flatten", "r", "y")]
    imported = check(
        model(nodes, {"w": normal(7, 5), "b": normal(7), "split": ints(-1, 7, 1)}, x=x), batch_size
    )
    assert imported.batch_size == batch_size == imported.inputs[0].shape[0]


def test_inputs_without_a_common_batch():
    also = [helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 7))]
    proto = model([node("MatMul", "x w", "m"), node("Add", "m z", "y")], {"w": normal(5, 7)}, also=also)
    imported = import_model(proto)
    assert [spec.name for spec in imported.inputs] == ["x", "z"]
    assert imported.batch_size is None
    message = refused(proto, BatchSizeError, batch_size=2)
    assert message == "the inputs have no common size of axis 0, so the batch size cannot be changed"


def test_symbolic_batch_is_one_by_default():
    assert check(model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}, x=("N", 5))).batch_size == 1


def test_saved_file(tmp_path):
    path = tmp_path / "my model.onnx"
    onnx.save(model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}), str(path))
    imported = import_model(path)
    assert imported.name == "my model"
    assert import_model(str(path)).module_text == imported.module_text


def test_the_onnx_route_never_imports_torch(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}, opset=12), str(path))
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from traindeeploy.frontend import import_model\n"
        "from traindeeploy.recipes import resolve_recipe\n"
        "print(resolve_recipe(import_model(sys.argv[1])), len(import_model('deep-ae').parameters))\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "['w'] 20\n"), result.stderr


# What is refused.


def test_unsupported_operator():
    nodes = [node("MatMul", "x w", "m"), node("Sin", "m", "y", "/head/Sin")]
    message = refused(model(nodes, {"w": normal(5, 7)}), UnsupportedOperator)
    what = "operator Sin at '/head/Sin (Sin)' is not supported"
    assert message == f"{what}: sines of positions are, as constants; docs/operators.md lists what is"
    nodes = [node("MatMul", "x w", "m"), node("Tan", "m", "y", "t")]
    message = refused(model(nodes, {"w": normal(5, 7)}), UnsupportedOperator)
    assert message.startswith("operator Tan at 't (Tan)' is not supported; nearest: Tanh; docs/operators.md")
    top = helper.make_node("TopK", ["m", "k"], ["y", "at"], name="top")
    nodes = [node("MatMul", "x w", "m"), top]
    message = refused(model(nodes, {"w": normal(5, 7), "k": ints(1)}), UnsupportedOperator)
    assert "is not supported: the largest element is a ReduceMax; docs/operators.md" in message


def test_unsupported_operators_of_other_kinds():
    custom = helper.make_node("Fancy", ["x"], ["y"], name="f", domain="my.domain")
    proto = model([custom], {})
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    assert "Fancy" in refused(proto)
    # Known to ONNX, not to torch-mlir's conversion.
    nodes = [node("MatMul", "x w", "m"), helper.make_node("Det", ["m"], ["y"], name="p")]
    assert "Det" in refused(model(nodes, {"w": normal(5, 7)}, x=(5, 5)))


def erf(x):
    return np.vectorize(math.erf)(x)


def layer_norm(x, scale, shift, epsilon):
    centered = x - x.mean(-1, keepdims=True)
    return rms_norm(centered, scale, epsilon) + shift


def rms_norm(x, scale, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale


def loss_agrees(proto, function):
    """The mean squared error on the host is that of `function` of the input and the initializers."""
    text, imported = training_graph(proto, loss="mse")
    tensors = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    x = normal(*imported.inputs[0].shape)
    expected = function(x.astype(np.float64), **tensors)
    target = normal(*expected.shape)
    loss, _ = HostStep(text)(imported.parameters, {"x": x, "target": target, "lr": np.float32(0)})
    assert loss == pytest.approx(np.mean((expected - target) ** 2), rel=2e-6)
    return text


FUSED = {
    "BiasGelu": ("b", {}, lambda m, b, **_: (m + b) * (1 + erf((m + b) / 2**0.5)) / 2),
    "FastGelu": (
        "b",
        {},
        lambda m, b, **_: (
            (m + b) * (1 + np.tanh((2 / np.pi) ** 0.5 * ((m + b) + 0.044715 * (m + b) ** 3))) / 2
        ),
    ),
    "QuickGelu": ("", {"alpha": 1.5}, lambda m, **_: m / (1 + np.exp(-1.5 * m))),
    "SimplifiedLayerNormalization": ("b", {"epsilon": 1e-3}, lambda m, b, **_: rms_norm(m, b, 1e-3)),
    "LayerNormalization": ("b c", {"epsilon": 1e-3}, lambda m, b, c, **_: layer_norm(m, b, c, 1e-3)),
    "SkipLayerNormalization": (
        "s b c d",
        {"epsilon": 1e-3},
        lambda m, s, b, c, d, **_: layer_norm(m + s + d, b, c, 1e-3),
    ),
    "SkipSimplifiedLayerNormalization": ("s b", {}, lambda m, s, b, **_: rms_norm(m + s, b, 1e-5)),
    "FusedMatMul": ("v", {"transB": 1, "alpha": 0.5}, lambda m, v, **_: 0.5 * m @ v.T),
    "FusedGemm": (
        "v b",
        {"transB": 1, "beta": 0.5, "activation": "Tanh"},
        lambda m, v, b, **_: np.tanh(m @ v.T + 0.5 * b),
    ),
}


@pytest.mark.parametrize("opset", [12, 17, 20])
@pytest.mark.parametrize("name", FUSED)
def test_fused_operators(name, opset):
    operands, attributes, function = FUSED[name]
    every = {"w": normal(5, 7), "v": normal(7, 7), "s": normal(3, 7)} | {n: normal(7) for n in "bcd"}
    tensors = {key: every[key] for key in ["w", *operands.split()]}
    domain = "" if name == "SimplifiedLayerNormalization" else "com.microsoft"
    last = helper.make_node(name, ["m", *operands.split()], ["y"], name="last", domain=domain, **attributes)
    proto = model([node("MatMul", "x w", "m"), last], tensors, opset=opset)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    text = loss_agrees(proto, lambda x, w, **others: function(x @ w, **others))
    # A norm that was spelled out is one operator again.
    assert ("rsqrt" in text) == ("Norm" in name)


def test_a_sum_beside_its_norm():
    skip = helper.make_node(
        "SkipLayerNormalization", ["m", "s", "b", "c"], ["h", "", "", "t"], domain="com.microsoft"
    )
    tensors = {"w": normal(5, 7), "s": normal(3, 7), "b": normal(7), "c": normal(7)}
    proto = model([node("MatMul", "x w", "m"), skip, node("Mul", "h t", "y")], tensors, opset=15)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    loss_agrees(proto, lambda x, w, s, b, c: layer_norm(x @ w + s, b, c, 1e-5) * (x @ w + s))


def soft(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def attended(q, k, v, heads, shared):
    """Attention of [batch, tokens, heads * width]; keys and values have heads / shared heads."""
    n, tokens, width = q.shape
    q = q.reshape(n, tokens, heads, -1).transpose(0, 2, 1, 3)
    k, v = (t.reshape(n, tokens, heads // shared, -1).transpose(0, 2, 1, 3) for t in (k, v))
    k, v = (np.repeat(t, shared, axis=1) for t in (k, v))
    weights = soft(q @ k.swapaxes(-1, -2) / np.sqrt(width / heads))
    return (weights @ v).transpose(0, 2, 1, 3).reshape(n, tokens, width)


def test_operators_that_onnx_defines_by_others():
    """Of the newest opsets, and older ones; also with attributes at their defaults."""
    swish = [node("MatMul", "x w", "m"), node("Swish", "m", "y")]
    loss_agrees(model(swish, {"w": normal(5, 7)}, opset=24), lambda x, w: (x @ w) / (1 + np.exp(-(x @ w))))
    celu = [node("MatMul", "x w", "m"), node("Celu", "m", "y", alpha=0.7)]
    loss_agrees(
        model(celu, {"w": normal(5, 7)}, opset=12),
        lambda x, w: np.where(x @ w > 0, x @ w, 0.7 * np.expm1((x @ w) / 0.7)),
    )
    attention = [
        node("MatMul", "x w", "q"),
        node("MatMul", "x v", "k"),
        node("Attention", "q k k", "y", q_num_heads=4, kv_num_heads=2),
    ]
    proto = model(attention, {"w": normal(5, 12), "v": normal(5, 6)}, x=(2, 3, 5), opset=23)
    loss_agrees(proto, lambda x, w, v: attended(x @ w, x @ v, x @ v, 4, 2))
    group = [node("Conv", "x w", "m"), node("GroupNormalization", "m b c", "y", num_groups=2)]
    tensors = {"w": normal(4, 3, 1, 1), "b": normal(4), "c": normal(4)}

    def grouped(x, w, b, c):
        m = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0])
        y = layer_norm(m.reshape(2, 2, -1), 1, 0, 1e-5).reshape(m.shape)
        return y * b[:, None, None] + c[:, None, None]

    loss_agrees(model(group, tensors, x=(2, 3, 5, 7), opset=21), grouped)


@pytest.mark.parametrize("opset", [13, 20])
def test_functions_of_the_model(opset):
    function = helper.make_function(
        "mine", "Layer", ["a", "c"], ["o"], [node("Add", "a c", "t"), node("Tanh", "t", "o")],
        [helper.make_opsetid("", opset)],
    )  # fmt: skip
    call = helper.make_node("Layer", ["m", "b"], ["y"], name="call", domain="mine")
    proto = model([node("MatMul", "x w", "m"), call], {"w": normal(5, 7), "b": normal(7)}, opset=opset)
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    proto.functions.append(function)
    loss_agrees(proto, lambda x, w, b: np.tanh(x @ w + b))


@pytest.mark.parametrize(
    "given",
    [
        {"pads": [1, 0, 0, 2], "output_padding": [1, 1], "dilations": [1, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    ],
)
def test_padding_of_transposed_convolutions(given):
    tensors = {"w": normal(3, 4, 3, 4), "b": normal(4)}
    proto = model([node("ConvTranspose", "x w b", "y", strides=[2, 3], **given)], tensors, x=(2, 3, 5, 7))
    without_output_shape(proto)
    loss_agrees(proto, lambda x, **t: ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float32)})[0])


def test_slices_of_several_axes():
    """Also backwards, from the end and beyond it."""
    bounds = {"s": ints(-1, 1, 4), "e": ints(-99, 3, 0), "a": ints(0, 1, 2), "d": ints(-1, 1, -2)}
    nodes = [node("MatMul", "x w", "m"), node("Slice", "m s e a d", "y")]
    proto = model(nodes, {"w": normal(5, 7), **bounds}, x=(3, 4, 5))
    loss_agrees(proto, lambda x, w, **_: (x @ w)[::-1, 1:3, 4:0:-2])


def test_an_exponent_with_a_dimension():
    nodes = [node("MatMul", "x w", "m"), node("Pow", "m two", "y")]
    proto = model(nodes, {"w": normal(5, 7), "two": np.array([2.0], np.float32)})
    loss_agrees(proto, lambda x, w, two: (x @ w) ** 2)
    assert import_model(proto).constants == frozenset()


def test_rms_normalization_of_opset_23():
    tensors = {"w": normal(5, 7), "b": normal(7)}
    nodes = [node("MatMul", "x w", "m"), node("RMSNormalization", "m b", "y", epsilon=1e-3)]
    text, imported = training_graph(model(nodes, tensors, opset=23), loss="mse")
    x, target = normal(3, 5), normal(3, 7)
    loss, _ = HostStep(text)(imported.parameters, {"x": x, "target": target, "lr": np.float32(0)})
    m = x.astype(np.float64) @ tensors["w"]
    expected = m / np.sqrt((m * m).mean(-1, keepdims=True) + 1e-3) * tensors["b"]
    assert loss == pytest.approx(np.mean((expected - target) ** 2), rel=2e-6)


def test_active_dropout():
    nodes = [node("MatMul", "x w", "m"), node("Dropout", "m ratio yes", "y", "drop")]
    message = refused(model(nodes, {"w": normal(5, 7), "ratio": np.float32(0.5), "yes": np.array(True)}))
    assert message.startswith("operator Dropout at 'drop (Dropout)'")


def test_a_model_that_computes_its_loss():
    nodes = [node("MatMul", "x w", "m"), node("SoftmaxCrossEntropyLoss", "m labels", "y", "loss")]
    message = refused(model(nodes, {"w": normal(5, 7), "labels": ints(0, 1, 2)}))
    assert message.startswith("the model computes its own loss (operator SoftmaxCrossEntropyLoss at ")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad):
    w = normal(5, 7)
    w[2, 3] = bad
    message = refused(model([node("MatMul", "x w", "y")], {"w": w}))
    assert message == "parameter 'w' holds NaN or infinity in 1 of 35 values"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_initializers_of_another_type(dtype):
    """They are widened, with a note."""
    element = np.dtype(dtype) if dtype != "bfloat16" else bfloat16
    tensors = {"w": normal(5, 7), "v": normal(5, 7).astype(element)}
    nodes = [
        node("Cast", "v", "c", to=TensorProto.FLOAT),
        node("Add", "w c", "s"),
        node("MatMul", "x s", "y"),
    ]
    imported = import_model(model(nodes, tensors))
    assert f"1 tensor of {dtype} in the file: trained as float32" in imported.notes
    assert imported.constants == frozenset()
    np.testing.assert_array_equal(imported.parameters["v"], tensors["v"].astype(np.float32))


def test_inputs_of_another_type():
    nodes = [node("Cast", "x", "c", to=TensorProto.FLOAT), node("MatMul", "c w", "y")]
    imported = import_model(model(nodes, {"w": normal(5, 7)}, dtype=TensorProto.INT64))
    assert imported.inputs[0].dtype == "int32" and ops(imported) == ["from_integers", "matmul"]


def test_outputs():
    nodes = [node("MatMul", "x w", "y"), node("Relu", "y", "z")]
    message = refused(model(nodes, {"w": normal(5, 7)}, outputs=("y", "z")))
    assert message == "the model has 2 outputs (y, z); say which one trains it: --output NAME"
    message = refused(model([node("MatMul", "w v", "y")], {"w": normal(5, 7), "v": normal(7, 5)}))
    assert "depends on none of its inputs" in message


def test_outputs_that_no_node_computes():
    message = refused(model([node("MatMul", "x w", "m")], {"w": normal(5, 7)}, outputs=("x",)))
    assert message == "output 'x' is not computed, but an input or an initializer"
    message = refused(model([node("MatMul", "x v", "y", "fc")], {"w": normal(5, 7)}))
    assert "input 'v' of node: name: fc OpType: MatMul is not output of any previous nodes" in message


def test_models_without_something_to_train():
    message = refused(model([node("Relu", "x", "y")], {}))
    assert message == "the model has no parameter that its output depends on, so there is nothing to train"


def test_dynamic_sizes():
    message = refused(model([node("MatMul", "x w", "y")], {"w": normal(5, 7)}, x=("N", "L", 5)))
    assert message.startswith(
        "axis 1 of input 'x' has the dynamic size 'L'; only axis 0, the batch, may be dynamic"
    )
    nodes = [
        node("NonZero", "x", "n"),
        node("Cast", "n", "c", to=TensorProto.FLOAT),
        node("MatMul", "w c", "y"),
    ]
    assert refused(model(nodes, {"w": normal(7, 2)}))


def test_shapes_that_do_not_fit():
    assert "do not fit together" in refused(model([node("MatMul", "x w", "y")], {"w": normal(6, 7)}))


def test_names_that_the_compiler_needs():
    message = refused(model([node("MatMul", "x step", "y")], {"step": normal(5, 7)}))
    assert message == "the parameter name 'step' is reserved for the compiler; rename it"


def test_invalid_models():
    assert refused(model([node("MatMul", "x nothing", "y")], {})).startswith("the ONNX model is not valid: ")
    proto = model([node("MatMul", "x w", "y")], {"w": normal(5, 7)})
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:8]
    assert refused(proto)


def test_batch_sizes_of_a_graph_with_fixed_shapes():
    what = "the model cannot be changed from batch size 3 to 6"
    tensors = {
        "w": normal(5, 7),
        "fixed": ints(3, -1),
        "split": ints(-1, 7, 1),
        "flat": ints(1, -1),
        "c": normal(3, 7),
    }

    def proto(*nodes):
        used = {value for n in nodes for value in n.input}
        return model(list(nodes), {key: value for key, value in tensors.items() if key in used})

    def message(*nodes):
        import_model(proto(*nodes))
        return refused(proto(*nodes), BatchSizeError, batch_size=6)

    matmul = node("MatMul", "x w", "m", "fc")
    halves = node("Reshape", "m split", "h", "h")
    whole = node("Reshape", "h fixed", "y", "r")
    assert import_model(proto(matmul, halves, whole), None, 6).output.shape == (6, 7)
    expected = f"{what}: axis 0 of the output of shape [1, 21] does not count samples one after the other"
    assert message(matmul, node("Reshape", "m flat", "y", "r")) == expected
    assert message(matmul, node("Add", "m c", "y")).startswith(f"{what}: '")
    assert "has a part of the parameter 'c' [3, 7] for each of 3 samples" in message(
        matmul, node("Add", "m c", "y")
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_files_that_are_cut(tmp_path, share):
    path = tmp_path / "cut.onnx"
    content = model(
        [node("MatMul", "x w", "m"), node("Relu", "m", "y")], {"w": normal(5, 7)}
    ).SerializeToString()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError) as error:
        import_model(path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_onnx(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("this is not a model\n" * 20)
    with pytest.raises(ModelError, match="not an ONNX model"):
        import_model(path)
    with pytest.raises(ModelError, match=r"there is no file 'missing.onnx'"):
        import_model("missing.onnx")
    with pytest.raises(ModelError, match="there is no file"):
        folder = tmp_path / "folder.onnx"
        folder.mkdir()
        import_model(folder)
