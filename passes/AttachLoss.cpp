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
    if (loss == "model")
      return takeOwnLoss();
    bool crossEntropy = loss == "cross-entropy";
    if (!crossEntropy && loss != "mse" && loss != "l1" &&
        loss != "bce-with-logits")
      return module.emitError()
             << "unknown loss '" << loss
             << "'; there are mse, l1, bce-with-logits, cross-entropy and "
                "model";
    if (reduction != "mean" && reduction != "sum")
      return module.emitError() << "unknown reduction '" << reduction
                                << "'; there are mean and sum";
    if (!(smoothing >= 0.0 && smoothing <= 1.0) ||
        (smoothing != 0.0 && !crossEntropy))
      return module.emitError(
          "label smoothing is a number from 0 to 1, for cross entropy only");
    if (!crossEntropy &&
        (weighted || ignored != td::noLabel || !labels.empty()))
      return module.emitError("class weights, an ignored label and the labels' "
                              "shape are for cross entropy only");
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
    int64_t axis = classAxis < 0 ? classAxis + type.getRank() : classAxis;
    if (crossEntropy &&
        (type.getRank() < 2 || axis < 0 || axis >= type.getRank()))
      return forward.emitError()
             << "cross entropy needs logits with an axis of classes, "
             << classAxis.getValue() << "; the prediction is " << type;

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
    if (crossEntropy) {
      SmallVector<int64_t> rows(labels.begin(), labels.end());
      if (rows.empty()) {
        rows.assign(type.getShape().begin(), type.getShape().end());
        rows.erase(rows.begin() + axis);
      }
      targetType = RankedTensorType::get(rows, builder.getI32Type());
      if (llvm::any_of(rows, [](int64_t size) { return size < 1; }) ||
          cast<RankedTensorType>(targetType).getNumElements() *
                  type.getDimSize(axis) !=
              type.getNumElements())
        return forward.emitError()
               << "labels of type " << targetType
               << " are not one for each row of classes of " << type;
    }
    Value weight;
    if (weighted) {
      auto weightType =
          RankedTensorType::get({type.getDimSize(axis)}, type.getElementType());
      StringRef symbol = "loss.weight";
      if (module.lookupSymbol(symbol))
        return forward.emitError()
               << "the model already has a parameter named '" << symbol
               << "', which class weights have";
      builder.setInsertionPoint(forward);
      ParameterOp::create(builder, loc, builder.getStringAttr(symbol),
                          TypeAttr::get(weightType), UnitAttr(),
                          FlatSymbolRefAttr(), DenseI64ArrayAttr(),
                          StringAttr(), FloatAttr(), FlatSymbolRefAttr());
      builder.setInsertionPoint(forward.getBody().front().getTerminator());
      weight = ReadOp::create(builder, loc, weightType, symbol);
    }
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
      value = buildCrossEntropy(builder, loc, prediction, target, weight, axis);
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

  /// The model's result is the loss.
  LogicalResult takeOwnLoss() {
    ModuleOp module = getOperation();
    auto forward = module.lookupSymbol<func::FuncOp>("forward");
    if (!forward || !forward.getBody().hasOneBlock())
      return module.emitError(
          "the module has no function @forward of one block");
    auto type = forward.getNumResults() == 1
                    ? dyn_cast<RankedTensorType>(forward.getResultTypes()[0])
                    : RankedTensorType();
    if (!type || !type.hasStaticShape() || type.getNumElements() != 1 ||
        !isa<FloatType>(type.getElementType()))
      return forward.emitError(
          "the model's result is no loss: a tensor of one float");
    OpBuilder builder(forward.getBody().front().getTerminator());
    auto exit = cast<func::ReturnOp>(forward.getBody().front().getTerminator());
    auto scalar = RankedTensorType::get({}, type.getElementType());
    Value value = exit.getOperand(0);
    if (type != scalar)
      value = ReshapeOp::create(builder, exit.getLoc(), scalar, value);
    exit.getOperandsMutable().assign(value);
    forward.setType(
        builder.getFunctionType(forward.getArgumentTypes(), scalar));
    forward.removeResAttrsAttr();
    forward.setName("step");
    return success();
  }

  Value buildCrossEntropy(OpBuilder &builder, Location loc, Value logits,
                          Value target, Value weight, int64_t axis) {
    // Classes that a permute has moved are taken from where they were.
    while (auto permute = logits.getDefiningOp<PermuteOp>()) {
      SmallVector<int64_t> rows(permute.getPermutation());
      int64_t from = rows[axis];
      rows.erase(rows.begin() + axis);
      if (!llvm::is_sorted(rows))
        break;
      logits = permute.getInput();
      axis = from;
    }
    IntegerAttr ignoredLabel;
    if (ignored != td::noLabel)
      ignoredLabel = builder.getI64IntegerAttr(ignored);
    return CrossEntropyOp::create(
        builder, loc, logits, target, weight, builder.getI64IntegerAttr(axis),
        ignoredLabel, builder.getF64FloatAttr(smoothing),
        reduction == "sum" ? builder.getUnitAttr() : UnitAttr());
  }
};
} // namespace
