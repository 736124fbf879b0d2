"""Random plans through td-tile: the stream of jobs, run on its addresses, computes what the plan says.

An interpreter here executes level 4 on arrays of bytes, once with every asynchronous job done at its issue
and once at its wait. Values are small integers, so that any order of summation gives the same result.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from mlir import ir
from mlir.passmanager import PassManager

from traindeeploy import _td
from traindeeploy.target import load_target
from traindeeploy.target_attribute import mlir_attribute

Array = np.ndarray


def memref(shape: tuple[int, ...], level: str) -> str:
    return f"memref<{'x'.join(map(str, shape))}xf32, #tile.memory<{level}>>"


@dataclass
class PlanWriter:
    """Writes a random plan and evaluates it with numpy on whole arrays."""

    generator: random.Random
    buffers: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    levels: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    start: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def buffer(self, shape: tuple[int, int], role: str, level: str) -> str:
        name = f"b{len(self.levels)}"
        self.levels[name], self.roles[name] = level, role
        self.buffers.append(f'  %{name} = tile.buffer {role} "{name}" : {memref(shape, level)}')
        numbers = np.random.default_rng(len(self.levels))
        self.start[name] = numbers.integers(-3, 4, shape).astype(np.float32)
        self.values[name] = self.start[name].copy()
        return name

    def turned(self, name: str) -> str:
        """The same bytes as an array of as many rows as that one has columns."""
        rows, columns = self.values[name].shape
        level, alias = self.levels[name], f"b{len(self.levels)}"
        flat = memref((rows * columns,), level)
        self.buffers.append(
            f"  %{alias}f = memref.collapse_shape %{name} [[0, 1]] : "
            f"{memref((rows, columns), level)} into {flat}\n"
            f"  %{alias} = memref.expand_shape %{alias}f [[0, 1]] output_shape [{columns}, {rows}] : "
            f"{flat} into {memref((columns, rows), level)}"
        )
        self.levels[alias], self.roles[alias] = level, "alias"
        self.values[alias] = self.values[name].reshape(columns, rows)
        return alias

    def tile(self, size: int) -> int:
        return self.generator.choice([size, size, self.generator.randint(1, size), (size + 1) // 2])

    def group(
        self,
        sizes: list[int],
        tiles: list[int],
        order: list[int],
        reductions: list[int],
        ins: list[str],
        outs: list[str],
        maps: list[str],
        body: str,
    ) -> None:
        def types(names: list[str]) -> str:
            return ", ".join(memref(self.values[n].shape, self.levels[n]) for n in names)

        operands = [f"%{n}" for n in ins]
        arguments = ", ".join(f"%t{i}: !tile" for i in range(len(maps)))
        self.groups.append(
            f'  tile.group "g{len(self.groups)}" domain {sizes} tiles {tiles} order {order} '
            f"reductions {reductions} predicted [0, 0, 0, 0]\n    ins({', '.join(operands)} : {types(ins)}) "
            f"outs({', '.join(f'%{n}' for n in outs)} : {types(outs)}) maps [{', '.join(maps)}] {{\n"
            f"    ^bb0({arguments}):\n{body}  }}"
        )

    def add(self, a: str, b: str, out: str) -> None:
        """out = a + b, in place if out is b; an array in L1 is tiled by rows."""
        rows, columns = self.values[a].shape
        tiles = [self.tile(rows), self.tile(columns)]
        if "l1" in (self.levels[a], self.levels[b], self.levels[out]):
            tiles[1] = columns
        order = self.generator.choice([[0, 1], [1, 0]])
        body = (
            "      tile.stage main on cores { linalg.add ins(%t0, %t1 : !tile, !tile) outs(%t2 : !tile) }\n"
        )
        self.group([rows, columns], tiles, order, [], [a, b], [out], ["#id"] * 3, body)
        self.values[out] = self.values[a] + self.values[b]

    def gemm(self, x: str, w: str, out: str, accumulate: bool) -> None:
        """out (+)= x w^T, w transposed on the cores, summed in steps."""
        (m, n), k = self.values[x].shape, self.values[w].shape[0]
        tiles = [self.tile(m), self.tile(k), self.tile(n)]
        for name, dim in ((x, 2), (w, 2), (out, 1)):
            if self.levels[name] == "l1":
                tiles[dim] = [m, k, n][dim]
        engine = self.generator.choice(["redmule", "cores"])
        order = self.generator.choice([[0, 1, 2], [1, 0, 2]])
        body = """      %wT = tile.scratch affine_map<(m,k,n)->(n,k)> : !tile
      tile.stage prepare on cores { linalg.transpose ins(%t1 : !tile) outs(%wT : !tile) permutation = [1, 0] }
"""
        ins, maps, result = [x, w], ["#mn", "#kn", "#mk"], "%t2"
        if accumulate:
            ins, maps, result = [x, w, out], ["#mn", "#kn", "#mk", "#mk"], "%t3"
        else:
            body += f"""      tile.stage init on cores {{
        %zero = arith.constant 0.0 : f32
        linalg.fill ins(%zero : f32) outs({result} : !tile)
      }}
"""
        body += (
            f"      tile.stage main on {engine} {{ linalg.matmul ins(%t0, %wT : !tile, !tile) "
            f"outs({result} : !tile) }}\n"
        )
        self.group([m, k, n], tiles, order, [2], ins, [out], maps, body)
        product = self.values[x] @ self.values[w].T
        self.values[out] = self.values[out] + product if accumulate else product

    def text(self, target: str) -> str:
        return "\n".join(
            [
                "#id = affine_map<(i,j)->(i,j)>",
                "#mn = affine_map<(m,k,n)->(m,n)>",
                "#kn = affine_map<(m,k,n)->(k,n)>",
                "#mk = affine_map<(m,k,n)->(m,k)>",
                "!tile = memref<?x?xf32, #tile.memory<l1>>",
                f"module attributes {{tile.target = {target}}} {{",
                'tile.program @step target "t" {',
                *self.buffers,
                *self.groups,
                "}",
                "}",
            ]
        )


def random_plan(seed: int) -> PlanWriter:
    """A chain of operators on odd-sized arrays in all three memories."""
    generator = random.Random(seed)
    plan = PlanWriter(generator)
    rows, width = generator.choice([1, 7, 13]), generator.choice([5, 16, 23])
    current = plan.buffer((rows, width), "input", "l2")
    for _ in range(generator.randint(2, 6)):
        level = generator.choice(["l2", "l2", "l3"])
        last = generator.choice(["l2", "l2", "l1", "l3"])
        kind = generator.choice(["gemm", "gemm", "add", "update", "turn"])
        if kind == "gemm":
            wide = generator.choice([1, 9, 24, 31])
            w = plan.buffer((wide, plan.values[current].shape[1]), "parameter", level)
            out = plan.buffer((plan.values[current].shape[0], wide), "temporary", last)
            plan.gemm(current, w, out, accumulate=False)
            current = out
        elif kind == "turn":
            current = plan.turned(current)
        elif kind == "add":
            other = plan.buffer(plan.values[current].shape, "input", level)
            out = plan.buffer(plan.values[current].shape, "temporary", last)
            plan.add(current, other, out)
            current = out
        else:
            # A parameter that is used, changed in place, and used again.
            shape = plan.values[current].shape
            p = plan.buffer(shape, "parameter", level)
            first = plan.buffer(shape, "temporary", "l2")
            plan.add(current, p, first)
            plan.add(current, p, p)
            square = plan.buffer((shape[1], shape[1]), "parameter", "l2")
            plan.gemm(first, square, p, accumulate=True)
            out = plan.buffer(shape, "temporary", "l2")
            plan.add(first, p, out)
            current = out
    result = plan.buffer(plan.values[current].shape, "output", "l2")
    plan.add(current, current, result)
    return plan


class Machine:
    """Executes a program of jobs on its addresses."""

    def __init__(self, module: ir.Module, lazy: bool) -> None:
        self.lazy = lazy
        self.memory = {level: np.full(1 << 20, np.nan, np.float32) for level in ("l1", "l2", "l3")}
        self.base = {"l1": 0x1000_0000, "l2": 0x1C01_0000, "l3": 0}
        self.places: dict[object, tuple[str, int, tuple[int, ...]]] = {}
        self.names: dict[str, object] = {}
        # By name: the linalg op, and which arguments its operands are.
        self.kernels: dict[str, tuple[str, list[int]]] = {}
        for op in module.body.operations:
            if op.operation.name == "func.func":
                body = op.regions[0].blocks[0].operations
                kernel = next(o for o in body if o.operation.name.startswith("linalg."))
                places = [
                    ir.BlockArgument(v).arg_number for v in kernel.operands if isinstance(v, ir.BlockArgument)
                ]
                self.kernels[ir.StringAttr(op.attributes["sym_name"]).value] = (kernel.operation.name, places)
            else:
                self.program = op
        for op in self.program.regions[0].blocks[0].operations:
            if op.operation.name in ("tile.buffer", "tile.alloc") and "address" in op.attributes:
                kind = ir.MemRefType(op.results[0].type)
                level = str(kind.memory_space).split("<")[1].rstrip(">")
                place = (level, ir.IntegerAttr(op.attributes["address"]).value, tuple(kind.shape))
                self.places[op.results[0]] = place
                if op.operation.name == "tile.buffer":
                    self.names[ir.StringAttr(op.attributes["symbol"]).value] = op.results[0]

    def array(self, value: object) -> Array:
        """The array at a value's address: a view of the memory."""
        level, address, shape = self.places[value]
        start = (address - self.base[level]) // 4
        return self.memory[level][start : start + int(np.prod(shape))].reshape(shape)

    def run(self) -> None:
        pending = {}
        for op in self.program.regions[0].blocks[0].operations:
            name, operands = op.operation.name, list(op.operands)
            if name == "tile.view":
                level, address, shape = self.places[operands[0]]
                offsets = list(ir.DenseI64ArrayAttr(op.attributes["offsets"]))
                skip = int(np.ravel_multi_index(offsets, shape))
                window = tuple(ir.MemRefType(op.results[0].type).shape)
                self.places[op.results[0]] = (level, address + 4 * skip, window)
            elif name in ("memref.collapse_shape", "memref.expand_shape"):
                level, address, _ = self.places[operands[0]]
                self.places[op.results[0]] = (level, address, tuple(ir.MemRefType(op.results[0].type).shape))
            elif name in ("tile.copy", "redmule.gemm"):
                if self.lazy:
                    pending[op.results[0]] = op
                else:
                    self.execute(op)
            elif name == "tile.wait":
                for token in operands:
                    if token in pending:
                        self.execute(pending.pop(token))
            elif name == "tile.call":
                self.execute(op)
        assert not pending

    def execute(self, op: object) -> None:
        name, operands = op.operation.name, [self.array(v) for v in op.operands if v in self.places]
        if name == "tile.copy":
            offsets, sizes = (list(ir.DenseI64ArrayAttr(op.attributes[key])) for key in ("offsets", "sizes"))
            window = operands[0][tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
            if "true" in str(op.attributes["load"]):
                operands[1][...] = window
            else:
                window[...] = operands[1]
        elif name == "redmule.gemm":
            operands[2][...] += operands[0] @ operands[1]
        else:
            kernel, places = self.kernels[ir.FlatSymbolRefAttr(op.attributes["kernel"]).value]
            operands = [operands[place] for place in places]
            if kernel == "linalg.transpose":
                operands[1][...] = operands[0].T
            elif kernel == "linalg.fill":
                operands[0][...] = 0
            elif kernel == "linalg.matmul":
                operands[2][...] += operands[0] @ operands[1]
            else:
                assert kernel == "linalg.add"
                operands[2][...] = operands[0] + operands[1]


SEQUENTIAL = "td-expand-groups,td-verify-jobs,td-assign-addresses,td-verify-jobs"


def lower(text: str, pipeline: str) -> ir.Module:
    with ir.Context() as context, ir.Location.unknown():
        _td.register_dialects(context)
        module = ir.Module.parse(text)
        PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
        return module


def description(l1_bytes: int) -> str:
    target = load_target("pulp-redmule").description
    sized = {**target, "memory": {**target["memory"], "l1": {**target["memory"]["l1"], "size": l1_bytes}}}
    return mlir_attribute(sized)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("pipeline", ["td-tile", SEQUENTIAL])
def test_random_plans_compute_what_they_say(seed: int, pipeline: str) -> None:
    plan = random_plan(seed)
    module = lower(plan.text(description((24 if seed % 3 else 128) * 1024)), pipeline)
    for lazy in (False, True):
        machine = Machine(module, lazy)
        for name, value in machine.names.items():
            if plan.roles[name] in ("input", "parameter"):
                machine.array(value)[...] = plan.start[name]
        machine.run()
        for name, value in machine.names.items():
            if plan.roles[name] != "temporary":
                np.testing.assert_array_equal(machine.array(value), plan.values[name], err_msg=name)


def test_same_input_same_stream() -> None:
    text = random_plan(3).text(description(64 * 1024))
    assert str(lower(text, "td-tile")) == str(lower(text, "td-tile"))
