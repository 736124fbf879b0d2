"""What the kernels' tests share: a bare program that runs kernels on the simulated cluster.

A kernel is MLIR text of one linalg op on tiles; `run_kernels` lowers kernels, links them with a small main
that copies tiles to L1, calls the kernels on all cores and measures each call.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlir.ir import Context, Location, Module
from mlir.passmanager import PassManager

import sim_tools
from traindeeploy import _td
from traindeeploy.sim import RunResult, Simulator
from traindeeploy.target import load_target
from traindeeploy.tools import find_program

L1_BASE, L1_SIZE = 0x1000_0000, 0x1_C000  # the rest is tables and stacks
L2_TILES = 1_500_000  # bytes

MAIN = r"""
typedef unsigned word;
typedef void kernel_t(const word *, word);
struct copy { word *l2, *l1; word words; };
struct call { kernel_t *kernel; word *arguments, *l1_arguments; word argument_count;
              const struct copy *copies;
              word copy_count; word *cycles; };
extern const struct call calls[];
extern const word call_count;
extern word results[];
extern const word result_words;
void finish(word *results, word bytes);

static inline word cycles(void) { word c; asm volatile("csrr %0, 0xB00" : "=r"(c) :: "memory"); return c; }
static inline void barrier(void) {
  word base = 0x10204000;
  asm volatile(".insn i 0x03, 6, x0, 0x21C(%0)" :: "r"(base) : "memory");
}
static void move(word *to, const word *from, word count, word core) {
  for (word i = core; i < count; i += 8) ((volatile word *)to)[i] = from[i];
}
void main(word core) {
  for (word c = 0; c < call_count; ++c) {
    const struct call *call = &calls[c];
    for (word i = 0; i < call->copy_count; ++i)
      move(call->copies[i].l1, call->copies[i].l2, call->copies[i].words, core);
    move(call->l1_arguments, call->arguments, call->argument_count, core);
    kernel_t *kernel = call->kernel;
    const word *arguments = call->l1_arguments;
    barrier();
    word start = cycles();
    kernel(arguments, core);
    barrier();
    word end = cycles();
    if (core == 0) *call->cycles = end - start;
    for (word i = 0; i < call->copy_count; ++i)
      move(call->copies[i].l2, call->copies[i].l1, call->copies[i].words, core);
    barrier();
  }
  if (core == 0) finish(results, result_words * 4);
  barrier();
}
"""

FINISH = (
    r"""
  .global finish
finish:
  mv a2, a1
  mv a1, a0
  j dump_and_exit
"""
    + sim_tools.DUMP
)


@dataclass(frozen=True)
class Kernel:
    """A kernel function. `body` names its arguments %t0, %t1, ... and their types !t0, !t1, ..."""

    name: str
    ranks: tuple[int, ...]
    body: str
    elements: tuple[str, ...] = ()
    """Element types of the tiles; f32 without."""
    stated: dict[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    """Tiles whose types always state their sizes."""

    def text(self, shapes: Sequence[Sequence[int]] | None = None) -> str:
        """The function, with sizes that are dynamic or these."""
        types = []
        for i, rank in enumerate(self.ranks):
            known = self.stated.get(i) if shapes is None else shapes[i]
            sizes = ["?"] * rank if known is None else [str(size) for size in known]
            element = self.elements[i] if self.elements else "f32"
            types.append(f"memref<{''.join(size + 'x' for size in sizes)}{element}, #tile.memory<l1>>")
        arguments = ", ".join(f"%t{i}: {type}" for i, type in enumerate(types))
        body = self.body
        if "%first" in body:
            arguments += ", %first: index"
        for i, type in reversed(list(enumerate(types))):
            body = body.replace(f"!t{i}", type)
        head = f"func.func private @{self.name}({arguments}) attributes {{tile.kernel}}"
        return f"{head} {{\n{body}\n  return\n}}\n"

    def predicted(self, shapes: Sequence[Sequence[int]], target: str = "pulp-redmule") -> int:
        """Cycles of a call by the cost model."""
        with Context() as context, Location.unknown():
            _td.register_dialects(context)
            module = Module.parse(self.text(shapes))
            PassManager.parse(f"builtin.module(td-set-target{{name={target}}})").run(module.operation)
            block = module.body.operations[0].regions[0].blocks[0]
            op = next(o for o in block.operations if o.operation.name.startswith("linalg."))
            return _td.kernel_cycles(op.operation)


@dataclass
class Call:
    """One call of a kernel: its tiles in the order of its arguments, each a float32 or int32 array."""

    kernel: Kernel
    tiles: Sequence[np.ndarray]
    indices: Sequence[int] = ()
    """The kernel's index arguments."""
    results: list[np.ndarray] = field(default_factory=list)
    """The tiles after the call."""
    cycles: int = 0
    """From the barrier before the call to the one after it."""


def lower(module: str, *passes: str) -> str:
    """LLVM IR of a module of kernels."""
    # fmt: off
    command = [
        str(find_program("td-opt")), "-", "--td-set-target", "--td-expand-math",
        "--td-lower-kernels", *passes,
    ]
    # fmt: on
    dialect = subprocess.run(command, input=module, capture_output=True, text=True)
    assert dialect.returncode == 0, dialect.stderr
    translate = [str(find_program("mlir-translate")), "--mlir-to-llvmir"]
    ir = subprocess.run(translate, input=dialect.stdout, capture_output=True, text=True)
    assert ir.returncode == 0, ir.stderr
    return ir.stdout


def compiler(*arguments: str) -> None:
    # fmt: off
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-freestanding-none",
        "-mcpu=generic_rv32+m+c+zicsr+zfinx+zhinx", "-O3", "-nostdlib", "-ffreestanding", "-fno-sanitize=all",
        "-Wno-override-module", *arguments,
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compile_kernels(kernels: Sequence[Kernel], folder: Path) -> Path:
    """An object file of these kernels."""
    (folder / "kernels.ll").write_text(lower("".join(kernel.text() for kernel in kernels)))
    compiler("-c", str(folder / "kernels.ll"), "-o", str(folder / "kernels.o"))
    return folder / "kernels.o"


def run_kernels(calls: Sequence[Call], target: str = "pulp-redmule") -> None:
    """Runs the calls one after the other and fills in their results and cycles."""
    batch: list[Call] = []
    for call in calls:
        # One program's tiles have to fit in L2.
        if sum(tile.nbytes for other in [*batch, call] for tile in other.tiles) > L2_TILES:
            run_batch(batch, target)
            batch = []
        batch.append(call)
    run_batch(batch, target)


def run_batch(calls: Sequence[Call], target: str) -> RunResult:
    """The same for calls whose tiles fit in L2 together."""
    with tempfile.TemporaryDirectory(prefix="td-kernels-") as name:
        folder = Path(name)
        kernels = list({call.kernel.name: call.kernel for call in calls}.values())
        objects = compile_kernels(kernels, folder)
        # Results: one word of cycles per call, then all tiles.
        blob = [np.zeros(len(calls), np.uint32)]
        words = len(calls)
        lines = ["typedef unsigned word; typedef void kernel_t(const word *, word);"]
        lines += ["struct copy { word *l2, *l1; word words; };"]
        lines += ["struct call { kernel_t *kernel; word *arguments, *l1_arguments; word argument_count;"]
        lines += ["const struct copy *copies; word copy_count; word *cycles; };", "extern word results[];"]
        lines += [f"extern void {kernel.name}(const word *, word);" for kernel in kernels]
        table = []
        for index, call in enumerate(calls):
            address, arguments, copies = L1_BASE + 256, [], []
            for tile in call.tiles:
                arguments += [address, *tile.shape]
                copies.append(f"{{results + {words}, (word *){address:#x}, {tile.size}}}")
                blob.append(np.ascontiguousarray(tile).view(np.uint32).ravel())
                words += tile.size
                address += 4 * tile.size
            assert address <= L1_BASE + L1_SIZE, f"tiles of {call.kernel.name} exceed L1: {arguments}"
            arguments += list(call.indices)
            lines.append(f"word arguments_{index}[] = {{{', '.join(map(str, arguments))}}};")
            lines.append(f"const struct copy copies_{index}[] = {{{', '.join(copies)}}};")
            table.append(
                f"{{{call.kernel.name}, arguments_{index}, (word *){L1_BASE:#x}, {len(arguments)}, "
                f"copies_{index}, {len(copies)}, results + {index}}}"
            )
        lines.append(f"const struct call calls[] = {{{', '.join(table)}}};")
        lines.append(f"const word call_count = {len(calls)}; const word result_words = {words};")
        np.concatenate(blob).tofile(folder / "blob.bin")
        sources = {
            "table.c": "\n".join(lines),
            "main.c": MAIN,
            "start.S": "  .equ CORES, 255\n  .equ FREE_FETCH, 1\n" + sim_tools.START,
            "finish.S": sim_tools.START.split("  .section")[0] + "  .text\n" + FINISH,
            "blob.S": f'  .data\n  .balign 16\n  .global results\nresults:\n  .incbin "{folder}/blob.bin"\n',
            "link.ld": sim_tools.LINK,
        }
        for file, text in sources.items():
            (folder / file).write_text(text)
        inputs = [str(folder / file) for file in sources if file != "link.ld"]
        elf = folder / "program.elf"
        compiler("-T", str(folder / "link.ld"), *inputs, str(objects), "-o", str(elf))
        simulator = Simulator(sim_tools.with_free_fetch(load_target(target)))
        run = simulator.run(elf, folder, max_cycles=500_000_000, check=True)
        data = np.fromfile(folder / "out.bin", np.uint32)
        at = len(calls)
        for index, call in enumerate(calls):
            call.cycles = int(data[index])
            for tile in call.tiles:
                call.results.append(data[at : at + tile.size].view(tile.dtype).reshape(tile.shape))
                at += tile.size
        return run


def generic(
    name: str,
    maps: Sequence[str],
    iterators: str,
    outputs: int,
    body: str,
    constants: str = "",
    elements: Sequence[str] = (),
) -> Kernel:
    """A kernel of one linalg.generic: maps like "(i,j)->(i)", iterators a string of p and r.

    `body` has the arguments %a0, %a1, ... and yields.
    """
    elements = tuple(elements) or ("f32",) * len(maps)
    count = len(maps)
    ranks = tuple(len([d for d in m.split("->")[1].strip("() ").split(",") if d]) for m in maps)
    ins = count - outputs
    operands = [f"%t{i}" for i in range(count)]
    types = [f"!t{i}" for i in range(count)]
    text = f"{constants}\n  linalg.generic {{indexing_maps = ["
    text += ", ".join(f"affine_map<{m}>" for m in maps) + "], iterator_types = ["
    text += ", ".join('"parallel"' if c == "p" else '"reduction"' for c in iterators) + "]}\n    "
    if ins:
        text += f"ins({', '.join(operands[:ins])} : {', '.join(types[:ins])}) "
    text += f"outs({', '.join(operands[ins:])} : {', '.join(types[ins:])}) {{\n"
    text += f"  ^bb0({', '.join(f'%a{i}: {elements[i]}' for i in range(count))}):\n{body}\n  }}"
    return Kernel(name, ranks, text, elements)


def matmul(transpose_a: bool = False, transpose_b: bool = False) -> Kernel:
    """C[m,n] += A[m,k] B[k,n]; a transposed operand is stored [k,m] or [n,k]."""
    a = "(m,n,k)->(k,m)" if transpose_a else "(m,n,k)->(m,k)"
    b = "(m,n,k)->(n,k)" if transpose_b else "(m,n,k)->(k,n)"
    maps = ", ".join(f"affine_map<{m}>" for m in (a, b, "(m,n,k)->(m,n)"))
    body = f"  linalg.matmul indexing_maps = [{maps}] ins(%t0, %t1 : !t0, !t1) outs(%t2 : !t2)"
    return Kernel(f"matmul_{'nt'[transpose_a]}{'nt'[transpose_b]}", (2, 2, 2), body)
