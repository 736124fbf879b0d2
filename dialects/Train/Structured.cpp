#include "dialects/Train/Structured.h"

#include "mlir/Dialect/Utils/ReshapeOpsUtils.h"

using namespace mlir;
using namespace td::train;

Value td::train::constantScalar(OpBuilder &builder, Location location,
                                Type elementType, double value) {
  auto type = RankedTensorType::get({}, elementType);
  Attribute element = builder.getFloatAttr(elementType, value);
  return arith::ConstantOp::create(builder, location,
                                   DenseElementsAttr::get(type, element));
}

Value td::train::expOfDifference(OpBuilder &builder, Location location, Value x,
                                 Value bound) {
  auto exp = math::ExpOp::create(
      builder, location, arith::SubFOp::create(builder, location, x, bound));
  exp->setAttr(nonPositiveAttrName, builder.getUnitAttr());
  return exp;
}

Value td::train::filled(OpBuilder &builder, Location location,
                        RankedTensorType type, double value) {
  Value scalar =
      arith::ConstantOp::create(
          builder, location, builder.getFloatAttr(type.getElementType(), value))
          .getResult();
  Value empty = tensor::EmptyOp::create(builder, location, type.getShape(),
                                        type.getElementType());
  return linalg::FillOp::create(builder, location, ValueRange{scalar},
                                ValueRange{empty})
      .getResult(0);
}

Value td::train::reshapeTo(OpBuilder &builder, Location location, Value value,
                           ArrayRef<int64_t> shape) {
  RankedTensorType from = tensorType(value);
  if (from.getShape() == shape)
    return value;
  auto to = RankedTensorType::get(shape, from.getElementType());
  if (from.getRank() != to.getRank())
    if (auto groups = getReassociationIndicesForReshape(from, to)) {
      if (from.getRank() > to.getRank())
        return tensor::CollapseShapeOp::create(builder, location, to, value,
                                               *groups);
      return tensor::ExpandShapeOp::create(builder, location, to, value,
                                           *groups);
    }
  // Through one dimension; it differs from both shapes, or the reshape would
  // have been a collapse or expand.
  return reshapeTo(builder, location,
                   reshapeTo(builder, location, value, {from.getNumElements()}),
                   shape);
}

std::pair<Value, AffineMap>
td::train::alignToResult(OpBuilder &builder, Location location, Value operand,
                         RankedTensorType resultType) {
  RankedTensorType type = tensorType(operand);
  int64_t offset = resultType.getRank() - type.getRank();
  SmallVector<AffineExpr> dims;
  SmallVector<int64_t> shape;
  // Each group of dimensions becomes one: a kept one and its dropped
  // neighbours.
  SmallVector<ReassociationIndices> groups;
  ReassociationIndices group;
  bool keptInGroup = false;
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    bool kept = type.getDimSize(dim) == resultType.getDimSize(offset + dim);
    if (kept) {
      if (keptInGroup)
        groups.push_back(std::exchange(group, {}));
      keptInGroup = true;
      dims.push_back(builder.getAffineDimExpr(offset + dim));
      shape.push_back(type.getDimSize(dim));
    }
    group.push_back(dim);
  }
  if (keptInGroup)
    groups.push_back(group);
  AffineMap map =
      AffineMap::get(resultType.getRank(), 0, dims, builder.getContext());
  if (static_cast<int64_t>(shape.size()) == type.getRank())
    return {operand, map};
  auto collapsed = RankedTensorType::get(shape, type.getElementType());
  return {tensor::CollapseShapeOp::create(builder, location, collapsed, operand,
                                          groups),
          map};
}

Value td::train::scalar(OpBuilder &builder, Location location, Type type,
                        double value) {
  return arith::ConstantOp::create(builder, location,
                                   builder.getFloatAttr(type, value));
}

SmallVector<Value> td::train::structured(OpBuilder &builder, Location location,
                                         ValueRange inputs, ValueRange inits,
                                         ArrayRef<AffineMap> maps,
                                         ArrayRef<bool> reduction, Body body) {
  SmallVector<utils::IteratorType> iterators;
  for (bool reduced : reduction)
    iterators.push_back(reduced ? utils::IteratorType::reduction
                                : utils::IteratorType::parallel);
  auto generic = linalg::GenericOp::create(
      builder, location, inits.getTypes(), inputs, inits, maps, iterators,
      [&](OpBuilder &b, Location l, ValueRange arguments) {
        linalg::YieldOp::create(b, l, body(b, l, arguments));
      });
  return SmallVector<Value>(generic.getResults());
}

Rows::Rows(RankedTensorType type, ArrayRef<int64_t> axes)
    : reduced(type.getRank(), false), count(1) {
  MLIRContext *context = type.getContext();
  for (int64_t axis : axes)
    reduced[axis] = true;
  SmallVector<AffineExpr> dims;
  SmallVector<int64_t> shape;
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    if (reduced[dim]) {
      count *= type.getDimSize(dim);
      continue;
    }
    dims.push_back(getAffineDimExpr(dim, context));
    shape.push_back(type.getDimSize(dim));
  }
  all = AffineMap::getMultiDimIdentityMap(type.getRank(), context);
  kept = AffineMap::get(type.getRank(), 0, dims, context);
  rowType = RankedTensorType::get(shape, type.getElementType());
}

/// The map of each operand: that of its rank.
static SmallVector<AffineMap> mapsOf(const Rows &rows, ValueRange operands) {
  SmallVector<AffineMap> maps;
  for (Value operand : operands)
    maps.push_back(tensorType(operand).getRank() == rows.rowType.getRank()
                       ? rows.kept
                       : rows.all);
  return maps;
}

Value td::train::reduceRows(
    OpBuilder &builder, Location location, const Rows &rows,
    ValueRange operands, double start,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  SmallVector<AffineMap> maps = mapsOf(rows, operands);
  maps.push_back(rows.kept);
  Value init = filled(builder, location, rows.rowType, start);
  return structured(builder, location, operands, init, maps, rows.reduced,
                    [&](OpBuilder &b, Location l, ValueRange v) {
                      return SmallVector<Value>{body(b, l, v)};
                    })[0];
}

Value td::train::mapRows(
    OpBuilder &builder, Location location, const Rows &rows,
    RankedTensorType type, ValueRange operands,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  SmallVector<AffineMap> maps = mapsOf(rows, operands);
  maps.push_back(rows.all);
  Value empty = tensor::EmptyOp::create(builder, location, type.getShape(),
                                        type.getElementType());
  SmallVector<bool> parallel(type.getRank(), false);
  return structured(builder, location, operands, empty, maps, parallel,
                    [&](OpBuilder &b, Location l, ValueRange v) {
                      return SmallVector<Value>{body(b, l, v.drop_back())};
                    })[0];
}

SmallVector<int64_t> td::train::inverseOf(ArrayRef<int64_t> permutation) {
  SmallVector<int64_t> inverse(permutation.size());
  for (auto [to, from] : llvm::enumerate(permutation))
    inverse[from] = to;
  return inverse;
}

Value td::train::permuted(OpBuilder &builder, Location location, Value value,
                          ArrayRef<int64_t> permutation) {
  RankedTensorType from = tensorType(value);
  SmallVector<int64_t> shape;
  for (int64_t dim : permutation)
    shape.push_back(from.getDimSize(dim));
  // Loop i is dimension i of the result, so the input's dimension
  // permutation[i] is walked by loop i.
  SmallVector<AffineExpr> dims;
  for (int64_t loop : inverseOf(permutation))
    dims.push_back(builder.getAffineDimExpr(loop));
  unsigned rank = permutation.size();
  AffineMap maps[] = {AffineMap::get(rank, 0, dims, builder.getContext()),
                      builder.getMultiDimIdentityMap(rank)};
  Value empty =
      tensor::EmptyOp::create(builder, location, shape, from.getElementType());
  return structured(builder, location, value, empty, maps,
                    SmallVector<bool>(rank, false),
                    [](OpBuilder &, Location, ValueRange v) {
                      return SmallVector<Value>{v[0]};
                    })[0];
}

static SmallVector<OpFoldResult> asAttributes(OpBuilder &builder,
                                              ArrayRef<int64_t> values) {
  return getAsIndexOpFoldResult(builder.getContext(), values);
}

Value td::train::sliced(OpBuilder &builder, Location location, Value value,
                        ArrayRef<int64_t> offsets, ArrayRef<int64_t> sizes,
                        ArrayRef<int64_t> strides) {
  if (tensorType(value).getShape() == sizes)
    return value;
  return tensor::ExtractSliceOp::create(
      builder, location, value, asAttributes(builder, offsets),
      asAttributes(builder, sizes), asAttributes(builder, strides));
}

Value td::train::inserted(OpBuilder &builder, Location location, Value value,
                          Value target, ArrayRef<int64_t> offsets,
                          ArrayRef<int64_t> strides) {
  ArrayRef<int64_t> sizes = tensorType(value).getShape();
  if (tensorType(target).getShape() == sizes)
    return value;
  return tensor::InsertSliceOp::create(
      builder, location, value, target, asAttributes(builder, offsets),
      asAttributes(builder, sizes), asAttributes(builder, strides));
}

Value td::train::elementwise(
    OpBuilder &builder, Location location, RankedTensorType resultType,
    ValueRange operands,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  SmallVector<Value> inputs;
  SmallVector<AffineMap> maps;
  for (Value operand : operands) {
    auto [input, map] = alignToResult(builder, location, operand, resultType);
    inputs.push_back(input);
    maps.push_back(map);
  }
  maps.push_back(builder.getMultiDimIdentityMap(resultType.getRank()));
  SmallVector<utils::IteratorType> iterators(resultType.getRank(),
                                             utils::IteratorType::parallel);
  Value empty = tensor::EmptyOp::create(
      builder, location, resultType.getShape(), resultType.getElementType());
  return linalg::GenericOp::create(
             builder, location, TypeRange{resultType}, inputs,
             ValueRange{empty}, maps, iterators,
             [&](OpBuilder &b, Location l, ValueRange arguments) {
               linalg::YieldOp::create(b, l, body(b, l, arguments.drop_back()));
             })
      .getResult(0);
}

Value td::train::contract(OpBuilder &builder, Location location, Value x,
                          StringRef xLabels, Value y, StringRef yLabels,
                          StringRef result) {
  // linalg.matmul wants its first operand to have the result's first dimension.
  if (!xLabels.contains(result[0])) {
    std::swap(x, y);
    std::swap(xLabels, yLabels);
  }
  auto size = [&](char label) {
    size_t dim = xLabels.find(label);
    return dim != StringRef::npos
               ? tensorType(x).getDimSize(dim)
               : tensorType(y).getDimSize(yLabels.find(label));
  };
  // The loops are (result 0, result 1, summed index).
  auto mapOf = [&](StringRef labels) {
    SmallVector<AffineExpr> dims;
    for (char label : labels) {
      size_t dim = result.find(label);
      dims.push_back(
          builder.getAffineDimExpr(dim == StringRef::npos ? 2 : dim));
    }
    return AffineMap::get(3, 0, dims, builder.getContext());
  };
  SmallVector<AffineMap> maps = {mapOf(xLabels), mapOf(yLabels), mapOf(result)};
  auto type = RankedTensorType::get({size(result[0]), size(result[1])},
                                    tensorType(x).getElementType());
  Value zero = filled(builder, location, type, 0.0);
  SmallVector<NamedAttribute> attributes;
  if (maps != linalg::MatmulOp::getDefaultIndexingMaps(builder.getContext()))
    attributes.push_back(builder.getNamedAttr(
        "indexing_maps", builder.getAffineMapArrayAttr(maps)));
  return linalg::MatmulOp::create(builder, location, TypeRange{type},
                                  ValueRange{x, y}, ValueRange{zero},
                                  attributes)
      .getResult(0);
}
