// List scheduling: the order in which the cluster's one stream issues jobs,
// found by simulating its engines with predicted durations.
#ifndef TD_LIB_PLANNER_SCHEDULESIMULATION_H
#define TD_LIB_PLANNER_SCHEDULESIMULATION_H

#include "lib/CostModel/Contention.h"
#include "lib/Planner/ScheduleGraph.h"
#include <optional>
#include <set>

namespace td {

/// A job, from its start to its end on its engine.
struct JobCost {
  /// As if nothing else went on.
  int64_t cycles = 0;
  /// For which its issue holds up the stream, if it is asynchronous.
  int64_t issueCycles = 0;
  /// To banks of L1, in all.
  double accesses = 0;
  GemmCost gemm;
  /// Which kernel a call is of, and bytes of its code.
  unsigned kernel = 0;
  int64_t codeBytes = 0;
};

/// What the simulation needs to know besides the program.
struct ScheduleProblem {
  const JobProgram &program;
  const DependenceGraph &graph;
  const Contention &contention;
  /// What each job costs alone on the machine.
  std::vector<JobCost> costs;
  /// Cycles for which waiting for a job that has ended holds up the stream.
  int64_t waitCycles = 0;
  /// Bytes of code that the caches that all cores share keep, and the cycles to
  /// bring a byte from L2 to them, and from them to a core's own cache.
  double codeBytes = 0, codeFromL2 = 0, codeFromShared = 0;
  /// Transfers that may be issued and not waited for: DMA, uDMA.
  unsigned dmaSlots = 1, hyperSlots = 1;
  /// DMA transfers each way that can wait for the one that runs.
  unsigned dmaQueue = 1;
  /// Bytes for tiles and temporaries in l1 and l2.
  int64_t budget[2] = {0, 0};
  /// Where tiles in l1 lie, if they get addresses as they get bytes; otherwise
  /// their addresses are someone else's problem.
  std::optional<std::pair<int64_t, int64_t>> area;
  /// Jobs whose tiles get no bytes before all jobs ahead in the plan's order
  /// are complete: where tiles that were loaded ahead left no place for others.
  std::set<unsigned> drains;
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
  /// Of the tiles in l1, by storage; empty if they got none.
  std::vector<int64_t> addresses;
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
///
/// With addresses, a hole may be missing where bytes are not: then `stuckAt` is
/// the job whose tile found none.
std::optional<Schedule> simulate(const ScheduleProblem &problem,
                                 const SchedulePolicy &policy,
                                 std::optional<unsigned> &stuckAt);

/// The plan's own sequence, each job waited for at once.
Schedule sequentialSchedule(const ScheduleProblem &problem);

} // namespace td

#endif
