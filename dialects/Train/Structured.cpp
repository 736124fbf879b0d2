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

/// `operand` without the dimensions of size 1 along which it repeats, and the
/// map that addresses it from the result's dimensions.
static std::pair<Value, AffineMap> alignToResult(OpBuilder &builder,
                                                 Location location,
                                                 Value operand,
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
