// Windows of arrays: how affine maps of a group's domain address an operand,
// what of it a packed tile holds, and the runs of bytes that a copy moves.
#ifndef TD_DIALECTS_TILE_WINDOWS_H
#define TD_DIALECTS_TILE_WINDOWS_H

#include "mlir/IR/AffineMap.h"
#include <optional>

namespace td::tile {

/// One result of a map: `constant` plus the sum of coefficient times dimension,
/// every coefficient positive, dimensions ascending.
struct AffineSum {
  struct Term {
    unsigned dim;
    int64_t coefficient;
  };
  int64_t constant = 0;
  llvm::SmallVector<Term, 2> terms;

  /// Nothing if the expression is no such sum.
  static std::optional<AffineSum> get(mlir::AffineExpr expression);
  /// At the given values of the dimensions.
  int64_t at(llvm::ArrayRef<int64_t> dims) const;
};

/// The sums of a map's results; nothing if one is none.
std::optional<llvm::SmallVector<AffineSum>> affineSums(mlir::AffineMap map);

/// The same for a map that is known to have them.
llvm::SmallVector<AffineSum> sumsOf(mlir::AffineMap map);

/// `constant + sum coefficient * dim` for each of the sums.
mlir::AffineMap mapOf(llvm::ArrayRef<AffineSum> sums, unsigned dims,
                      mlir::MLIRContext *context);

/// A sum's terms, the one with the largest coefficient first: the order in
/// which elements of a nest follow each other, which that of the dimensions'
/// numbers need not be.
llvm::SmallVector<AffineSum::Term, 2> outermostFirst(const AffineSum &sum);

/// Whether one dimension walks the sum, or two do as one would: `n*i + j`, j
/// of size n and not tiled where i has tiles of several elements.
bool isNest(const AffineSum &sum, llvm::ArrayRef<int64_t> sizes,
            llvm::ArrayRef<int64_t> tiles);

/// The map by which a computation addresses the packed tile of an operand whose
/// results are all of one dimension at most: constants and strides are dropped.
/// Results of several dimensions keep their coefficients.
mlir::AffineMap layoutOf(mlir::AffineMap map);

/// An operand of a group under given tile sizes. A tile holds, of each
/// dimension of the array, every `step`-th element: the coefficients' greatest
/// common divisor over those dimensions of the domain whose tiles have more
/// than one element.
class TiledOperand {
public:
  TiledOperand() = default;
  TiledOperand(mlir::AffineMap map, llvm::ArrayRef<int64_t> tiles);
  void setTiles(llvm::ArrayRef<int64_t> tiles);

  /// Elements of the packed tile along each dimension of the array, for the
  /// tile's extents in the domain.
  llvm::SmallVector<int64_t, 4> shape(llvm::ArrayRef<int64_t> extents) const;
  /// The first element, where the tile starts at `starts` of the domain.
  llvm::SmallVector<int64_t, 4> offsets(llvm::ArrayRef<int64_t> starts) const;
  llvm::ArrayRef<int64_t> steps() const { return stepOf; }
  llvm::ArrayRef<AffineSum> sums() const { return all; }

private:
  llvm::SmallVector<AffineSum> all;
  llvm::SmallVector<int64_t, 4> stepOf;
};

/// A window of a row-major array as a nest of (count, stride in bytes),
/// outermost first, around runs of contiguous bytes: the least nest there is.
struct WindowNest {
  int64_t begin = 0, run = 0;
  llvm::SmallVector<std::pair<int64_t, int64_t>, 4> nest;

  WindowNest(llvm::ArrayRef<int64_t> shape, llvm::ArrayRef<int64_t> offsets,
             llvm::ArrayRef<int64_t> sizes, llvm::ArrayRef<int64_t> steps,
             int64_t elementBytes);
  /// Runs of bytes that a window has.
  int64_t runs() const;
  /// Commands of a DMA that moves one level of the nest at once.
  int64_t commands() const;
};

} // namespace td::tile

#endif
