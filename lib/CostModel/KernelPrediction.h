// The cost model's price of one kernel, for who knows no dialect.
#ifndef TD_LIB_COSTMODEL_KERNELPREDICTION_H
#define TD_LIB_COSTMODEL_KERNELPREDICTION_H

#include <cstdint>
#include <optional>
#include <string>

namespace mlir {
class Operation;
}

namespace td {
/// Predicted cycles of a linalg op on operands of static shape, on the target
/// of its module. For anything else `reason` says what is missing.
std::optional<int64_t> predictedKernelCycles(mlir::Operation *operation,
                                             std::string &reason);
} // namespace td

#endif
