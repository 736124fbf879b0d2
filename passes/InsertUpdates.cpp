// Replaces gradients by the optimizer's updates.
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_INSERTUPDATES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
struct InsertUpdates : td::impl::InsertUpdatesBase<InsertUpdates> {
  using InsertUpdatesBase::InsertUpdatesBase;

  void runOnOperation() override {
    if (failed(insert()))
      signalPassFailure();
  }

  LogicalResult insert() {
    ModuleOp module = getOperation();
    if (optimizer != "sgd")
      return module.emitError()
             << "unknown optimizer '" << optimizer << "'; there is sgd";
    if (!(momentum >= 0.0))
      return module.emitError() << "the momentum is " << momentum.getValue()
                                << "; it must not be negative";
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step || step.getNumResults() != 1)
      return module.emitError("there is no function @step that returns a loss");
    Block &body = step.getBody().front();
    auto gradients = llvm::to_vector(body.getOps<GradientOp>());

    OpBuilder builder(&getContext());
    for (unsigned i = 0; i < step.getNumArguments(); ++i)
      if (step.getArgAttr(i, "train.name") == builder.getStringAttr("lr"))
        return step.emitError("the model already has an input named 'lr', "
                              "which is the name of the learning rate");
    Type element = getElementTypeOrSelf(step.getResultTypes()[0]);
    unsigned index = step.getNumArguments();
    if (failed(
            step.insertArgument(index, RankedTensorType::get({}, element),
                                builder.getDictionaryAttr(builder.getNamedAttr(
                                    "train.name", builder.getStringAttr("lr"))),
                                step.getLoc())))
      return failure();
    Value rate = step.getArgument(index);
    // Powers of two: dividing the rate moves a weight by the same bits as
    // dividing each gradient, which only a sum of gradients needs.
    auto unscaled = [&](Value value) -> Value {
      if (lossScale == 1.0)
        return value;
      auto type = cast<RankedTensorType>(value.getType());
      Attribute inverse = builder.getFloatAttr(element, 1.0 / lossScale);
      Value factor = arith::ConstantOp::create(
          builder, value.getLoc(), DenseElementsAttr::get(type, inverse));
      return MulOp::create(builder, value.getLoc(), value, factor);
    };
    builder.setInsertionPointToStart(&body);
    if (momentum == 0.0)
      rate = unscaled(rate);

    for (GradientOp gradient : gradients) {
      FlatSymbolRefAttr state;
      if (momentum != 0.0) {
        FailureOr<FlatSymbolRefAttr> made = makeState(builder, gradient);
        if (failed(made))
          return failure();
        state = *made;
      }
      Operation *last = lastUse(body, gradient);
      if (last == body.getTerminator())
        return gradient.emitOpError(
            "belongs to a parameter whose old value the step returns");
      builder.setInsertionPointAfter(last);
      Value value = gradient.getValue();
      if (momentum != 0.0)
        value = unscaled(value);
      SGDOp::create(builder, gradient.getLoc(), gradient.getParameterAttr(),
                    value, rate, builder.getF64FloatAttr(momentum), state);
      gradient.erase();
    }
    return verifySnapshots(body);
  }

  /// The optimizer state of the gradient's parameter, behind the parameter.
  FailureOr<FlatSymbolRefAttr> makeState(OpBuilder &builder,
                                         GradientOp gradient) {
    auto parameter =
        getOperation().lookupSymbol<ParameterOp>(gradient.getParameterAttr());
    std::string name = (parameter.getSymName() + ".momentum").str();
    if (getOperation().lookupSymbol(name))
      return parameter.emitError()
             << "the name of its optimizer state, '" << name << "', is taken";
    builder.setInsertionPointAfter(parameter);
    ParameterOp::create(builder, parameter.getLoc(),
                        builder.getStringAttr(name), parameter.getTypeAttr(),
                        /*trainable=*/UnitAttr(), gradient.getParameterAttr(),
                        parameter.getLayoutAttr());
    return FlatSymbolRefAttr::get(&getContext(), name);
  }

  /// The last op of `body` that uses the old value of the gradient's parameter,
  /// or the gradient itself.
  static Operation *lastUse(Block &body, GradientOp gradient) {
    Operation *last = gradient;
    StringAttr parameter = gradient.getParameterAttr().getAttr();
    for (Operation &op : body)
      op.walk([&](Operation *nested) {
        if (llvm::any_of(nested->getOperands(),
                         [&](Value operand) {
                           return getSnapshotParameter(operand) == parameter;
                         }) &&
            last->isBeforeInBlock(&op))
          last = &op;
      });
    return last;
  }
};
} // namespace
