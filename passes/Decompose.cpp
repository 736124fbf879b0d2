// Decomposes the train dialect's operators to linalg on tensors.
#include "passes/Passes.h"

#include "mlir/IR/PatternMatch.h"

namespace td {
#define GEN_PASS_DEF_DECOMPOSE
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
struct Decompose : td::impl::DecomposeBase<Decompose> {
  using DecomposeBase::DecomposeBase;

  void runOnOperation() override {
    SmallVector<Operation *> operators;
    getOperation().walk([&](Operation *op) {
      if (isa<TrainDialect>(op->getDialect()) &&
          isa<linalg::AggregatedOpInterface>(op))
        operators.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (Operation *op : operators) {
      rewriter.setInsertionPoint(op);
      FailureOr<SmallVector<Value>> values =
          cast<linalg::AggregatedOpInterface>(op).decomposeOperation(rewriter);
      if (failed(values)) {
        op->emitOpError("cannot be decomposed");
        return signalPassFailure();
      }
      rewriter.replaceOp(op, *values);
    }
    if (!getOperation().isDeclaration() &&
        failed(verifyDecomposed(getOperation())))
      signalPassFailure();
  }
};
} // namespace
