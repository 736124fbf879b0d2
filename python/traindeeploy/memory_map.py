"""Where a program's data lie, and when: what the simulator checks accesses against, and what reports draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from .errors import TrainDeeployError

if TYPE_CHECKING:
    from .target import Target
    from .toolchain import Elf

ALWAYS = 0xFFFF_FFFF
"""A place in the stream that is never passed."""

LEVELS = {"l1": 1, "l2": 2, "l3": 3}
TEMPORARY, OUTPUT = "temporary", "output"
_ELEMENT_BYTES = {"f32": 4, "f16": 2, "i32": 4}


@dataclass(frozen=True)
class Array:
    """An array or tile at its address."""

    name: str
    level: int
    """1 to 3, for L1 to L3."""
    address: int
    bytes: int
    first: int = 0
    last: int = ALWAYS
    """The records of the stream between which it lives, both included."""
    role: str = TEMPORARY

    @property
    def host(self) -> bool:
        """Whether the host may access it; it then lives as long as the program."""
        return self.role != TEMPORARY

    @property
    def output(self) -> bool:
        """Whether a step must write it before anybody reads it."""
        return self.role == OUTPUT


@dataclass(frozen=True)
class MemoryMap:
    """What a checked run is held to. Whatever is empty is not checked."""

    planned: tuple[tuple[int, int, int], ...] = ()
    """Parts of memory that hold arrays and nothing else: level, address, bytes."""
    arrays: tuple[Array, ...] = ()
    kinds: str = ""
    """A character per record of the stream: C a call, L, S a DMA command to L1 or from it, H a transfer
    between L2 and L3, G a GEMM, a dot for what is no job."""
    operator_of: tuple[int, ...] = ()
    """The operator of each record."""
    operators: tuple[str, ...] = ()
    kernels: tuple[tuple[int, int], ...] = ()
    """Entry point and words of arguments."""
    stacks: tuple[tuple[int, int], ...] = ()
    """Lowest address and end of each core's stack, the host's last; 0, 0 if it is not known."""


def stream(manifest: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The kind (see MemoryMap.kinds) and the operator of each record of a program's manifest."""
    kinds: list[str] = []
    operators: list[int] = []
    for operator, run in zip(manifest["stream"][0::2], manifest["stream"][1::2], strict=True):
        kinds.append(run)
        operators += [operator] * len(run)
    return "".join(kinds), operators


def called_operators(manifest: Mapping[str, Any]) -> list[int]:
    """The operator of each call of a kernel, in the order of the stream."""
    return [operator for kind, operator in zip(*stream(manifest), strict=True) if kind == "C"]


def arrays(manifest: Mapping[str, Any]) -> list[Array]:
    """Arrays and tiles of a program's manifest; empty where td-lower-jobs has not made the program."""
    if "arrays" not in manifest:
        return []
    permanent = [
        Array(
            buffer["name"],
            LEVELS[buffer["level"]],
            buffer["address"],
            prod(buffer["shape"]) * _ELEMENT_BYTES[buffer["type"]],
            role=buffer["role"],
        )
        for buffer in manifest["buffers"]
        if buffer["role"] != TEMPORARY
    ]
    temporary = [
        Array(name, level, address, size, first, last)
        for name, role, level, address, size, first, last in manifest["arrays"]
        if role == TEMPORARY
    ]
    return permanent + temporary


def memory_map(elf: Elf, target: Target) -> MemoryMap:
    """The map of a compiled program."""
    manifest = elf.manifest
    description = target.description
    memory, runtime = description["memory"], description["runtime"]
    l1, l2 = memory["l1"], memory["l2"]
    stack = runtime["core_stack"]
    stacks = [(l1["base"] + i * stack, l1["base"] + (i + 1) * stack) for i in range(target.cores)]
    symbols = elf.symbols
    stacks.append((symbols["td_host_stack"], symbols["td_host_stack_end"]))
    if "arrays" not in manifest:
        return MemoryMap(stacks=tuple(stacks))
    kinds, operator_of = stream(manifest)
    planned = [
        (1, manifest["l1_begin"], l1["base"] + l1["size"] - manifest["l1_begin"]),
        (2, manifest["l2_begin"], l2["base"] + l2["size"] - manifest["l2_begin"]),
    ]
    if "l3" in memory:
        planned.append((3, 0, memory["l3"]["size"]))
    missing = [name for name in manifest["kernels"] if name not in symbols]
    if missing:
        raise TrainDeeployError(f"the program has no symbol of its kernel {missing[0]}: it cannot be checked")
    return MemoryMap(
        planned=tuple(planned),
        arrays=tuple(arrays(manifest)),
        kinds=kinds,
        operator_of=tuple(operator_of),
        operators=tuple(operator["name"] for operator in manifest["operators"]),
        kernels=tuple((symbols[name], words) for name, words in manifest["kernels"].items()),
        stacks=tuple(stacks),
    )
