// Lowers copies between buffers to loops.
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_LOWERCOPIES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

namespace {
struct LowerCopies : td::impl::LowerCopiesBase<LowerCopies> {
  using LowerCopiesBase::LowerCopiesBase;

  void runOnOperation() override {
    SmallVector<memref::CopyOp> copies;
    getOperation().walk([&](memref::CopyOp copy) { copies.push_back(copy); });
    for (memref::CopyOp copy : copies) {
      OpBuilder builder(copy);
      linalg::CopyOp::create(builder, copy.getLoc(),
                             ValueRange{copy.getSource()},
                             ValueRange{copy.getTarget()});
      copy.erase();
    }
  }
};
} // namespace
