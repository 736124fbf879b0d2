// Finds layer norm, softmax and GELU that a model writes out in primitives.
#include "passes/Passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace td {
#define GEN_PASS_DEF_RECOGNIZECOMPOSITES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

/// The number that every element of `value` is.
static std::optional<double> numberOf(Value value) {
  auto constant = value.getDefiningOp<arith::ConstantOp>();
  auto splat = constant ? dyn_cast<SplatElementsAttr>(constant.getValue())
                        : SplatElementsAttr();
  if (!splat)
    return std::nullopt;
  return splat.getSplatValue<APFloat>().convertToDouble();
}

/// Whether two numbers agree as float32 constants do.
static bool isAbout(double value, double expected) {
  return std::abs(value - expected) <= 1e-6 * std::abs(expected);
}

static Value withoutReshapes(Value value) {
  while (auto reshape = value.getDefiningOp<ReshapeOp>())
    value = reshape.getInput();
  return value;
}

/// `value` as a number times another value.
static std::pair<double, Value> scaled(Value value) {
  double factor = 1.0;
  while (Operation *op = value.getDefiningOp()) {
    if (auto reshape = dyn_cast<ReshapeOp>(op)) {
      value = reshape.getInput();
      continue;
    }
    std::optional<double> left, right;
    if (isa<MulOp, DivOp>(op)) {
      left = numberOf(op->getOperand(0));
      right = numberOf(op->getOperand(1));
    }
    if (right && isa<MulOp>(op)) {
      factor *= *right;
      value = op->getOperand(0);
    } else if (right) {
      factor /= *right;
      value = op->getOperand(0);
    } else if (left && isa<MulOp>(op)) {
      factor *= *left;
      value = op->getOperand(1);
    } else {
      break;
    }
  }
  return {factor, value};
}

/// The axes over which `value` is the mean of `of`; none if it is no mean.
static std::optional<SmallVector<int64_t>> meanAxes(Value value, Value of) {
  auto [factor, summed] = scaled(value);
  auto sum = summed.getDefiningOp<SumOp>();
  if (!sum || sum.getInput() != of)
    return std::nullopt;
  double count = 1.0;
  for (int64_t axis : sum.getAxes())
    count *= sum.getInput().getType().getDimSize(axis);
  if (!isAbout(factor * count, 1.0))
    return std::nullopt;
  return SmallVector<int64_t>(sum.getAxes());
}

/// Whether a reduction over `axes` of `type`, reshaped to `shape`, keeps its
/// axes with size 1, so that it broadcasts back to where it came from.
static bool keepsAxes(RankedTensorType type, ArrayRef<int64_t> axes,
                      Value value) {
  auto own = cast<RankedTensorType>(value.getType());
  if (own.getRank() != type.getRank())
    return false;
  for (int64_t dim = 0; dim < type.getRank(); ++dim)
    if (own.getDimSize(dim) !=
        (llvm::is_contained(axes, dim) ? 1 : type.getDimSize(dim)))
      return false;
  return true;
}

static Value squareRootOf(Value value) {
  if (auto sqrt = value.getDefiningOp<SqrtOp>())
    return sqrt.getInput();
  auto pow = value.getDefiningOp<PowOp>();
  return pow && pow.getExponent().convertToDouble() == 0.5 ? pow.getInput()
                                                           : Value();
}

/// x^n of `value`: x, for n of 2 or 3.
static Value powerOf(Value value, int exponent) {
  if (auto pow = value.getDefiningOp<PowOp>())
    return pow.getExponent().convertToDouble() == exponent ? pow.getInput()
                                                           : Value();
  auto mul = value.getDefiningOp<MulOp>();
  if (!mul)
    return {};
  if (exponent == 2)
    return mul.getLhs() == mul.getRhs() ? mul.getLhs() : Value();
  for (unsigned i : {0, 1})
    if (powerOf(mul.getOperand(i), 2) == mul.getOperand(1 - i))
      return mul.getOperand(1 - i);
  return {};
}

namespace {
/// d / sqrt(mean(d^2) + epsilon), where d is x - mean(x), or x itself.
template <typename Op> struct Normalization : OpRewritePattern<Op> {
  using OpRewritePattern<Op>::OpRewritePattern;

  /// The argument of the square root by which `op` divides `centered`.
  static Value divided(DivOp op, Value &centered) {
    centered = op.getLhs();
    return squareRootOf(op.getRhs());
  }
  static Value divided(MulOp op, Value &centered) {
    for (unsigned i : {0, 1}) {
      centered = op.getOperand(1 - i);
      if (auto rsqrt = op.getOperand(i).template getDefiningOp<RsqrtOp>())
        return rsqrt.getInput();
      if (auto div = op.getOperand(i).template getDefiningOp<DivOp>())
        if (numberOf(div.getLhs()) == 1.0)
          return squareRootOf(div.getRhs());
    }
    return {};
  }

  LogicalResult matchAndRewrite(Op op,
                                PatternRewriter &rewriter) const override {
    Value centered, variance = divided(op, centered);
    auto add = variance ? variance.getDefiningOp<AddOp>() : AddOp();
    if (!add || centered.getType() != op.getType())
      return failure();
    std::optional<double> epsilon = numberOf(add.getRhs());
    Value squares = add.getLhs();
    if (!epsilon) {
      epsilon = numberOf(add.getLhs());
      squares = add.getRhs();
    }
    if (!epsilon)
      return failure();
    auto [factor, summed] = scaled(squares);
    auto sum = summed.getDefiningOp<SumOp>();
    if (!sum || powerOf(sum.getInput(), 2) != centered)
      return failure();
    std::optional<SmallVector<int64_t>> axes =
        meanAxes(squares, sum.getInput());
    if (!axes || !keepsAxes(op.getType(), *axes, variance))
      return failure();
    Value input = centered;
    bool rms = true;
    if (auto sub = centered.getDefiningOp<SubOp>())
      if (meanAxes(sub.getRhs(), sub.getLhs()) == axes &&
          keepsAxes(op.getType(), *axes, sub.getRhs())) {
        input = sub.getLhs();
        rms = false;
      }
    rewriter.replaceOpWithNewOp<NormalizeOp>(
        op, op.getType(), input, Value(), *axes, llvm::APFloat(*epsilon), rms);
    return success();
  }
};

/// normalize(x) * scale.
struct ScaledNormalization : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MulOp op,
                                PatternRewriter &rewriter) const override {
    for (unsigned i : {0, 1}) {
      auto normalize = op.getOperand(i).getDefiningOp<NormalizeOp>();
      if (!normalize || normalize.getScale() || !normalize->hasOneUse() ||
          normalize.getType() != op.getType())
        continue;
      rewriter.replaceOpWithNewOp<NormalizeOp>(
          op, op.getType(), normalize.getInput(), op.getOperand(1 - i),
          normalize.getAxes(), normalize.getEpsilon(), normalize.getRms());
      return success();
    }
    return failure();
  }
};

/// exp(z) / sum(exp(z)), where z may be x - max(x).
struct Softmax : OpRewritePattern<DivOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(DivOp op,
                                PatternRewriter &rewriter) const override {
    auto exp = op.getLhs().getDefiningOp<ExpOp>();
    auto sum = withoutReshapes(op.getRhs()).getDefiningOp<SumOp>();
    if (!exp || !sum || sum.getInput() != exp.getResult() ||
        sum.getAxes().size() != 1 || exp.getType() != op.getType() ||
        !keepsAxes(op.getType(), sum.getAxes(), op.getRhs()))
      return failure();
    Value input = exp.getInput();
    if (auto sub = input.getDefiningOp<SubOp>()) {
      auto max = withoutReshapes(sub.getRhs()).getDefiningOp<MaxOp>();
      if (max && max.getInput() == sub.getLhs() &&
          max.getAxes() == sum.getAxes() &&
          keepsAxes(op.getType(), sum.getAxes(), sub.getRhs()))
        input = sub.getLhs();
    }
    rewriter.replaceOpWithNewOp<SoftmaxOp>(op, op.getType(), input,
                                           sum.getAxes()[0]);
    return success();
  }
};

/// x times 0.5 times (1 + erf or tanh of what GELU takes), in any order.
struct Gelu : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MulOp op,
                                PatternRewriter &rewriter) const override {
    double factor = 1.0;
    SmallVector<Value> factors;
    collect(op, true, factor, factors);
    if (factors.size() != 2)
      return failure();
    for (unsigned i : {0, 1}) {
      Value x = factors[1 - i];
      if (x.getType() != op.getType())
        continue;
      // 0.5 may stand inside: 0.5 + 0.5 erf is not written by anyone.
      std::optional<bool> tanh = gateOf(factors[i], x);
      if (!tanh || !isAbout(factor, 0.5))
        continue;
      rewriter.replaceOpWithNewOp<GeluOp>(op, op.getType(), x, *tanh);
      return success();
    }
    return failure();
  }

  /// The factors of a product, its numbers multiplied into `factor`.
  static void collect(Value value, bool root, double &factor,
                      SmallVectorImpl<Value> &factors) {
    if (std::optional<double> number = numberOf(value)) {
      factor *= *number;
      return;
    }
    auto mul = value.getDefiningOp<MulOp>();
    if (!mul || !(root || mul->hasOneUse())) {
      factors.push_back(value);
      return;
    }
    collect(mul.getLhs(), false, factor, factors);
    collect(mul.getRhs(), false, factor, factors);
  }

  /// Whether `gate` is 1 + tanh(...) of x, or 1 + erf(...); none for neither.
  static std::optional<bool> gateOf(Value gate, Value x) {
    auto add = gate.getDefiningOp<AddOp>();
    if (!add)
      return std::nullopt;
    for (unsigned i : {0, 1}) {
      if (numberOf(add.getOperand(i)) != 1.0)
        continue;
      Value function = add.getOperand(1 - i);
      if (auto erf = function.getDefiningOp<ErfOp>()) {
        auto [factor, of] = scaled(erf.getInput());
        if (of == x && isAbout(factor, M_SQRT1_2))
          return false;
      }
      if (auto tanh = function.getDefiningOp<TanhOp>()) {
        auto [factor, of] = scaled(tanh.getInput());
        auto sum = of.getDefiningOp<AddOp>();
        if (!sum || !isAbout(factor, M_2_SQRTPI * M_SQRT1_2))
          continue;
        for (unsigned j : {0, 1}) {
          auto [cubic, cube] = scaled(sum.getOperand(1 - j));
          if (sum.getOperand(j) == x && isAbout(cubic, 0.044715) &&
              powerOf(cube, 3) == x)
            return true;
        }
      }
    }
    return std::nullopt;
  }
};

struct RecognizeComposites
    : td::impl::RecognizeCompositesBase<RecognizeComposites> {
  using RecognizeCompositesBase::RecognizeCompositesBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<Normalization<DivOp>, Normalization<MulOp>,
                 ScaledNormalization, Softmax, Gelu>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
