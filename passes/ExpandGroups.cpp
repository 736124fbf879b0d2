// Unrolls the tile loops of each group into jobs.
#include "lib/Planner/ExpandGroups.h"
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_EXPANDGROUPS
#include "passes/Passes.h.inc"
} // namespace td

namespace {

struct ExpandGroups : td::impl::ExpandGroupsBase<ExpandGroups> {
  void runOnOperation() override {
    if (failed(td::expandGroups(getOperation())))
      signalPassFailure();
  }
};

} // namespace
