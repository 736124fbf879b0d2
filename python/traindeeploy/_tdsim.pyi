from collections.abc import Callable
from typing import Any

REDMULE_FP16: int
REDMULE_FP32: int

def simulate(
    config: dict[str, int | float | bool],
    elf: str,
    workdir: str,
    max_cycles: int | None,
    log: str,
    log_limit: int,
    output: Callable[[bytes], object],
    progress: Callable[[int], object] | None,
    portable: bool,
    check: object | None,
    step: Callable[[dict[str, bytes]], object] | None,
    kernels: list[int],
) -> dict[str, Any]: ...
