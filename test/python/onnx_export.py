"""PyTorch modules as ONNX models."""

import io
import warnings

import onnx
import torch

EVAL, PRESERVE = torch.onnx.TrainingMode.EVAL, torch.onnx.TrainingMode.PRESERVE


def exported(
    module: torch.nn.Module,
    x: torch.Tensor,
    opset: int,
    training: torch.onnx.TrainingMode = EVAL,
    folding: bool = False,
) -> onnx.ModelProto:
    """The module as PyTorch's exporter writes it; EVAL merges convolutions with batch norms behind them.

    folding: transposes of weights are computed, which leaves these without their names.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            file,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=folding,
            input_names=["x"],
            training=training,
        )
    return onnx.load_from_string(file.getvalue())
