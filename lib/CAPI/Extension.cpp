// Python extension: dialects and passes on the contexts of the `mlir` package.
#include "passes/Passes.h"

#include "mlir-c/Bindings/Python/Interop.h"
#include "mlir/Bindings/Python/NanobindAdaptors.h"
#include "mlir/CAPI/IR.h"
#include "mlir/CAPI/Registration.h"

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
      nb::arg("context"), "Registers and loads every dialect of the compiler on a context.");
}
