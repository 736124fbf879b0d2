"""The compiler's extension module (lib/CAPI/Extension.cpp)."""

from collections.abc import Sequence
from typing import Any

def register_dialects(context: Any) -> None: ...
def place_ranges(
    ranges: Sequence[tuple[int, int, int, int]], capacity: int
) -> tuple[list[int], int, int]: ...
def kernel_cycles(operation: Any) -> int: ...
