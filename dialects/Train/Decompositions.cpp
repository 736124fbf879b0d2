// Decomposition of the train dialect's operators to linalg on tensors.
#include "dialects/Train/Structured.h"

#include "llvm/ADT/StringSwitch.h"

#include <numeric>

using namespace mlir;
using namespace td::train;

using Values = FailureOr<SmallVector<Value>>;

//===----------------------------------------------------------------------===//
// Linear algebra and shapes
//===----------------------------------------------------------------------===//

Values LinearOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  int64_t features = getWeight().getType().getDimSize(1);
  Value input =
      reshapeTo(builder, loc, getInput(),
                {getInput().getType().getNumElements() / features, features});
  Value result = contract(builder, loc, input, "mn", getWeight(), "kn", "mk");
  if (Value bias = getBias())
    result = elementwise(
        builder, loc, tensorType(result), {result, bias},
        [](OpBuilder &b, Location l, ValueRange v) {
          return arith::AddFOp::create(b, l, v[0], v[1]).getResult();
        });
  return SmallVector<Value>{
      reshapeTo(builder, loc, result, getType().getShape())};
}

Values ReshapeOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      reshapeTo(builder, getLoc(), getInput(), getType().getShape())};
}

Values SumToOp::decomposeOperation(OpBuilder &builder) {
  RankedTensorType from = getInput().getType(), to = getType();
  if (from.getNumElements() == to.getNumElements())
    return SmallVector<Value>{
        reshapeTo(builder, getLoc(), getInput(), to.getShape())};
  int64_t offset = from.getRank() - to.getRank();
  SmallVector<AffineExpr> kept;
  SmallVector<int64_t> keptShape;
  SmallVector<utils::IteratorType> iterators;
  for (int64_t dim = 0; dim < from.getRank(); ++dim) {
    bool keep =
        dim >= offset && from.getDimSize(dim) == to.getDimSize(dim - offset);
    iterators.push_back(keep ? utils::IteratorType::parallel
                             : utils::IteratorType::reduction);
    if (keep) {
      kept.push_back(builder.getAffineDimExpr(dim));
      keptShape.push_back(from.getDimSize(dim));
    }
  }
  AffineMap maps[] = {builder.getMultiDimIdentityMap(from.getRank()),
                      AffineMap::get(from.getRank(), 0, kept, getContext())};
  auto type = RankedTensorType::get(keptShape, from.getElementType());
  Value zero = filled(builder, getLoc(), type, 0.0);
  Value sum =
      linalg::GenericOp::create(
          builder, getLoc(), TypeRange{type}, ValueRange{getInput()},
          ValueRange{zero}, maps, iterators,
          [](OpBuilder &b, Location l, ValueRange v) {
            linalg::YieldOp::create(
                b, l, arith::AddFOp::create(b, l, v[0], v[1]).getResult());
          })
          .getResult(0);
  return SmallVector<Value>{reshapeTo(builder, getLoc(), sum, to.getShape())};
}

//===----------------------------------------------------------------------===//
// Element-wise
//===----------------------------------------------------------------------===//

Values ReluOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      elementwise(builder, getLoc(), getType(), {getInput()},
                  [](OpBuilder &b, Location l, ValueRange v) {
                    // maximumf, not maxnumf: a NaN stays one.
                    return arith::MaximumFOp::create(
                               b, l, v[0], scalar(b, l, v[0].getType(), 0.0))
                        .getResult();
                  })};
}

Values SigmoidOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput()},
      [](OpBuilder &b, Location l, ValueRange v) {
        // exp overflows to infinity for very negative x, and the quotient is
        // then 0: right without a branch.
        Value one = scalar(b, l, v[0].getType(), 1.0);
        Value exp =
            math::ExpOp::create(b, l, arith::NegFOp::create(b, l, v[0]));
        return arith::DivFOp::create(b, l, one,
                                     arith::AddFOp::create(b, l, one, exp))
            .getResult();
      })};
}

Values TanhOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      elementwise(builder, getLoc(), getType(), {getInput()},
                  [](OpBuilder &b, Location l, ValueRange v) {
                    return math::TanhOp::create(b, l, v[0]).getResult();
                  })};
}

template <typename Scalar>
static Values decomposeBinary(Operation *op, OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, op->getLoc(), cast<RankedTensorType>(op->getResult(0).getType()),
      op->getOperands(), [](OpBuilder &b, Location l, ValueRange v) {
        return Scalar::create(b, l, v[0], v[1]).getResult();
      })};
}
Values AddOp::decomposeOperation(OpBuilder &builder) {
  return decomposeBinary<arith::AddFOp>(*this, builder);
}
Values SubOp::decomposeOperation(OpBuilder &builder) {
  return decomposeBinary<arith::SubFOp>(*this, builder);
}
Values MulOp::decomposeOperation(OpBuilder &builder) {
  return decomposeBinary<arith::MulFOp>(*this, builder);
}

Values DivOp::decomposeOperation(OpBuilder &builder) {
  return decomposeBinary<arith::DivFOp>(*this, builder);
}

template <typename Scalar>
static Values decomposeUnary(Operation *op, OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, op->getLoc(), cast<RankedTensorType>(op->getResult(0).getType()),
      op->getOperands(), [](OpBuilder &b, Location l, ValueRange v) {
        return Scalar::create(b, l, v[0]).getResult();
      })};
}
Values ExpOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::ExpOp>(*this, builder);
}
Values LogOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::LogOp>(*this, builder);
}
Values SqrtOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::SqrtOp>(*this, builder);
}
Values RsqrtOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::RsqrtOp>(*this, builder);
}
Values ErfOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::ErfOp>(*this, builder);
}
Values AbsOp::decomposeOperation(OpBuilder &builder) {
  return decomposeUnary<math::AbsFOp>(*this, builder);
}

Values ClampOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput()},
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value low = scalar(b, l, v[0].getType(), getLow().convertToDouble());
        Value high = scalar(b, l, v[0].getType(), getHigh().convertToDouble());
        Value raised = arith::MaximumFOp::create(b, l, v[0], low);
        return arith::MinimumFOp::create(b, l, raised, high).getResult();
      })};
}

Values PowOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput()},
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        double exponent = getExponent().convertToDouble();
        // Small whole powers are products: exact signs, and no logarithm.
        if (exponent == std::trunc(exponent) && std::abs(exponent) <= 8) {
          Value product;
          for (int i = 0; i < std::abs(exponent); ++i)
            product =
                product ? arith::MulFOp::create(b, l, product, v[0]).getResult()
                        : v[0];
          Value one = scalar(b, l, v[0].getType(), 1.0);
          if (!product)
            return one;
          return exponent > 0
                     ? product
                     : arith::DivFOp::create(b, l, one, product).getResult();
        }
        if (std::abs(exponent) == 0.5) {
          if (exponent > 0)
            return math::SqrtOp::create(b, l, v[0]);
          return math::RsqrtOp::create(b, l, v[0]);
        }
        return math::PowFOp::create(b, l, v[0],
                                    scalar(b, l, v[0].getType(), exponent));
      })};
}

/// A bijection of 32-bit integers in which each bit of `x` moves each bit of
/// the result with a probability near a half (MurmurHash3's last step).
static Value mixed(OpBuilder &b, Location l, Value x) {
  auto constant = [&](uint32_t value) -> Value {
    return arith::ConstantOp::create(
        b, l, b.getI32IntegerAttr(static_cast<int32_t>(value)));
  };
  auto folded = [&](Value value, uint32_t shift) -> Value {
    return arith::XOrIOp::create(
        b, l, value, arith::ShRUIOp::create(b, l, value, constant(shift)));
  };
  x = arith::MulIOp::create(b, l, folded(x, 16), constant(0x85EBCA6B));
  x = arith::MulIOp::create(b, l, folded(x, 13), constant(0xC2B2AE35));
  return folded(x, 16);
}

Value td::train::hashed(OpBuilder &b, Location l, Value counter, uint64_t seed,
                        Value position) {
  auto constant = [&](uint64_t value) -> Value {
    return arith::ConstantOp::create(
        b, l, b.getI32IntegerAttr(static_cast<int32_t>(value)));
  };
  Value key = mixed(b, l, arith::XOrIOp::create(b, l, counter, constant(seed)));
  key = mixed(b, l, arith::XOrIOp::create(b, l, key, constant(seed >> 32)));
  Value hash = mixed(b, l, arith::AddIOp::create(b, l, position, key));
  return mixed(b, l, arith::XOrIOp::create(b, l, hash, key));
}

Values DropoutOp::decomposeOperation(OpBuilder &builder) {
  RankedTensorType type = getType();
  double probability = getProbability().convertToDouble();
  // What is kept is a share of the 2^32 values of the hash, as even as halves
  // allow: both bounds are exact for the probabilities 0 and 1.
  double kept = std::round((1.0 - probability) * 0x1p32);
  double factor = kept == 0.0 ? 0.0 : 1.0 / (1.0 - probability);
  uint64_t seed = getSeed();
  return SmallVector<Value>{elementwise(
      builder, getLoc(), type, {getInput(), getCounter()},
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        Type integer = b.getI32Type();
        auto constant = [&](uint64_t value) -> Value {
          return arith::ConstantOp::create(
              b, l, b.getI32IntegerAttr(static_cast<int32_t>(value)));
        };
        Value zero = scalar(b, l, type.getElementType(), 0.0);
        if (kept == 0.0)
          return zero;
        // The element's position in row-major order.
        Value position = constant(0);
        for (int64_t dim = 0; dim < type.getRank(); ++dim) {
          Value index = arith::IndexCastOp::create(
              b, l, integer, linalg::IndexOp::create(b, l, dim));
          position = arith::AddIOp::create(
              b, l,
              arith::MulIOp::create(b, l, position,
                                    constant(type.getDimSize(dim))),
              index);
        }
        Value hash = hashed(b, l, v[1], seed, position);
        Value scaled = arith::MulFOp::create(
            b, l, v[0], scalar(b, l, type.getElementType(), factor));
        if (kept == 0x1p32)
          return scaled;
        Value keep =
            arith::CmpIOp::create(b, l, arith::CmpIPredicate::ult, hash,
                                  constant(static_cast<uint64_t>(kept)));
        return arith::SelectOp::create(b, l, keep, scaled, zero);
      })};
}

/// x^2 times a constant, plus another one, times x: the argument of GELU's
/// hyperbolic tangent.
static Value geluArgument(OpBuilder &b, Location l, Value x) {
  Type type = x.getType();
  Value square = arith::MulFOp::create(b, l, x, x);
  Value factor = math::FmaOp::create(
      b, l, square, scalar(b, l, type, M_2_SQRTPI * M_SQRT1_2 * 0.044715),
      scalar(b, l, type, M_2_SQRTPI * M_SQRT1_2));
  return arith::MulFOp::create(b, l, x, factor);
}

/// The normal distribution function of x.
static Value normalDistribution(OpBuilder &b, Location l, Value x) {
  Type type = x.getType();
  Value half = scalar(b, l, type, 0.5);
  Value erf = math::ErfOp::create(
      b, l, arith::MulFOp::create(b, l, x, scalar(b, l, type, M_SQRT1_2)));
  return math::FmaOp::create(b, l, half, erf, half);
}

Values GeluOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput()},
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        if (!getTanh())
          return arith::MulFOp::create(b, l, v[0],
                                       normalDistribution(b, l, v[0]));
        Value half = scalar(b, l, v[0].getType(), 0.5);
        Value tanh = math::TanhOp::create(b, l, geluArgument(b, l, v[0]));
        return arith::MulFOp::create(
            b, l, v[0], math::FmaOp::create(b, l, half, tanh, half));
      })};
}

Values GeluVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput(), getCotangent()},
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        Value x = v[0];
        Type type = x.getType();
        Value half = scalar(b, l, type, 0.5);
        Value square = arith::MulFOp::create(b, l, x, x), slope;
        if (getTanh()) {
          // 0.5 (1 + t) + 0.5 x (1 - t^2) u', u' = a + 3 b x^2
          Value t = math::TanhOp::create(b, l, geluArgument(b, l, x));
          double a = 0.5 * M_2_SQRTPI * M_SQRT1_2;
          Value inner = math::FmaOp::create(
              b, l, square, scalar(b, l, type, 3 * 0.044715 * a),
              scalar(b, l, type, a));
          Value rest = arith::SubFOp::create(b, l, scalar(b, l, type, 1.0),
                                             arith::MulFOp::create(b, l, t, t));
          Value second = arith::MulFOp::create(
              b, l, arith::MulFOp::create(b, l, x, inner), rest);
          slope = arith::AddFOp::create(
              b, l, math::FmaOp::create(b, l, half, t, half), second);
        } else {
          // Phi(x) + x phi(x)
          Value exp = math::ExpOp::create(
              b, l,
              arith::MulFOp::create(b, l, square, scalar(b, l, type, -0.5)));
          Value density = arith::MulFOp::create(
              b, l, exp, scalar(b, l, type, 0.5 * M_2_SQRTPI * M_SQRT1_2));
          slope = math::FmaOp::create(b, l, x, density,
                                      normalDistribution(b, l, x));
        }
        return arith::MulFOp::create(b, l, v[1], slope);
      })};
}

Values AbsVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput(), getCotangent()},
      [](OpBuilder &b, Location l, ValueRange v) {
        Value zero = scalar(b, l, v[0].getType(), 0.0);
        Value negative =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OLT, v[0], zero);
        Value none =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, v[0], zero);
        Value turned = arith::SelectOp::create(
            b, l, negative, arith::NegFOp::create(b, l, v[1]), v[1]);
        return arith::SelectOp::create(b, l, none, zero, turned).getResult();
      })};
}

Values ClampVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getInput(), getCotangent()},
      [&](OpBuilder &b, Location l, ValueRange v) {
        Type type = v[0].getType();
        Value zero = scalar(b, l, type, 0.0);
        Value below = arith::CmpFOp::create(
            b, l,
            getFlat() ? arith::CmpFPredicate::OLE : arith::CmpFPredicate::OLT,
            v[0], scalar(b, l, type, getLow().convertToDouble()));
        Value above = arith::CmpFOp::create(
            b, l,
            getFlat() ? arith::CmpFPredicate::OGE : arith::CmpFPredicate::OGT,
            v[0], scalar(b, l, type, getHigh().convertToDouble()));
        Value raised = arith::SelectOp::create(b, l, below, zero, v[1]);
        return arith::SelectOp::create(b, l, above, zero, raised).getResult();
      })};
}

Values ReluVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getOutput(), getCotangent()},
      [](OpBuilder &b, Location l, ValueRange v) {
        Value zero = scalar(b, l, v[0].getType(), 0.0);
        Value off =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OLE, v[0], zero);
        return arith::SelectOp::create(b, l, off, zero, v[1]).getResult();
      })};
}

Values SigmoidVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), {getOutput(), getCotangent()},
      [](OpBuilder &b, Location l, ValueRange v) {
        Value rest = arith::SubFOp::create(
            b, l, scalar(b, l, v[0].getType(), 1.0), v[0]);
        return arith::MulFOp::create(b, l, v[1],
                                     arith::MulFOp::create(b, l, v[0], rest))
            .getResult();
      })};
}

Values TanhVJPOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      elementwise(builder, getLoc(), getType(), {getOutput(), getCotangent()},
                  [](OpBuilder &b, Location l, ValueRange v) {
                    Value square = arith::MulFOp::create(b, l, v[0], v[0]);
                    Value slope = arith::SubFOp::create(
                        b, l, scalar(b, l, v[0].getType(), 1.0), square);
                    return arith::MulFOp::create(b, l, v[1], slope).getResult();
                  })};
}

//===----------------------------------------------------------------------===//
// Truth values and what stops gradients
//===----------------------------------------------------------------------===//

Values CompareOp::decomposeOperation(OpBuilder &builder) {
  auto predicate = llvm::StringSwitch<arith::CmpFPredicate>(getPredicate())
                       .Case("eq", arith::CmpFPredicate::OEQ)
                       .Case("lt", arith::CmpFPredicate::OLT)
                       .Case("le", arith::CmpFPredicate::OLE)
                       .Case("gt", arith::CmpFPredicate::OGT)
                       .Case("ge", arith::CmpFPredicate::OGE)
                       .Default(arith::CmpFPredicate::UNE);
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), getOperands(),
      [&](OpBuilder &b, Location l, ValueRange v) {
        Type type = v[0].getType();
        Value holds = arith::CmpFOp::create(b, l, predicate, v[0], v[1]);
        return arith::SelectOp::create(b, l, holds, scalar(b, l, type, 1.0),
                                       scalar(b, l, type, 0.0))
            .getResult();
      })};
}

Values SelectOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), getOperands(),
      [](OpBuilder &b, Location l, ValueRange v) {
        Value holds =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::UNE, v[0],
                                  scalar(b, l, v[0].getType(), 0.0));
        return arith::SelectOp::create(b, l, holds, v[1], v[2]).getResult();
      })};
}

Values DetachOp::decomposeOperation(OpBuilder &) {
  return SmallVector<Value>{getInput()};
}

Values FromIntegersOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), getInput(),
      [&](OpBuilder &b, Location l, ValueRange v) {
        return arith::SIToFPOp::create(b, l, getType().getElementType(), v[0])
            .getResult();
      })};
}

/// `x` to the nearest whole number, of two equally near the even one: a sum
/// with the power of two from which on floats are whole is rounded so.
static Value roundedEven(OpBuilder &b, Location l, Value x) {
  auto type = cast<FloatType>(x.getType());
  Value zero = scalar(b, l, type, 0.0);
  Value whole =
      scalar(b, l, type, std::ldexp(1.0, type.getFPMantissaWidth() - 1));
  Value size = math::AbsFOp::create(b, l, x);
  Value sum = arith::AddFOp::create(b, l, size, whole);
  Value rounded = arith::SubFOp::create(b, l, sum, whole);
  Value small =
      arith::CmpFOp::create(b, l, arith::CmpFPredicate::OLT, size, whole);
  rounded = arith::SelectOp::create(b, l, small, rounded, size);
  Value negative =
      arith::CmpFOp::create(b, l, arith::CmpFPredicate::OLT, x, zero);
  return arith::SelectOp::create(b, l, negative,
                                 arith::NegFOp::create(b, l, rounded), rounded);
}

Values RoundOp::decomposeOperation(OpBuilder &builder) {
  StringRef mode = getMode();
  return SmallVector<Value>{elementwise(
      builder, getLoc(), getType(), getInput(),
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        Value x = v[0];
        Type type = x.getType();
        Value zero = scalar(b, l, type, 0.0), one = scalar(b, l, type, 1.0);
        auto oneIf = [&](arith::CmpFPredicate predicate, Value a, Value c) {
          Value holds = arith::CmpFOp::create(b, l, predicate, a, c);
          return arith::SelectOp::create(b, l, holds, one, zero).getResult();
        };
        if (mode == "sign")
          return arith::SubFOp::create(
              b, l, oneIf(arith::CmpFPredicate::OGT, x, zero),
              oneIf(arith::CmpFPredicate::OLT, x, zero));
        Value rounded = roundedEven(b, l, x);
        if (mode == "even")
          return rounded;
        Value floor = arith::SubFOp::create(
            b, l, rounded, oneIf(arith::CmpFPredicate::OGT, rounded, x));
        Value ceil = arith::AddFOp::create(
            b, l, rounded, oneIf(arith::CmpFPredicate::OLT, rounded, x));
        if (mode != "trunc")
          return mode == "floor" ? floor : ceil;
        Value negative =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OLT, x, zero);
        return arith::SelectOp::create(b, l, negative, ceil, floor);
      })};
}

//===----------------------------------------------------------------------===//
// Losses
//===----------------------------------------------------------------------===//

/// One step of Kahan's compensated sum: adds `term` to `sum`, of whose value
/// `error` is too much. Returns the next (sum, error).
static SmallVector<Value> addCompensated(OpBuilder &b, Location l, Value sum,
                                         Value error, Value term) {
  Value corrected = arith::SubFOp::create(b, l, term, error);
  Value next = arith::AddFOp::create(b, l, sum, corrected);
  Value added = arith::SubFOp::create(b, l, next, sum);
  return {next, arith::SubFOp::create(b, l, added, corrected)};
}

Value td::train::compensatedSum(
    OpBuilder &builder, Location loc, Type element, ValueRange operands,
    double scale, Value factor,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  int64_t count = tensorType(operands[0]).getNumElements();
  int64_t rows = 1;
  for (int64_t divisor = 1; divisor * divisor <= count; ++divisor)
    if (count % divisor == 0)
      rows = divisor;
  int64_t columns = count / rows;
  bool twoStages = rows > 1;
  SmallVector<int64_t> shape = twoStages ? SmallVector<int64_t>{rows, columns}
                                         : SmallVector<int64_t>{columns};
  SmallVector<Value> inputs;
  for (Value operand : operands)
    inputs.push_back(reshapeTo(builder, loc, operand, shape));

  MLIRContext *context = builder.getContext();
  if (twoStages) {
    AffineMap column =
        AffineMap::get(2, 0, {builder.getAffineDimExpr(1)}, context);
    SmallVector<AffineMap> maps(inputs.size(),
                                builder.getMultiDimIdentityMap(2));
    maps.append(2, column);
    auto type = RankedTensorType::get({columns}, element);
    Value zeros = filled(builder, loc, type, 0.0);
    auto partial = linalg::GenericOp::create(
        builder, loc, TypeRange{type, type}, inputs, ValueRange{zeros, zeros},
        maps, {utils::IteratorType::reduction, utils::IteratorType::parallel},
        [&](OpBuilder &b, Location l, ValueRange v) {
          Value term = body(b, l, v.drop_back(2));
          linalg::YieldOp::create(
              b, l,
              addCompensated(b, l, v.drop_back(1).back(), v.back(), term));
        });
    inputs.assign(partial.getResults().begin(), partial.getResults().end());
  }

  SmallVector<AffineMap> maps(inputs.size(), builder.getMultiDimIdentityMap(1));
  maps.append(2, AffineMap::get(1, 0, context));
  auto type = RankedTensorType::get({}, element);
  Value zero = filled(builder, loc, type, 0.0);
  auto total = linalg::GenericOp::create(
      builder, loc, TypeRange{type, type}, inputs, ValueRange{zero, zero}, maps,
      {utils::IteratorType::reduction},
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value sum = v.drop_back(1).back(), error = v.back();
        // A partial sum comes with its own error; they add up.
        if (twoStages)
          error = arith::AddFOp::create(b, l, error, v[1]);
        Value term = twoStages ? v[0] : body(b, l, v.drop_back(2));
        linalg::YieldOp::create(b, l, addCompensated(b, l, sum, error, term));
      });
  SmallVector<Value> results(total.getResults());
  if (factor)
    results.push_back(factor);
  return elementwise(builder, loc, type, results,
                     [&](OpBuilder &b, Location l, ValueRange v) -> Value {
                       Value sum = arith::SubFOp::create(b, l, v[0], v[1]);
                       if (factor)
                         sum = arith::MulFOp::create(b, l, sum, v[2]);
                       if (factor && scale == 1.0)
                         return sum;
                       return arith::MulFOp::create(
                           b, l, sum, scalar(b, l, element, scale));
                     });
}

/// The factor of a loss's sum: 1, or 1 / count for the mean.
static double lossScale(bool sum, int64_t count) {
  return sum ? 1.0 : 1.0 / static_cast<double>(count);
}

Values MSELossOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{compensatedSum(
      builder, getLoc(), getPrediction().getType().getElementType(),
      getOperands(),
      lossScale(getSum(), getPrediction().getType().getNumElements()), Value(),
      [](OpBuilder &b, Location l, ValueRange v) {
        Value difference = arith::SubFOp::create(b, l, v[0], v[1]);
        return arith::MulFOp::create(b, l, difference, difference).getResult();
      })};
}

Values L1LossOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{compensatedSum(
      builder, getLoc(), getPrediction().getType().getElementType(),
      getOperands(),
      lossScale(getSum(), getPrediction().getType().getNumElements()), Value(),
      [](OpBuilder &b, Location l, ValueRange v) {
        return math::AbsFOp::create(b, l,
                                    arith::SubFOp::create(b, l, v[0], v[1]))
            .getResult();
      })};
}

Values BCELossOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{compensatedSum(
      builder, getLoc(), getPrediction().getType().getElementType(),
      getOperands(),
      lossScale(getSum(), getPrediction().getType().getNumElements()), Value(),
      [](OpBuilder &b, Location l, ValueRange v) {
        // exp of what is not positive: no overflow for logits of any size.
        Type type = v[0].getType();
        Value positive =
            arith::MaximumFOp::create(b, l, v[0], scalar(b, l, type, 0.0));
        Value linear = arith::SubFOp::create(
            b, l, positive, arith::MulFOp::create(b, l, v[0], v[1]));
        Value exp = math::ExpOp::create(
            b, l,
            arith::NegFOp::create(b, l, math::AbsFOp::create(b, l, v[0])));
        return arith::AddFOp::create(b, l, linear,
                                     math::Log1pOp::create(b, l, exp))
            .getResult();
      })};
}

namespace {
/// Cross entropy's logits as rows of classes: [before, C, behind] without what
/// has one element, and what addresses them.
struct Classes {
  Classes(OpBuilder &builder, Location loc, Value tensor, Value wholeLabels,
          int64_t classAxis)
      : builder(builder), loc(loc) {
    ArrayRef<int64_t> given = tensorType(tensor).getShape();
    auto countOf = [](ArrayRef<int64_t> sizes) {
      return std::accumulate(sizes.begin(), sizes.end(), int64_t(1),
                             std::multiplies<int64_t>());
    };
    int64_t before = countOf(given.take_front(classAxis)),
            behind = countOf(given.drop_front(classAxis + 1));
    classes = given[classAxis];
    SmallVector<int64_t> shape, rowShape;
    SmallVector<AffineExpr> dims;
    auto addRow = [&](int64_t size) {
      dims.push_back(builder.getAffineDimExpr(shape.size()));
      shape.push_back(size);
      rowShape.push_back(size);
      reduced.push_back(false);
    };
    if (before > 1 || behind == 1)
      addRow(before);
    axis = shape.size();
    shape.push_back(classes);
    reduced.push_back(true);
    if (behind > 1)
      addRow(behind);
    logits = reshapeTo(builder, loc, tensor, shape);
    labels = reshapeTo(builder, loc, wholeLabels, rowShape);
    rowType =
        RankedTensorType::get(rowShape, tensorType(tensor).getElementType());
    unsigned rank = shape.size();
    MLIRContext *context = builder.getContext();
    all = builder.getMultiDimIdentityMap(rank);
    row = AffineMap::get(rank, 0, dims, context);
    ofClass =
        AffineMap::get(rank, 0, {builder.getAffineDimExpr(axis)}, context);
  }

  /// Whether the element at hand is that of its row's label.
  Value isLabelled(OpBuilder &b, Location l, Value label) const {
    Value index = linalg::IndexOp::create(b, l, axis);
    Value position = arith::IndexCastOp::create(b, l, label.getType(), index);
    return arith::CmpIOp::create(b, l, arith::CmpIPredicate::eq, position,
                                 label);
  }

  OpBuilder &builder;
  Location loc;
  Value logits, labels;
  RankedTensorType rowType;
  AffineMap all, row, ofClass;
  SmallVector<bool> reduced;
  int64_t classes;
  unsigned axis;
};

/// What cross entropy and its gradient have in common; CSE makes one of the two
/// copies. A row is a sample, token or pixel.
struct CrossEntropyParts {
  Value max;      // the largest logit of a row
  Value sum;      // of exp(logit - max)
  Value labelled; // logit - max by the row's target, before what does not count
  Value target;   // the sum of the row's target; null where that is 1
  double scale = 1.0; // of the sum of the losses, if that is known
  Value inverse;      // of what it is divided by, if that depends on labels
};
} // namespace

/// The element's share of the target times `whole`: `whole` on the label; with
/// smoothing 1 - s of it there and s / classes everywhere; times the class's
/// weight, if there is one.
static Value targetShare(OpBuilder &b, Location l, const Classes &rows,
                         Value label, Value whole, Value weight,
                         double smoothing) {
  Type type = whole.getType();
  if (weight)
    whole = arith::MulFOp::create(b, l, whole, weight);
  if (smoothing == 0.0)
    return arith::SelectOp::create(b, l, rows.isLabelled(b, l, label), whole,
                                   scalar(b, l, type, 0.0));
  double everywhere = smoothing / static_cast<double>(rows.classes);
  Value share =
      arith::SelectOp::create(b, l, rows.isLabelled(b, l, label),
                              scalar(b, l, type, 1.0 - smoothing + everywhere),
                              scalar(b, l, type, everywhere));
  return arith::MulFOp::create(b, l, whole, share);
}

/// `value` where the label is none to ignore, else 0.
static Value whereCounted(OpBuilder &b, Location l, Value label,
                          std::optional<int64_t> ignored, Value value) {
  if (!ignored)
    return value;
  Value none = arith::ConstantOp::create(
      b, l, b.getI32IntegerAttr(static_cast<int32_t>(*ignored)));
  Value isIgnored =
      arith::CmpIOp::create(b, l, arith::CmpIPredicate::eq, label, none);
  return arith::SelectOp::create(b, l, isIgnored,
                                 scalar(b, l, value.getType(), 0.0), value);
}

/// For cross_entropy and its gradient, whose attributes are the same.
template <typename Op>
static CrossEntropyParts crossEntropyParts(Op op, const Classes &rows,
                                           Value weight) {
  OpBuilder &builder = rows.builder;
  Location loc = rows.loc;
  double smoothing = op.getSmoothing().convertToDouble();
  std::optional<int64_t> ignored = op.getIgnored();
  Type element = rows.rowType.getElementType();
  CrossEntropyParts parts;
  Value lowest = filled(builder, loc, rows.rowType,
                        -std::numeric_limits<double>::infinity());
  parts.max = structured(
      builder, loc, rows.logits, lowest, {rows.all, rows.row}, rows.reduced,
      [](OpBuilder &b, Location l, ValueRange v) {
        return SmallVector<Value>{arith::MaximumFOp::create(b, l, v[0], v[1])};
      })[0];
  Value zeros = filled(builder, loc, rows.rowType, 0.0);
  SmallVector<Value> inputs = {rows.logits, parts.max, rows.labels};
  SmallVector<AffineMap> maps = {rows.all, rows.row, rows.row};
  if (weight) {
    inputs.push_back(weight);
    maps.push_back(rows.ofClass);
  }
  maps.append(2, rows.row);
  SmallVector<Value> sums = structured(
      builder, loc, inputs, {zeros, zeros}, maps, rows.reduced,
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value exp = expOfDifference(b, l, v[0], v[1]);
        Value shifted = exp.getDefiningOp()->getOperand(0);
        Value sum = arith::AddFOp::create(b, l, v.drop_back(1).back(), exp);
        Value last = v.back();
        Value labelled =
            smoothing == 0.0 && !weight
                ? arith::SelectOp::create(b, l, rows.isLabelled(b, l, v[2]),
                                          shifted, last)
                      .getResult()
                : arith::AddFOp::create(b, l, last,
                                        targetShare(b, l, rows, v[2], shifted,
                                                    weight ? v[3] : Value(),
                                                    smoothing))
                      .getResult();
        return SmallVector<Value>{sum, labelled};
      });
  parts.sum = sums[0];
  parts.labelled = sums[1];

  // The weight of the row's label, and the sum of its target.
  Value labelWeight;
  if (weight) {
    auto sumOf = [&](double smoothed) {
      return structured(
          builder, loc, {rows.labels, weight}, zeros,
          {rows.row, rows.ofClass, rows.row}, rows.reduced,
          [&](OpBuilder &b, Location l, ValueRange v) {
            Value one = scalar(b, l, element, 1.0);
            Value share = targetShare(b, l, rows, v[0], one, v[1], smoothed);
            return SmallVector<Value>{arith::AddFOp::create(b, l, v[2], share)};
          })[0];
    };
    labelWeight = sumOf(0.0);
    parts.target = smoothing == 0.0 ? labelWeight : sumOf(smoothing);
  }
  if (op.getSum())
    return parts;
  if (!weight && !ignored) {
    parts.scale = lossScale(false, rows.rowType.getNumElements());
    return parts;
  }
  SmallVector<Value> counted = {rows.labels};
  if (weight)
    counted.push_back(labelWeight);
  Value divisor =
      compensatedSum(builder, loc, element, counted, 1.0, Value(),
                     [&](OpBuilder &b, Location l, ValueRange v) {
                       Value own = weight ? v[1] : scalar(b, l, element, 1.0);
                       return whereCounted(b, l, v[0], ignored, own);
                     });
  parts.inverse = elementwise(
      builder, loc, tensorType(divisor), divisor,
      [&](OpBuilder &b, Location l, ValueRange v) {
        // Of nothing that counts the mean is 0.
        Value zero = scalar(b, l, element, 0.0);
        Value none =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, v[0], zero);
        Value inverse =
            arith::DivFOp::create(b, l, scalar(b, l, element, 1.0), v[0]);
        return arith::SelectOp::create(b, l, none, zero, inverse).getResult();
      });
  return parts;
}

Values CrossEntropyOp::decomposeOperation(OpBuilder &builder) {
  Classes rows(builder, getLoc(), getLogits(), getLabels(), getAxis());
  CrossEntropyParts parts = crossEntropyParts(*this, rows, getWeight());
  // The logarithms are a step of their own: they are independent of each other,
  // the sum's terms are not.
  SmallVector<Value> operands = {parts.sum, parts.labelled};
  if (getIgnored())
    operands.push_back(rows.labels);
  if (parts.target)
    operands.push_back(parts.target);
  Value losses =
      elementwise(builder, getLoc(), rows.rowType, operands,
                  [&](OpBuilder &b, Location l, ValueRange v) {
                    Value log = math::LogOp::create(b, l, v[0]);
                    if (parts.target)
                      log = arith::MulFOp::create(b, l, log, v.back());
                    Value loss = arith::SubFOp::create(b, l, log, v[1]);
                    return getIgnored()
                               ? whereCounted(b, l, v[2], getIgnored(), loss)
                               : loss;
                  });
  return SmallVector<Value>{compensatedSum(
      builder, getLoc(), rows.rowType.getElementType(), losses, parts.scale,
      parts.inverse, [](OpBuilder &, Location, ValueRange v) { return v[0]; })};
}

Values CrossEntropyVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getLogits().getType();
  double smoothing = getSmoothing().convertToDouble();
  Classes rows(builder, loc, getLogits(), getLabels(), getAxis());
  CrossEntropyParts parts = crossEntropyParts(*this, rows, getWeight());
  // What a row that counts has for the cotangent of its loss.
  Value scale = getCotangent();
  if (parts.inverse || parts.scale != 1.0) {
    SmallVector<Value> factors = {scale};
    if (parts.inverse)
      factors.push_back(parts.inverse);
    scale = elementwise(
        builder, loc, tensorType(scale), factors,
        [&](OpBuilder &b, Location l, ValueRange v) {
          Value factor =
              parts.inverse ? v[1] : scalar(b, l, v[0].getType(), parts.scale);
          return arith::MulFOp::create(b, l, v[0], factor).getResult();
        });
  }
  AffineMap scaleMap = AffineMap::get(rows.all.getNumDims(), 0, getContext());
  if (std::optional<int64_t> ignored = getIgnored()) {
    scaleMap = rows.row;
    scale = elementwise(builder, loc, rows.rowType, {rows.labels, scale},
                        [&](OpBuilder &b, Location l, ValueRange v) {
                          return whereCounted(b, l, v[0], ignored, v[1]);
                        });
  }
  // One division per row, not one per element.
  SmallVector<Value> operands = {parts.sum, scale};
  if (parts.target)
    operands.push_back(parts.target);
  Value factor = elementwise(
      builder, loc, rows.rowType, operands,
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value whole = parts.target
                          ? arith::MulFOp::create(b, l, v[1], v[2]).getResult()
                          : v[1];
        return arith::DivFOp::create(b, l, whole, v[0]).getResult();
      });
  SmallVector<Value> inputs = {rows.logits, parts.max, factor, rows.labels,
                               scale};
  SmallVector<AffineMap> maps = {rows.all, rows.row, rows.row, rows.row,
                                 scaleMap};
  if (getWeight()) {
    inputs.push_back(getWeight());
    maps.push_back(rows.ofClass);
  }
  maps.push_back(rows.all);
  Value empty = tensor::EmptyOp::create(
      builder, loc, tensorType(rows.logits).getShape(), type.getElementType());
  Value gradient = structured(
      builder, loc, inputs, empty, maps,
      SmallVector<bool>(rows.reduced.size(), false),
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value exp = expOfDifference(b, l, v[0], v[1]);
        Value softmax = arith::MulFOp::create(b, l, exp, v[2]);
        Value target = targetShare(b, l, rows, v[3], v[4],
                                   getWeight() ? v[5] : Value(), smoothing);
        return SmallVector<Value>{arith::SubFOp::create(b, l, softmax, target)};
      })[0];
  return SmallVector<Value>{reshapeTo(builder, loc, gradient, type.getShape())};
}
