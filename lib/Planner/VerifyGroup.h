// Checks a `tile.group` against the operators that it stands for.
#ifndef TD_LIB_PLANNER_VERIFYGROUP_H
#define TD_LIB_PLANNER_VERIFYGROUP_H

#include "lib/Planner/GroupBuilder.h"

namespace td {

/// Checks from what a group means, not from how it was built, that each sum of
/// products of `group` has a stage that reads, at every point of the domain,
/// the elements that the operator's own indexing maps name, and sums over the
/// same dimensions. What tiles hold then, and what RedMulE makes of them, is
/// checked where the group is expanded.
mlir::LogicalResult verifyGroup(tile::GroupOp op, const OperatorGroup &group,
                                BufferOf bufferOf);

} // namespace td

#endif
