// Fuses element-wise ops where that saves memory traffic and costs nothing.
#include "passes/Passes.h"

#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace td {
#define GEN_PASS_DEF_FUSEELEMENTWISE
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

/// Whether an op between `producer` and `consumer` updates a parameter whose
/// old value `producer` uses.
static bool updatesInBetween(Operation *producer, Operation *consumer) {
  for (Operation *op = producer->getNextNode(); op && op != consumer;
       op = op->getNextNode())
    if (auto assign = dyn_cast<AssignOp>(op))
      for (Value operand : producer->getOperands())
        if (getSnapshotParameter(operand) ==
            assign.getParameterAttr().getAttr())
          return true;
  return false;
}

static bool shouldFuse(OpOperand *operand) {
  auto consumer = dyn_cast<linalg::GenericOp>(operand->getOwner());
  Operation *producer = operand->get().getDefiningOp();
  return consumer && producer && operand->get().hasOneUse() &&
         consumer.getNumLoops() == consumer.getNumParallelLoops() &&
         consumer.getMatchingIndexingMap(operand).isPermutation() &&
         !updatesInBetween(producer, consumer);
}

namespace {
struct FuseElementwise : td::impl::FuseElementwiseBase<FuseElementwise> {
  using FuseElementwiseBase::FuseElementwiseBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    linalg::populateElementwiseOpsFusionPatterns(patterns, shouldFuse);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    if (!getOperation().isDeclaration() &&
        failed(verifyDecomposed(getOperation())))
      signalPassFailure();
  }
};
} // namespace
