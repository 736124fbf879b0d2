// Fuses element-wise ops where that saves memory traffic and costs nothing.
#include "passes/Passes.h"

#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/IR/Matchers.h"
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
/// A sum of one product from zero (a weight gradient at batch 1) is an
/// element-wise outer product, which fuses with the update that consumes it.
struct OuterProduct : OpRewritePattern<linalg::MatmulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(linalg::MatmulOp op,
                                PatternRewriter &rewriter) const override {
    auto matmul = cast<linalg::LinalgOp>(op.getOperation());
    auto fill = op.getDpsInits()[0].getDefiningOp<linalg::FillOp>();
    SmallVector<unsigned> reductions;
    matmul.getReductionDims(reductions);
    if (!fill || !matchPattern(fill.getInputs()[0], m_AnyZeroFloat()) ||
        reductions.size() != 1 ||
        matmul.getStaticLoopRanges()[reductions[0]] != 1)
      return failure();
    // The loops of the product are the result's dimensions.
    auto resultMap = matmul.getMatchingIndexingMap(op.getDpsInitOperand(0));
    SmallVector<Value> operands;
    SmallVector<AffineMap> maps;
    for (OpOperand *operand : matmul.getDpsInputOperands()) {
      AffineMap map = matmul.getMatchingIndexingMap(operand);
      if (map.getNumResults() != 2)
        return failure();
      unsigned walked = map.getDimPosition(0) == reductions[0]
                            ? map.getDimPosition(1)
                            : map.getDimPosition(0);
      operands.push_back(tensor::CollapseShapeOp::create(
          rewriter, op.getLoc(), operand->get(),
          ArrayRef<ReassociationIndices>{{0, 1}}));
      for (unsigned i = 0; i < 2; ++i)
        if (resultMap.getDimPosition(i) == walked)
          maps.push_back(AffineMap::get(2, 0, {rewriter.getAffineDimExpr(i)},
                                        rewriter.getContext()));
    }
    if (maps.size() != 2)
      return failure();
    maps.push_back(rewriter.getMultiDimIdentityMap(2));
    auto type = cast<RankedTensorType>(op.getResult(0).getType());
    Value empty = tensor::EmptyOp::create(
        rewriter, op.getLoc(), type.getShape(), type.getElementType());
    SmallVector<utils::IteratorType> loops(2, utils::IteratorType::parallel);
    rewriter.replaceOpWithNewOp<linalg::GenericOp>(
        op, type, operands, empty, maps, loops,
        [](OpBuilder &b, Location location, ValueRange values) {
          Value product =
              arith::MulFOp::create(b, location, values[0], values[1]);
          linalg::YieldOp::create(b, location, product);
        });
    return success();
  }
};

struct FuseElementwise : td::impl::FuseElementwiseBase<FuseElementwise> {
  using FuseElementwiseBase::FuseElementwiseBase;

  void runOnOperation() override {
    countWork();
    RewritePatternSet patterns(&getContext());
    patterns.add<OuterProduct>(&getContext());
    linalg::populateElementwiseOpsFusionPatterns(patterns, shouldFuse);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    if (!getOperation().isDeclaration() &&
        failed(verifyDecomposed(getOperation())))
      signalPassFailure();
  }

  /// FLOP of the step, 2 a multiply-accumulate of every GEMM: afterwards not
  /// all of them can be told from element-wise work.
  void countWork() {
    int64_t flop = 0;
    getOperation().walk([&](linalg::MatmulOp matmul) {
      int64_t macs = 1;
      for (int64_t size :
           cast<linalg::LinalgOp>(matmul.getOperation()).getStaticLoopRanges())
        macs *= size;
      flop += 2 * macs;
    });
    getOperation()->setAttr("train.flop",
                            Builder(&getContext()).getI64IntegerAttr(flop));
  }
};
} // namespace
