// What engines that work at the same time take from each other: the banks of
// L1.
#ifndef TD_LIB_COSTMODEL_CONTENTION_H
#define TD_LIB_COSTMODEL_CONTENTION_H

#include "lib/CostModel/CostModel.h"
#include <array>

namespace td {

/// Who accesses L1. The DMA's directions work at the same time.
enum class Engine { DmaIn, DmaOut, Cores, RedMulE };
inline constexpr size_t engineCount = 4;

/// What an engine does.
struct Activity {
  double cycles = 0;   // alone on the machine; 0: it is idle
  double accesses = 0; // to L1, in all
  /// RedMulE's jobs, and how often each.
  llvm::ArrayRef<std::pair<double, GemmCost>> jobs;
};

class Contention {
public:
  explicit Contention(const Target &target);

  /// Cycles that each engine takes if all are at work all the time; 0 for those
  /// that are idle.
  std::array<double, engineCount>
  cyclesTogether(const std::array<Activity, engineCount> &activities) const;
  /// Cycles that each engine is busy if all work until the last one is done.
  std::array<double, engineCount>
  busyCycles(const std::array<Activity, engineCount> &activities) const;

  /// Words that the DMA, and RedMulE's port, access a cycle.
  double dmaWords, portWords;

private:
  std::array<double, engineCount>
  cycles(const std::array<Activity, engineCount> &activities,
         bool together) const;
  /// Cycles of a beat of RedMulE's port while a bank is taken with a
  /// probability.
  double beatCycles(double taken) const;

  double banks, cores;
  /// How much of what an engine accesses another one meets: those that access
  /// L1 in a regular pattern fall in step.
  double meets[engineCount][engineCount] = {};
};

} // namespace td

#endif
