// Writes a group of operators as a `tile.group`, one way per implementation.
#ifndef TD_LIB_PLANNER_GROUPBUILDER_H
#define TD_LIB_PLANNER_GROUPBUILDER_H

#include "dialects/Tile/Tile.h"
#include "lib/Planner/Grouping.h"

namespace td {

/// How the matmul of a group is computed. RedMulE wants both operands
/// row-major: X[M,N] W[N,K]. `Transposed` computes the transposed result from
/// swapped operands, so that another pair of operands is the row-major one.
enum class Implementation { Cores, RedMulE, RedMulETransposed };

/// Where a tensor of the step lives: asked for every operand of a group, with
/// the shape under which the group sees it.
using BufferOf = llvm::function_ref<mlir::Value(mlir::Value tensor)>;

/// The implementations of each chain of the group, on operands that the
/// accelerator reads: every combination that is possible.
llvm::SmallVector<llvm::SmallVector<Implementation>>
possibleImplementations(const OperatorGroup &group,
                        llvm::function_ref<bool(mlir::Type)> acceleratorReads);

/// Builds the group with one tile as large as the domain. `outputs` are the
/// results of members that are needed outside of the group.
tile::GroupOp buildGroup(mlir::OpBuilder &builder, const OperatorGroup &group,
                         llvm::ArrayRef<Implementation> implementations,
                         llvm::ArrayRef<mlir::Value> outputs,
                         BufferOf bufferOf);

/// A readable name from an operator's location.
std::string operatorName(mlir::Operation *op);

} // namespace td

#endif
