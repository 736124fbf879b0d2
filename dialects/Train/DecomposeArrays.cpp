// Decomposition of operators on whole arrays: shapes, products, reductions,
// softmax and normalization.
#include "dialects/Train/Structured.h"

using namespace mlir;
using namespace td::train;

using Values = FailureOr<SmallVector<Value>>;

static constexpr double infinity = std::numeric_limits<double>::infinity();

static Value add(OpBuilder &b, Location l, Value x, Value y) {
  return arith::AddFOp::create(b, l, x, y);
}
static Value sub(OpBuilder &b, Location l, Value x, Value y) {
  return arith::SubFOp::create(b, l, x, y);
}
static Value mul(OpBuilder &b, Location l, Value x, Value y) {
  return arith::MulFOp::create(b, l, x, y);
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

Values PermuteOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      permuted(builder, getLoc(), getInput(), getPermutation())};
}

Values BroadcastOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{
      elementwise(builder, getLoc(), getType(), {getInput()},
                  [](OpBuilder &, Location, ValueRange v) { return v[0]; })};
}

Values SliceOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{sliced(builder, getLoc(), getInput(), getOffsets(),
                                   getType().getShape(), getStrides())};
}

Values EmbedOp::decomposeOperation(OpBuilder &builder) {
  Value zeros = filled(builder, getLoc(), getType(), 0.0);
  return SmallVector<Value>{inserted(builder, getLoc(), getInput(), zeros,
                                     getOffsets(), getStrides())};
}

Values ConcatOp::decomposeOperation(OpBuilder &builder) {
  RankedTensorType type = getType();
  Value result = tensor::EmptyOp::create(builder, getLoc(), type.getShape(),
                                         type.getElementType());
  SmallVector<int64_t> offsets(type.getRank(), 0), ones(type.getRank(), 1);
  for (Value input : getInputs()) {
    result = inserted(builder, getLoc(), input, result, offsets, ones);
    offsets[getAxis()] += tensorType(input).getDimSize(getAxis());
  }
  return SmallVector<Value>{result};
}

//===----------------------------------------------------------------------===//
// Products and tables
//===----------------------------------------------------------------------===//

Values MatmulOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  unsigned batch = type.getRank() - 2;
  bool lhsTurned = getTransposeLhs(), rhsTurned = getTransposeRhs();
  if (batch == 0)
    return SmallVector<Value>{contract(builder, loc, getLhs(),
                                       lhsTurned ? "km" : "mk", getRhs(),
                                       rhsTurned ? "nk" : "kn", "mn")};
  // The loops are the batch, m, n, k.
  AffineExpr m = builder.getAffineDimExpr(batch),
             n = builder.getAffineDimExpr(batch + 1),
             k = builder.getAffineDimExpr(batch + 2);
  MLIRContext *context = builder.getContext();
  auto operand = [&](Value value, AffineExpr row, AffineExpr column) {
    // As if both matrices' dimensions were there: only those of the batch
    // broadcast.
    RankedTensorType own = tensorType(value);
    SmallVector<int64_t> whole(type.getShape().drop_back(2));
    whole.append(own.getShape().end() - 2, own.getShape().end());
    auto [aligned, map] =
        alignToResult(builder, loc, value,
                      RankedTensorType::get(whole, own.getElementType()));
    SmallVector<AffineExpr> dims(map.getResults().drop_back(2));
    dims.append({row, column});
    return std::pair<Value, AffineMap>(
        aligned, AffineMap::get(batch + 3, 0, dims, context));
  };
  auto [lhs, lhsMap] = operand(getLhs(), lhsTurned ? k : m, lhsTurned ? m : k);
  auto [rhs, rhsMap] = operand(getRhs(), rhsTurned ? n : k, rhsTurned ? k : n);
  SmallVector<AffineExpr> dims;
  for (unsigned i = 0; i < batch + 2; ++i)
    dims.push_back(builder.getAffineDimExpr(i));
  SmallVector<bool> reduction(batch + 3, false);
  reduction.back() = true;
  Value zero = filled(builder, loc, type, 0.0);
  return structured(
      builder, loc, {lhs, rhs}, zero,
      {lhsMap, rhsMap, AffineMap::get(batch + 3, 0, dims, context)}, reduction,
      [](OpBuilder &b, Location l, ValueRange v) {
        return SmallVector<Value>{add(b, l, v[2], mul(b, l, v[0], v[1]))};
      });
}

/// Whether two whole numbers, both integers or both floats, are equal.
static Value equal(OpBuilder &b, Location l, Value x, Value y) {
  if (isa<FloatType>(x.getType()))
    return arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, x, y);
  return arith::CmpIOp::create(b, l, arith::CmpIPredicate::eq, x, y);
}

/// `value` where the index `position` of this iteration is `index`, else zero.
static Value whereIndex(OpBuilder &b, Location l, Value index,
                        unsigned position, Value value) {
  Value at = arith::IndexCastOp::create(
      b, l, b.getI32Type(), linalg::IndexOp::create(b, l, position));
  if (isa<FloatType>(index.getType()))
    at = arith::SIToFPOp::create(b, l, index.getType(), at);
  Value here = equal(b, l, at, index);
  return arith::SelectOp::create(b, l, here, value,
                                 scalar(b, l, value.getType(), 0.0));
}

Values EmbeddingOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType table = getTable().getType();
  int64_t width = table.getDimSize(1);
  int64_t tokens = getType().getNumElements() / width;
  Value indices = reshapeTo(builder, loc, getIndices(), {tokens});
  MLIRContext *context = builder.getContext();
  AffineExpr token = builder.getAffineDimExpr(0),
             column = builder.getAffineDimExpr(1),
             row = builder.getAffineDimExpr(2);
  AffineMap maps[] = {AffineMap::get(3, 0, {token}, context),
                      AffineMap::get(3, 0, {row, column}, context),
                      AffineMap::get(3, 0, {token, column}, context)};
  Value zero = filled(
      builder, loc,
      RankedTensorType::get({tokens, width}, table.getElementType()), 0.0);
  Value result = structured(builder, loc, {indices, getTable()}, zero, maps,
                            {false, false, true},
                            [](OpBuilder &b, Location l, ValueRange v) {
                              return SmallVector<Value>{add(
                                  b, l, v[2], whereIndex(b, l, v[0], 2, v[1]))};
                            })[0];
  return SmallVector<Value>{
      reshapeTo(builder, loc, result, getType().getShape())};
}

Values EmbeddingVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType table = getType();
  int64_t width = table.getDimSize(1);
  int64_t tokens = getCotangent().getType().getNumElements() / width;
  Value indices = reshapeTo(builder, loc, getIndices(), {tokens});
  Value cotangent = reshapeTo(builder, loc, getCotangent(), {tokens, width});
  MLIRContext *context = builder.getContext();
  AffineExpr row = builder.getAffineDimExpr(0),
             column = builder.getAffineDimExpr(1),
             token = builder.getAffineDimExpr(2);
  AffineMap maps[] = {AffineMap::get(3, 0, {token}, context),
                      AffineMap::get(3, 0, {token, column}, context),
                      AffineMap::get(3, 0, {row, column}, context)};
  Value zero = filled(builder, loc, table, 0.0);
  return structured(
      builder, loc, {indices, cotangent}, zero, maps, {false, false, true},
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value share = whereIndex(b, l, v[0], 0, v[1]);
        if (getPadding() >= 0) {
          Value padding =
              isa<FloatType>(v[0].getType())
                  ? scalar(b, l, v[0].getType(),
                           static_cast<double>(getPadding()))
                  : arith::ConstantOp::create(
                        b, l,
                        b.getI32IntegerAttr(static_cast<int32_t>(getPadding())))
                        .getResult();
          Value padded = equal(b, l, v[0], padding);
          share = arith::SelectOp::create(
              b, l, padded, scalar(b, l, v[1].getType(), 0.0), share);
        }
        return SmallVector<Value>{add(b, l, v[2], share)};
      });
}

//===----------------------------------------------------------------------===//
// Reductions
//===----------------------------------------------------------------------===//

static Value sumRows(OpBuilder &builder, Location loc, const Rows &rows,
                     Value value) {
  return reduceRows(builder, loc, rows, value, 0.0,
                    [](OpBuilder &b, Location l, ValueRange v) {
                      return add(b, l, v[1], v[0]);
                    });
}

static Value maxRows(OpBuilder &builder, Location loc, const Rows &rows,
                     Value value) {
  return reduceRows(
      builder, loc, rows, value, -infinity,
      [](OpBuilder &b, Location l, ValueRange v) {
        return arith::MaximumFOp::create(b, l, v[1], v[0]).getResult();
      });
}

Values SumOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{sumRows(
      builder, getLoc(), Rows(getInput().getType(), getAxes()), getInput())};
}

Values MaxOp::decomposeOperation(OpBuilder &builder) {
  return SmallVector<Value>{maxRows(
      builder, getLoc(), Rows(getInput().getType(), getAxes()), getInput())};
}

Values MaxVJPOp::decomposeOperation(OpBuilder &builder) {
  Rows rows(getInput().getType(), getAxes());
  Type element = getType().getElementType();
  auto attains = [](OpBuilder &b, Location l, Value x, Value max) {
    return arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, x, max)
        .getResult();
  };
  Value count =
      reduceRows(builder, getLoc(), rows, {getInput(), getOutput()}, 0.0,
                 [&](OpBuilder &b, Location l, ValueRange v) {
                   Value one = arith::SelectOp::create(
                       b, l, attains(b, l, v[0], v[1]),
                       scalar(b, l, element, 1.0), scalar(b, l, element, 0.0));
                   return add(b, l, v[2], one);
                 });
  Value share =
      elementwise(builder, getLoc(), rows.rowType, {getCotangent(), count},
                  [](OpBuilder &b, Location l, ValueRange v) {
                    return arith::DivFOp::create(b, l, v[0], v[1]).getResult();
                  });
  return SmallVector<Value>{mapRows(
      builder, getLoc(), rows, getType(), {getInput(), getOutput(), share},
      [&](OpBuilder &b, Location l, ValueRange v) {
        return arith::SelectOp::create(b, l, attains(b, l, v[0], v[1]), v[2],
                                       scalar(b, l, element, 0.0))
            .getResult();
      })};
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

Values SoftmaxOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  Rows rows(type, {static_cast<int64_t>(getAxis())});
  Value max = maxRows(builder, loc, rows, getInput());
  Value exp = mapRows(builder, loc, rows, type, {getInput(), max},
                      [](OpBuilder &b, Location l, ValueRange v) {
                        return expOfDifference(b, l, v[0], v[1]);
                      });
  Value sum = sumRows(builder, loc, rows, exp);
  // One division a row.
  Value inverse =
      elementwise(builder, loc, rows.rowType, {sum},
                  [](OpBuilder &b, Location l, ValueRange v) {
                    return arith::DivFOp::create(
                               b, l, scalar(b, l, v[0].getType(), 1.0), v[0])
                        .getResult();
                  });
  return SmallVector<Value>{mapRows(builder, loc, rows, type, {exp, inverse},
                                    [](OpBuilder &b, Location l, ValueRange v) {
                                      return mul(b, l, v[0], v[1]);
                                    })};
}

// The result sums to zero, which is what the gradient of whatever shifts all
// inputs is (the bias before an attention over all rows). Rounding of the inner
// product and of the output, whose sum is not quite one, would leave the inner
// product times the spacing of one; the second pass takes that out.
Values SoftmaxVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  Rows rows(getType(), {static_cast<int64_t>(getAxis())});
  Value inner = reduceRows(builder, loc, rows, {getOutput(), getCotangent()},
                           0.0, [](OpBuilder &b, Location l, ValueRange v) {
                             return add(b, l, v[2], mul(b, l, v[0], v[1]));
                           });
  Value rest =
      reduceRows(builder, loc, rows, {getOutput(), getCotangent(), inner}, 0.0,
                 [](OpBuilder &b, Location l, ValueRange v) {
                   Value change = mul(b, l, v[0], sub(b, l, v[1], v[2]));
                   return add(b, l, v[3], change);
                 });
  return SmallVector<Value>{mapRows(
      builder, loc, rows, getType(), {getOutput(), getCotangent(), inner, rest},
      [](OpBuilder &b, Location l, ValueRange v) {
        Value deviation = sub(b, l, v[1], v[2]);
        return mul(b, l, v[0], sub(b, l, deviation, v[3]));
      })};
}

Values LogSoftmaxOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  Rows rows(getType(), {static_cast<int64_t>(getAxis())});
  Value max = maxRows(builder, loc, rows, getInput());
  Value sum =
      reduceRows(builder, loc, rows, {getInput(), max}, 0.0,
                 [](OpBuilder &b, Location l, ValueRange v) {
                   return add(b, l, v[2], expOfDifference(b, l, v[0], v[1]));
                 });
  Value log = elementwise(builder, loc, rows.rowType, {sum},
                          [](OpBuilder &b, Location l, ValueRange v) {
                            return math::LogOp::create(b, l, v[0]).getResult();
                          });
  return SmallVector<Value>{
      mapRows(builder, loc, rows, getType(), {getInput(), max, log},
              [](OpBuilder &b, Location l, ValueRange v) {
                return sub(b, l, sub(b, l, v[0], v[1]), v[2]);
              })};
}

Values LogSoftmaxVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  Rows rows(getType(), {static_cast<int64_t>(getAxis())});
  Value sum = sumRows(builder, loc, rows, getCotangent());
  return SmallVector<Value>{
      mapRows(builder, loc, rows, getType(), {getOutput(), getCotangent(), sum},
              [](OpBuilder &b, Location l, ValueRange v) {
                Value softmax = math::ExpOp::create(b, l, v[0]);
                return sub(b, l, v[1], mul(b, l, softmax, v[2]));
              })};
}

//===----------------------------------------------------------------------===//
// Normalization
//===----------------------------------------------------------------------===//

namespace {
/// Statistics of train.normalize, per row. Forward and gradients build equal
/// ops, of which CSE leaves one.
struct Statistics {
  Value mean;    // null for RMS
  Value inverse; // 1 / sqrt(variance + epsilon)
};
} // namespace

/// x - mean in a body; `mean` is null for RMS.
static Value centered(OpBuilder &b, Location l, Value x, Value mean) {
  return mean ? sub(b, l, x, mean) : x;
}

static Statistics statistics(OpBuilder &builder, Location loc, const Rows &rows,
                             Value input, double epsilon, bool rms) {
  Type element = rows.rowType.getElementType();
  double part = 1.0 / static_cast<double>(rows.count);
  Statistics result;
  SmallVector<Value> operands = {input};
  if (!rms) {
    Value sum = sumRows(builder, loc, rows, input);
    result.mean =
        elementwise(builder, loc, rows.rowType, {sum},
                    [&](OpBuilder &b, Location l, ValueRange v) {
                      return mul(b, l, v[0], scalar(b, l, element, part));
                    });
    operands.push_back(result.mean);
  }
  // Of the deviations, not of the squares: no cancellation.
  Value squares =
      reduceRows(builder, loc, rows, operands, 0.0,
                 [&](OpBuilder &b, Location l, ValueRange v) {
                   Value deviation = centered(b, l, v[0], rms ? Value() : v[1]);
                   return add(b, l, v.back(), mul(b, l, deviation, deviation));
                 });
  result.inverse =
      elementwise(builder, loc, rows.rowType, {squares},
                  [&](OpBuilder &b, Location l, ValueRange v) {
                    Value variance = math::FmaOp::create(
                        b, l, v[0], scalar(b, l, element, part),
                        scalar(b, l, element, epsilon));
                    return math::RsqrtOp::create(b, l, variance).getResult();
                  });
  return result;
}

namespace {
/// The operands of a computation over all elements of a normalized tensor.
struct NormalizeOperands {
  NormalizeOperands(OpBuilder &builder, Location loc, const Rows &rows,
                    Value input, const Statistics &statistics)
      : builder(builder), loc(loc), rows(rows), type(tensorType(input)) {
    add(input, rows.all);
    add(statistics.inverse, rows.kept);
    if (statistics.mean)
      add(statistics.mean, rows.kept);
    hasMean = statistics.mean != nullptr;
  }

  void add(Value value, AffineMap map) {
    values.push_back(value);
    maps.push_back(map);
  }
  void addBroadcast(Value value) {
    auto [aligned, map] = alignToResult(builder, loc, value, type);
    add(aligned, map);
  }

  /// The normalized element, in a body.
  Value normalized(OpBuilder &b, Location l, ValueRange v) const {
    return mul(b, l, centered(b, l, v[0], hasMean ? v[2] : Value()), v[1]);
  }
  /// The element of the operand `index` behind the statistics.
  Value extra(ValueRange v, unsigned index) const {
    return v[(hasMean ? 3 : 2) + index];
  }

  OpBuilder &builder;
  Location loc;
  const Rows &rows;
  RankedTensorType type;
  SmallVector<Value> values;
  SmallVector<AffineMap> maps;
  bool hasMean;
};
} // namespace

Values NormalizeOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  Rows rows(type, getAxes());
  NormalizeOperands operands(builder, loc, rows, getInput(),
                             statistics(builder, loc, rows, getInput(),
                                        getEpsilon().convertToDouble(),
                                        getRms()));
  if (getScale())
    operands.addBroadcast(getScale());
  operands.maps.push_back(rows.all);
  Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(),
                                        type.getElementType());
  return structured(builder, loc, operands.values, empty, operands.maps,
                    SmallVector<bool>(type.getRank(), false),
                    [&](OpBuilder &b, Location l, ValueRange v) {
                      Value result = operands.normalized(b, l, v);
                      if (getScale())
                        result = mul(b, l, result, operands.extra(v, 0));
                      return SmallVector<Value>{result};
                    });
}

Values NormalizeVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = cast<RankedTensorType>(getResult().getType());
  Type element = type.getElementType();
  Rows rows(type, getAxes());
  NormalizeOperands operands(builder, loc, rows, getInput(),
                             statistics(builder, loc, rows, getInput(),
                                        getEpsilon().convertToDouble(),
                                        getRms()));
  operands.add(getCotangent(), rows.all);
  if (getScale())
    operands.addBroadcast(getScale());
  // The cotangent of the normalized element.
  auto inner = [&](OpBuilder &b, Location l, ValueRange v) {
    Value cotangent = operands.extra(v, 0);
    return getScale() ? mul(b, l, cotangent, operands.extra(v, 1)) : cotangent;
  };
  // Its sum, and that of its product with the normalized element, in one pass.
  SmallVector<AffineMap> maps = operands.maps;
  Value zero = filled(builder, loc, rows.rowType, 0.0);
  SmallVector<Value> inits(getRms() ? 1 : 2, zero);
  maps.append(inits.size(), rows.kept);
  SmallVector<Value> sums = structured(
      builder, loc, operands.values, inits, maps, rows.reduced,
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value g = inner(b, l, v);
        Value product = mul(b, l, g, operands.normalized(b, l, v));
        if (getRms())
          return SmallVector<Value>{add(b, l, v.back(), product)};
        return SmallVector<Value>{add(b, l, v.drop_back(1).back(), product),
                                  add(b, l, v.back(), g)};
      });
  unsigned extras = getScale() ? 2 : 1;
  for (Value sum : sums)
    operands.add(sum, rows.kept);
  operands.maps.push_back(rows.all);
  double part = 1.0 / static_cast<double>(rows.count);
  Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(), element);
  return structured(
      builder, loc, operands.values, empty, operands.maps,
      SmallVector<bool>(type.getRank(), false),
      [&](OpBuilder &b, Location l, ValueRange v) {
        Value share = scalar(b, l, element, part);
        Value g = inner(b, l, v);
        Value projected = mul(b, l, operands.normalized(b, l, v),
                              mul(b, l, operands.extra(v, extras), share));
        Value rest = sub(b, l, g, projected);
        if (!getRms())
          rest =
              sub(b, l, rest, mul(b, l, operands.extra(v, extras + 1), share));
        return SmallVector<Value>{mul(b, l, rest, v[1])};
      });
}

Values NormalizeScaleVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getInput().getType();
  RankedTensorType scale = cast<RankedTensorType>(getResult().getType());
  Rows rows(type, getAxes());
  NormalizeOperands operands(builder, loc, rows, getInput(),
                             statistics(builder, loc, rows, getInput(),
                                        getEpsilon().convertToDouble(),
                                        getRms()));
  operands.add(getCotangent(), rows.all);
  // The dimensions along which the scale does not repeat.
  int64_t offset = type.getRank() - scale.getRank();
  SmallVector<AffineExpr> kept;
  SmallVector<int64_t> shape;
  SmallVector<bool> reduced;
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    bool keep =
        dim >= offset && type.getDimSize(dim) == scale.getDimSize(dim - offset);
    reduced.push_back(!keep);
    if (keep) {
      kept.push_back(builder.getAffineDimExpr(dim));
      shape.push_back(type.getDimSize(dim));
    }
  }
  operands.maps.push_back(
      AffineMap::get(type.getRank(), 0, kept, getContext()));
  Value zero = filled(builder, loc,
                      RankedTensorType::get(shape, type.getElementType()), 0.0);
  Value sum =
      structured(builder, loc, operands.values, zero, operands.maps, reduced,
                 [&](OpBuilder &b, Location l, ValueRange v) {
                   Value product = mul(b, l, operands.extra(v, 0),
                                       operands.normalized(b, l, v));
                   return SmallVector<Value>{add(b, l, v.back(), product)};
                 })[0];
  return SmallVector<Value>{reshapeTo(builder, loc, sum, scale.getShape())};
}
