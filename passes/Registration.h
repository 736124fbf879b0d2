// What a tool needs to have every pass and dialect of the compiler. Apart from
// Passes.h, whose dialects take half a minute to read.
#ifndef TD_PASSES_REGISTRATION_H
#define TD_PASSES_REGISTRATION_H

namespace mlir {
class DialectRegistry;
}

namespace td {
/// Registers every pass and pipeline with MLIR's global registry.
void registerAllPasses();
/// Inserts every dialect that the compiler reads or writes, and the external
/// models of its interfaces.
void registerAllDialects(mlir::DialectRegistry &registry);
} // namespace td

#endif
