// Unrolls the tile loops of groups into jobs.
#ifndef TD_LIB_PLANNER_EXPANDGROUPS_H
#define TD_LIB_PLANNER_EXPANDGROUPS_H

#include "mlir/IR/BuiltinOps.h"

namespace td {

/// Replaces the groups of every `tile.program` by its operators and jobs, in an
/// order that is right when run one after the other, and outlines kernels.
mlir::LogicalResult expandGroups(mlir::ModuleOp module);

} // namespace td

#endif
