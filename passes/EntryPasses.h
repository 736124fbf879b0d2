// Passes that make entries of a program which do not train.
#ifndef TD_PASSES_ENTRYPASSES_H
#define TD_PASSES_ENTRYPASSES_H

#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DECL
#include "passes/EntryPasses.h.inc"

/// What a step without updates returns: the prediction, or loss and metrics.
enum class Entry { Infer, Evaluate };

/// Options of the pipeline td-entry; those of losses are for `evaluate`.
struct EntryOptions : GraphOptions {
  Option<Entry> entry{
      *this, "entry", llvm::cl::desc("What the step is for"),
      llvm::cl::init(Entry::Infer),
      llvm::cl::values(clEnumValN(Entry::Infer, "infer", "the prediction"),
                       clEnumValN(Entry::Evaluate, "evaluate",
                                  "loss and metrics, as sums"))};
  ListOption<int64_t> top{
      *this, "top",
      llvm::cl::desc("Numbers of largest logits to look for the label in")};
  Option<bool> absoluteError{*this, "absolute-error",
                             llvm::cl::desc("Sum up absolute errors as well"),
                             llvm::cl::init(false)};
};
} // namespace td

#endif
