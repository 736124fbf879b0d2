#include "dialects/Tile/Loop.h"
#include "dialects/Tile/Windows.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"
#include <limits>

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
#define GET_OP_CLASSES
#include "dialects/Tile/Loop.cpp.inc"

void TileDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/Tile/TileOps.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/Tile/Loop.cpp.inc"
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

/// Elements have whole bytes, and there are some of them, as many as 32 bits
/// address.
static LogicalResult verifyArray(Operation *op, MemRefType type) {
  Type element = type.getElementType();
  if (!element.isIntOrFloat() || element.getIntOrFloatBitWidth() % 8 != 0 ||
      element.getIntOrFloatBitWidth() > 64)
    return op->emitOpError("has elements of type ")
           << element << ", which are no numbers of 8 to 64 bits";
  constexpr int64_t most = int64_t(1) << 32;
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  for (int64_t size : type.getShape()) {
    if (size < 1 || size > most / bytes)
      return op->emitOpError("of ")
             << type << " has no element, or more than 32 bits address";
    bytes *= size;
  }
  return success();
}

LogicalResult BufferOp::verify() {
  auto type = getMemref().getType();
  if (failed(verifyArray(*this, type)))
    return failure();
  if (!type.getLayout().isIdentity())
    return emitOpError("must be row-major and contiguous");
  if (!isa_and_present<MemoryAttr>(type.getMemorySpace()))
    return emitOpError("needs a memory space #tile.memory<l1|l2|l3>");
  if ((getRole() == Role::Constant) != getInit().has_value())
    return emitOpError("has an init exactly if it is a constant");
  if (getInit()) {
    auto init = dyn_cast<DenseElementsAttr>(*getInit());
    if (!init || init.getElementType() != type.getElementType() ||
        init.getNumElements() != type.getNumElements())
      return emitOpError("has an init of as many elements, of its type");
  }
  return success();
}

LogicalResult GroupOp::verify() {
  size_t rank = getSizes().size();
  if (getTiles().size() != rank || getOrder().size() != rank)
    return emitOpError("needs one tile size and one place in the order per "
                       "dimension of the domain");
  SmallVector<bool> seen(rank, false);
  for (int64_t dim : getOrder()) {
    if (dim < 0 || dim >= (int64_t)rank || seen[dim])
      return emitOpError("order is no permutation of the domain's dimensions");
    seen[dim] = true;
  }
  for (auto [size, tile] : llvm::zip(getSizes(), getTiles()))
    if (tile < 1 || tile > size || size > std::numeric_limits<int32_t>::max())
      return emitOpError("tile sizes lie between 1 and the dimension's size");
  for (int64_t dim : getReductions())
    if (dim < 0 || dim >= (int64_t)rank)
      return emitOpError("reduction dimension out of range");
  size_t operands = getIns().size() + getOuts().size();
  Block &block = getBody().front();
  if (getMaps().size() != operands || block.getNumArguments() != operands)
    return emitOpError("needs one map and one block argument per operand");
  auto loop = dyn_cast<LoopOp>(getOperation()->getParentOp());
  if (Attribute listed = (*this)->getAttr(advanceAttrName)) {
    auto advance = dyn_cast<DenseI64ArrayAttr>(listed);
    if (!advance || advance.size() != (int64_t)operands || !loop)
      return emitOpError("has '")
             << advanceAttrName << "' per operand in a tile.loop alone";
  }
  for (auto [index, operand] : llvm::enumerate(getOperands())) {
    if (advanceOf(*this, index) != 0 &&
        cast<MemRefType>(operand.getType()).getRank() == 0)
      return emitOpError("operand #")
             << index << " has no dimension to move along";
    Attribute attr = getMaps()[index];
    BlockArgument argument = block.getArgument(index);
    auto type = cast<MemRefType>(operand.getType());
    AffineMap map = cast<AffineMapAttr>(attr).getValue();
    std::optional<SmallVector<AffineSum>> sums = affineSums(map);
    if (!sums || map.getNumDims() != rank || map.getNumSymbols() != 0 ||
        map.getNumResults() != type.getRank())
      return emitOpError("maps have a sum of multiples of the domain's "
                         "dimensions per dimension of the operand");
    bool output = operands - getOuts().size() <= index;
    SmallVector<bool> walked(rank, false);
    for (auto [i, sum] : llvm::enumerate(*sums)) {
      SmallVector<int64_t> last;
      for (int64_t size : getSizes())
        last.push_back(size - 1);
      int64_t end = sum.at(last), moved = 0;
      if (i == 0 && loop &&
          (llvm::MulOverflow<int64_t>(advanceOf(*this, index),
                                      (int64_t)loop.getRuns() - 1, moved) ||
           sum.constant + moved < 0))
        return emitOpError("operand #")
               << index << " moves out of its array in the loop";
      if (end >= type.getDimSize(i) ||
          std::max<int64_t>(moved, 0) >= type.getDimSize(i) - end)
        return emitOpError("operand's dimension ")
               << i << " is smaller than what the domain walks";
      if (!output)
        continue;
      if (sum.terms.size() > 1)
        return emitOpError("an output's dimension is walked by one dimension "
                           "of the domain at most");
      for (AffineSum::Term term : sum.terms)
        if (std::exchange(walked[term.dim], true))
          return emitOpError("an output is walked twice by a dimension");
    }
    if (!isa_and_present<MemoryAttr>(type.getMemorySpace()))
      return emitOpError("operands lie in #tile.memory<l1|l2|l3>");
    auto tile = dyn_cast<MemRefType>(argument.getType());
    if (!tile || tile.getRank() != type.getRank() ||
        tile.getElementType() != type.getElementType())
      return emitOpError("block arguments are tiles of the operands");
  }
  for (auto scratch : block.getOps<ScratchOp>()) {
    auto type = cast<MemRefType>(scratch.getMemref().getType());
    AffineMap map = scratch.getMap();
    if (!affineSums(map) || map.getNumDims() != rank ||
        map.getNumSymbols() != 0 || map.getNumResults() != type.getRank() ||
        !type.getElementType().isIntOrFloat())
      return scratch.emitOpError("needs a map with a sum of the domain's "
                                 "dimensions per dimension of its tile");
  }
  return success();
}

LogicalResult LoopOp::verify() {
  constexpr int64_t mostRuns = int64_t(1) << 16;
  if (getRuns() < 1 || getRuns() > mostRuns)
    return emitOpError("runs from 1 to ") << mostRuns << " times";
  for (Operation &op : getBody().front())
    if (!isa<GroupOp>(op))
      return op.emitOpError("is no group of a loop");
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

LogicalResult LinesOp::verify() {
  auto scratch = getTile().getDefiningOp<ScratchOp>();
  if (!scratch)
    return emitOpError("belongs to a scratch tile");
  if (getCount() < 1)
    return emitOpError("keeps one line or more");
  int64_t rank = getOperation()->getParentOfType<GroupOp>().getSizes().size();
  if (getAlong() < 0 || getAlong() >= rank ||
      !scratch.getMap().isFunctionOfDim(getAlong()))
    return emitOpError("is along a dimension that does not walk the tile");
  return success();
}

unsigned LinesOp::getLine() {
  AffineMap map = getTile().getDefiningOp<ScratchOp>().getMap();
  unsigned line = 0;
  while (!map.getResult(line).isFunctionOfDim(getAlong()))
    ++line;
  return line;
}

static Level levelOf(Value buffer) {
  return cast<MemoryAttr>(cast<MemRefType>(buffer.getType()).getMemorySpace())
      .getLevel();
}

/// Whether a window is one run of bytes in a row-major array.
static bool isContiguous(ArrayRef<int64_t> sizes, ArrayRef<int64_t> shape) {
  size_t first = 0;
  while (first < sizes.size() && sizes[first] == 1)
    ++first;
  for (size_t i = first + 1; i < sizes.size(); ++i)
    if (sizes[i] != shape[i])
      return false;
  return true;
}

LogicalResult ViewOp::verify() {
  auto source = cast<MemRefType>(getSource().getType()),
       result = cast<MemRefType>(getResult().getType());
  if (getOffsets().size() != (size_t)source.getRank() ||
      getSizes().size() != (size_t)source.getRank())
    return emitOpError(
        "needs one offset and one size per dimension of the source");
  for (auto [offset, size, bound] :
       llvm::zip(getOffsets(), getSizes(), source.getShape()))
    if (offset < 0 || size < 1 || offset > bound || size > bound - offset)
      return emitOpError("window lies outside the source");
  if (!isContiguous(getSizes(), source.getShape()))
    return emitOpError("window is not contiguous in the source");
  if (result.getShape() != getSizes() ||
      result.getElementType() != source.getElementType() ||
      result.getMemorySpace() != source.getMemorySpace() ||
      !result.getLayout().isIdentity())
    return emitOpError("result is the packed window of the source");
  return success();
}

int64_t ViewOp::getElementOffset() {
  int64_t elements = 0;
  for (auto [offset, bound] : llvm::zip(
           getOffsets(), cast<MemRefType>(getSource().getType()).getShape()))
    elements = elements * bound + offset;
  return elements;
}

LogicalResult AllocOp::verify() {
  auto type = getMemref().getType();
  auto space =
      dyn_cast_or_null<MemoryAttr>(cast<MemRefType>(type).getMemorySpace());
  if (!space || space.getLevel() == Level::L3)
    return emitOpError("lies in l1 or l2");
  if (!cast<MemRefType>(type).getLayout().isIdentity())
    return emitOpError("must be row-major and contiguous");
  return verifyArray(*this, cast<MemRefType>(type));
}

LogicalResult WaitOp::verify() {
  if (getTokens().empty())
    return emitOpError("needs a token");
  return success();
}

LogicalResult CallOp::verify() {
  for (Value operand : getOperands_()) {
    auto type = cast<MemRefType>(operand.getType());
    auto space = dyn_cast_or_null<MemoryAttr>(type.getMemorySpace());
    if (!space || space.getLevel() != Level::L1 ||
        !type.getLayout().isIdentity())
      return emitOpError("operands are packed row-major tiles in l1");
  }
  return success();
}

LogicalResult CallOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto kernel =
      symbols.lookupNearestSymbolFrom<func::FuncOp>(*this, getKernelAttr());
  if (!kernel)
    return emitOpError("calls ")
           << getKernelAttr() << ", which is no function of the module";
  size_t operands = getOperands_().size();
  if (kernel.getNumArguments() != operands + getIndices().size())
    return emitOpError("needs one operand or index per argument of ")
           << getKernelAttr();
  for (auto [operand, argument] :
       llvm::zip(getOperands_(), kernel.getArgumentTypes())) {
    auto type = cast<MemRefType>(operand.getType());
    auto formal = dyn_cast<MemRefType>(argument);
    if (!formal || formal.getElementType() != type.getElementType() ||
        failed(verifyCompatibleShape(formal.getShape(), type.getShape())))
      return emitOpError("passes ")
             << type << " for an argument of type " << argument;
  }
  for (Type argument : kernel.getArgumentTypes().drop_front(operands))
    if (!argument.isIndex())
      return emitOpError("passes an index for an argument of type ")
             << argument;
  return success();
}

LogicalResult CopyOp::verify() {
  for (Value side : {getArray(), getTile()})
    if (!isa_and_present<MemoryAttr>(
            cast<MemRefType>(side.getType()).getMemorySpace()))
      return emitOpError("both sides need a memory space");
  auto array = cast<MemRefType>(getArray().getType());
  auto tile = cast<MemRefType>(getTile().getType());
  if ((int)levelOf(getArray()) != (int)levelOf(getTile()) + 1)
    return emitOpError(
        "copies between l1 and l2, or l2 and l3, the tile on the nearer side");
  if (array.getElementType() != tile.getElementType())
    return emitOpError("sides differ in element type");
  if (getOffsets().size() != (size_t)array.getRank() ||
      getSizes().size() != (size_t)array.getRank())
    return emitOpError(
        "needs one offset and one size per dimension of the array");
  if (getSteps() && getSteps()->size() != (size_t)array.getRank())
    return emitOpError("needs one step per dimension of the array");
  int64_t elements = 1;
  for (auto [offset, size, step, bound] : llvm::zip(
           getOffsets(), getSizes(), getWindowSteps(), array.getShape())) {
    if (offset < 0 || size < 1 || step < 1 || offset >= bound || size > bound ||
        (size > 1 && step > bound) || offset + (size - 1) * step >= bound)
      return emitOpError("window lies outside the array");
    elements *= size;
  }
  if (elements != tile.getNumElements())
    return emitOpError("window and tile differ in size");
  return success();
}

SmallVector<int64_t> CopyOp::getWindowSteps() {
  if (std::optional<ArrayRef<int64_t>> steps = getSteps())
    return SmallVector<int64_t>(*steps);
  return SmallVector<int64_t>(getOffsets().size(), 1);
}
