// td-opt: runs any pass or pipeline of the compiler, or upstream's, on text.
#include "passes/Registration.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Signals.h"
#include <unistd.h>

/// Whatever the text, the program ends in a diagnostic: an assertion, which has
/// said where it is, or an invalid access becomes an error.
static void endInDiagnostic(void *) {
  constexpr char message[] =
      "td-opt: error: internal error: an assertion or an invalid access in the "
      "compiler (TRAINDEEPLOY_DEBUG=1 shows the stack, "
      "--mlir-pass-pipeline-crash-reproducer=FILE keeps what leads there)\n";
  if (write(STDERR_FILENO, message, sizeof(message) - 1))
    _exit(EXIT_FAILURE);
  _exit(EXIT_FAILURE);
}

int main(int argc, char **argv) {
  auto debug = llvm::sys::Process::GetEnv("TRAINDEEPLOY_DEBUG");
  if (!debug || debug->empty() || *debug == "0")
    llvm::sys::AddSignalHandler(endInDiagnostic, nullptr);
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  mlir::registerAllPasses();
  td::registerAllDialects(registry);
  td::registerAllPasses();
  return mlir::asMainReturnCode(mlir::MlirOptMain(
      argc, argv, "TrainDeeploy optimizer driver\n", registry));
}
