// Moves permutes of dimensions together, where they cancel.
#include "passes/Passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace td {
#define GEN_PASS_DEF_MOVEPERMUTES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

static RankedTensorType permutedType(RankedTensorType type,
                                     ArrayRef<int64_t> permutation) {
  SmallVector<int64_t> shape;
  for (int64_t axis : permutation)
    shape.push_back(type.getDimSize(axis));
  return RankedTensorType::get(shape, type.getElementType());
}

static SmallVector<int64_t> inverse(ArrayRef<int64_t> permutation) {
  SmallVector<int64_t> result(permutation.size());
  for (auto [to, from] : llvm::enumerate(permutation))
    result[from] = to;
  return result;
}

/// A permute that `value` comes from, which has no other use.
static PermuteOp ownPermute(Value value) {
  auto permute = value.getDefiningOp<PermuteOp>();
  return permute && permute->hasOneUse() ? permute : PermuteOp();
}

static bool isUnary(Operation *op) {
  return isa<ReluOp, SigmoidOp, TanhOp, ExpOp, LogOp, SqrtOp, RsqrtOp, ErfOp,
             AbsOp, GeluOp, ClampOp, PowOp>(op);
}

static bool isBinary(Operation *op) {
  return isa<AddOp, SubOp, MulOp, DivOp>(op);
}

namespace {
/// A function of permuted elements is the permute of the function.
struct ThroughUnary : RewritePattern {
  explicit ThroughUnary(MLIRContext *context)
      : RewritePattern(MatchAnyOpTypeTag(), 1, context) {}

  LogicalResult matchAndRewrite(Operation *op,
                                PatternRewriter &rewriter) const override {
    if (!isUnary(op))
      return failure();
    PermuteOp permute = ownPermute(op->getOperand(0));
    if (!permute)
      return failure();
    Operation *inner = rewriter.clone(*op);
    inner->setOperand(0, permute.getInput());
    inner->getResult(0).setType(permute.getInput().getType());
    rewriter.replaceOpWithNewOp<PermuteOp>(op, op->getResult(0).getType(),
                                           inner->getResult(0),
                                           permute.getPermutation());
    return success();
  }
};

/// An element-wise op of tensors that are permuted in the same way, or of one
/// that is permuted and one that broadcasts from few elements.
struct ThroughBinary : RewritePattern {
  explicit ThroughBinary(MLIRContext *context)
      : RewritePattern(MatchAnyOpTypeTag(), 1, context) {}

  LogicalResult matchAndRewrite(Operation *op,
                                PatternRewriter &rewriter) const override {
    if (!isBinary(op))
      return failure();
    RankedTensorType type = typeOf(op->getResult(0));
    PermuteOp permute;
    for (Value operand : op->getOperands())
      if (operand.getType() == type && !permute)
        permute = ownPermute(operand);
    if (!permute)
      return failure();
    ArrayRef<int64_t> permutation = permute.getPermutation();
    SmallVector<Value> operands;
    for (Value operand : op->getOperands()) {
      auto own = operand.getDefiningOp<PermuteOp>();
      if (own && own.getPermutation() == permutation) {
        operands.push_back(own.getInput());
        continue;
      }
      // Only small tensors are worth another permute.
      RankedTensorType from = typeOf(operand);
      if (from.getNumElements() * 4 > type.getNumElements() &&
          !isa_and_nonnull<arith::ConstantOp>(operand.getDefiningOp()))
        return failure();
      operands.push_back({});
    }
    SmallVector<int64_t> back = inverse(permutation);
    for (auto [index, operand] : llvm::enumerate(op->getOperands())) {
      if (operands[index])
        continue;
      RankedTensorType from = typeOf(operand);
      if (from.getRank() == 0) {
        operands[index] = operand;
        continue;
      }
      SmallVector<int64_t> shape(type.getRank() - from.getRank(), 1);
      shape.append(from.getShape().begin(), from.getShape().end());
      auto whole = RankedTensorType::get(shape, from.getElementType());
      Value reshaped =
          rewriter.createOrFold<ReshapeOp>(op->getLoc(), whole, operand);
      operands[index] = rewriter.createOrFold<PermuteOp>(
          op->getLoc(), permutedType(whole, back), reshaped, back);
    }
    Operation *inner = rewriter.clone(*op);
    inner->setOperands(operands);
    inner->getResult(0).setType(permutedType(type, back));
    rewriter.replaceOpWithNewOp<PermuteOp>(op, type, inner->getResult(0),
                                           permutation);
    return success();
  }
};

/// A reshape that merges dimensions which were neighbours before the permute,
/// in the same order, merges them there.
struct ThroughReshape : OpRewritePattern<ReshapeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(ReshapeOp op,
                                PatternRewriter &rewriter) const override {
    PermuteOp permute = ownPermute(op.getInput());
    if (!permute)
      return failure();
    RankedTensorType from = op.getInput().getType(), to = op.getType();
    // Groups of dimensions of the permuted tensor, one for each of the result.
    SmallVector<SmallVector<int64_t>> groups;
    int64_t next = 0;
    for (int64_t size : to.getShape()) {
      SmallVector<int64_t> group;
      int64_t product = 1;
      while (next < from.getRank() && product < size) {
        product *= from.getDimSize(next);
        group.push_back(next++);
      }
      if (product != size)
        return failure();
      groups.push_back(group);
    }
    for (; next < from.getRank(); ++next) {
      if (from.getDimSize(next) != 1 || groups.empty())
        return failure();
      groups.back().push_back(next);
    }
    ArrayRef<int64_t> permutation = permute.getPermutation();
    // Where each group begins before the permute. Dimensions of size 1 may lie
    // anywhere.
    SmallVector<std::pair<int64_t, int64_t>> starts; // (position, group)
    for (auto [index, group] : llvm::enumerate(groups)) {
      int64_t last = -1, first = from.getRank();
      for (int64_t dim : group) {
        if (from.getDimSize(dim) == 1)
          continue;
        int64_t position = permutation[dim];
        // Neighbours, but for dimensions of size 1 in between.
        for (int64_t between = last + 1; last >= 0 && between < position;
             ++between)
          if (permute.getInput().getType().getDimSize(between) != 1)
            return failure();
        if (position < last)
          return failure();
        last = position;
        first = std::min(first, position);
      }
      starts.push_back({first, static_cast<int64_t>(index)});
    }
    llvm::stable_sort(starts, [](auto a, auto b) { return a.first < b.first; });
    SmallVector<int64_t> order, shape;
    for (auto [position, group] : starts) {
      order.push_back(group);
      shape.push_back(to.getDimSize(group));
    }
    if (llvm::is_sorted(order)) {
      rewriter.replaceOpWithNewOp<ReshapeOp>(op, to, permute.getInput());
      return success();
    }
    auto inner = RankedTensorType::get(shape, to.getElementType());
    Value reshaped = rewriter.createOrFold<ReshapeOp>(op.getLoc(), inner,
                                                      permute.getInput());
    rewriter.replaceOpWithNewOp<PermuteOp>(op, to, reshaped, inverse(order));
    return success();
  }
};

/// A permute that moves only dimensions of size 1 is a reshape.
struct OnlyUnits : OpRewritePattern<PermuteOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(PermuteOp op,
                                PatternRewriter &rewriter) const override {
    int64_t last = -1;
    for (int64_t axis : op.getPermutation()) {
      if (op.getInput().getType().getDimSize(axis) == 1)
        continue;
      if (axis < last)
        return failure();
      last = axis;
    }
    rewriter.replaceOpWithNewOp<ReshapeOp>(op, op.getType(), op.getInput());
    return success();
  }
};

/// A product of permuted matrices reads them as they are.
struct IntoMatmul : OpRewritePattern<MatmulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MatmulOp op,
                                PatternRewriter &rewriter) const override {
    for (unsigned index : {0, 1}) {
      auto permute = op.getOperand(index).getDefiningOp<PermuteOp>();
      if (!permute)
        continue;
      SmallVector<int64_t> swapped(permute.getPermutation());
      int64_t rank = swapped.size();
      std::swap(swapped[rank - 1], swapped[rank - 2]);
      if (!llvm::is_sorted(swapped))
        continue;
      rewriter.modifyOpInPlace(op, [&] {
        op.setOperand(index, permute.getInput());
        if (index == 0)
          op.setTransposeLhs(!op.getTransposeLhs());
        else
          op.setTransposeRhs(!op.getTransposeRhs());
      });
      return success();
    }
    return failure();
  }
};

/// The permute of zeros around a tensor is zeros around its permute.
struct ThroughEmbed : OpRewritePattern<PermuteOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(PermuteOp op,
                                PatternRewriter &rewriter) const override {
    auto embed = op.getInput().getDefiningOp<EmbedOp>();
    if (!embed || !embed->hasOneUse())
      return failure();
    ArrayRef<int64_t> permutation = op.getPermutation();
    SmallVector<int64_t> offsets, strides;
    for (int64_t axis : permutation) {
      offsets.push_back(embed.getOffsets()[axis]);
      strides.push_back(embed.getStrides()[axis]);
    }
    Value inner =
        PermuteOp::create(rewriter, op.getLoc(),
                          permutedType(embed.getInput().getType(), permutation),
                          embed.getInput(), permutation);
    rewriter.replaceOpWithNewOp<EmbedOp>(op, op.getType(), inner, offsets,
                                         strides);
    return success();
  }
};

/// Zeros around the input of a convolution are its padding.
struct PaddingOfConvolution : OpRewritePattern<Conv2DOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(Conv2DOp op,
                                PatternRewriter &rewriter) const override {
    auto embed = op.getInput().getDefiningOp<EmbedOp>();
    if (!embed || !llvm::all_of(embed.getStrides(),
                                [](int64_t stride) { return stride == 1; }))
      return failure();
    ArrayRef<int64_t> inner = embed.getInput().getType().getShape(),
                      outer = embed.getType().getShape();
    if (inner[0] != outer[0] || inner[3] != outer[3])
      return failure();
    SmallVector<int64_t> padding(op.getPadding());
    for (unsigned axis : {0, 1}) {
      int64_t before = embed.getOffsets()[axis + 1];
      padding[2 * axis] += before;
      padding[2 * axis + 1] += outer[axis + 1] - inner[axis + 1] - before;
    }
    rewriter.modifyOpInPlace(op, [&] {
      op.getInputMutable().assign(embed.getInput());
      op.setPadding(padding);
    });
    return success();
  }
};

struct MovePermutes : td::impl::MovePermutesBase<MovePermutes> {
  using MovePermutesBase::MovePermutesBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ThroughUnary, ThroughBinary, ThroughReshape, OnlyUnits,
                 IntoMatmul, ThroughEmbed, PaddingOfConvolution>(&getContext());
    PermuteOp::getCanonicalizationPatterns(patterns, &getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
