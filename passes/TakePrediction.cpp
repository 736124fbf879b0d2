// Turns the forward function into a step that returns the prediction.
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_TAKEPREDICTION
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

namespace {
struct TakePrediction : td::impl::TakePredictionBase<TakePrediction> {
  using TakePredictionBase::TakePredictionBase;

  void runOnOperation() override {
    auto forward = getOperation().lookupSymbol<func::FuncOp>("forward");
    if (!forward || !forward.getBody().hasOneBlock()) {
      getOperation().emitError(
          "the module has no function @forward of one block");
      return signalPassFailure();
    }
    if (forward.getNumResults() != 1 ||
        !isa<RankedTensorType>(forward.getResultTypes()[0])) {
      forward.emitError() << "the model has " << forward.getNumResults()
                          << " results; a prediction is one tensor";
      return signalPassFailure();
    }
    forward.removeResAttrsAttr();
    forward.setResultAttr(0, "train.name",
                          StringAttr::get(&getContext(), "prediction"));
    forward.setName("step");
  }
};
} // namespace
