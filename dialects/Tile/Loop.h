// Loops of a plan: tile.loop, and how the windows of its groups move.
#ifndef TD_DIALECTS_TILE_LOOP_H
#define TD_DIALECTS_TILE_LOOP_H

#include "dialects/Tile/Tile.h"

#define GET_OP_CLASSES
#include "dialects/Tile/Loop.h.inc"

namespace td::tile {

/// Attribute of a group in a loop: per operand the elements of its first
/// dimension that its window moves by from run to run.
inline constexpr llvm::StringLiteral advanceAttrName = "tile.advance";

/// What an operand's window moves by from run to run.
inline int64_t advanceOf(GroupOp group, unsigned operand) {
  auto advance = group->getAttrOfType<mlir::DenseI64ArrayAttr>(advanceAttrName);
  return advance ? advance[operand] : 0;
}

} // namespace td::tile

#endif
