// Passes that know loops over time and nothing else.
#ifndef TD_PASSES_RECURRENCE
#define TD_PASSES_RECURRENCE

include "mlir/Pass/PassBase.td"

def LowerRecurrences : Pass<"td-lower-recurrences", "::mlir::func::FuncOp"> {
  let summary = "Lower recurrences to loops over slices of tensors";
  let description = [{
    For the host. Requires: what td-decompose guarantees. Guarantees: each train.recurrence is an
    scf.for that carries its results.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

#endif
