// Turns the forward function into a training step that returns the loss.
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_ATTACHLOSS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
struct AttachLoss : td::impl::AttachLossBase<AttachLoss> {
  using AttachLossBase::AttachLossBase;

  void runOnOperation() override {
    if (failed(attach()))
      signalPassFailure();
  }

  LogicalResult attach() {
    ModuleOp module = getOperation();
    bool crossEntropy = loss == "cross-entropy";
    if (!crossEntropy && loss != "mse" && loss != "l1" &&
        loss != "bce-with-logits")
      return module.emitError()
             << "unknown loss '" << loss
             << "'; there are mse, l1, bce-with-logits and cross-entropy";
    if (reduction != "mean" && reduction != "sum")
      return module.emitError() << "unknown reduction '" << reduction
                                << "'; there are mean and sum";
    if (!(smoothing >= 0.0 && smoothing <= 1.0) ||
        (smoothing != 0.0 && !crossEntropy))
      return module.emitError(
          "label smoothing is a number from 0 to 1, for cross entropy only");
    auto forward = module.lookupSymbol<func::FuncOp>("forward");
    if (!forward || !forward.getBody().hasOneBlock())
      return module.emitError(
          "the module has no function @forward of one block");
    if (forward.getNumResults() != 1)
      return forward.emitError()
             << "the model has " << forward.getNumResults()
             << " results; training needs exactly one, the prediction";
    auto type = dyn_cast<RankedTensorType>(forward.getResultTypes()[0]);
    if (!type || !type.hasStaticShape() ||
        !isa<FloatType>(type.getElementType()))
      return forward.emitError()
             << "the prediction is " << forward.getResultTypes()[0]
             << "; training needs a tensor of floats with a static shape";
    if (crossEntropy && type.getRank() != 2)
      return forward.emitError()
             << "cross entropy needs logits of shape [N, C]; the prediction is "
             << type;

    OpBuilder builder(&getContext());
    StringAttr name = builder.getStringAttr(crossEntropy ? "labels" : "target");
    for (unsigned i = 0; i < forward.getNumArguments(); ++i)
      if (forward.getArgAttr(i, "train.name") == name)
        return forward.emitError()
               << "the model already has an input named '" << name.getValue()
               << "', which is the name of the loss's input";

    Location loc = NameLoc::get(builder.getStringAttr("loss (" + loss + ")"),
                                forward.getLoc());
    Type targetType = type;
    if (crossEntropy)
      targetType =
          RankedTensorType::get({type.getDimSize(0)}, builder.getI32Type());
    unsigned index = forward.getNumArguments();
    if (failed(forward.insertArgument(
            index, targetType,
            builder.getDictionaryAttr(builder.getNamedAttr("train.name", name)),
            loc)))
      return failure();
    auto exit = cast<func::ReturnOp>(forward.getBody().front().getTerminator());
    builder.setInsertionPoint(exit);
    Value prediction = exit.getOperand(0), target = forward.getArgument(index);
    bool sum = reduction == "sum";
    Value value;
    if (crossEntropy)
      value = CrossEntropyOp::create(builder, loc, prediction, target,
                                     llvm::APFloat(smoothing.getValue()), sum);
    else if (loss == "l1")
      value = L1LossOp::create(builder, loc, prediction, target, sum);
    else if (loss == "bce-with-logits")
      value = BCELossOp::create(builder, loc, prediction, target, sum);
    else
      value = MSELossOp::create(builder, loc, prediction, target, sum);
    exit.getOperandsMutable().assign(value);
    forward.setType(
        builder.getFunctionType(forward.getArgumentTypes(), value.getType()));
    forward.removeResAttrsAttr();
    forward.setName("step");
    return success();
  }
};
} // namespace
