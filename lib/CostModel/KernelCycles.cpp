#include "lib/CostModel/CostModel.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;

namespace td {

int64_t kernelCycles(const Target &target, linalg::LinalgOp kernel,
                     ArrayRef<SmallVector<int64_t>> shapes) {
  SmallVector<int64_t> loops(kernel.getNumLoops(), 1);
  for (auto [map, shape] : llvm::zip(kernel.getIndexingMapsArray(), shapes))
    for (unsigned i = 0; i < map.getNumResults(); ++i)
      loops[map.getDimPosition(i)] = shape[i];
  int64_t elements = 1, work = kernel->getNumOperands();
  for (int64_t loop : loops)
    elements *= loop;
  work += llvm::range_size(kernel.getBlock()->getOperations());
  return 60 +
         llvm::divideCeil(elements * work, target.integer("cores", "count"));
}

} // namespace td
