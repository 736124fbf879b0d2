#include "dialects/RedMulE/RedMulE.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace td::redmule;

#include "dialects/RedMulE/RedMulEDialect.cpp.inc"
#include "dialects/RedMulE/RedMulEEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/RedMulE/RedMulEAttributes.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/RedMulE/RedMulETypes.cpp.inc"
#define GET_OP_CLASSES
#include "dialects/RedMulE/RedMulEOps.cpp.inc"

void RedMulEDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/RedMulE/RedMulEOps.cpp.inc"
      >();
}

static constexpr int64_t maxSize =
    65535; // the job registers hold 16 bits a size

LogicalResult GemmOp::verify() {
  auto x = cast<MemRefType>(getX().getType()),
       w = cast<MemRefType>(getW().getType()),
       z = cast<MemRefType>(getZ().getType());
  for (MemRefType type : {x, w, z}) {
    if ((type.getRank() != 2 && !getSizes()) || !type.getLayout().isIdentity())
      return emitOpError("operands are packed row-major matrices");
    auto space = dyn_cast_or_null<tile::MemoryAttr>(type.getMemorySpace());
    if (!space || space.getLevel() != tile::Level::L1)
      return emitOpError("operands lie in L1");
    if (type.getElementType() != z.getElementType() ||
        !(z.getElementType().isF32() || z.getElementType().isF16()))
      return emitOpError("operands are all f32 or all f16");
  }
  if (getSizes() && getSizes()->size() != 3)
    return emitOpError("sizes are M, N and K");
  SmallVector<int64_t, 3> sizes = getJobSizes();
  for (int64_t size : sizes)
    if (size < 1 || size > maxSize)
      return emitOpError("size ")
             << size << " does not fit the job's 16-bit registers";
  if (getSizes() ? x.getNumElements() != sizes[0] * sizes[1] ||
                       w.getNumElements() != sizes[1] * sizes[2] ||
                       z.getNumElements() != sizes[0] * sizes[2]
                 : x.getDimSize(1) != w.getDimSize(0) ||
                       x.getDimSize(0) != z.getDimSize(0) ||
                       w.getDimSize(1) != z.getDimSize(1))
    return emitOpError("needs X: MxN, W: NxK, Z: MxK");
  return success();
}

SmallVector<int64_t, 3> GemmOp::getJobSizes() {
  if (std::optional<ArrayRef<int64_t>> sizes = getSizes())
    return SmallVector<int64_t, 3>(*sizes);
  auto x = cast<MemRefType>(getX().getType()),
       w = cast<MemRefType>(getW().getType());
  return {x.getDimSize(0), x.getDimSize(1), w.getDimSize(1)};
}

LogicalResult StartOp::verify() {
  for (int64_t size : {getM(), getN(), getK()})
    if (size < 1 || size > maxSize)
      return emitOpError("size ")
             << size << " does not fit the job's 16-bit registers";
  int64_t elementBytes = getFormat().getIntOrFloatBitWidth() / 8;
  for (int64_t address : {getX(), getW(), getZ()})
    if (address < 0 || address >= (int64_t(1) << 32) ||
        address % elementBytes != 0)
      return emitOpError("address ")
             << address << " is no 32-bit address of an element";
  return success();
}
