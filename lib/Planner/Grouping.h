// Which operators of a training step share one tiled loop nest.
#ifndef TD_LIB_PLANNER_GROUPING_H
#define TD_LIB_PLANNER_GROUPING_H

#include "lib/Planner/Views.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"

namespace td {

/// An operator of a group: `dims[i]` is the group's dimension that the op's
/// loop i walks.
struct GroupMember {
  mlir::linalg::LinalgOp op;
  llvm::SmallVector<unsigned> dims;
};

/// A reduction over windows (a pooling) of what a contraction makes, on the
/// same tiles. Windows go along lines, the slices of one dimension, which are
/// cut, and across them. A tile of `stride` lines for each window ends with its
/// last window: lines that this one shares with the next are kept.
struct Pooling {
  unsigned from = 0;         // index of the member that reduces windows
  mlir::Value source, input; // what the contraction's chain makes; what is read
  llvm::SmallVector<mlir::Operation *> between; // that make one of the other
  unsigned dim = 0;                     // of the group, that walks the windows
  std::optional<unsigned> lineInWindow; // one of size `stride`, if that is > 1
  int64_t stride = 1, kept = 0;         // lines
  mlir::TypedAttr padding;              // ahead of the first line
  /// Results across the lines that have the same taps, those outside of the
  /// source left out: dimensions of the group for these results and their taps.
  struct Part {
    unsigned results, taps;
    int64_t firstResult, firstTap;
  };
  llvm::SmallVector<Part> parts; // none: the windows do not go across lines
  unsigned resultLoop = 0, tapLoop = 0; // of the reduction that these are of
  int64_t ahead = 0;                    // elements of padding ahead of a line
};

/// A matmul or another structured op (the anchor, first in `members`) with the
/// element-wise ops that consume its results on the same iteration domain; or
/// two such chains that share a tile (see mergeSiblings); or any ops but
/// contractions whose tiles hold the rows that they sum over as a whole; or a
/// chain with a contraction and such ops, or a pooling, behind it.
struct OperatorGroup {
  llvm::SmallVector<GroupMember> members;
  llvm::SmallVector<int64_t> sizes;      // of the anchor's loops
  llvm::SmallVector<int64_t> reductions; // the anchor's reduction loops
  llvm::SmallVector<int64_t> whole;      // dimensions that must not be tiled
  llvm::SmallVector<int64_t> unit;       // dimensions with tiles of 1
  bool rowwise = false; // every member runs in every tile, in order
  unsigned secondChain =
      0; // index of the second chain's anchor, if there is one
  /// Index of the first member that works on whole rows of what a contraction
  /// makes, if there is one.
  unsigned rowsFrom = 0;
  std::optional<Pooling> pooling;
  /// The groups that a contraction and what follows it can also be, that last.
  std::vector<OperatorGroup> parts;
  llvm::SmallVector<unsigned>
      predecessors; // groups that must run before, by place in the order

  /// Whether the op, or view between two of them, is a member.
  bool contains(mlir::Operation *op) const;
};

/// Operators that are not to be fused row by row, those that are not to be
/// fused with a contraction, and poolings that are not to share its tiles.
struct KeptApart {
  llvm::DenseSet<mlir::Operation *> fromRows, fromContractions, poolings;
  size_t size() const {
    return fromRows.size() + fromContractions.size() + poolings.size();
  }
};

/// Groups every linalg op of `step` and returns the groups in an execution
/// order that respects data flow and in-place updates of parameters. Fills are
/// not grouped: they are how a group starts its sums. Where rows are summed and
/// the sums used for the same rows (a softmax, a layer norm), one row of all
/// that is involved has to fit in `rowBytes`.
/// Requires the closed set of ops that td-decompose leaves.
mlir::FailureOr<std::vector<OperatorGroup>> formGroups(mlir::func::FuncOp step,
                                                       const StepViews &views,
                                                       int64_t rowBytes,
                                                       const KeptApart &apart);

/// One group for `first`, a matmul that reads a parameter (an input gradient),
/// and `second`, a matmul whose epilogue updates that parameter in place (its
/// weight gradient), so that a tile of the parameter is loaded once for both.
/// The sum of the second (over the batch) is then whole in each tile. Nothing
/// if the two do not have that form.
std::optional<OperatorGroup> mergeSiblings(const OperatorGroup &first,
                                           const OperatorGroup &second,
                                           const StepViews &views);

/// Whether an op adds the product of its two inputs to its output.
bool accumulatesProducts(mlir::linalg::LinalgOp op);

/// Whether an op multiplies matrices: products of elements of two inputs, one
/// of which is used for many results.
bool isContraction(mlir::linalg::LinalgOp op);

/// Makes the op's `linalg.index` of each loop count from what `start` makes
/// behind it, if that is anything.
void startIndices(
    mlir::linalg::LinalgOp op,
    llvm::function_ref<mlir::Value(mlir::OpBuilder &, unsigned loop)> start);

/// What `tensor.collapse_shape` and `expand_shape` start from.
mlir::Value viewSource(mlir::Value value);

/// The constant that every element of `value` has, or null. Slices are seen
/// through.
mlir::TypedAttr splatOf(mlir::Value value);

} // namespace td

#endif
