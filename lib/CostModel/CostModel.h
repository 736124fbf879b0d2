// Predicted cycles of jobs, from the target description alone. One source for
// the planner, the schedule and the plan's table.
#ifndef TD_LIB_COSTMODEL_COSTMODEL_H
#define TD_LIB_COSTMODEL_COSTMODEL_H

#include "lib/Target/Target.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"

namespace td {

/// Cycles of a cluster DMA transfer of `lines` lines of `lineBytes` bytes
/// between L2 and L1, by so many commands, alone on the DMA.
int64_t dmaCycles(const Target &target, int64_t commands, int64_t lines,
                  int64_t lineBytes);

/// Cycles of one uDMA transfer between L3 and L2.
int64_t hyperCycles(const Target &target, int64_t lines, int64_t lineBytes,
                    bool toL3);

/// Cycles of one RedMulE job Z[MxK] += X[MxN] W[NxK], programming included.
int64_t redmuleCycles(const Target &target, int64_t m, int64_t n, int64_t k,
                      mlir::Type element);

/// Cycles of one kernel on all cores of the cluster, from its call to the
/// barrier after it. `kernel` is a linalg op on memrefs or tensors; `shapes`
/// gives the sizes of its operands (inputs, then outputs).
int64_t kernelCycles(const Target &target, mlir::linalg::LinalgOp kernel,
                     llvm::ArrayRef<llvm::SmallVector<int64_t>> shapes);

} // namespace td

#endif
