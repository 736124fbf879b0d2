// Which array in memory a tensor of the step lies in, and where in it.
#ifndef TD_LIB_PLANNER_VIEWS_H
#define TD_LIB_PLANNER_VIEWS_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/DenseMap.h"

namespace td {

/// A tensor as a strided window of an array.
struct TensorView {
  mlir::Value root;   // the tensor that the array is made for
  mlir::Value shaped; // a tensor of the shape under which the array is seen
  llvm::SmallVector<int64_t> offsets, strides;
};

/// Views of a step's tensors. A slice is read in place. What insert_slices make
/// is one array, written in parts, that belongs to the last of them.
class StepViews {
public:
  /// Rewrites the step so that every tensor is a view of an array: fills under
  /// insert_slices become operators that write what the slices leave, sources
  /// that cannot be made in place and slices that are reshaped get operators
  /// that copy.
  static StepViews prepare(mlir::func::FuncOp step);

  TensorView viewOf(mlir::Value tensor) const;
  mlir::Value rootOf(mlir::Value tensor) const { return viewOf(tensor).root; }
  /// The results of operators (or arguments, parameters, constants) that a
  /// tensor's elements come from.
  llvm::SmallVector<mlir::Value> sourcesOf(mlir::Value tensor) const;

  /// Results of operators that write overlapping parts of an array, the first
  /// before the second.
  llvm::SmallVector<std::pair<mlir::Value, mlir::Value>> overwritten;

private:
  llvm::DenseMap<mlir::Value, mlir::tensor::InsertSliceOp> insertedBy;
};

} // namespace td

#endif
