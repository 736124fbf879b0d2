// Builders of structured ops that gradients and decompositions share.
#ifndef TD_DIALECTS_TRAIN_STRUCTURED_H
#define TD_DIALECTS_TRAIN_STRUCTURED_H

#include "dialects/Train/Train.h"

namespace td::train {

using mlir::ArrayRef;
using mlir::Location;
using mlir::RankedTensorType;
using mlir::ValueRange;

inline RankedTensorType tensorType(Value value) {
  return llvm::cast<RankedTensorType>(value.getType());
}

/// A tensor of rank 0 with the constant `value`.
Value constantScalar(OpBuilder &builder, Location location,
                     mlir::Type elementType, double value);

/// A tensor filled with `value`.
Value filled(OpBuilder &builder, Location location, RankedTensorType type,
             double value);

/// `value` in another shape: at most one collapse and one expand.
Value reshapeTo(OpBuilder &builder, Location location, Value value,
                ArrayRef<int64_t> shape);

/// Element-wise linalg.generic: `body` maps the elements of `operands`, which
/// broadcast to `resultType` as in numpy, to the result's. Indexing maps are
/// projected permutations: a dimension of size 1 that repeats is collapsed
/// away.
Value elementwise(
    OpBuilder &builder, Location location, RankedTensorType resultType,
    ValueRange operands,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body);

/// linalg.matmul with a zero start: the sum over one index of the product of
/// two matrices, where each matrix is given with the labels of its dimensions
/// and `result` names those of the result. Transposed operands are indexing
/// maps.
Value contract(OpBuilder &builder, Location location, Value x,
               llvm::StringRef xLabels, Value y, llvm::StringRef yLabels,
               llvm::StringRef result);

} // namespace td::train

#endif
