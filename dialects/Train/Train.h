// The train dialect: declarations. See README.md in this folder.
#ifndef TD_DIALECTS_TRAIN_H
#define TD_DIALECTS_TRAIN_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/RegionKindInterface.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/Train/DifferentiableOpInterface.h.inc"

namespace td::train {
// The names that the declarations of upstream's AggregatedOpInterface leave
// unqualified.
using mlir::FailureOr;
using mlir::OpBuilder;
using mlir::SmallVector;
using mlir::Value;

/// Of an operator through which no gradient passes.
template <typename ConcreteOp>
struct StopsGradient : mlir::OpTrait::TraitBase<ConcreteOp, StopsGradient> {};
} // namespace td::train

#include "dialects/Train/TrainDialect.h.inc"
#include "dialects/Train/TrainEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Train/TrainAttributes.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Train/TrainTypes.h.inc"
#define GET_OP_CLASSES
#include "dialects/Train/TrainOps.h.inc"

namespace td::train {

/// Attaches DifferentiableOpInterface to the ops of upstream dialects that are
/// part of the training graph: linalg.matmul and tensor.collapse_shape /
/// expand_shape.
void registerDifferentiableExternalModels(mlir::DialectRegistry &registry);

/// The parameter whose snapshot `value` is, directly or through reshapes; null
/// if it is none.
mlir::StringAttr getSnapshotParameter(mlir::Value value);

/// Checks that no op of `block` uses a snapshot of a parameter (the result of
/// train.read, or a reshape of it) after a train.assign to that parameter:
/// then parameters can be updated in place, without copies.
mlir::LogicalResult verifySnapshots(mlir::Block &block);

/// Checks that `step` is what td-decompose guarantees: the closed set of ops on
/// tensors that docs/architecture.md lists, and snapshots that allow updates in
/// place.
mlir::LogicalResult verifyDecomposed(mlir::func::FuncOp step);

} // namespace td::train

#endif
