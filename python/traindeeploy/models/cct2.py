"""CCT-2/3x2, the Compact Convolutional Transformer that the TrainDeeploy paper fine-tunes.

Input 1x3x32x32; two convolutions 3x3 (3 -> 64 -> 128, no bias) with ReLU and max pooling 3/2; 64 tokens
of 128 with learned positions; 2 blocks of attention with 2 heads and an MLP of ratio 1 with GELU, residuals
as in the published model; sequence pooling; a linear classifier of 10 classes.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

WIDTH, HEADS, BLOCKS, TOKENS, CLASSES = 128, 2, 2, 64, 10
CHANNELS = (3, 64, 128)


def cct2_parameters(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights and positions from a clipped normal distribution of deviation 0.02 and 0.2, filters from
    Kaiming's, as the published model starts; from a fixed seed."""
    generator = np.random.default_rng(seed)

    def truncated(shape: tuple[int, ...], deviation: float) -> np.ndarray:
        values = np.clip(generator.standard_normal(shape), -2, 2) * deviation
        return values.astype(np.float32)

    parameters: dict[str, np.ndarray] = {}

    def linear(name: str, fan_out: int, bias: bool = True) -> None:
        parameters[f"{name}.weight"] = truncated((fan_out, WIDTH), 0.02)
        if bias:
            parameters[f"{name}.bias"] = np.zeros(fan_out, np.float32)

    def norm(name: str) -> None:
        parameters[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        parameters[f"{name}.bias"] = np.zeros(WIDTH, np.float32)

    for i in range(len(CHANNELS) - 1):
        shape = (CHANNELS[i + 1], CHANNELS[i], 3, 3)
        values = generator.standard_normal(shape) * sqrt(2 / (CHANNELS[i] * 9))
        parameters[f"tokenizer.conv_layers.{i}.0.weight"] = values.astype(np.float32)
    parameters["classifier.positional_emb"] = truncated((1, TOKENS, WIDTH), 0.2)
    for i in range(BLOCKS):
        block = f"classifier.blocks.{i}"
        norm(f"{block}.pre_norm")
        for name in ("q_proj", "k_proj", "v_proj"):
            linear(f"{block}.self_attn.{name}", WIDTH, bias=False)
        linear(f"{block}.self_attn.proj", WIDTH)
        norm(f"{block}.norm1")
        linear(f"{block}.linear1", WIDTH)
        linear(f"{block}.linear2", WIDTH)
    norm("classifier.norm")
    linear("classifier.attention_pool", 1)
    linear("classifier.fc", CLASSES)
    return parameters


def cct2(batch_size: int = 1) -> onnx.ModelProto:
    """The model as an ONNX graph, input `input` [batch_size, 3, 32, 32], output `output` [batch_size, 10]."""
    from onnx import TensorProto, helper, numpy_helper

    parameters = cct2_parameters()
    constants: dict[str, np.ndarray] = {}
    nodes = []

    def node(operator: str, name: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def shape(name: str, *sizes: int) -> str:
        constants[name] = np.array(sizes, np.int64)
        return name

    def linear(name: str, x: str) -> str:
        weight = node("Transpose", f"{name}.transposed", [f"{name}.weight"], perm=[1, 0])
        product = node("MatMul", f"{name}.product", [x, weight])
        if f"{name}.bias" not in parameters:
            return product
        return node("Add", name, [product, f"{name}.bias"])

    def norm(name: str, x: str) -> str:
        operands = [x, f"{name}.weight", f"{name}.bias"]
        return node("LayerNormalization", name, operands, axis=-1, epsilon=1e-5)

    def heads(name: str, x: str) -> str:
        split = node("Reshape", f"{name}.split", [x, "heads"])
        return node("Transpose", f"{name}.heads", [split], perm=[0, 2, 1, 3])

    def attention(name: str, x: str) -> str:
        q, k, v = (heads(f"{name}.{p}", linear(f"{name}.{p}", x)) for p in ("q_proj", "k_proj", "v_proj"))
        keys = node("Transpose", f"{name}.keys", [k], perm=[0, 1, 3, 2])
        scores = node("Mul", f"{name}.scores", [node("MatMul", f"{name}.products", [q, keys]), "scale"])
        weights = node("Softmax", f"{name}.weights", [scores], axis=-1)
        mixed = node(
            "Transpose", f"{name}.mixed", [node("MatMul", f"{name}.mix", [weights, v])], perm=[0, 2, 1, 3]
        )
        return linear(f"{name}.proj", node("Reshape", f"{name}.joined", [mixed, "tokens"]))

    shape("heads", batch_size, TOKENS, HEADS, WIDTH // HEADS)
    shape("tokens", batch_size, TOKENS, WIDTH)
    shape("image", batch_size, WIDTH, TOKENS)
    shape("pooled", batch_size, WIDTH)
    constants["scale"] = np.array((WIDTH // HEADS) ** -0.5, np.float32)
    x = "input"
    for i in range(len(CHANNELS) - 1):
        stem = f"tokenizer.conv_layers.{i}"
        x = node("Conv", f"{stem}.0", [x, f"{stem}.0.weight"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = node("Relu", f"{stem}.1", [x])
        x = node("MaxPool", f"{stem}.2", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = node("Reshape", "tokenizer.flattener", [x, "image"])
    x = node("Transpose", "tokenizer.tokens", [x], perm=[0, 2, 1])
    x = node("Add", "classifier.positions", [x, "classifier.positional_emb"])
    for i in range(BLOCKS):
        block = f"classifier.blocks.{i}"
        y = attention(f"{block}.self_attn", norm(f"{block}.pre_norm", x))
        x = norm(f"{block}.norm1", node("Add", f"{block}.attended", [x, y]))
        y = node("Gelu", f"{block}.gelu", [linear(f"{block}.linear1", x)])
        x = node("Add", block, [x, linear(f"{block}.linear2", y)])
    x = norm("classifier.norm", x)
    scores = node("Transpose", "classifier.scores", [linear("classifier.attention_pool", x)], perm=[0, 2, 1])
    weights = node("Softmax", "classifier.weights", [scores], axis=-1)
    x = node("Reshape", "classifier.pooled", [node("MatMul", "classifier.pool", [weights, x]), "pooled"])
    node("Gemm", "output", [x, "classifier.fc.weight", "classifier.fc.bias"], transB=1)
    graph = helper.make_graph(
        nodes,
        "cct2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch_size, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch_size, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in {**parameters, **constants}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
