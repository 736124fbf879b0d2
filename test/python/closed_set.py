"""Writes training steps in the closed set of level 2, and runs them on the host and on the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from mlir import ir
from mlir.dialects.llvm import translate_module_to_llvmir
from mlir.passmanager import PassManager

from traindeeploy import _td
from traindeeploy.host import HostStep
from traindeeploy.program import Outcome, execute
from traindeeploy.target import Target
from traindeeploy.target_attribute import mlir_attribute
from traindeeploy.toolchain import build_elf

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass
class Tensor:
    name: str
    shape: Shape

    @property
    def type(self) -> str:
        return f"tensor<{''.join(f'{size}x' for size in self.shape)}f32>"


@dataclass
class Step:
    """A step that reads parameters and assigns results to others."""

    parameters: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)
    seed: int = 0

    def emit(self, shape: Shape, text: str) -> Tensor:
        result = Tensor(f"%v{len(self.lines)}", shape)
        self.lines.append(f"{result.name} = {text}")
        return result

    def read(self, shape: Shape, *, scale: float = 1.0) -> Tensor:
        """A parameter with random values."""
        name = f"p{len(self.parameters)}"
        generator = np.random.default_rng([self.seed, len(self.parameters)])
        self.values[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
        type_ = Tensor("", shape).type
        self.parameters.append(f"train.parameter @{name} trainable : {type_}")
        return self.emit(shape, f"train.read @{name} : {type_}")

    def assign(self, value: Tensor) -> str:
        """Makes a tensor visible after the step, under the returned name."""
        name = f"p{len(self.parameters)}"
        self.values[name] = np.zeros(value.shape, np.float32)
        self.parameters.append(f"train.parameter @{name} trainable : {value.type}")
        self.lines.append(f"train.assign {value.name} to @{name} : {value.type}")
        return name

    def constant(self, number: float) -> Tensor:
        text = {float("-inf"): "0xFF800000"}.get(number, repr(float(number)))
        return self.emit((), f"arith.constant {text} : f32")

    def empty(self, shape: Shape) -> Tensor:
        return self.emit(shape, f"tensor.empty() : {Tensor('', shape).type}")

    def fill(self, shape: Shape, number: float = 0.0) -> Tensor:
        zero, empty = self.constant(number), self.empty(shape)
        return self.emit(
            shape, f"linalg.fill ins({zero.name} : f32) outs({empty.name} : {empty.type}) -> {empty.type}"
        )

    def generic(
        self,
        loops: str,
        reductions: str,
        inputs: Sequence[tuple[Tensor, str]],
        init: tuple[Tensor, str],
        body: str,
    ) -> Tensor:
        """`loops` and `reductions` name the dimensions; `body` computes %r from %a0, %a1 ... and %o."""
        dims = loops.split()
        maps = ", ".join(f"affine_map<({', '.join(dims)}) -> ({m})>" for _, m in [*inputs, init])
        kinds = ", ".join('"reduction"' if d in reductions.split() else '"parallel"' for d in dims)
        out = init[0]
        arguments = ", ".join([*(f"%a{i}: f32" for i in range(len(inputs))), "%o: f32"])
        ins = ", ".join(t.name for t, _ in inputs) + " : " + ", ".join(t.type for t, _ in inputs)
        return self.emit(
            out.shape,
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}} "
            f"{'ins(' + ins + ')' if inputs else ''} outs({out.name} : {out.type}) {{\n"
            f"^bb0({arguments}):\n{body}\nlinalg.yield %r : f32 }} -> {out.type}",
        )

    def contract(self, loops: str, reductions: str, x: tuple, w: tuple, out: tuple) -> Tensor:
        body = "%p = arith.mulf %a0, %a1 : f32\n%r = arith.addf %o, %p : f32"
        return self.generic(loops, reductions, [x, w], out, body)

    def slice(self, x: Tensor, offsets: Shape, sizes: Shape, strides: Shape) -> Tensor:
        result = Tensor("", sizes)
        return self.emit(
            sizes,
            f"tensor.extract_slice {x.name}{list(offsets)} {list(sizes)} {list(strides)} : "
            f"{x.type} to {result.type}",
        )

    def insert(self, x: Tensor, into: Tensor, offsets: Shape, strides: Shape) -> Tensor:
        return self.emit(
            into.shape,
            f"tensor.insert_slice {x.name} into {into.name}{list(offsets)} {list(x.shape)} {list(strides)} : "
            f"{x.type} into {into.type}",
        )

    def reshape(self, x: Tensor, shape: Shape, groups: str) -> Tensor:
        kind = "collapse" if len(shape) < len(x.shape) else "expand"
        result = Tensor("", shape)
        sizes = f" output_shape {list(shape)}" if kind == "expand" else ""
        return self.emit(shape, f"tensor.{kind}_shape {x.name} {groups}{sizes} : {x.type} into {result.type}")

    def pad(self, x: Tensor, by: int, *, number: float = 0.0) -> Tensor:
        """Height and width of NHWC, both sides."""
        n, h, w, c = x.shape
        return self.insert(x, self.fill((n, h + 2 * by, w + 2 * by, c), number), (0, by, by, 0), (1, 1, 1, 1))

    def text(self) -> str:
        body = "\n".join(self.lines)
        return (
            "module {\n"
            + "\n".join(self.parameters)
            + '\nfunc.func @step(%lr: tensor<f32> {train.name = "lr"}) -> tensor<f32> {\n'
            + body
            + "\nreturn %lr : tensor<f32>\n}\n}\n"
        )

    def plan(self, target: Target, *, tile: bool = False) -> str:
        """The module under its plan, or with its jobs."""
        return str(lower(self.text(), target, "td-plan,td-tile" if tile else "td-plan"))

    def simulate(self, target: Target) -> Outcome:
        module = lower(self.text(), target, "td-plan,td-tile,td-cluster,td-llvm")
        elf = build_elf(translate_module_to_llvmir(module.operation), target)
        feed = {"lr": np.asarray(0.5, np.float32)}
        return execute(elf, target, self.values, [feed], max_cycles=100_000_000)

    def check(self, target: Target, *, tolerance: float = 2e-5) -> Outcome:
        """Compares what the step assigns on the simulator with the host."""
        _, expected = HostStep(self.text())(self.values, {"lr": np.asarray(0.5, np.float32)})
        outcome = self.simulate(target)
        assert float(outcome.outputs[0]["loss"]) == 0.5
        for name, value in expected.items():
            scale = max(1e-6, float(np.abs(value).max()))
            np.testing.assert_allclose(
                outcome.values[name], value, rtol=0, atol=tolerance * scale, err_msg=name
            )
        return outcome


def lower(text: str, target: Target, pipeline: str) -> ir.Module:
    context = ir.Context()
    _td.register_dialects(context)
    with context:
        module = ir.Module.parse(text)
        module.operation.attributes["tile.target"] = ir.Attribute.parse(
            mlir_attribute(dict(target.description))
        )
        PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
        return module
