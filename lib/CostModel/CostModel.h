// Predicted cycles of jobs, from the target description alone. One source for
// the planner, the schedule and the plan's table.
#ifndef TD_LIB_COSTMODEL_COSTMODEL_H
#define TD_LIB_COSTMODEL_COSTMODEL_H

#include "lib/Target/Target.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include <algorithm>

namespace td {

struct KernelPlan;

/// One RedMulE job Z[MxK] += X[MxN] W[NxK]: tiles of Z, of which the array or
/// the port decides how long each takes.
struct GemmCost {
  struct Tiles {
    double count = 0, array = 0, beats = 0;
  } full, partial;  // those of all rows, and the last ones
  double fixed = 0; // programming, first load, last store

  /// Its cycles if a beat of the port takes so many.
  double cycles(double beat) const {
    return fixed + full.count * std::max(full.array, beat * full.beats) +
           partial.count * std::max(partial.array, beat * partial.beats);
  }
  double beats() const {
    return full.count * full.beats + partial.count * partial.beats;
  }
};
/// One kernel on all cores of the cluster, from its call to the barrier after
/// it, with its code in the instruction caches.
struct KernelCost {
  int64_t cycles = 0;
  double accesses = 0;   // to L1, of all cores
  int64_t codeBytes = 0; // that it comes by
};

/// The machine's numbers, looked up once.
class CostModel {
public:
  explicit CostModel(const Target &target);

  /// Cycles of a cluster DMA transfer of `lines` lines of `lineBytes` bytes
  /// between L2 and L1, by so many commands, behind another one on the DMA.
  int64_t dmaCycles(int64_t commands, int64_t lines, int64_t lineBytes,
                    bool toL1) const;
  /// The same of a uDMA transfer between L3 and L2.
  int64_t hyperCycles(int64_t commands, int64_t lines, int64_t lineBytes,
                      bool toL3) const;
  GemmCost gemm(int64_t m, int64_t n, int64_t k, mlir::Type element) const;
  /// `kernel` is a linalg op on memrefs or tensors; `shapes` gives the sizes of
  /// its operands (inputs, then outputs).
  KernelCost kernel(mlir::linalg::LinalgOp kernel,
                    llvm::ArrayRef<llvm::SmallVector<int64_t>> shapes) const;
  /// The same for a caller that asks for many sizes: `plan` is the kernel's.
  KernelCost kernel(mlir::linalg::LinalgOp kernel, const KernelPlan &plan,
                    llvm::ArrayRef<llvm::SmallVector<int64_t>> shapes) const;
  /// Cycles of core 0 to issue a job of so many commands, to wait for one that
  /// is complete, and to call a kernel.
  int64_t issueCycles(int64_t commands = 1) const {
    return issue + (commands - 1) * command;
  }
  int64_t waitCycles, callCycles;

  /// What kernels depend on.
  struct Cluster {
    double cores, units, banks, takenBranch, loadUse, divide, barrier, multiply,
        divideInteger;
  };

private:
  int64_t dmaBytes, dmaStart, burstBytes, burstLatency;
  int64_t issue, command;
  double readByte, writeByte;
  int64_t hyperTransfer, readLine, writeLine;
  int64_t rows, columns, pipeline, portBytes, tileCycles, jobCycles;
  Cluster cluster;
};

} // namespace td

#endif
