// Puts a built-in target description on the module.
#include "lib/Target/Target.h"
#include "passes/Passes.h"

#include "mlir/AsmParser/AsmParser.h"

namespace td {
#define GEN_PASS_DEF_SETTARGET
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

namespace {

struct BuiltinTarget {
  StringRef name, attribute;
};
const BuiltinTarget builtinTargets[] = {
#include "lib/Target/BuiltinTargets.h.inc"
};

struct SetTarget : td::impl::SetTargetBase<SetTarget> {
  using SetTargetBase::SetTargetBase;
  void runOnOperation() override {
    for (const BuiltinTarget &target : builtinTargets)
      if (target.name == name) {
        getOperation()->setAttr(
            td::targetAttrName,
            parseAttribute(target.attribute, &getContext()));
        return;
      }
    InFlightDiagnostic diagnostic = getOperation().emitError()
                                    << "unknown target '" << name
                                    << "'; built in:";
    for (const BuiltinTarget &target : builtinTargets)
      diagnostic << " " << target.name;
    signalPassFailure();
  }
};

} // namespace
