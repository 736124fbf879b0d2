"""ResNet8, the image classification model of MLPerf Tiny: 3x32x32, three stages of one block, 10 classes.

Batch norm has running statistics, as in evaluation mode; they are constants of the model.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

STAGES = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
"""Channels in, channels out and stride of each stage."""
CLASSES = 10


def resnet8_parameters(seed: int = 0) -> dict[str, np.ndarray]:
    """Filters as Kaiming's normal, norms as the identity, the classifier uniform; from a fixed seed."""
    generator = np.random.default_rng(seed)
    parameters: dict[str, np.ndarray] = {}

    def conv(name: str, fan_out: int, fan_in: int, size: int) -> None:
        values = generator.standard_normal((fan_out, fan_in, size, size)) * sqrt(2 / (fan_in * size * size))
        parameters[f"{name}.weight"] = values.astype(np.float32)
        parameters[f"{name}.bias"] = np.zeros(fan_out, np.float32)

    def norm(name: str, channels: int) -> None:
        parameters[f"{name}.weight"] = np.ones(channels, np.float32)
        parameters[f"{name}.bias"] = np.zeros(channels, np.float32)

    conv("stem.conv", 16, 3, 3)
    norm("stem.norm", 16)
    for i, (fan_in, fan_out, stride) in enumerate(STAGES):
        stage = f"stages.{i}"
        conv(f"{stage}.conv1", fan_out, fan_in, 3)
        norm(f"{stage}.norm1", fan_out)
        conv(f"{stage}.conv2", fan_out, fan_out, 3)
        norm(f"{stage}.norm2", fan_out)
        if stride > 1:
            conv(f"{stage}.shortcut", fan_out, fan_in, 1)
    bound = 1 / sqrt(STAGES[-1][1])
    parameters["classifier.weight"] = generator.uniform(-bound, bound, (CLASSES, STAGES[-1][1])).astype(
        np.float32
    )
    parameters["classifier.bias"] = np.zeros(CLASSES, np.float32)
    return parameters


def resnet8(batch_size: int = 1) -> onnx.ModelProto:
    """The model as an ONNX graph, input `input` [batch_size, 3, 32, 32], output `output` [batch_size, 10]."""
    from onnx import TensorProto, helper, numpy_helper

    parameters = resnet8_parameters()
    nodes = []

    def node(operator: str, name: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(name: str, value: np.ndarray) -> str:
        nodes.append(
            helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value))
        )
        return name

    def conv(name: str, x: str, size: int, stride: int) -> str:
        # As TensorFlow's "same": what is odd comes after.
        before = 0 if size == 1 or stride == 2 else 1
        pads = [before, before, size // 2, size // 2]
        operands = [x, f"{name}.weight", f"{name}.bias"]
        return node("Conv", name, operands, kernel_shape=[size, size], strides=[stride, stride], pads=pads)

    def norm(name: str, x: str) -> str:
        channels = parameters[f"{name}.weight"].shape[0]
        mean = constant(f"{name}.running_mean", np.zeros(channels, np.float32))
        variance = constant(f"{name}.running_var", np.ones(channels, np.float32))
        operands = [x, f"{name}.weight", f"{name}.bias", mean, variance]
        return node("BatchNormalization", name, operands, epsilon=1e-3)

    x = node("Relu", "stem.relu", [norm("stem.norm", conv("stem.conv", "input", 3, 1))])
    for i, (_, _, stride) in enumerate(STAGES):
        stage = f"stages.{i}"
        y = node("Relu", f"{stage}.relu1", [norm(f"{stage}.norm1", conv(f"{stage}.conv1", x, 3, stride))])
        y = norm(f"{stage}.norm2", conv(f"{stage}.conv2", y, 3, 1))
        if stride > 1:
            x = conv(f"{stage}.shortcut", x, 1, stride)
        x = node("Relu", f"{stage}.relu2", [node("Add", f"{stage}.add", [x, y])])
    x = node("Flatten", "flatten", [node("GlobalAveragePool", "pool", [x])])
    node("Gemm", "output", [x, "classifier.weight", "classifier.bias"], transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet8",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch_size, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch_size, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
