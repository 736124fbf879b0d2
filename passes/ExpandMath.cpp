// Replaces functions of `math` by arithmetic that the cores have.
#include "lib/Kernels/MathExpansion.h"
#include "passes/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

namespace td {
#define GEN_PASS_DEF_EXPANDMATH
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

namespace {
struct ExpandMath : td::impl::ExpandMathBase<ExpandMath> {
  using ExpandMathBase::ExpandMathBase;
  void runOnOperation() override {
    ModuleOp module = getOperation();
    module.walk([&](Block *block) {
      for (td::TabulatedOp &function : td::findTabulated(*block)) {
        OpBuilder b(function.root);
        function.root->getResult(0).replaceAllUsesWith(
            td::expandTabulated(b, function, module));
        for (Operation *part : function.parts)
          part->erase();
        ++numTabulated;
      }
    });
    module.walk([&](Operation *op) {
      if (!isa_and_present<math::MathDialect>(op->getDialect()) ||
          td::isMathInstruction(op))
        return;
      OpBuilder b(op);
      if (Value result = td::expandMath(b, op, op->getOperands())) {
        op->getResult(0).replaceAllUsesWith(result);
        op->erase();
        ++numExpanded;
        return;
      }
      op->emitOpError(
          "has no expansion to the cores' arithmetic (types f32 and f16)");
      signalPassFailure();
    });
  }
};
} // namespace
