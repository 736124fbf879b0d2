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

/// Attribute of a `math.exp` whose argument is a difference that is not
/// positive, or NaN: its expansion is the cheaper for that.
inline constexpr llvm::StringLiteral nonPositiveAttrName = "train.nonpositive";

/// e^(x - bound) for x <= bound, of scalars in a body.
Value expOfDifference(OpBuilder &builder, Location location, Value x,
                      Value bound);

/// Element-wise linalg.generic: `body` maps the elements of `operands`, which
/// broadcast to `resultType` as in numpy, to the result's. Indexing maps are
/// projected permutations: a dimension of size 1 that repeats is collapsed
/// away.
Value elementwise(
    OpBuilder &builder, Location location, RankedTensorType resultType,
    ValueRange operands,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body);

using Body =
    llvm::function_ref<SmallVector<Value>(OpBuilder &, Location, ValueRange)>;

/// linalg.generic with a result for each of `inits`; `maps` are those of the
/// inputs and then of the inits, over `reduction.size()` loops. The body gets
/// the elements of inputs and inits.
SmallVector<Value> structured(OpBuilder &builder, Location location,
                              ValueRange inputs, ValueRange inits,
                              ArrayRef<mlir::AffineMap> maps,
                              ArrayRef<bool> reduction, Body body);

/// The loops of a row-wise computation on tensors of `type`: which dimensions
/// are reduced, the map that drops those, and the type that is left.
struct Rows {
  Rows(RankedTensorType type, ArrayRef<int64_t> axes);
  SmallVector<bool> reduced;
  mlir::AffineMap all, kept;
  RankedTensorType rowType;
  int64_t count; // elements of a row
};

/// `body` folded over the axes of `rows`, from `start`; `operands` either have
/// all dimensions of the loops or only those that are kept. The body gets their
/// elements and the accumulator.
Value reduceRows(
    OpBuilder &builder, Location location, const Rows &rows,
    ValueRange operands, double start,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body);

/// Element-wise on operands that have all dimensions of `rows` or the kept
/// ones.
Value mapRows(
    OpBuilder &builder, Location location, const Rows &rows,
    RankedTensorType type, ValueRange operands,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body);

/// The sum over all elements of `body`(operands' elements), of type `element`,
/// times `scale` and the tensor `factor` if there is one, as a
/// tensor of rank 0. The operands have one shape. Compensated, in two stages:
/// the elements as a matrix P x Q, of which the sums over P are independent of
/// each other (parallel over Q), then over the Q sums. P and Q are as close to
/// each other as the number of elements allows, for the shortest last stage; a
/// prime number of elements has that stage only.
Value compensatedSum(
    OpBuilder &builder, Location location, mlir::Type element,
    ValueRange operands, double scale, Value factor,
    llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> body);

/// The scalar constant `value` in the body of a generic.
Value scalar(OpBuilder &builder, Location location, mlir::Type type,
             double value);

/// `operand` without the dimensions of size 1 along which it repeats, and the
/// map that addresses it from the dimensions of `resultType`.
std::pair<Value, mlir::AffineMap> alignToResult(OpBuilder &builder,
                                                Location location,
                                                Value operand,
                                                RankedTensorType resultType);

/// A copy with the dimensions in another order.
Value permuted(OpBuilder &builder, Location location, Value value,
               ArrayRef<int64_t> permutation);

/// 32 bits that look drawn at random, of i32 scalars in a body: a function of
/// the three, each bit of which moves each bit of the result.
Value hashed(OpBuilder &builder, Location location, Value counter,
             uint64_t seed, Value position);

/// The permutation that undoes `permutation`.
SmallVector<int64_t> inverseOf(ArrayRef<int64_t> permutation);

/// The elements of `value` at offsets + index * strides.
Value sliced(OpBuilder &builder, Location location, Value value,
             ArrayRef<int64_t> offsets, ArrayRef<int64_t> sizes,
             ArrayRef<int64_t> strides);

/// `target` with `value` at offsets + index * strides.
Value inserted(OpBuilder &builder, Location location, Value value, Value target,
               ArrayRef<int64_t> offsets, ArrayRef<int64_t> strides);

/// What the gradient of an op that is linear in each of two operands reads: for
/// a wanted one, the other.
SmallVector<Value> otherOperands(Value first, Value second,
                                 ArrayRef<bool> wanted);

/// linalg.matmul with a zero start: the sum over one index of the product of
/// two matrices, where each matrix is given with the labels of its dimensions
/// and `result` names those of the result. Transposed operands are indexing
/// maps.
Value contract(OpBuilder &builder, Location location, Value x,
               llvm::StringRef xLabels, Value y, llvm::StringRef yLabels,
               llvm::StringRef result);

} // namespace td::train

#endif
