// Python extension: dialects and passes on the contexts of the `mlir` package.
#include "lib/CostModel/CostModel.h"
#include "lib/Planner/Allocator.h"
#include "passes/Passes.h"

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
        auto op = llvm::dyn_cast<mlir::linalg::LinalgOp>(unwrap(operation));
        if (!op)
          throw nb::value_error("no linalg op");
        mlir::FailureOr<td::Target> target = td::Target::get(op);
        if (mlir::failed(target))
          throw nb::value_error("the op's module has no target description");
        llvm::SmallVector<llvm::SmallVector<int64_t>> shapes;
        for (mlir::Value operand : op->getOperands()) {
          auto type = llvm::dyn_cast<mlir::ShapedType>(operand.getType());
          shapes.emplace_back();
          if (type)
            shapes.back().assign(type.getShape().begin(),
                                 type.getShape().end());
        }
        return td::CostModel(*target).kernel(op, shapes).cycles;
      },
      nb::arg("op"),
      "Predicted cycles of a kernel, given as its linalg op on operands of "
      "static shape.");
}
