// The loop structure of a kernel on the cluster's cores: what td-lower-kernels
// emits and what the cost model counts. Both read this one description.
#ifndef TD_LIB_KERNELS_KERNELPLAN_H
#define TD_LIB_KERNELS_KERNELPLAN_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "llvm/ADT/SmallVector.h"
#include <optional>

namespace td {

/// A result of an indexing map: a sum of multiples of the op's dimensions, and
/// a constant.
struct AffineSum {
  llvm::SmallVector<int64_t> coefficients; ///< per dimension
  int64_t constant = 0;

  /// None if `expr` is something else, or a coefficient is negative.
  static std::optional<AffineSum> get(mlir::AffineExpr expr,
                                      unsigned dimensions);
  /// The dimension that the sum is, and nothing else.
  std::optional<unsigned> dimension() const;
};

/// An operand of a kernel: a packed row-major tile, or a scalar that the kernel
/// holds as a constant.
struct KernelOperand {
  llvm::SmallVector<unsigned> loops; ///< that walk it, in ascending order
  llvm::SmallVector<unsigned, 2> neighbours; ///< of these, those that go from
                                             ///< one element to the next
  unsigned bytes = 0; ///< size of an element; 0 for a scalar constant and for a
                      ///< tile of which only the sizes matter
  bool output = false;
  bool read = false; ///< the computation uses the element's value

  bool isTile() const { return bytes != 0; }
  bool has(unsigned loop) const { return llvm::is_contained(loops, loop); }
  /// The loop walks neighbouring elements.
  bool contiguous(unsigned loop) const {
    return llvm::is_contained(neighbours, loop);
  }
  /// The distance of neighbours along the loop is known at run time only.
  bool strided(unsigned loop) const { return has(loop) && !contiguous(loop); }
};

/// A way to run the iteration space. There are two:
///
/// - `streamed`: parallel loops one inside the other, the innermost (`cols`)
///   unrolled by `unroll`, for `rowBlock` iterations of `rows` together;
///   outputs are stored once per iteration. If it `transposes`, rows are where
///   an input is contiguous that the columns walk with a stride.
/// - otherwise `blocked`: a block of rows x cols results stays in registers
///   while the reductions run, the innermost unrolled by `unroll`.
struct LoopStructure {
  bool streamed = false, transposes = false;
  llvm::SmallVector<unsigned>
      outer; ///< parallel loops around the rest, outermost first
  std::optional<unsigned> rows, cols;
  llvm::SmallVector<unsigned> reductions; ///< outermost first
  unsigned unroll = 1;
  unsigned rowBlock = 1;
  llvm::SmallVector<unsigned, 3>
      colBlocks; ///< widths tried in turn, for full row blocks
  llvm::SmallVector<unsigned, 3>
      singleRowBlocks; ///< the same for rows one at a time

  /// Cores share parallel loops besides `cols`.
  bool sharesOuter() const { return rows || !outer.empty(); }
  /// These are several: cores share them as one loop over the outer ones and
  /// blocks of rows, each core from somewhere in the middle.
  bool linear() const { return outer.size() + (rows ? 1 : 0) > 1; }
  const llvm::SmallVector<unsigned, 3> &widths(unsigned height) const {
    return height == rowBlock ? colBlocks : singleRowBlocks;
  }
};

/// How the work is cut for the cores: `outer` x `inner` cores, the outer ones
/// along the other parallel loops and the inner ones along `cols`, in granules
/// of 2^shift iterations.
struct CoreGrid {
  unsigned outer = 1, inner = 1;
};

/// Granules (as shifts) that a loop structure shares out. They depend on the
/// sizes: small loops are shared out one iteration at a time.
struct Granules {
  unsigned outerShift = 0, innerShift = 0;
};

struct KernelPlan {
  llvm::SmallVector<llvm::SmallVector<unsigned>>
      loops; ///< per loop, the op's dimensions that it merges
  llvm::SmallVector<bool> reduction; ///< per loop
  llvm::SmallVector<bool>
      indexed; ///< per loop, its index is used by linalg.index
  llvm::SmallVector<KernelOperand> operands; ///< inputs, then outputs
  /// Per operand that is no scalar, the sums that index it.
  llvm::SmallVector<llvm::SmallVector<AffineSum>> sums;
  /// Per dimension of the op, the operand and its dimension that give its size.
  llvm::SmallVector<std::pair<unsigned, unsigned>> sizeOf;
  /// The factors of a contraction, an output plus their product: one fused
  /// multiply-add.
  std::optional<std::pair<unsigned, unsigned>> factors;
  /// The one result is the larger or smaller (or NaN) of what the body
  /// computes, and the result so far.
  mlir::Operation *extremum = nullptr;
  /// What the extremum, a maximum, takes of the body, if that is the larger of
  /// something and +0.
  mlir::Operation *cut = nullptr;
  /// The results are the largest element so far, the last NaN if there was one,
  /// and something that says which it is: the first in the order of the
  /// reduction.
  struct FirstMaximum {
    mlir::Value element, place;
    /// Operations of the body that decide and choose.
    llvm::SmallVector<mlir::Operation *, 5> chain;
  };
  std::optional<FirstMaximum> firstMaximum;
  /// Per loop, its size if the type of a tile of which only the sizes matter
  /// states it, otherwise 0.
  llvm::SmallVector<int64_t> known;
  unsigned bodyInstructions = 0; ///< roughly, for one element
  LoopStructure main;
  /// Taken if every reduction has one step: a rank-1 update is a stream.
  std::optional<LoopStructure> rankOne;

  /// The operands as a structure sees them: a stream of a kernel with
  /// reductions is taken if those have one step, so they separate no
  /// neighbours.
  llvm::SmallVector<KernelOperand>
  operandsOf(const LoopStructure &structure) const;

  /// Elements that loads run ahead of the computation.
  static constexpr unsigned lookAhead = 3;

  /// Taps of a window that tiles state in their types, so that kernels need no
  /// loop for them.
  static constexpr int64_t fewTaps = 8;

  /// All steps of the innermost reduction, if a block of this size does them
  /// without a loop; otherwise 0.
  int64_t straightSteps(const LoopStructure &structure, unsigned height,
                        unsigned width) const;

  /// Whether a block of this size runs several steps of the reduction for one
  /// result after the other.
  bool resultByResult(const LoopStructure &structure, unsigned height,
                      unsigned width) const;

  /// Selections of the body by one condition that holds for all elements or for
  /// none, if there are any: it depends on scalars only. There is code for
  /// either way.
  llvm::SmallVector<mlir::arith::SelectOp>
  uniformSelections(mlir::Block &body) const;

  /// Whether a value of the op's body changes from one iteration of the loop to
  /// the next.
  bool varies(mlir::Value value, unsigned loop) const;

  /// The loops that walk an operand which these sums index.
  void describeLoops(KernelOperand &operand,
                     llvm::ArrayRef<AffineSum> sums) const;

  /// The dimension that walks all of a tile's: the sum is it alone, and its
  /// size is no other tile's.
  std::optional<unsigned> covering(const AffineSum &sum) const;

  /// Analyses `op`; an error on it if it is no kernel that the cores can run.
  static mlir::FailureOr<KernelPlan> get(mlir::linalg::LinalgOp op);
};

/// The core grids that a kernel chooses from, in order of preference: the first
/// of those with the least work for the busiest core is taken.
llvm::SmallVector<CoreGrid> coreGrids(const LoopStructure &structure,
                                      unsigned cores);

/// Granules for these sizes of `rows` (or what takes its place; any number if
/// cores share several loops as one) and `cols`. The emission computes the same
/// at run time.
Granules granules(const LoopStructure &structure, unsigned cores,
                  int64_t rowsSize, int64_t innerSize);

/// Shift of the granule for a loop that is shared out in multiples of `block`
/// once it has enough of them.
inline unsigned log2OfBlock(unsigned block) { return llvm::Log2_32(block); }

} // namespace td

#endif
