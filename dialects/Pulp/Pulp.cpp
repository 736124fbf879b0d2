#include "dialects/Pulp/Pulp.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
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
