// Writes a group of operators as a `tile.group`, one way per implementation.
#ifndef TD_LIB_PLANNER_GROUPBUILDER_H
#define TD_LIB_PLANNER_GROUPBUILDER_H

#include "dialects/Tile/Tile.h"
#include "lib/Planner/Grouping.h"

namespace td {

/// How a chain of a group is computed. RedMulE wants the operands of a
/// contraction as row-major matrices X[M,N] W[N,K].
struct Implementation {
  bool redmule = false;
  /// Computes the transposed result from swapped operands, so that another pair
  /// of operands is the row-major one.
  bool transposed = false;
  /// Overlapping windows (of a convolution) are laid out beside each other in
  /// L1 by the cores. Otherwise all but one of the dimensions that walk a
  /// window have tiles of 1: one tap of a filter at a time.
  bool gathered = false;
};

/// Where a tensor of the step lives: an array under the shape under which the
/// group sees it, and the window of it.
struct ArrayWindow {
  mlir::Value memref;
  llvm::SmallVector<int64_t> offsets, strides;
  /// Elements of the first dimension that it moves by from run to run of a
  /// loop.
  int64_t advance = 0;
};
using BufferOf = llvm::function_ref<ArrayWindow(mlir::Value tensor)>;

/// The implementations of each chain of the group, on operands that the
/// accelerator reads: every combination that is possible.
llvm::SmallVector<llvm::SmallVector<Implementation>>
possibleImplementations(const OperatorGroup &group,
                        llvm::function_ref<bool(mlir::Type)> acceleratorReads);

struct BuiltGroup {
  tile::GroupOp op;
  /// Dimensions whose tiles have to be of size 1 for the implementation.
  llvm::SmallVector<int64_t> unit;
  /// Dimensions that must not be tiled: kernels know the size of a small
  /// window, and a matrix whose rows two dimensions walk has whole runs of the
  /// inner one.
  llvm::SmallVector<int64_t> whole;
};

/// Builds the group with one tile as large as the domain. `outputs` are the
/// results of members that are needed outside of the group.
BuiltGroup buildGroup(mlir::OpBuilder &builder, const OperatorGroup &group,
                      llvm::ArrayRef<Implementation> implementations,
                      llvm::ArrayRef<mlir::Value> outputs, BufferOf bufferOf);

/// A readable name from an operator's location.
std::string operatorName(mlir::Operation *op);

} // namespace td

#endif
