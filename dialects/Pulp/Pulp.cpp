#include "dialects/Pulp/Pulp.h"

#include "lib/Runtime/jobs.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace td::pulp;

#include "dialects/Pulp/PulpDialect.cpp.inc"
#include "dialects/Pulp/PulpEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Pulp/PulpAttributes.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Pulp/PulpTypes.cpp.inc"
#define GET_OP_CLASSES
#include "dialects/Pulp/PulpOps.cpp.inc"

void PulpDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/Pulp/PulpOps.cpp.inc"
      >();
}

static LogicalResult verifyAddress(Operation *op, StringRef name,
                                   int64_t address, int64_t bytes) {
  constexpr int64_t end = int64_t(1) << 32;
  if (address < 0 || address > end || bytes > end - address)
    return op->emitOpError()
           << name << " address " << address << " does not fit 32 bits";
  return success();
}

/// Lines are given in full: `line` and `stride` together, whole lines, no
/// overlap.
static LogicalResult verifyLines(Operation *op, int64_t bytes,
                                 std::optional<int64_t> line,
                                 std::optional<int64_t> stride) {
  if (line.has_value() != stride.has_value())
    return op->emitOpError("needs a line and a stride, or neither");
  if (!line)
    return success();
  if (*stride >= (int64_t(1) << 32))
    return op->emitOpError("stride ") << *stride << " does not fit 32 bits";
  if (*line < 1 || bytes % *line != 0)
    return op->emitOpError()
           << bytes << " bytes are no whole number of lines of " << *line;
  if (*stride < *line)
    return op->emitOpError() << "lines of " << *line
                             << " bytes overlap with a stride of " << *stride;
  return success();
}

static LogicalResult verifySlot(Operation *op, int64_t slot, int64_t slots) {
  if (slot < 0 || slot >= slots)
    return op->emitOpError()
           << "slot " << slot << " is not one of 0 to " << slots - 1;
  return success();
}

/// Bytes from the first to the last one of `bytes` in lines.
static int64_t extent(int64_t bytes, std::optional<int64_t> line,
                      std::optional<int64_t> stride) {
  return line ? (bytes / *line - 1) * *stride + *line : bytes;
}

LogicalResult DmaStartOp::verify() {
  if (failed(verifySlot(*this, getSlot(), TD_DMA_SLOTS)))
    return failure();
  int64_t bytes = getBytes();
  if (bytes < 1 || bytes > TD_DMA_MAX_BYTES)
    return emitOpError("moves 1 to ")
           << TD_DMA_MAX_BYTES << " bytes, not " << bytes;
  if (failed(verifyLines(*this, bytes, getLine(), getStride())))
    return failure();
  if (getContinued()) {
    auto before = dyn_cast_or_null<DmaStartOp>((*this)->getPrevNode());
    if (!before || before.getSlot() != getSlot())
      return emitOpError("continues no command of slot ") << getSlot();
  }
  if (failed(verifyAddress(*this, "l1", getL1(), bytes)))
    return failure();
  return verifyAddress(*this, "l2", getL2(),
                       extent(bytes, getLine(), getStride()));
}

LogicalResult DmaWaitOp::verify() {
  return verifySlot(*this, getSlot(), TD_DMA_SLOTS);
}

LogicalResult HyperStartOp::verify() {
  if (failed(verifySlot(*this, getSlot(), TD_L3_SLOTS)))
    return failure();
  int64_t bytes = getBytes();
  if (bytes < 4 || bytes > TD_L3_MAX_BYTES)
    return emitOpError("moves 4 to ")
           << TD_L3_MAX_BYTES << " bytes, not " << bytes;
  for (int64_t value :
       {int64_t(getL3()), int64_t(getL2()), bytes,
        int64_t(getLine().value_or(0)), int64_t(getStride().value_or(0))})
    if (value % 4 != 0)
      return emitOpError("moves whole 32-bit words: ")
             << value << " is no multiple of 4";
  if (failed(verifyLines(*this, bytes, getLine(), getStride())) ||
      failed(verifyAddress(*this, "l2", getL2(), bytes)))
    return failure();
  return verifyAddress(*this, "l3", getL3(),
                       extent(bytes, getLine(), getStride()));
}

LogicalResult HyperWaitOp::verify() {
  return verifySlot(*this, getSlot(), TD_L3_SLOTS);
}

LogicalResult CallOp::verify() {
  constexpr int64_t maxArguments =
      TD_CHUNK_WORDS - TD_CHUNK_HEADER_WORDS - TD_NEXT_WORDS - 2;
  if ((int64_t)getArgs().size() > maxArguments)
    return emitOpError("passes ")
           << getArgs().size() << " words, at most " << maxArguments;
  for (int64_t word : getArgs())
    if (!llvm::isUInt<32>(word) && !llvm::isInt<32>(word))
      return emitOpError("argument ") << word << " does not fit 32 bits";
  return success();
}

LogicalResult CallOp::verifySymbolUses(SymbolTableCollection &symbols) {
  if (!symbols.lookupNearestSymbolFrom<FunctionOpInterface>(*this,
                                                            getKernelAttr()))
    return emitOpError("calls ")
           << getKernelAttr() << ", which is no function of the module";
  return success();
}
