"""Built-in models: ONNX graphs made in memory, without torch.

A builder takes the batch size and returns an `onnx.ModelProto`; a new model is one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cct2 import cct2
from .deep_ae import deep_ae
from .resnet8 import resnet8

BUILT_IN: dict[str, Callable[[int], Any]] = {
    "cct2": cct2,
    "deep-ae": deep_ae,
    "resnet8": resnet8,
}
