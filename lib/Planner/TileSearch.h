// Tile sizes and loop order of a group, searched over the cycle model.
#ifndef TD_LIB_PLANNER_TILESEARCH_H
#define TD_LIB_PLANNER_TILESEARCH_H

#include "dialects/Tile/Tile.h"
#include "lib/Target/Target.h"
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace td {

/// Predicted cost of a group under given tile sizes. Cycles of an engine are
/// its busy cycles; `total` assumes that engines overlap but for the first and
/// last tile.
struct GroupCost {
  int64_t total = 0, dma = 0, cores = 0, redmule = 0, hyper = 0;
  int64_t l1Bytes = 0;    // with the buffers that overlap needs
  int64_t minBytes = 0;   // one tile of everything, nothing overlapped
  int64_t movedBytes = 0; // between L1 and L2
};

/// Evaluates one group many times.
class GroupCostModel {
public:
  GroupCostModel(const Target &target, tile::GroupOp group);
  ~GroupCostModel();
  /// The cost within `budget` bytes of L1; `total` is the largest integer if
  /// the tiles do not fit, or the cost exceeds `bound`.
  GroupCost evaluate(llvm::ArrayRef<int64_t> tiles,
                     llvm::ArrayRef<int64_t> order, int64_t budget,
                     int64_t bound);
  /// What the cost depends on: two groups of one key cost the same.
  std::string key() const;

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

struct TileChoice {
  llvm::SmallVector<int64_t> tiles, order;
  GroupCost cost;
};

/// Finds the tilings of least estimated cycles within `budget` bytes of L1;
/// with `exhaustive` by trying every tile size of every dimension. Remembers
/// what it found: models repeat their layers.
class TileSearch {
public:
  struct Result {
    std::vector<TileChoice> choices; // the best few, the best first, if any fit
    int64_t smallest = 0;            // bytes of L1 of the smallest tiles
  };

  TileSearch(const Target &target, int64_t budget, bool exhaustive)
      : target(target), budget(budget), exhaustive(exhaustive) {}

  /// The dimensions `whole` are not tiled, those of `unit` have tiles of 1.
  const Result &search(tile::GroupOp group, llvm::ArrayRef<int64_t> whole,
                       llvm::ArrayRef<int64_t> unit);

  int64_t evaluated = 0; // tilings

private:
  const Target &target;
  int64_t budget;
  bool exhaustive;
  std::map<std::string, Result> results;
};

} // namespace td

#endif
