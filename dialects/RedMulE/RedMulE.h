// The redmule dialect: declarations. See README.md in this folder.
#ifndef TD_DIALECTS_REDMULE_H
#define TD_DIALECTS_REDMULE_H

#include "dialects/Tile/Tile.h"
#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/RegionKindInterface.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/RedMulE/RedMulEDialect.h.inc"
#include "dialects/RedMulE/RedMulEEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/RedMulE/RedMulEAttributes.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/RedMulE/RedMulETypes.h.inc"
#define GET_OP_CLASSES
#include "dialects/RedMulE/RedMulEOps.h.inc"

#endif
