// Vector-Jacobian products of the train dialect's operators, and of the
// upstream ops of the training graph as external models.
#include "dialects/Train/Recurrence.h"
#include "dialects/Train/Structured.h"

using namespace mlir;
using namespace td::train;

/// The cotangent of `operand`, which broadcasts to the shape of `value`.
static Value sumTo(OpBuilder &builder, Location location, Value value,
                   Value operand) {
  if (value.getType() == operand.getType())
    return value;
  return SumToOp::create(builder, location, operand.getType(), value);
}

static Value negated(OpBuilder &builder, Location location, Value value) {
  Value minusOne = constantScalar(builder, location,
                                  tensorType(value).getElementType(), -1.0);
  return MulOp::create(builder, location, value, minusOne);
}

/// `value` as a matrix whose columns are its last dimension.
static Value asMatrix(OpBuilder &builder, Location location, Value value) {
  int64_t columns = tensorType(value).getShape().back();
  return reshapeTo(builder, location, value,
                   {tensorType(value).getNumElements() / columns, columns});
}

/// The sum of two arrays that are zero but for boxes which lie side by side, as
/// the gradients of the parts of a split are: the boxes joined, amid zeros if
/// there are any left. Null if they do not lie so.
static Value joinNeighbours(OpBuilder &builder, Location location, Value a,
                            Value b) {
  auto first = a.getDefiningOp<EmbedOp>(), second = b.getDefiningOp<EmbedOp>();
  if (!first || !second)
    return {};
  auto isStrided = [](int64_t stride) { return stride != 1; };
  if (llvm::any_of(first.getStrides(), isStrided) ||
      llvm::any_of(second.getStrides(), isStrided))
    return {};
  std::optional<int64_t> axis;
  for (int64_t dim = 0; dim < first.getType().getRank(); ++dim)
    if (first.getOffsets()[dim] != second.getOffsets()[dim]) {
      if (axis)
        return {};
      axis = dim;
    }
  if (!axis)
    return {};
  if (first.getOffsets()[*axis] > second.getOffsets()[*axis])
    std::swap(first, second);
  SmallVector<int64_t> shape(first.getInput().getType().getShape()),
      other(second.getInput().getType().getShape());
  if (first.getOffsets()[*axis] + shape[*axis] != second.getOffsets()[*axis])
    return {};
  shape[*axis] += other[*axis];
  other[*axis] = shape[*axis];
  if (shape != other)
    return {};
  SmallVector<Value> parts;
  for (EmbedOp half : {first, second}) {
    auto joined = half.getInput().getDefiningOp<ConcatOp>();
    if (joined && joined.getAxis() == *axis)
      llvm::append_range(parts, joined.getInputs());
    else
      parts.push_back(half.getInput());
  }
  RankedTensorType type = first.getType();
  Value box = ConcatOp::create(
      builder, location, RankedTensorType::get(shape, type.getElementType()),
      parts, *axis);
  if (box.getType() == type)
    return box;
  return EmbedOp::create(builder, location, type, box, first.getOffsets(),
                         first.getStrides());
}

Value td::train::addCotangents(OpBuilder &builder, Location location, Value a,
                               Value b) {
  if (!a || !b)
    return a ? a : b;
  if (Value joined = joinNeighbours(builder, location, a, b))
    return joined;
  return AddOp::create(builder, location, a, b);
}

SmallVector<Value> td::train::otherOperands(Value first, Value second,
                                            ArrayRef<bool> wanted) {
  SmallVector<Value> residuals;
  if (wanted[0])
    residuals.push_back(second);
  if (wanted[1])
    residuals.push_back(first);
  return residuals;
}

//===----------------------------------------------------------------------===//
// train.linear
//===----------------------------------------------------------------------===//

SmallVector<Value> LinearOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(getNumOperands());
  Value dy = asMatrix(builder, loc, cotangents[0]);
  // The input's cotangent reads the old weight: it comes before the weight's
  // gradient, so that the update can follow that one directly.
  if (wanted[0])
    result[0] = reshapeTo(
        builder, loc, contract(builder, loc, dy, "mk", getWeight(), "kn", "mn"),
        getInput().getType().getShape());
  if (wanted[1])
    result[1] = contract(builder, loc, dy, "mk",
                         asMatrix(builder, loc, getInput()), "mn", "kn");
  if (getBias() && wanted[2])
    result[2] = sumTo(builder, loc, dy, getBias());
  return result;
}

SmallVector<Value> LinearOp::getResiduals(ArrayRef<bool> wanted) {
  return otherOperands(getInput(), getWeight(), wanted);
}

bool LinearOp::isCheapToRecompute() { return false; }

//===----------------------------------------------------------------------===//
// Element-wise: the gradient is a function of the output
//===----------------------------------------------------------------------===//

#define TD_UNARY_GRADIENT(OP, VJP)                                             \
  SmallVector<Value> OP::buildVJP(OpBuilder &builder, ValueRange cotangents,   \
                                  ArrayRef<bool> wanted) {                     \
    if (!wanted[0])                                                            \
      return {Value()};                                                        \
    return {VJP::create(builder, getLoc(), getResult(), cotangents[0])};       \
  }                                                                            \
  SmallVector<Value> OP::getResiduals(ArrayRef<bool> wanted) {                 \
    return wanted[0] ? SmallVector<Value>{getResult()} : SmallVector<Value>{}; \
  }                                                                            \
  bool OP::isCheapToRecompute() { return true; }

TD_UNARY_GRADIENT(ReluOp, ReluVJPOp)
TD_UNARY_GRADIENT(SigmoidOp, SigmoidVJPOp)
TD_UNARY_GRADIENT(TanhOp, TanhVJPOp)
#undef TD_UNARY_GRADIENT

//===----------------------------------------------------------------------===//
// Element-wise with broadcasting
//===----------------------------------------------------------------------===//

SmallVector<Value> AddOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                   ArrayRef<bool> wanted) {
  SmallVector<Value> result(2);
  for (unsigned i : {0, 1})
    if (wanted[i])
      result[i] = sumTo(builder, getLoc(), cotangents[0], getOperand(i));
  return result;
}
SmallVector<Value> AddOp::getResiduals(ArrayRef<bool>) { return {}; }
bool AddOp::isCheapToRecompute() { return true; }

SmallVector<Value> SubOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                   ArrayRef<bool> wanted) {
  SmallVector<Value> result(2);
  if (wanted[0])
    result[0] = sumTo(builder, getLoc(), cotangents[0], getLhs());
  if (wanted[1])
    result[1] = negated(builder, getLoc(),
                        sumTo(builder, getLoc(), cotangents[0], getRhs()));
  return result;
}
SmallVector<Value> SubOp::getResiduals(ArrayRef<bool>) { return {}; }
bool SubOp::isCheapToRecompute() { return true; }

SmallVector<Value> MulOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                   ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(2);
  for (unsigned i : {0, 1})
    if (wanted[i])
      result[i] = MulOp::create(builder, loc, cotangents[0], getOperand(1 - i));
  for (unsigned i : {0, 1})
    if (wanted[i])
      result[i] = sumTo(builder, loc, result[i], getOperand(i));
  return result;
}
SmallVector<Value> MulOp::getResiduals(ArrayRef<bool> wanted) {
  return otherOperands(getLhs(), getRhs(), wanted);
}
bool MulOp::isCheapToRecompute() { return true; }

SmallVector<Value> ReshapeOp::buildVJP(OpBuilder &builder,
                                       ValueRange cotangents,
                                       ArrayRef<bool> wanted) {
  if (!wanted[0])
    return {Value()};
  return {ReshapeOp::create(builder, getLoc(), getInput().getType(),
                            cotangents[0])};
}
SmallVector<Value> ReshapeOp::getResiduals(ArrayRef<bool>) { return {}; }
bool ReshapeOp::isCheapToRecompute() { return true; }

SmallVector<Value> DivOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                   ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(2);
  // d(a / b) = da / b - (a / b) db / b
  Value share = DivOp::create(builder, loc, cotangents[0], getRhs());
  if (wanted[0])
    result[0] = sumTo(builder, loc, share, getLhs());
  if (wanted[1])
    result[1] = negated(builder, loc,
                        sumTo(builder, loc,
                              MulOp::create(builder, loc, share, getResult()),
                              getRhs()));
  return result;
}
SmallVector<Value> DivOp::getResiduals(ArrayRef<bool> wanted) {
  SmallVector<Value> residuals = {getRhs()};
  if (wanted[1])
    residuals.push_back(getResult());
  return residuals;
}
bool DivOp::isCheapToRecompute() { return true; }

//===----------------------------------------------------------------------===//
// Losses
//===----------------------------------------------------------------------===//

/// A loss whose gradient reads both of its operands.
#define TD_READS_BOTH(OP)                                                      \
  SmallVector<Value> OP::getResiduals(ArrayRef<bool>) {                        \
    return getOperands();                                                      \
  }                                                                            \
  bool OP::isCheapToRecompute() { return false; }

/// The cotangent of a loss, times what its sum is multiplied with, times
/// `factor`.
static Value lossFactor(OpBuilder &builder, Location loc, Value cotangent,
                        bool sum, RankedTensorType type, double factor) {
  if (!sum)
    factor /= static_cast<double>(type.getNumElements());
  return builder.createOrFold<MulOp>(
      loc, cotangent,
      constantScalar(builder, loc, type.getElementType(), factor));
}

SmallVector<Value> MSELossOp::buildVJP(OpBuilder &builder,
                                       ValueRange cotangents,
                                       ArrayRef<bool> wanted) {
  Location loc = getLoc();
  Value scale = lossFactor(builder, loc, cotangents[0], getSum(),
                           getPrediction().getType(), 2.0);
  Value difference = SubOp::create(builder, loc, getPrediction(), getTarget());
  Value gradient = MulOp::create(builder, loc, difference, scale);
  SmallVector<Value> result(2);
  if (wanted[0])
    result[0] = gradient;
  if (wanted[1])
    result[1] = negated(builder, loc, gradient);
  return result;
}
TD_READS_BOTH(MSELossOp)

SmallVector<Value> L1LossOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  Location loc = getLoc();
  RankedTensorType type = getPrediction().getType();
  Value scale = lossFactor(builder, loc, cotangents[0], getSum(), type, 1.0);
  Value difference = SubOp::create(builder, loc, getPrediction(), getTarget());
  Value gradient = AbsVJPOp::create(
      builder, loc, difference, BroadcastOp::create(builder, loc, type, scale));
  SmallVector<Value> result(2);
  if (wanted[0])
    result[0] = gradient;
  if (wanted[1])
    result[1] = negated(builder, loc, gradient);
  return result;
}
TD_READS_BOTH(L1LossOp)

SmallVector<Value> BCELossOp::buildVJP(OpBuilder &builder,
                                       ValueRange cotangents,
                                       ArrayRef<bool> wanted) {
  Location loc = getLoc();
  Value scale = lossFactor(builder, loc, cotangents[0], getSum(),
                           getPrediction().getType(), 1.0);
  SmallVector<Value> result(2);
  if (wanted[0]) {
    Value probability = SigmoidOp::create(builder, loc, getPrediction());
    result[0] = MulOp::create(
        builder, loc, SubOp::create(builder, loc, probability, getTarget()),
        scale);
  }
  if (wanted[1])
    result[1] = negated(builder, loc,
                        MulOp::create(builder, loc, getPrediction(), scale));
  return result;
}
SmallVector<Value> BCELossOp::getResiduals(ArrayRef<bool> wanted) {
  SmallVector<Value> residuals = {getPrediction()};
  if (wanted[0])
    residuals.push_back(getTarget());
  return residuals;
}
bool BCELossOp::isCheapToRecompute() { return false; }

SmallVector<Value> CrossEntropyOp::buildVJP(OpBuilder &builder,
                                            ValueRange cotangents,
                                            ArrayRef<bool> wanted) {
  SmallVector<Value> result(getNumOperands());
  if (wanted[0])
    result[0] = CrossEntropyVJPOp::create(
        builder, getLoc(), getLogits(), getLabels(), cotangents[0], getWeight(),
        getAxisAttr(), getIgnoredAttr(), getSmoothingAttr(), getSumAttr());
  return result;
}
TD_READS_BOTH(CrossEntropyOp)
#undef TD_READS_BOTH

//===----------------------------------------------------------------------===//
// Upstream ops
//===----------------------------------------------------------------------===//

namespace {

/// C = A B + C0 with any transposed operands.
struct MatmulModel
    : DifferentiableOpInterface::ExternalModel<MatmulModel, linalg::MatmulOp> {
  /// The labels of an operand's dimensions, from its indexing map; empty if it
  /// is not a matrix (an operand that broadcasts).
  static std::string labels(linalg::MatmulOp op, unsigned operand) {
    AffineMap map = op.getIndexingMapsArray()[operand];
    std::string result;
    for (AffineExpr dim : map.getResults())
      result += "mkn"[cast<AffineDimExpr>(dim).getPosition()];
    return result.size() == 2 ? result : "";
  }

  SmallVector<Value> buildVJP(Operation *operation, OpBuilder &builder,
                              ValueRange cotangents,
                              ArrayRef<bool> wanted) const {
    auto op = cast<linalg::MatmulOp>(operation);
    SmallVector<Value> result(3);
    Value dc = cotangents[0];
    std::string c = labels(op, 2);
    bool oneElementType =
        llvm::all_equal(llvm::map_range(op->getOperandTypes(), [](Type type) {
          return getElementTypeOrSelf(type);
        }));
    for (unsigned i : {0, 1}) {
      std::string self = labels(op, i), other = labels(op, 1 - i);
      if (wanted[i] && oneElementType && !self.empty() && !other.empty())
        result[i] = contract(builder, op.getLoc(), dc, c, op.getOperand(1 - i),
                             other, self);
    }
    if (wanted[2])
      result[2] = dc;
    return result;
  }

  SmallVector<Value> getResiduals(Operation *operation,
                                  ArrayRef<bool> wanted) const {
    return otherOperands(operation->getOperand(0), operation->getOperand(1),
                         wanted);
  }

  bool isCheapToRecompute(Operation *) const { return false; }
};

/// tensor.collapse_shape and tensor.expand_shape: each is the other's inverse.
template <typename Op, typename Inverse>
struct ReshapeModel
    : DifferentiableOpInterface::ExternalModel<ReshapeModel<Op, Inverse>, Op> {
  SmallVector<Value> buildVJP(Operation *operation, OpBuilder &builder,
                              ValueRange cotangents,
                              ArrayRef<bool> wanted) const {
    if (!wanted[0])
      return {Value()};
    auto op = cast<Op>(operation);
    return {Inverse::create(builder, op.getLoc(), op.getSrc().getType(),
                            cotangents[0], op.getReassociationIndices())};
  }
  SmallVector<Value> getResiduals(Operation *, ArrayRef<bool>) const {
    return {};
  }
  bool isCheapToRecompute(Operation *) const { return true; }
};

} // namespace

void td::train::registerDifferentiableExternalModels(
    DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, linalg::LinalgDialect *) {
    linalg::MatmulOp::attachInterface<MatmulModel>(*context);
  });
  registry.addExtension(+[](MLIRContext *context, tensor::TensorDialect *) {
    tensor::CollapseShapeOp::attachInterface<
        ReshapeModel<tensor::CollapseShapeOp, tensor::ExpandShapeOp>>(*context);
    tensor::ExpandShapeOp::attachInterface<
        ReshapeModel<tensor::ExpandShapeOp, tensor::CollapseShapeOp>>(*context);
  });
}
