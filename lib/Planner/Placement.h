// At which level of the memory hierarchy each buffer of a step lives.
#ifndef TD_LIB_PLANNER_PLACEMENT_H
#define TD_LIB_PLANNER_PLACEMENT_H

#include "dialects/Tile/Tile.h"
#include "lib/Target/Target.h"

namespace td {

struct PlannedBuffer {
  mlir::Value root; // the tensor it was made for
  std::string name;
  tile::Role role = tile::Role::Temporary;
  mlir::MemRefType type; // without memory space
  tile::Level level = tile::Level::L2;
  mlir::ElementsAttr init;
  bool trainable = false;
  unsigned firstGroup = ~0u, lastGroup = 0; // the groups that use it
  llvm::SmallVector<unsigned, 4> groups;    // of each use, a load or a store

  int64_t bytes() const;
  /// Whether only the parts of a group would need it.
  bool isProvisional() const {
    return role == tile::Role::Temporary && groups.empty();
  }
};

/// Places every buffer in L2 if all fit, with temporaries sharing memory by
/// live range. Otherwise moves to L3 what costs least transfers for the bytes
/// that are missing. A diagnostic on `op` if L3 is not enough.
mlir::LogicalResult placeBuffers(const Target &target, int64_t operators,
                                 mlir::Operation *op,
                                 llvm::MutableArrayRef<PlannedBuffer> buffers);

/// Places the provisional buffers, each on its own: in L2 if there is room
/// beside what lives there at the time, otherwise in L3. Returns those that
/// no level has room for.
llvm::SmallVector<const PlannedBuffer *>
placeProvisional(const Target &target, int64_t operators,
                 llvm::MutableArrayRef<PlannedBuffer> buffers);

} // namespace td

#endif
