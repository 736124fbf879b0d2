// Static addresses for the arrays and tiles of a stream of jobs.
#ifndef TD_LIB_PLANNER_SCHEDULEADDRESSES_H
#define TD_LIB_PLANNER_SCHEDULEADDRESSES_H

#include "lib/Planner/ScheduleProgram.h"

namespace td {

/// The part of a memory that holds arrays and tiles, [begin, end).
struct MemoryArea {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// What the target and its runtime leave the program of a level.
MemoryArea memoryArea(const Target &target, tile::Level level,
                      const JobProgram &program);

/// Sets the alignment of every storage: whole words, a port's width for what
/// RedMulE or the DMA reads and writes.
void setAlignments(JobProgram &program, const Target &target);

struct AddressPlan {
  std::vector<int64_t> addresses; // one per storage; -1 if unused
  struct LevelUse {
    MemoryArea area;
    int64_t peak = 0;       // bytes from the start of the area
    int64_t lowerBound = 0; // the most bytes that are live at once
    bool fits() const { return peak <= area.size(); }
  };
  LevelUse levels[3]; // l1, l2, l3
  bool fits() const {
    return levels[0].fits() && levels[1].fits() && levels[2].fits();
  }
};

/// Addresses for the stream's live ranges; whether they fit is for the caller
/// to see.
AddressPlan planAddresses(const JobProgram &program,
                          llvm::ArrayRef<StreamEntry> stream,
                          const Target &target);

/// The error of a plan that does not fit: the operator at the peak, the bytes
/// it needs and those there are, and what would help.
mlir::InFlightDiagnostic reportOverflow(const JobProgram &program,
                                        llvm::ArrayRef<StreamEntry> stream,
                                        const AddressPlan &plan);

} // namespace td

#endif
