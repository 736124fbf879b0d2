// Fuses element-wise ops where that saves memory traffic and costs nothing.
#include "dialects/Train/Recurrence.h"
#include "lib/Kernels/MathExpansion.h"
#include "lib/Planner/Grouping.h"
#include "passes/Passes.h"

#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
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

/// Arrays that one operator reads and writes, at most: a kernel has its
/// arguments in a record of the job table, and on its stack.
constexpr unsigned mostOperands = 24;

static bool shouldFuse(OpOperand *operand) {
  auto consumer = dyn_cast<linalg::GenericOp>(operand->getOwner());
  Operation *producer = operand->get().getDefiningOp();
  return consumer && producer && operand->get().hasOneUse() &&
         consumer->getNumOperands() + producer->getNumOperands() - 2 <=
             mostOperands &&
         consumer.getNumLoops() == consumer.getNumParallelLoops() &&
         consumer.getMatchingIndexingMap(operand).isPermutation() &&
         !updatesInBetween(producer, consumer);
}

/// Whether an op sums products of its two inputs.
static bool addsProduct(linalg::LinalgOp op) {
  return op.getNumReductionLoops() != 0 && td::accumulatesProducts(op);
}

namespace {
/// A sum of one product from zero (a weight gradient at batch 1), with any
/// loops beside those of the sum, is an element-wise outer product, which fuses
/// with the update that consumes it.
struct OuterProduct : OpInterfaceRewritePattern<linalg::LinalgOp> {
  using OpInterfaceRewritePattern::OpInterfaceRewritePattern;

  LogicalResult matchAndRewrite(linalg::LinalgOp op,
                                PatternRewriter &rewriter) const override {
    if (!addsProduct(op))
      return failure();
    auto fill = op.getDpsInits()[0].getDefiningOp<linalg::FillOp>();
    if (!fill || !matchPattern(fill.getInputs()[0], m_AnyZeroFloat()))
      return failure();
    // The loops that stay, by their number among all.
    SmallVector<int64_t> sizes = op.getStaticLoopRanges();
    SmallVector<unsigned> parallel;
    op.getParallelDims(parallel);
    SmallVector<AffineExpr> renumbered(sizes.size());
    for (auto [number, loop] : llvm::enumerate(parallel))
      renumbered[loop] = rewriter.getAffineDimExpr(number);
    for (auto [size, expr] : llvm::zip(sizes, renumbered))
      if (!expr && size != 1)
        return failure();
    for (AffineMap map : op.getIndexingMapsArray())
      if (!map.isProjectedPermutation())
        return failure();

    SmallVector<Value> operands;
    SmallVector<AffineMap> maps;
    for (OpOperand &operand : op->getOpOperands()) {
      // Dimensions that only the sum walks have one element.
      SmallVector<AffineExpr> results;
      SmallVector<ReassociationIndices> kept;
      ReassociationIndices leading;
      AffineMap map = op.getMatchingIndexingMap(&operand);
      for (unsigned i = 0; i < map.getNumResults(); ++i) {
        if (AffineExpr expr = renumbered[map.getDimPosition(i)]) {
          results.push_back(expr);
          kept.push_back(std::exchange(leading, {}));
        }
        (kept.empty() ? leading : kept.back()).push_back(i);
      }
      maps.push_back(
          AffineMap::get(parallel.size(), 0, results, rewriter.getContext()));
      if (op.isDpsInit(&operand))
        continue;
      operands.push_back(results.size() == map.getNumResults()
                             ? operand.get()
                             : tensor::CollapseShapeOp::create(
                                   rewriter, op.getLoc(), operand.get(), kept)
                                   .getResult());
    }
    auto type = cast<RankedTensorType>(op->getResult(0).getType());
    Value empty = tensor::EmptyOp::create(
        rewriter, op.getLoc(), type.getShape(), type.getElementType());
    SmallVector<utils::IteratorType> loops(parallel.size(),
                                           utils::IteratorType::parallel);
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

/// relu(max(x...)) = max(relu(x)...): a ReLU of a maximum over a window goes
/// into it, where it is a matter of the order of numbers, and needs no pass of
/// its own.
struct CutMaximum : OpRewritePattern<linalg::GenericOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(linalg::GenericOp consumer,
                                PatternRewriter &rewriter) const override {
    for (OpOperand *operand : consumer.getDpsInputOperands()) {
      auto maximum = operand->get().getDefiningOp<linalg::GenericOp>();
      BlockArgument taken = consumer.getMatchingBlockArgument(operand);
      if (!maximum || !shouldFuse(operand) || !taken.hasOneUse())
        continue;
      auto relu = dyn_cast<arith::MaximumFOp>(*taken.user_begin());
      arith::MaximumFOp running = runningMaximum(maximum);
      if (!running || !relu || relu->getBlock() != consumer.getBody() ||
          !matchPattern(relu->getOperand(relu.getLhs() == taken),
                        m_PosZeroFloat()))
        continue;
      rewriter.modifyOpInPlace(maximum, [&] {
        unsigned element =
            running.getLhs() == maximum.getRegionOutputArgs().front();
        rewriter.setInsertionPoint(running);
        Value zero = arith::ConstantOp::create(
            rewriter, relu.getLoc(), rewriter.getZeroAttr(running.getType()));
        Value cut = arith::MaximumFOp::create(
            rewriter, relu.getLoc(), running->getOperand(element), zero);
        running->setOperand(element, cut);
        maximum->setLoc(
            rewriter.getFusedLoc({maximum.getLoc(), consumer.getLoc()}));
      });
      rewriter.replaceOp(relu, taken);
      return success();
    }
    return failure();
  }

  /// The maximum if a reduction starts from minus infinity, is one of elements
  /// that are not cut yet, and of one at least.
  static arith::MaximumFOp runningMaximum(linalg::GenericOp op) {
    if (op.getNumReductionLoops() == 0 || op.getNumDpsInits() != 1 ||
        llvm::is_contained(op.getStaticLoopRanges(), 0))
      return {};
    auto start = op.getDpsInits()[0].getDefiningOp<linalg::FillOp>();
    auto running = op.getBody()
                       ->getTerminator()
                       ->getOperand(0)
                       .getDefiningOp<arith::MaximumFOp>();
    BlockArgument output = op.getRegionOutputArgs().front();
    if (!start || !matchPattern(start.getInputs()[0], m_NegInfFloat()) ||
        !running || running->getBlock() != op.getBody() ||
        !output.hasOneUse() ||
        !llvm::is_contained(running->getOperands(), output))
      return {};
    auto element = running->getOperand(running.getLhs() == output)
                       .getDefiningOp<arith::MaximumFOp>();
    bool isCut = element && llvm::any_of(element->getOperands(), [](Value v) {
                   return matchPattern(v, m_PosZeroFloat());
                 });
    return isCut ? arith::MaximumFOp() : running;
  }
};

/// What is made of vectors alone can as well be made in the shape in which it
/// is used: a reshape of it may go to the vectors.
static bool isMadeOfVectors(OpOperand *reshaped) {
  auto producer = reshaped->get().getDefiningOp<linalg::GenericOp>();
  return isa<tensor::ExpandShapeOp>(reshaped->getOwner()) && producer &&
         reshaped->get().hasOneUse() && producer.getNumReductionLoops() == 0 &&
         llvm::all_of(producer.getDpsInputOperands(), [&](OpOperand *input) {
           return producer.getMatchingIndexingMap(input).getNumResults() <
                  producer.getNumLoops();
         });
}

/// A product of matrices has two dimensions, and what follows it those of the
/// model: where it can, that walks the product's own (for batch and rows one
/// loop), so that it runs on the product's tiles.
static bool walksExpandedProduct(OpOperand *operand) {
  auto consumer = dyn_cast<linalg::GenericOp>(operand->getOwner());
  return consumer && operand->get().getDefiningOp<tensor::ExpandShapeOp>() &&
         !addsProduct(consumer) &&
         consumer.getMatchingIndexingMap(operand).getNumResults() ==
             consumer.getNumLoops();
}

/// The order of dimensions in which `op` copies its operand, as the map from
/// the copy's indices to the operand's; null if it does anything else.
static AffineMap copiedBy(linalg::GenericOp op) {
  if (op.getNumDpsInputs() != 1 || op.getNumDpsInits() != 1 ||
      op.getNumParallelLoops() != op.getNumLoops())
    return {};
  auto yield = cast<linalg::YieldOp>(op.getBody()->getTerminator());
  if (yield.getOperand(0) != op.getBody()->getArgument(0))
    return {};
  AffineMap from = op.getMatchingIndexingMap(op.getDpsInputOperand(0)),
            to = op.getMatchingIndexingMap(op.getDpsInitOperand(0));
  if (!from.isPermutation() || !to.isIdentity())
    return {};
  return from;
}

/// A copy in another order disappears into the maps of all that read it.
struct ReadUnpermuted : OpRewritePattern<linalg::GenericOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(linalg::GenericOp copy,
                                PatternRewriter &rewriter) const override {
    AffineMap order = copiedBy(copy);
    if (!order || copy->use_empty())
      return failure();
    for (OpOperand &use : copy->getUses()) {
      auto user = dyn_cast<linalg::LinalgOp>(use.getOwner());
      if (!user || !isa<linalg::GenericOp, linalg::MatmulOp>(use.getOwner()) ||
          !user.isDpsInput(&use) || updatesInBetween(copy, user))
        return failure();
    }
    for (OpOperand &use :
         llvm::make_early_inc_range(copy->getResult(0).getUses())) {
      auto user = cast<linalg::LinalgOp>(use.getOwner());
      SmallVector<AffineMap> maps = user.getIndexingMapsArray();
      unsigned index = use.getOperandNumber();
      maps[index] = order.compose(maps[index]);
      rewriter.modifyOpInPlace(user, [&] {
        use.set(copy.getInputs()[0]);
        user->setAttr("indexing_maps", rewriter.getAffineMapArrayAttr(maps));
      });
    }
    rewriter.eraseOp(copy);
    return success();
  }
};

/// What only a copy in another order reads is written in that order.
struct WritePermuted : OpRewritePattern<linalg::GenericOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(linalg::GenericOp copy,
                                PatternRewriter &rewriter) const override {
    AffineMap order = copiedBy(copy);
    if (!order)
      return failure();
    Value source = copy.getInputs()[0];
    if (!source.hasOneUse())
      return failure();
    auto result = dyn_cast<OpResult>(source);
    if (!result)
      return failure();
    if (auto matmul = dyn_cast<linalg::MatmulOp>(result.getOwner()))
      return turnProduct(matmul, copy, rewriter);
    auto producer = dyn_cast<linalg::GenericOp>(result.getOwner());
    if (!producer)
      return failure();
    OpOperand *init = producer.getDpsInitOperand(result.getResultNumber());
    rewriter.setInsertionPoint(producer);
    Value start = restarted(rewriter, init->get(), copy);
    if (!start)
      return failure();
    SmallVector<AffineMap> maps = producer.getIndexingMapsArray();
    maps[init->getOperandNumber()] =
        inversePermutation(order).compose(maps[init->getOperandNumber()]);
    rewriter.modifyOpInPlace(producer, [&] {
      init->set(start);
      result.setType(cast<RankedTensorType>(copy.getResult(0).getType()));
      producer.setIndexingMapsAttr(rewriter.getAffineMapArrayAttr(maps));
    });
    rewriter.replaceOp(copy, result);
    return success();
  }

  /// `init`, a fill or an empty tensor, in the shape of the copy's result.
  static Value restarted(PatternRewriter &rewriter, Value init,
                         linalg::GenericOp copy) {
    auto type = cast<RankedTensorType>(copy.getResult(0).getType());
    Location loc = init.getLoc();
    if (init.getDefiningOp<tensor::EmptyOp>())
      return tensor::EmptyOp::create(rewriter, loc, type.getShape(),
                                     type.getElementType());
    auto fill = init.getDefiningOp<linalg::FillOp>();
    if (!fill)
      return {};
    Value empty = tensor::EmptyOp::create(rewriter, loc, type.getShape(),
                                          type.getElementType());
    return linalg::FillOp::create(rewriter, loc, fill.getInputs(),
                                  ValueRange{empty})
        .getResult(0);
  }

  /// (A B)^T = B^T A^T.
  static LogicalResult turnProduct(linalg::MatmulOp matmul,
                                   linalg::GenericOp copy,
                                   PatternRewriter &rewriter) {
    rewriter.setInsertionPoint(matmul);
    Value start = restarted(rewriter, matmul.getDpsInits()[0], copy);
    if (!start)
      return failure();
    SmallVector<AffineMap> maps = matmul.getIndexingMapsArray();
    MLIRContext *context = rewriter.getContext();
    AffineMap swapLoops = AffineMap::get(3, 0,
                                         {getAffineDimExpr(1, context),
                                          getAffineDimExpr(0, context),
                                          getAffineDimExpr(2, context)},
                                         context);
    SmallVector<AffineMap> turned = {maps[1].compose(swapLoops),
                                     maps[0].compose(swapLoops), maps[2]};
    rewriter.replaceOpWithNewOp<linalg::MatmulOp>(
        copy, copy->getResultTypes(),
        ValueRange{matmul.getInputs()[1], matmul.getInputs()[0]},
        ValueRange{start},
        ArrayRef<NamedAttribute>{rewriter.getNamedAttr(
            "indexing_maps", rewriter.getAffineMapArrayAttr(turned))});
    rewriter.eraseOp(matmul);
    return success();
  }
};

/// In `rate * (row * column) + w`, the update at batch 1, `rate * row` is the
/// same for a whole row: that leaves one operation an element.
static void scaleRowsFirst(linalg::GenericOp op) {
  if (op.getNumParallelLoops() != op.getNumLoops() || op.getNumLoops() < 2)
    return;
  unsigned innermost = op.getNumLoops() - 1;
  auto varies = [&](Value value, auto &&self) -> bool {
    if (auto argument = dyn_cast<BlockArgument>(value);
        argument && argument.getOwner() == op.getBody())
      return op
          .getMatchingIndexingMap(&op->getOpOperand(argument.getArgNumber()))
          .isFunctionOfDim(innermost);
    Operation *made = value.getDefiningOp();
    return made && made->getBlock() == op.getBody() &&
           (made->getNumOperands() == 0 ||
            llvm::any_of(made->getOperands(),
                         [&](Value operand) { return self(operand, self); }));
  };
  for (auto sum :
       llvm::make_early_inc_range(op.getBody()->getOps<math::FmaOp>()))
    for (bool swapped : {false, true}) {
      Value rate = swapped ? sum.getB() : sum.getA();
      auto product =
          (swapped ? sum.getA() : sum.getB()).getDefiningOp<arith::MulFOp>();
      if (!product || !product->hasOneUse() || varies(rate, varies))
        continue;
      Value row = product.getLhs(), column = product.getRhs();
      if (varies(row, varies))
        std::swap(row, column);
      if (varies(row, varies) || !varies(column, varies))
        continue;
      OpBuilder b(sum);
      Value scaled = arith::MulFOp::create(b, product.getLoc(), rate, row);
      Value result =
          math::FmaOp::create(b, sum.getLoc(), scaled, column, sum.getC());
      sum.getResult().replaceAllUsesWith(result);
      sum.erase();
      product.erase();
      break;
    }
}

/// A product and the sum or difference that it ends in are one instruction of
/// the cores, rounded once. What adds operands' product to its result is known
/// as a contraction by that form, and has it anyway; a function that
/// td-expand-math finds stays as it is written.
static void fuseMultiplyAdds(linalg::GenericOp op) {
  SmallPtrSet<Operation *, 8> kept;
  for (const td::TabulatedOp &function : td::findTabulated(*op.getBody()))
    kept.insert(function.parts.begin(), function.parts.end());
  auto productOf = [&](Value value) -> arith::MulFOp {
    auto product = value.getDefiningOp<arith::MulFOp>();
    return product && product->hasOneUse() &&
                   product->getBlock() == op.getBody() &&
                   !kept.contains(product)
               ? product
               : arith::MulFOp();
  };
  // Of another width or not.
  auto isOperand = [](Value value) {
    Operation *made = value.getDefiningOp();
    if (isa_and_present<arith::TruncFOp, arith::ExtFOp>(made))
      value = made->getOperand(0);
    return isa<BlockArgument>(value);
  };
  auto isResult = [&](Value value) {
    auto argument = dyn_cast<BlockArgument>(value);
    return argument && argument.getOwner() == op.getBody() &&
           argument.getArgNumber() >= op.getNumDpsInputs();
  };
  for (Operation &sum : llvm::make_early_inc_range(*op.getBody())) {
    if (!isa<arith::AddFOp, arith::SubFOp>(sum) || kept.contains(&sum))
      continue;
    bool difference = isa<arith::SubFOp>(sum);
    OpBuilder b(&sum);
    for (bool first : {true, false}) {
      Value rest = sum.getOperand(first ? 1 : 0);
      arith::MulFOp product = productOf(sum.getOperand(first ? 0 : 1));
      if (!product ||
          (isResult(rest) && llvm::all_of(product->getOperands(), isOperand)))
        continue;
      Value factor = product.getLhs();
      if (difference)
        (first ? rest : factor) =
            arith::NegFOp::create(b, sum.getLoc(), first ? rest : factor);
      Value fused =
          math::FmaOp::create(b, sum.getLoc(), factor, product.getRhs(), rest);
      sum.getResult(0).replaceAllUsesWith(fused);
      sum.erase();
      product.erase();
      break;
    }
  }
}

struct FuseElementwise : td::impl::FuseElementwiseBase<FuseElementwise> {
  using FuseElementwiseBase::FuseElementwiseBase;

  void runOnOperation() override {
    countWork();
    // Before anything takes a copy in: what makes a value writes it in the
    // order in which it is read, if it can.
    RewritePatternSet copies(&getContext());
    copies.add<WritePermuted>(&getContext(), /*benefit=*/2);
    copies.add<ReadUnpermuted>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(copies))))
      return signalPassFailure();
    RewritePatternSet reshapes(&getContext());
    linalg::populateFoldReshapeOpsByCollapsingPatterns(reshapes,
                                                       walksExpandedProduct);
    tensor::CollapseShapeOp::getCanonicalizationPatterns(reshapes,
                                                         &getContext());
    tensor::ExpandShapeOp::getCanonicalizationPatterns(reshapes, &getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(reshapes))))
      return signalPassFailure();
    RewritePatternSet patterns(&getContext());
    patterns.add<OuterProduct, CutMaximum>(&getContext());
    linalg::populateFoldReshapeOpsByExpansionPatterns(patterns,
                                                      isMadeOfVectors);
    linalg::populateElementwiseOpsFusionPatterns(patterns, shouldFuse);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    getOperation().walk(scaleRowsFirst);
    getOperation().walk(fuseMultiplyAdds);
    if (!getOperation().isDeclaration() &&
        failed(verifyDecomposed(getOperation())))
      signalPassFailure();
  }

  /// Whether a generic is a sum of products, with an operand that some parallel
  /// loop does not walk: a product of matrices or a convolution, no inner
  /// product.
  static bool isContraction(linalg::GenericOp op) {
    if (!addsProduct(op))
      return false;
    SmallVector<unsigned> parallel;
    op.getParallelDims(parallel);
    return llvm::any_of(parallel, [&](unsigned loop) {
      return llvm::any_of(op.getDpsInputOperands(), [&](OpOperand *operand) {
        return !op.getMatchingIndexingMap(operand).isFunctionOfDim(loop);
      });
    });
  }

  /// FLOP of the step, 2 a multiply-accumulate of every GEMM and convolution:
  /// afterwards not all of them can be told from element-wise work.
  void countWork() {
    int64_t flop = 0;
    getOperation().walk([&](linalg::LinalgOp op) {
      auto generic = dyn_cast<linalg::GenericOp>(op.getOperation());
      if (!isa<linalg::MatmulOp>(op) && !(generic && isContraction(generic)))
        return;
      int64_t macs = 1;
      for (int64_t size : op.getStaticLoopRanges())
        macs *= size;
      if (auto loop = op->getParentOfType<RecurrenceOp>())
        macs *= (int64_t)loop.getSteps();
      flop += 2 * macs;
    });
    getOperation()->setAttr("train.flop",
                            Builder(&getContext()).getI64IntegerAttr(flop));
  }
};
} // namespace
