#!/bin/sh
# From a model's text to a program that trains it, with the compiler's tools alone:
#
#     sh examples/from_text/build.sh [FOLDER]     (default: from_text.out)
#
# leaves the IR at each border, program.elf, and what two steps of it print.
set -e
here=$(dirname "$0")
out=${1:-from_text.out}
target=pulp-redmule
mkdir -p "$out"

# Level 2: loss, gradients and updates of the parameters that are marked.
td-opt "$here/mlp.mlir" --td-set-target=name=$target \
  --td-graph="loss=cross-entropy trainable=hidden.weight,out.weight" -o "$out/1-graph.mlir"
# Levels 3 to 6; each of them can be looked at, changed, and taken up again.
td-opt "$out/1-graph.mlir" --td-plan -o "$out/2-plan.mlir"
td-opt "$out/2-plan.mlir" --td-tile -o "$out/3-tile.mlir"
td-opt "$out/3-tile.mlir" --td-cluster -o "$out/4-cluster.mlir"
td-opt "$out/4-cluster.mlir" --td-llvm -o "$out/5-llvm.mlir"

# LLVM IR, by upstream's mlir-translate, and the ELF.
mlir_bin=$(python -c 'import mlir; print(list(mlir.__path__)[0] + "/bin")')
"$mlir_bin/mlir-translate" --mlir-to-llvmir "$out/5-llvm.mlir" -o "$out/program.ll"
traindeeploy link "$out/program.ll" --target $target -o "$out/program.elf"

python "$here/run.py" "$out/program.elf" $target
