// The pulp dialect: declarations. See README.md in this folder.
#ifndef TD_DIALECTS_PULP_H
#define TD_DIALECTS_PULP_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/RegionKindInterface.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/Pulp/PulpDialect.h.inc"
#include "dialects/Pulp/PulpEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Pulp/PulpAttributes.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Pulp/PulpTypes.h.inc"
#define GET_OP_CLASSES
#include "dialects/Pulp/PulpOps.h.inc"

#endif
