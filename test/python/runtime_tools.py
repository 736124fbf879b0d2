"""Builds and runs programs that are written at the level of jobs (levels 4 and 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from mlir import ir
from mlir.dialects.llvm import translate_module_to_llvmir
from mlir.passmanager import PassManager

from traindeeploy import _td
from traindeeploy.program import Outcome, execute
from traindeeploy.target import Target, load_target
from traindeeploy.target_attribute import mlir_attribute
from traindeeploy.toolchain import build_elf

Array = npt.NDArray[Any]

SPACES = "#l1 = #tile.memory<l1>\n#l2 = #tile.memory<l2>\n#l3 = #tile.memory<l3>\n"

ADD_ONE = """
llvm.func @add_one(%args: !llvm.ptr, %core: i32) {
  %one = llvm.mlir.constant(1.0 : f32) : f32
  %step = llvm.mlir.constant(8 : i32) : i32
  %address = llvm.load %args : !llvm.ptr -> i32
  %at = llvm.getelementptr %args[1] : (!llvm.ptr) -> !llvm.ptr, i32
  %n = llvm.load %at : !llvm.ptr -> i32
  %a = llvm.inttoptr %address : i32 to !llvm.ptr
  llvm.br ^head(%core : i32)
^head(%i: i32):
  %go = llvm.icmp "ult" %i, %n : i32
  llvm.cond_br %go, ^body, ^exit
^body:
  %p = llvm.getelementptr %a[%i] : (!llvm.ptr, i32) -> !llvm.ptr, f32
  %x = llvm.load %p : !llvm.ptr -> f32
  %y = llvm.fadd %x, %one : f32
  llvm.store %y, %p : f32, !llvm.ptr
  %next = llvm.add %i, %step : i32
  llvm.br ^head(%next : i32)
^exit:
  llvm.return
}
"""
"""Kernel that adds 1 to each of n elements: arguments address, n."""


def target_with(name: str = "pulp-redmule", **changes: int) -> Target:
    """A built-in target with other numbers, by "section__key"."""
    description: dict[str, Any] = copy.deepcopy(dict(load_target(name).description))
    for path, value in changes.items():
        *sections, key = path.split("__")
        table = description
        for section in sections:
            table = table[section]
        table[key] = value
    return Target(f"{name}-changed", description)


def llvm_ir(text: str, target: Target, *, roll: str = "auto") -> str:
    """LLVM IR of a module at level 4 or 5 whose kernels are LLVM functions."""
    context = ir.Context()
    _td.register_dialects(context)
    with context:
        module = ir.Module.parse(SPACES + text)
        module.operation.attributes["tile.target"] = ir.Attribute.parse(mlir_attribute(target.description))
        pipeline = f"builtin.module(td-lower-jobs,td-lower-table{{roll={roll}}})"
        if "pulp." in text or "redmule.start" in text:
            pipeline = pipeline.replace("td-lower-jobs,", "")
        PassManager.parse(pipeline).run(module.operation)
        return str(translate_module_to_llvmir(module.operation))


def run(
    text: str,
    values: Mapping[str, Array] | None = None,
    feeds: Iterable[Mapping[str, Array]] = ({},),
    *,
    target: Target | None = None,
    roll: str = "auto",
    check: bool = True,
) -> Outcome:
    """Compiles and runs a program."""
    target = target or load_target("pulp-redmule")
    elf = build_elf(llvm_ir(text, target, roll=roll), target)
    return execute(elf, target, values or {}, feeds, max_cycles=50_000_000, check=check)


def random_array(shape: tuple[int, ...], seed: int) -> Array:
    """Reproducible f32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
