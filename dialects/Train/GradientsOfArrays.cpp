// Vector-Jacobian products of further element-wise functions, operators on
// whole arrays, convolution and pooling.
#include "dialects/Train/Structured.h"

using namespace mlir;
using namespace td::train;

static Value multiplied(OpBuilder &builder, Location location, Value value,
                        double factor) {
  return MulOp::create(builder, location, value,
                       constantScalar(builder, location,
                                      tensorType(value).getElementType(),
                                      factor));
}

/// `value`, summed over the dimensions along which `operand` broadcasts.
static Value sumTo(OpBuilder &builder, Location location, Value value,
                   Value operand) {
  if (value.getType() == operand.getType())
    return value;
  return SumToOp::create(builder, location, operand.getType(), value);
}

//===----------------------------------------------------------------------===//
// Element-wise functions
//===----------------------------------------------------------------------===//

/// A function of one operand whose gradient reads RESIDUAL, the input or the
/// result, as `x`, and the cotangent as `dy`.
#define TD_FUNCTION(OP, RESIDUAL, GRADIENT)                                    \
  SmallVector<Value> OP::buildVJP(OpBuilder &builder, ValueRange cotangents,   \
                                  ArrayRef<bool> wanted) {                     \
    if (!wanted[0])                                                            \
      return {Value()};                                                        \
    Location loc = getLoc();                                                   \
    Value x = RESIDUAL(), dy = cotangents[0];                                  \
    (void)loc;                                                                 \
    return {GRADIENT};                                                         \
  }                                                                            \
  SmallVector<Value> OP::getResiduals(ArrayRef<bool> wanted) {                 \
    return wanted[0] ? SmallVector<Value>{RESIDUAL()} : SmallVector<Value>{};  \
  }                                                                            \
  bool OP::isCheapToRecompute() { return true; }

TD_FUNCTION(ExpOp, getResult, MulOp::create(builder, loc, dy, x))
TD_FUNCTION(LogOp, getInput, DivOp::create(builder, loc, dy, x))
TD_FUNCTION(SqrtOp, getResult,
            DivOp::create(builder, loc, multiplied(builder, loc, dy, 0.5), x))
TD_FUNCTION(RsqrtOp, getResult,
            MulOp::create(builder, loc, multiplied(builder, loc, dy, -0.5),
                          PowOp::create(builder, loc, x, llvm::APFloat(3.0))))
TD_FUNCTION(
    ErfOp, getInput,
    MulOp::create(
        builder, loc, dy,
        multiplied(builder, loc,
                   ExpOp::create(builder, loc,
                                 multiplied(builder, loc,
                                            PowOp::create(builder, loc, x,
                                                          llvm::APFloat(2.0)),
                                            -1.0)),
                   M_2_SQRTPI)))
TD_FUNCTION(AbsOp, getInput, AbsVJPOp::create(builder, loc, x, dy))
TD_FUNCTION(GeluOp, getInput,
            GeluVJPOp::create(builder, loc, x, dy, getTanhAttr()))
TD_FUNCTION(ClampOp, getInput,
            ClampVJPOp::create(builder, loc, x, dy, getLowAttr(), getHighAttr(),
                               getFlatAttr()))
/// d x^e: dy times e x^(e - 1). The power 0 has the slope 0 also where x is 0.
static Value powerGradient(OpBuilder &builder, Location loc, Value x, Value dy,
                           double exponent) {
  if (exponent == 0.0)
    return filled(builder, loc, tensorType(x), 0.0);
  Value power = PowOp::create(builder, loc, x, llvm::APFloat(exponent - 1.0));
  return MulOp::create(builder, loc, dy,
                       multiplied(builder, loc, power, exponent));
}
TD_FUNCTION(PowOp, getInput,
            powerGradient(builder, loc, x, dy, getExponent().convertToDouble()))
#undef TD_FUNCTION

SmallVector<Value> SelectOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  Location loc = getLoc();
  Value zero = constantScalar(builder, loc, getType().getElementType(), 0.0);
  SmallVector<Value> result(3);
  auto taken = [&](Value yes, Value no, Value operand) {
    return sumTo(
        builder, loc,
        SelectOp::create(builder, loc, getType(), getCondition(), yes, no),
        operand);
  };
  if (wanted[1])
    result[1] = taken(cotangents[0], zero, getYes());
  if (wanted[2])
    result[2] = taken(zero, cotangents[0], getNo());
  // The condition is what was compared: it has no gradient.
  if (wanted[0])
    result[0] = filled(builder, loc, getCondition().getType(), 0.0);
  return result;
}
SmallVector<Value> SelectOp::getResiduals(ArrayRef<bool>) {
  return {getCondition()};
}
bool SelectOp::isCheapToRecompute() { return true; }

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

/// An operator that is linear in its first operand: the gradient, of the
/// cotangent `dy`, reads RESIDUALS.
#define TD_LINEAR_WITH(OP, RESIDUALS, CHEAP, GRADIENT)                         \
  SmallVector<Value> OP::buildVJP(OpBuilder &builder, ValueRange cotangents,   \
                                  ArrayRef<bool> wanted) {                     \
    SmallVector<Value> result(getOperation()->getNumOperands());               \
    if (!wanted[0])                                                            \
      return result;                                                           \
    Value dy = cotangents[0];                                                  \
    result[0] = GRADIENT;                                                      \
    return result;                                                             \
  }                                                                            \
  SmallVector<Value> OP::getResiduals(ArrayRef<bool>) { return RESIDUALS; }    \
  bool OP::isCheapToRecompute() { return CHEAP; }
#define TD_LINEAR(OP, CHEAP, GRADIENT) TD_LINEAR_WITH(OP, {}, CHEAP, GRADIENT)

TD_LINEAR_WITH(DropoutOp, {getCounter()}, true,
               DropoutOp::create(builder, getLoc(), getType(), dy, getCounter(),
                                 getSeed(), getProbability()))
TD_LINEAR(PermuteOp, true,
          PermuteOp::create(builder, getLoc(), getInput().getType(), dy,
                            inverseOf(getPermutation())))
TD_LINEAR(BroadcastOp, true, sumTo(builder, getLoc(), dy, getInput()))
TD_LINEAR(SliceOp, true,
          EmbedOp::create(builder, getLoc(), getInput().getType(), dy,
                          getOffsets(), getStrides()))
TD_LINEAR(EmbedOp, true,
          SliceOp::create(builder, getLoc(), getInput().getType(), dy,
                          getOffsets(), getStrides()))

/// `value` with dimensions of size 1 where a reduction over `axes` of a tensor
/// of `type` dropped them.
static Value withAxes(OpBuilder &builder, Location location, Value value,
                      RankedTensorType type, ArrayRef<int64_t> axes) {
  SmallVector<int64_t> shape(type.getShape());
  for (int64_t axis : axes)
    shape[axis] = 1;
  return ReshapeOp::create(builder, location,
                           RankedTensorType::get(shape, type.getElementType()),
                           value);
}

TD_LINEAR(SumOp, false,
          BroadcastOp::create(builder, getLoc(), getInput().getType(),
                              withAxes(builder, getLoc(), dy,
                                       getInput().getType(), getAxes())))
#undef TD_LINEAR
#undef TD_LINEAR_WITH

SmallVector<Value> ConcatOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  SmallVector<Value> result;
  SmallVector<int64_t> offsets(getType().getRank(), 0),
      ones(getType().getRank(), 1);
  for (auto [index, input] : llvm::enumerate(getInputs())) {
    result.push_back(wanted[index]
                         ? SliceOp::create(builder, getLoc(), input.getType(),
                                           cotangents[0], offsets, ones)
                               .getResult()
                         : Value());
    offsets[getAxis()] += tensorType(input).getDimSize(getAxis());
  }
  return result;
}
SmallVector<Value> ConcatOp::getResiduals(ArrayRef<bool>) { return {}; }
bool ConcatOp::isCheapToRecompute() { return true; }

//===----------------------------------------------------------------------===//
// Products, reductions, softmax, normalization
//===----------------------------------------------------------------------===//

SmallVector<Value> MatmulOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(2);
  Value dy = cotangents[0];
  bool lhsTurned = getTransposeLhs(), rhsTurned = getTransposeRhs();
  // A product whose result is a cotangent before the sum over what broadcasts.
  auto product = [&](Value a, Value b, bool aTurned, bool bTurned) {
    ArrayRef<int64_t> left = tensorType(a).getShape(),
                      right = tensorType(b).getShape();
    SmallVector<int64_t> shape(getType().getShape().drop_back(2));
    shape.push_back(left[left.size() - (aTurned ? 1 : 2)]);
    shape.push_back(right[right.size() - (bTurned ? 2 : 1)]);
    return MatmulOp::create(
               builder, loc,
               RankedTensorType::get(shape, getType().getElementType()), a, b,
               aTurned, bTurned)
        .getResult();
  };
  if (wanted[0])
    result[0] = lhsTurned ? product(getRhs(), dy, rhsTurned, true)
                          : product(dy, getRhs(), false, !rhsTurned);
  if (wanted[1])
    result[1] = rhsTurned ? product(dy, getLhs(), true, lhsTurned)
                          : product(getLhs(), dy, !lhsTurned, false);
  for (unsigned i : {0, 1})
    if (result[i])
      result[i] = sumTo(builder, loc, result[i], getOperand(i));
  return result;
}
SmallVector<Value> MatmulOp::getResiduals(ArrayRef<bool> wanted) {
  return otherOperands(getLhs(), getRhs(), wanted);
}
bool MatmulOp::isCheapToRecompute() { return false; }

SmallVector<Value> EmbeddingOp::buildVJP(OpBuilder &builder,
                                         ValueRange cotangents,
                                         ArrayRef<bool> wanted) {
  SmallVector<Value> result(2);
  if (wanted[1])
    result[1] =
        EmbeddingVJPOp::create(builder, getLoc(), getTable().getType(),
                               getIndices(), cotangents[0], getPadding());
  return result;
}
SmallVector<Value> EmbeddingOp::getResiduals(ArrayRef<bool>) {
  return {getIndices()};
}
bool EmbeddingOp::isCheapToRecompute() { return false; }

/// An operator with one operand and its gradient as an op of its own.
#define TD_OPERATOR(OP, RESIDUALS, GRADIENT)                                   \
  SmallVector<Value> OP::buildVJP(OpBuilder &builder, ValueRange cotangents,   \
                                  ArrayRef<bool> wanted) {                     \
    if (!wanted[0])                                                            \
      return {Value()};                                                        \
    Value dy = cotangents[0];                                                  \
    return {GRADIENT};                                                         \
  }                                                                            \
  SmallVector<Value> OP::getResiduals(ArrayRef<bool> wanted) {                 \
    return wanted[0] ? SmallVector<Value> RESIDUALS : SmallVector<Value>{};    \
  }                                                                            \
  bool OP::isCheapToRecompute() { return false; }

#define TD_LIST(...) {__VA_ARGS__}

TD_OPERATOR(MaxOp, TD_LIST(getInput(), getResult()),
            MaxVJPOp::create(builder, getLoc(), getInput().getType(),
                             getInput(), getResult(), dy, getAxes()))
TD_OPERATOR(SoftmaxOp, TD_LIST(getResult()),
            SoftmaxVJPOp::create(builder, getLoc(), getType(), getResult(), dy,
                                 getAxis()))
TD_OPERATOR(LogSoftmaxOp, TD_LIST(getResult()),
            LogSoftmaxVJPOp::create(builder, getLoc(), getType(), getResult(),
                                    dy, getAxis()))
TD_OPERATOR(MaxPool2DOp, TD_LIST(getTaps()),
            MaxPool2DVJPOp::create(builder, getLoc(), getInput().getType(),
                                   getTaps(), dy, getKernel(), getStrides(),
                                   getPadding(), getDilations()))
TD_OPERATOR(AvgPool2DOp, TD_LIST(),
            AvgPool2DVJPOp::create(builder, getLoc(), getInput().getType(), dy,
                                   getKernel(), getStrides(), getPadding(),
                                   getExcludePadding()))
#undef TD_LIST
#undef TD_OPERATOR

SmallVector<Value> NormalizeOp::buildVJP(OpBuilder &builder,
                                         ValueRange cotangents,
                                         ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(getNumOperands());
  if (wanted[0])
    result[0] = NormalizeVJPOp::create(builder, loc, getInput().getType(),
                                       getInput(), cotangents[0], getScale(),
                                       getAxes(), getEpsilon(), getRms());
  if (getScale() && wanted[1])
    result[1] = NormalizeScaleVJPOp::create(builder, loc, getScale().getType(),
                                            getInput(), cotangents[0],
                                            getAxes(), getEpsilon(), getRms());
  return result;
}
SmallVector<Value> NormalizeOp::getResiduals(ArrayRef<bool> wanted) {
  SmallVector<Value> residuals = {getInput()};
  if (getScale() && wanted[0])
    residuals.push_back(getScale());
  return residuals;
}
bool NormalizeOp::isCheapToRecompute() { return false; }

//===----------------------------------------------------------------------===//
// Convolution
//===----------------------------------------------------------------------===//

SmallVector<Value> Conv2DOp::buildVJP(OpBuilder &builder, ValueRange cotangents,
                                      ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(2);
  if (wanted[0])
    result[0] = Conv2DInputVJPOp::create(
        builder, loc, getInput().getType(), cotangents[0], getFilter(),
        getStrides(), getPadding(), getDilations(), getGroups());
  if (wanted[1])
    result[1] = Conv2DFilterVJPOp::create(
        builder, loc, getFilter().getType(), getInput(), cotangents[0],
        getStrides(), getPadding(), getDilations(), getGroups());
  return result;
}
SmallVector<Value> Conv2DOp::getResiduals(ArrayRef<bool> wanted) {
  return otherOperands(getInput(), getFilter(), wanted);
}
bool Conv2DOp::isCheapToRecompute() { return false; }

// As an operator: linear in both operands, a convolution is its transpose.
SmallVector<Value> Conv2DInputVJPOp::buildVJP(OpBuilder &builder,
                                              ValueRange cotangents,
                                              ArrayRef<bool> wanted) {
  Location loc = getLoc();
  SmallVector<Value> result(2);
  if (wanted[0])
    result[0] = Conv2DOp::create(builder, loc, getCotangent().getType(),
                                 cotangents[0], getFilter(), getStrides(),
                                 getPadding(), getDilations(), getGroups());
  if (wanted[1])
    result[1] = Conv2DFilterVJPOp::create(
        builder, loc, getFilter().getType(), cotangents[0], getCotangent(),
        getStrides(), getPadding(), getDilations(), getGroups());
  return result;
}
SmallVector<Value> Conv2DInputVJPOp::getResiduals(ArrayRef<bool> wanted) {
  return otherOperands(getCotangent(), getFilter(), wanted);
}
bool Conv2DInputVJPOp::isCheapToRecompute() { return false; }
