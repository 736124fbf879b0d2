// Static offsets for arrays with known live ranges (offline dynamic storage
// allocation). Knows nothing of MLIR's IR.
#ifndef TD_LIB_PLANNER_ALLOCATOR_H
#define TD_LIB_PLANNER_ALLOCATOR_H

#include "llvm/ADT/ArrayRef.h"
#include <cstdint>
#include <vector>

namespace td {

/// An array that needs `bytes` at a multiple of `alignment` at the positions
/// [begin, end) of a program.
struct LiveRange {
  int64_t bytes = 0;
  int64_t alignment = 1;
  int64_t begin = 0, end = 0;
};

struct Placement {
  /// One offset per live range, from 0.
  std::vector<int64_t> offsets;
  /// Bytes from 0 to the end of the highest array.
  int64_t peak = 0;
  /// The most bytes that are live at one position: no placement needs less.
  int64_t lowerBound = 0;
};

/// The most bytes that are live at one position.
int64_t peakOfLiveBytes(llvm::ArrayRef<LiveRange> ranges);

/// Places every range such that those that are live together do not overlap.
/// Tries several orders, each array in the smallest gap that takes it, and
/// moves the arrays at the peak to the front while that helps. Stops early at
/// the lower bound; looks for less than the first orders give only while
/// the peak is above `capacity`. Deterministic.
Placement placeRanges(llvm::ArrayRef<LiveRange> ranges, int64_t capacity);

} // namespace td

#endif
