// Turns parameters into arguments and results of the step, for the host.
#include "passes/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/MapVector.h"

namespace td {
#define GEN_PASS_DEF_PARAMETERSTOARGUMENTS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
struct ParametersToArguments
    : td::impl::ParametersToArgumentsBase<ParametersToArguments> {
  using ParametersToArgumentsBase::ParametersToArgumentsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step || !step.getBody().hasOneBlock()) {
      module.emitError("there is no function @step of one block");
      return signalPassFailure();
    }
    auto parameters = llvm::to_vector(module.getOps<ParameterOp>());
    llvm::MapVector<StringAttr, Value> values;
    for (ParameterOp parameter : parameters) {
      unsigned index = step.getNumArguments();
      if (failed(step.insertArgument(index, parameter.getType(), {},
                                     parameter.getLoc())))
        return signalPassFailure();
      values[parameter.getSymNameAttr()] = step.getArgument(index);
    }
    llvm::SmallDenseSet<StringAttr> assigned;
    Block &body = step.getBody().front();
    for (Operation &op :
         llvm::make_early_inc_range(body.without_terminator())) {
      if (auto read = dyn_cast<ReadOp>(op)) {
        read.replaceAllUsesWith(values[read.getParameterAttr().getAttr()]);
        read.erase();
      } else if (auto assign = dyn_cast<AssignOp>(op)) {
        StringAttr name = assign.getParameterAttr().getAttr();
        values[name] = assign.getValue();
        assigned.insert(name);
        assign.erase();
      }
    }
    SmallVector<Value> results(body.getTerminator()->getOperands());
    for (auto [name, value] : values)
      if (assigned.contains(name))
        results.push_back(value);
    body.getTerminator()->setOperands(results);
    step.setType(FunctionType::get(&getContext(), step.getArgumentTypes(),
                                   ValueRange(results).getTypes()));
    step->setAttr(LLVM::LLVMDialect::getEmitCWrapperAttrName(),
                  UnitAttr::get(&getContext()));
    for (ParameterOp parameter : parameters)
      parameter.erase();
  }
};
} // namespace
