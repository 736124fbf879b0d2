// Passes that know loops over time and nothing else.
#ifndef TD_PASSES_RECURRENCEPASSES_H
#define TD_PASSES_RECURRENCEPASSES_H

#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DECL
#include "passes/RecurrencePasses.h.inc"
} // namespace td

#endif
