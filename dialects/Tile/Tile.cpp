#include "dialects/Tile/Tile.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace td::tile;

#include "dialects/Tile/TileDialect.cpp.inc"
#include "dialects/Tile/TileEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Tile/TileAttributes.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Tile/TileTypes.cpp.inc"
#define GET_OP_CLASSES
#include "dialects/Tile/TileOps.cpp.inc"

void TileDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/Tile/TileOps.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/Tile/TileAttributes.cpp.inc"
      >();
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/Tile/TileTypes.cpp.inc"
      >();
}

LogicalResult BufferOp::verify() {
  auto type = getMemref().getType();
  if (!type.getLayout().isIdentity())
    return emitOpError("must be row-major and contiguous");
  if (!isa_and_present<MemoryAttr>(type.getMemorySpace()))
    return emitOpError("needs a memory space #tile.memory<l1|l2|l3>");
  if ((getRole() == Role::Constant) != getInit().has_value())
    return emitOpError("has an init exactly if it is a constant");
  return success();
}

LogicalResult GroupOp::verify() {
  size_t rank = getSizes().size();
  if (getTiles().size() != rank || getOrder().size() != rank)
    return emitOpError("needs one tile size and one place in the order per dimension of the domain");
  SmallVector<bool> seen(rank, false);
  for (int64_t dim : getOrder()) {
    if (dim < 0 || dim >= (int64_t)rank || seen[dim])
      return emitOpError("order is no permutation of the domain's dimensions");
    seen[dim] = true;
  }
  for (auto [size, tile] : llvm::zip(getSizes(), getTiles()))
    if (tile < 1 || tile > size)
      return emitOpError("tile sizes lie between 1 and the dimension's size");
  for (int64_t dim : getReductions())
    if (dim < 0 || dim >= (int64_t)rank)
      return emitOpError("reduction dimension out of range");
  size_t operands = getIns().size() + getOuts().size();
  Block &block = getBody().front();
  if (getMaps().size() != operands || block.getNumArguments() != operands)
    return emitOpError("needs one map and one block argument per operand");
  for (auto [operand, attr, argument] :
       llvm::zip(getOperands(), getMaps(), block.getArguments())) {
    auto type = cast<MemRefType>(operand.getType());
    AffineMap map = cast<AffineMapAttr>(attr).getValue();
    if (!map.isProjectedPermutation() || map.getNumDims() != rank ||
        map.getNumResults() != type.getRank())
      return emitOpError("maps are projections of the domain on the operand's dimensions");
    for (unsigned i = 0; i < map.getNumResults(); ++i)
      if (type.getDimSize(i) != getSizes()[map.getDimPosition(i)])
        return emitOpError("operand's dimension ") << i << " differs from the domain's size";
    auto tile = dyn_cast<MemRefType>(argument.getType());
    if (!tile || tile.getRank() != type.getRank() || tile.getElementType() != type.getElementType())
      return emitOpError("block arguments are tiles of the operands");
  }
  return success();
}

LogicalResult StageOp::verify() {
  Block &block = getBody().front();
  if (block.empty() || !isa<linalg::LinalgOp>(block.back()))
    return emitOpError("ends in one linalg op");
  for (Operation &op : llvm::make_range(block.begin(), std::prev(block.end())))
    if (!op.hasTrait<OpTrait::ConstantLike>())
      return emitOpError("holds one linalg op and the constants that it reads");
  return success();
}

static Level levelOf(Value buffer) {
  return cast<MemoryAttr>(cast<MemRefType>(buffer.getType()).getMemorySpace()).getLevel();
}

LogicalResult CopyOp::verify() {
  for (Value side : {getArray(), getTile()})
    if (!isa_and_present<MemoryAttr>(cast<MemRefType>(side.getType()).getMemorySpace()))
      return emitOpError("both sides need a memory space");
  auto array = cast<MemRefType>(getArray().getType());
  auto tile = cast<MemRefType>(getTile().getType());
  if ((int)levelOf(getArray()) != (int)levelOf(getTile()) + 1)
    return emitOpError("copies between l1 and l2, or l2 and l3, the tile on the nearer side");
  if (array.getElementType() != tile.getElementType())
    return emitOpError("sides differ in element type");
  if (getOffsets().size() != (size_t)array.getRank() || getSizes().size() != (size_t)array.getRank())
    return emitOpError("needs one offset and one size per dimension of the array");
  int64_t elements = 1;
  for (auto [offset, size, bound] : llvm::zip(getOffsets(), getSizes(), array.getShape())) {
    if (offset < 0 || size < 1 || offset + size > bound)
      return emitOpError("window lies outside the array");
    elements *= size;
  }
  if (elements != tile.getNumElements())
    return emitOpError("window and tile differ in size");
  return success();
}
