"""A study with a pass pipeline of one's own: what does the fusion of element-wise operators bring?

    python examples/own_pipeline.py [MODEL] [--recipe R] [--loss L]      (default: deep-ae, full, mse)

The training step of a model is lowered twice, with and without td-fuse-elementwise; between two borders the
script looks at the IR. Both programs train on the embedded simulator, and have to agree.
"""

import argparse
import sys
from collections import Counter

import numpy as np
from mlir import ir
from mlir.dialects.llvm import translate_module_to_llvmir
from mlir.passmanager import PassManager

from traindeeploy import TrainDeeployError, _td
from traindeeploy.frontend import import_model
from traindeeploy.optimizers import SGD, attach
from traindeeploy.plan_table import table
from traindeeploy.program import execute
from traindeeploy.recipes import apply_recipe
from traindeeploy.target import Target, load_target
from traindeeploy.target_attribute import mlir_attribute
from traindeeploy.toolchain import Elf, build_elf

# What pipeline td-graph runs (docs/architecture.md), but for the fusion and td-assign-layouts: parameters are
# stored as the model has them.
TO_GRADIENTS = (
    "td-attach-loss{{loss={loss}}},td-apply-recipe{{trainable={trainable}}},"
    "func.func(td-recognize-composites,td-move-permutes),td-differentiate,"
    "td-insert-updates"
)
DECOMPOSED = "func.func(td-decompose,cse,canonicalize)"
FUSED = "func.func(td-fuse-elementwise,canonicalize,cse)"
TO_LLVM = "td-tile,td-cluster,td-llvm"


def run_passes(module: ir.Module, pipeline: str) -> None:
    """Runs passes on a module in place."""
    PassManager.parse(f"builtin.module({pipeline})").run(module.operation)


def operators(module: ir.Module) -> Counter[str]:
    """How many ops of each kind the step has."""
    found: Counter[str] = Counter()

    def count(op: ir.Operation) -> ir.WalkResult:
        found[op.name] += 1
        return ir.WalkResult.ADVANCE

    module.operation.walk(count)
    return found


def compiled(text: str, target: Target, pipelines: list[str]) -> tuple[bytes, Counter[str], int]:
    """An ELF, the ops of the step before the plan, and the groups of the plan."""
    context = ir.Context()
    _td.register_dialects(context)
    with context:
        module = ir.Module.parse(text)
        attach(module, SGD())
        module.operation.attributes["tile.target"] = ir.Attribute.parse(mlir_attribute(target.description))
        for pipeline in pipelines:
            run_passes(module, pipeline)
        step = operators(module)
        run_passes(module, "td-plan")
        groups = operators(module)["tile.group"]
        run_passes(module, TO_LLVM)
        return build_elf(translate_module_to_llvmir(module.operation), target), step, groups


def random_feed(elf: bytes, classes: int) -> dict[str, np.ndarray]:
    """Values for the inputs of a step."""
    random = np.random.default_rng(0)
    feed = {
        item["name"]: random.integers(0, classes, item["shape"]).astype(np.int32)
        if item["type"] == "i32"
        else random.standard_normal(item["shape"]).astype(np.float32)
        for item in Elf(elf).manifest["buffers"]
        if item["role"] == "input"
    }
    return {**feed, "lr": np.asarray(0.01, np.float32)}


def main() -> int:
    """Returns 0 when both programs train to the same parameters, but for rounding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="deep-ae")
    parser.add_argument("--recipe", default="full")
    parser.add_argument("--loss", default="mse")
    options = parser.parse_args()

    target = load_target("pulp-redmule")
    model, names = apply_recipe(import_model(options.model, None, None), options.recipe)
    gradients = TO_GRADIENTS.format(loss=options.loss, trainable=",".join(names))
    rows, results = [], []
    for title, pipelines in (
        ("fused", [gradients, DECOMPOSED, FUSED]),
        ("not fused", [gradients, DECOMPOSED]),
    ):
        elf, step, groups = compiled(model.module_text, target, pipelines)
        feed = random_feed(elf, model.output.shape[-1])
        outcome = execute(elf, target, model.parameters, [feed])
        results.append(outcome)
        cycles = f"{outcome.cycles[0]:,}"
        rows.append([title, str(step["linalg.generic"]), str(groups), cycles, f"{len(elf):,}"])
    titles = ["td-fuse-elementwise", "linalg.generic", "tile.group", "cycles a step", "bytes of ELF"]
    print(table(titles, rows, "lrrrr"))
    first, second = results
    same = all(np.allclose(first.values[n], second.values[n], rtol=1e-5, atol=1e-7) for n in names)
    return 0 if same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrainDeeployError as error:
        sys.exit(f"error: {error}")
