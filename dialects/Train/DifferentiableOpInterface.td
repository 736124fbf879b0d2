// The interface by which an op states its own vector-Jacobian product.
#ifndef DIFFERENTIABLE_OP_INTERFACE
#define DIFFERENTIABLE_OP_INTERFACE

include "mlir/IR/OpBase.td"
include "mlir/IR/Interfaces.td"

def DifferentiableOpInterface : OpInterface<"DifferentiableOpInterface"> {
  let cppNamespace = "::td::train";
  let description = [{
    An op that can be differentiated in reverse mode.
  }];
  let methods = [
    InterfaceMethod<
      [{Builds the vector-Jacobian product: given the cotangents of the op's results
        (null where a result has none), returns one cotangent per operand, null where
        `wanted` is false or the operand is not differentiable.}],
      "::mlir::SmallVector<::mlir::Value>", "buildVJP",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::ValueRange":$cotangents,
           "::llvm::ArrayRef<bool>":$wanted)>
  ];
}

#endif
