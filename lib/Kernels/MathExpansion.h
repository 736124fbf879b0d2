// Functions of `math` in terms of arithmetic that the cores have. docs/math.md
// derives them and states their errors.
#ifndef TD_LIB_KERNELS_MATHEXPANSION_H
#define TD_LIB_KERNELS_MATHEXPANSION_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"

namespace td {

/// The value of `op`, a function of `math` on f32 or f16, built before it from
/// `arith` operations, `math.fma`, `absf`, `copysign` and `sqrt`; null if `op`
/// is none of the functions that are expanded (a power: with a constant
/// exponent). `operands` replace op's own.
mlir::Value expandMath(mlir::OpBuilder &b, mlir::Operation *op,
                       mlir::ValueRange operands);

/// Whether the cores have an instruction for this function of `math`.
bool isMathInstruction(mlir::Operation *op);

//===--- Functions by tables
//----------------------------------------------------===//
// GELU and its slope take two long polynomials when they are computed as they
// are written, by erf and exp. A short one for each of some intervals, from a
// table in L1, takes a fraction of that.

/// x Phi(x), and its derivative.
enum class Tabulated { Gelu, GeluSlope };

/// Operations of a block that are such a function together.
struct TabulatedOp {
  Tabulated function;
  mlir::Value x;
  mlir::Operation *root; ///< its result is the function's
  /// What only this function, and others ahead of it in the list, use: the root
  /// first, users ahead of what they use.
  llvm::SmallVector<mlir::Operation *> parts;
};
llvm::SmallVector<TabulatedOp> findTabulated(mlir::Block &block);

/// The function's value, built with `b`. The table is a global of `module`, in
/// the section that the linker gives a place in L1.
mlir::Value expandTabulated(mlir::OpBuilder &b, const TabulatedOp &op,
                            mlir::ModuleOp module);

/// Bytes of L1 for the tables that the module's kernels need, before and after
/// their expansion.
int64_t tableBytes(mlir::ModuleOp module);

} // namespace td

#endif
