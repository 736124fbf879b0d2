"""Models to training graphs: PyTorch by torch.export, ONNX by torch-mlir. See docs/frontend.md."""

from .model import (
    BatchSizeError,
    ImportedModel,
    Layer,
    Mode,
    ModelError,
    TensorSpec,
    UnsupportedOperator,
    training_mode,
)
from .resolve import import_model, load_model, load_route

__all__ = [
    "BatchSizeError",
    "ImportedModel",
    "Layer",
    "Mode",
    "ModelError",
    "TensorSpec",
    "UnsupportedOperator",
    "import_model",
    "load_model",
    "load_route",
    "training_mode",
]
