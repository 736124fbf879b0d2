// Functions of `math` in terms of arithmetic that the cores have. docs/math.md
// derives them and states their errors.
#ifndef TD_LIB_KERNELS_MATHEXPANSION_H
#define TD_LIB_KERNELS_MATHEXPANSION_H

#include "mlir/IR/Builders.h"

namespace td {

/// The value of `op`, a function of `math` on f32 or f16, built before it from
/// `arith` operations, `math.fma`, `absf`, `copysign` and `sqrt`; null if `op`
/// is none of the functions that are expanded (a power: with a constant
/// exponent). `operands` replace op's own.
mlir::Value expandMath(mlir::OpBuilder &b, mlir::Operation *op,
                       mlir::ValueRange operands);

/// Whether the cores have an instruction for this function of `math`.
bool isMathInstruction(mlir::Operation *op);

} // namespace td

#endif
