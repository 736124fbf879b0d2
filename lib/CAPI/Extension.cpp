// Python extension: dialects and passes on the contexts of the `mlir` package.
#include "lib/CostModel/KernelPrediction.h"
#include "lib/Planner/Allocator.h"
#include "passes/Registration.h"

#include "mlir-c/Bindings/Python/Interop.h"
#include "mlir/Bindings/Python/NanobindAdaptors.h"
#include "mlir/CAPI/IR.h"
#include "mlir/CAPI/Registration.h"
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

NB_MODULE(_td, m) {
  m.doc() = "TrainDeeploy's dialects and passes for the mlir package";
  td::registerAllPasses();
  m.def(
      "register_dialects",
      [](MlirContext context) {
        mlir::DialectRegistry registry;
        td::registerAllDialects(registry);
        unwrap(context)->appendDialectRegistry(registry);
        unwrap(context)->loadAllAvailableDialects();
      },
      nb::arg("context"),
      "Registers and loads every dialect of the compiler on a context.");
  m.def(
      "place_ranges",
      [](const std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>
             &ranges,
         int64_t capacity) {
        std::vector<td::LiveRange> live;
        for (auto [bytes, alignment, begin, end] : ranges)
          live.push_back({bytes, alignment, begin, end});
        td::Placement placement = td::placeRanges(live, capacity);
        return std::make_tuple(placement.offsets, placement.peak,
                               placement.lowerBound);
      },
      nb::arg("ranges"), nb::arg("capacity"),
      "Offsets, in bytes, for arrays given as (bytes, alignment, begin, end), "
      "live at the positions [begin, end): "
      "(offsets, peak, lower bound of any placement). Looks harder while the "
      "peak is above the capacity.");
  m.def(
      "kernel_cycles",
      [](MlirOperation operation) -> int64_t {
        std::string reason;
        if (auto cycles = td::predictedKernelCycles(unwrap(operation), reason))
          return *cycles;
        throw nb::value_error(reason.c_str());
      },
      nb::arg("op"),
      "Predicted cycles of a kernel, given as its linalg op on operands of "
      "static shape.");
}
