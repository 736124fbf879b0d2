// Which jobs must wait for which, from the windows that they touch.
#ifndef TD_LIB_PLANNER_SCHEDULEGRAPH_H
#define TD_LIB_PLANNER_SCHEDULEGRAPH_H

#include "lib/Planner/ScheduleProgram.h"

namespace td {

/// Dependences of the jobs of a program in its (sequentially right) order:
/// true, anti and output dependences on overlapping windows of a storage. Edges
/// that others imply are left out where that is cheap.
struct DependenceGraph {
  std::vector<llvm::SmallVector<unsigned, 4>> predecessors, successors;

  explicit DependenceGraph(const JobProgram &program);
};

} // namespace td

#endif
