// The train dialect: declarations. See README.md in this folder.
#ifndef TD_DIALECTS_TRAIN_H
#define TD_DIALECTS_TRAIN_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/RegionKindInterface.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/Train/TrainDialect.h.inc"
#include "dialects/Train/TrainEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Train/TrainAttributes.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Train/TrainTypes.h.inc"
#define GET_OP_CLASSES
#include "dialects/Train/TrainOps.h.inc"

#endif
