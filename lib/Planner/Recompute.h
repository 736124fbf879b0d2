// Which results of the forward pass the backward pass makes again.
#ifndef TD_LIB_PLANNER_RECOMPUTE_H
#define TD_LIB_PLANNER_RECOMPUTE_H

#include "lib/Target/Target.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace td {

/// While more than `capacity` bytes of temporaries are live at once: shortens a
/// life that reaches across such a place. What an element-wise operator or a
/// contraction made, whose inputs live on anyway, is made again, in order of
/// cycles a byte: by an operator of its own, or as a further result of an
/// element-wise one that reads the inputs (GELU beside its derivative; its
/// users move behind that).
/// Requires the closed set of ops that td-decompose leaves, and keeps it.
void recomputeActivations(mlir::func::FuncOp step, const Target &target,
                          int64_t capacity);

} // namespace td

#endif
