"""Trained parameters back in the model that they came from: an ONNX model or a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TrainDeeployError
from .frontend.model import Adapter

Array = npt.NDArray[Any]


def merge_adapters(values: Mapping[str, Array], adapters: Sequence[Adapter]) -> dict[str, Array]:
    """Parameters without adapters: each weight becomes weight + scale * b a, summed in float64."""
    merged = dict(values)
    for adapter in adapters:
        a, b = merged.pop(adapter.a), merged.pop(adapter.b)
        change = adapter.scale * (b.astype(np.float64) @ a.astype(np.float64))
        weight = merged[adapter.weight] + (change.T if adapter.transposed else change)
        merged[adapter.weight] = weight.astype(np.float32)
    return merged


def onnx_with(model: bytes, values: Mapping[str, Array]) -> bytes:
    """A serialized ONNX model with these values for its initializers and constants of these names."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.ModelProto.FromString(model)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    for node in list(proto.graph.node):
        # An exporter that shares equal tensors gives running statistics by Identity: they are their own now.
        if node.op_type == "Identity" and node.output[0] in values:
            value = np.ascontiguousarray(values[node.output[0]])
            proto.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            proto.graph.node.remove(node)
        if node.op_type == "Constant" and node.output[0] in values:
            value = numpy_helper.from_array(np.ascontiguousarray(values[node.output[0]]))
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", value))
    return proto.SerializeToString(deterministic=True)


def load_into_module(module: Any, values: Mapping[str, Array]) -> None:
    """Copies values into the parameters and buffers of these names of an nn.Module, all or none.

    Raises TrainDeeployError for a name that the module does not have, and for another shape.
    """
    import torch

    own = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    for name, value in values.items():
        if name not in own:
            raise TrainDeeployError(f"the module has no parameter '{name}'")
        if tuple(own[name].shape) != value.shape:
            raise TrainDeeployError(
                f"parameter '{name}' of the module has shape {tuple(own[name].shape)}, not {value.shape}"
            )
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(torch.from_numpy(np.array(value)))
