// Marks the parameters that a recipe trains.
#include "passes/Passes.h"

#include "llvm/ADT/StringSet.h"

namespace td {
#define GEN_PASS_DEF_APPLYRECIPE
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

namespace {
struct ApplyRecipe : td::impl::ApplyRecipeBase<ApplyRecipe> {
  using ApplyRecipeBase::ApplyRecipeBase;
  void runOnOperation() override {
    auto parameters = getOperation().getOps<td::train::ParameterOp>();
    if (trainable.empty()) {
      // Names may hold what the option's syntax cannot: then the marks are
      // there.
      if (llvm::any_of(parameters, [](auto op) { return op.getTrainable(); }))
        return;
      getOperation().emitError("the recipe trains nothing");
      return signalPassFailure();
    }
    llvm::StringSet<> missing;
    for (const std::string &name : trainable)
      missing.insert(name);
    for (auto parameter : parameters)
      parameter.setTrainable(missing.erase(parameter.getSymName()));
    for (const std::string &name : trainable)
      if (missing.contains(name)) {
        getOperation().emitError() << "the recipe trains '" << name
                                   << "', which is no parameter of the model";
        return signalPassFailure();
      }
  }
};
} // namespace
