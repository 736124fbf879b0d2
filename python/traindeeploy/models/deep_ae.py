"""Deep-AE, the anomaly detection model of MLPerf Tiny: 640-128-128-128-128-8-128-128-128-128-640, ReLU.

The reference has batch norm after each layer; for fine-tuning it is folded into the linear layers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

ENCODER = (640, 128, 128, 128, 128, 8)
DECODER = (8, 128, 128, 128, 128, 640)


def deep_ae_parameters(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights [out, in] and biases [out], uniform in +-1/sqrt(in) as torch.nn.Linear starts."""
    generator = np.random.default_rng(seed)
    parameters = {}
    for part, sizes in (("encoder", ENCODER), ("decoder", DECODER)):
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            bound = 1 / np.sqrt(fan_in)
            # The odd numbers are the activations between the layers.
            layer = f"{part}.{2 * i}"
            parameters[f"{layer}.weight"] = generator.uniform(-bound, bound, (fan_out, fan_in)).astype(
                np.float32
            )
            parameters[f"{layer}.bias"] = generator.uniform(-bound, bound, fan_out).astype(np.float32)
    return parameters


def deep_ae(batch_size: int = 1) -> onnx.ModelProto:
    """The model as an ONNX graph, input `input` and output `output` of [batch_size, 640]."""
    from onnx import TensorProto, helper, numpy_helper

    parameters = deep_ae_parameters()
    layers = [name.removesuffix(".weight") for name in parameters if name.endswith(".weight")]
    nodes = []
    value = "input"
    for layer in layers:
        last = layer == layers[-1]
        result = "output" if last else layer
        operands = [value, f"{layer}.weight", f"{layer}.bias"]
        nodes.append(helper.make_node("Gemm", operands, [result], name=layer, transB=1))
        value = result
        if not last:
            part, number = layer.split(".")
            value = f"{part}.{int(number) + 1}"
            nodes.append(helper.make_node("Relu", [result], [value], name=value))
    shape = [batch_size, ENCODER[0]]
    graph = helper.make_graph(
        nodes,
        "deep-ae",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
