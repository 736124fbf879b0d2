// Moves activations behind max pooling, where fewer elements are left.
#include "passes/Passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace td {
#define GEN_PASS_DEF_MOVEACTIVATIONS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

/// Whether every window has a tap inside of the input. One that has none (with
/// dilation, or wide padding) yields -inf, which an activation would change.
static bool everyWindowHasTaps(MaxPool2DOp pool) {
  for (unsigned axis : {0, 1}) {
    int64_t size = pool.getInput().getType().getDimSize(axis + 1),
            count = pool.getResult().getType().getDimSize(axis + 1);
    for (int64_t window = 0; window < count; ++window) {
      bool inside = false;
      for (int64_t tap = 0; tap < pool.getKernel()[axis]; ++tap) {
        int64_t at = window * pool.getStrides()[axis] -
                     pool.getPadding()[2 * axis] +
                     tap * pool.getDilations()[axis];
        inside |= at >= 0 && at < size;
      }
      if (!inside)
        return false;
    }
  }
  return true;
}

namespace {
/// max_pool(f(x)) = f(max_pool(x)) for a monotone f whose rounding is exact.
struct BehindMaxPool : OpRewritePattern<MaxPool2DOp> {
  BehindMaxPool(MLIRContext *context, bool differentiated)
      : OpRewritePattern(context), differentiated(differentiated) {}

  LogicalResult matchAndRewrite(MaxPool2DOp pool,
                                PatternRewriter &rewriter) const override {
    if (!pool.getTaps().use_empty() ||
        pool.getResult().getType().getNumElements() >=
            pool.getInput().getType().getNumElements() ||
        !everyWindowHasTaps(pool))
      return failure();
    // The activation may be seen through views.
    Value value = pool.getInput();
    while (value.hasOneUse() &&
           isa_and_nonnull<ReshapeOp, PermuteOp>(value.getDefiningOp()))
      value = value.getDefiningOp()->getOperand(0);
    Operation *activation = value.getDefiningOp();
    if (!activation || !value.hasOneUse() || !commutes(activation))
      return failure();
    rewriter.setInsertionPointAfter(pool);
    Operation *moved = rewriter.clone(*activation);
    Value result = moved->getResult(0);
    rewriter.modifyOpInPlace(moved, [&] {
      moved->setOperand(0, pool.getResult());
      result.setType(pool.getResult().getType());
    });
    rewriter.replaceAllUsesExcept(pool.getResult(), result, moved);
    rewriter.replaceOp(activation, activation->getOperand(0));
    return success();
  }

  /// ReLU commutes with its gradient too: where the maximum is not positive
  /// there is none on either way, and a positive one is the same element. On
  /// the bounds of a clamp its slope is 1, and which of the elements that reach
  /// a bound is the first depends on the order.
  bool commutes(Operation *activation) const {
    return isa<ReluOp>(activation) ||
           (differentiated && isa<ClampOp>(activation));
  }

  bool differentiated;
};

struct MoveActivations : td::impl::MoveActivationsBase<MoveActivations> {
  using MoveActivationsBase::MoveActivationsBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<BehindMaxPool>(&getContext(), differentiated);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
