// Recurrences in a plan: the operators of one step, and how arrays advance.
#ifndef TD_LIB_PLANNER_LOOPS_H
#define TD_LIB_PLANNER_LOOPS_H

#include "lib/Planner/Grouping.h"

namespace td {

/// Attribute of an operator of a loop: the loop's number.
inline constexpr llvm::StringLiteral loopAttrName = "train.loop";
/// Attribute of a slice that is read or written in a loop: how many elements
/// of the leading dimension it moves from one run of the loop to the next.
inline constexpr llvm::StringLiteral sliceAdvanceAttrName = "train.advance";

/// The number of the loop that an operator, or a group, belongs to.
std::optional<int64_t> loopOf(mlir::Operation *op);
std::optional<int64_t> loopOf(const OperatorGroup &group);
/// What a slice moves by from run to run; 0 outside of loops.
int64_t advanceOf(mlir::Operation *slice);
/// The same of a tensor that is a view of an array (StepViews), in elements of
/// the array's leading dimension.
int64_t advanceOf(mlir::Value tensor);

/// Puts, in the place of each recurrence of a step, the operators of its first
/// run, which stand for all, in a row that only they are part of: they carry
/// `loopAttrName`. A stack over time is an array of two or more dimensions
/// whose leading one has time and the step's own leading dimension; the step's
/// part is a slice of it with `sliceAdvanceAttrName`. What a step hands to the
/// next is written to, and read from, such arrays alone. Returns the runs of
/// each loop.
llvm::SmallVector<int64_t> openRecurrences(mlir::func::FuncOp step);

/// Marks what was inserted between the operators of a loop since, and removes
/// what held their place.
void closeLoops(mlir::func::FuncOp step);

} // namespace td

#endif
