// Loops over time: train.recurrence, and what passes do with it.
#ifndef TD_DIALECTS_TRAIN_RECURRENCE_H
#define TD_DIALECTS_TRAIN_RECURRENCE_H

#include "dialects/Train/Train.h"

#define GET_OP_CLASSES
#include "dialects/Train/Recurrence.h.inc"

namespace td::train {

/// Gives a recurrence every value of its body as an output, for the gradient to
/// choose from. The op is replaced.
RecurrenceOp keepAllValues(RecurrenceOp op);
/// Takes outputs without a use from a recurrence, which may be replaced.
void dropUnusedOutputs(RecurrenceOp op);

/// The sum of two cotangents of one value, either of which may be missing.
mlir::Value addCotangents(mlir::OpBuilder &builder, mlir::Location location,
                          mlir::Value a, mlir::Value b);

} // namespace td::train

#endif
