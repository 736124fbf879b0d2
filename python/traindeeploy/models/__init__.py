"""Built-in models: ONNX graphs made in memory, without torch.

A builder takes the batch size and returns an `onnx.ModelProto`; a new model is one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .deep_ae import deep_ae

BUILT_IN: dict[str, Callable[[int], Any]] = {
    "deep-ae": deep_ae,
}
