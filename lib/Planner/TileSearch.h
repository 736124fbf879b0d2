// Tile sizes and loop order of a group, searched over the cycle model.
#ifndef TD_LIB_PLANNER_TILESEARCH_H
#define TD_LIB_PLANNER_TILESEARCH_H

#include "dialects/Tile/Tile.h"
#include "lib/Target/Target.h"
#include <memory>

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
  GroupCost evaluate(llvm::ArrayRef<int64_t> tiles,
                     llvm::ArrayRef<int64_t> order);

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

struct TileChoice {
  llvm::SmallVector<int64_t> tiles, order;
  GroupCost cost;
  int64_t candidates = 0; // evaluated
};

/// The tiling of least predicted cycles within `budget` bytes of L1, with the
/// dimensions `whole` not tiled. With `exhaustive`,
/// tries every tile size of every dimension. Fails, without a
/// diagnostic, if nothing fits; then `smallest` has the fewest bytes that do.
mlir::FailureOr<TileChoice> searchTiles(const Target &target,
                                        tile::GroupOp group,
                                        llvm::ArrayRef<int64_t> whole,
                                        int64_t budget, bool exhaustive,
                                        int64_t &smallest);

} // namespace td

#endif
