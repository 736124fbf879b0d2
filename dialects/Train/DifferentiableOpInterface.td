// The interface by which an op states its own vector-Jacobian product.
#ifndef DIFFERENTIABLE_OP_INTERFACE
#define DIFFERENTIABLE_OP_INTERFACE

include "mlir/IR/OpBase.td"
include "mlir/IR/Interfaces.td"

def DifferentiableOpInterface : OpInterface<"DifferentiableOpInterface"> {
  let cppNamespace = "::td::train";
  let description = [{
    An op that can be differentiated in reverse mode. Ops of other dialects get
    it as an external model (`registerDifferentiableExternalModels`).

    `td-differentiate` checks the contract: the ops that `buildVJP` makes read
    nothing of the forward but what `getResiduals` names.
  }];
  let methods = [
    InterfaceMethod<
      [{Builds the vector-Jacobian product: given the cotangents of the op's results
        (null where a result has none), returns one cotangent per operand, null where
        `wanted` is false or the operand is not differentiable. What reads an
        operand's value is built first, so that a parameter among the operands can
        be updated as soon as its own gradient exists.}],
      "::llvm::SmallVector<::mlir::Value>", "buildVJP",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::ValueRange":$cotangents,
           "::llvm::ArrayRef<bool>":$wanted)>,
    InterfaceMethod<
      [{The operands and results of this op whose values the vector-Jacobian product
        reads when the cotangents of the `wanted` operands are asked for: what must
        stay alive, or be recomputed, from forward to backward.}],
      "::llvm::SmallVector<::mlir::Value>", "getResiduals",
      (ins "::llvm::ArrayRef<bool>":$wanted)>,
    InterfaceMethod<
      [{Whether the op's result costs no more to recompute from its operands than to
        load from memory (element-wise work, reshapes).}],
      "bool", "isCheapToRecompute", (ins), "", [{ return false; }]>
  ];
}

#endif
