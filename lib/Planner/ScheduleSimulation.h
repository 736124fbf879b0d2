// List scheduling: the order in which the cluster's one stream issues jobs,
// found by simulating its engines with predicted durations.
#ifndef TD_LIB_PLANNER_SCHEDULESIMULATION_H
#define TD_LIB_PLANNER_SCHEDULESIMULATION_H

#include "lib/Planner/ScheduleGraph.h"
#include <optional>

namespace td {

/// What the simulation needs to know besides the program.
struct ScheduleProblem {
  const JobProgram &program;
  const DependenceGraph &graph;
  /// Predicted cycles of each job, from its start to its end on its engine.
  std::vector<int64_t> cycles;
  /// Cycles for which issuing an asynchronous job, and waiting for one that has
  /// ended, hold up the stream.
  int64_t issueCycles = 0, waitCycles = 0;
  /// Transfers that may be issued and not waited for: DMA, uDMA.
  unsigned dmaSlots = 1, hyperSlots = 1;
  /// DMA transfers each way that can wait for the one that runs.
  unsigned dmaQueue = 1;
  /// Bytes for tiles and temporaries in l1 and l2.
  int64_t budget[2] = {0, 0};
};

/// How the scheduler chooses among jobs that are ready.
struct SchedulePolicy {
  /// Calls and GEMMs with the longest chain of work behind them first;
  /// otherwise in the plan's order.
  bool criticalWork = true;
  /// The same for copies.
  bool criticalCopies = false;
  /// Leave the cores idle rather than delay a more critical GEMM.
  bool patient = false;
};

struct Schedule {
  std::vector<StreamEntry> stream;
  int64_t makespan = 0;
  /// Cycles that the stream spends in the jobs of each operator and in waiting
  /// for them.
  std::vector<int64_t> cyclesOf;
};

/// The stream that a policy gives; none if a job's tiles exceed the budget.
///
/// Tiles get their bytes in the order in which the plan's sequence first uses
/// them, and give them back when the last job that uses them is known to be
/// complete. So a stream that is within the budget exists whenever the plan's
/// own sequence is within it, and the scheduler finds one without ever going
/// back.
std::optional<Schedule> simulate(const ScheduleProblem &problem,
                                 const SchedulePolicy &policy);

/// The plan's own sequence, each job waited for at once.
Schedule sequentialSchedule(const ScheduleProblem &problem);

} // namespace td

#endif
