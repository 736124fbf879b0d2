// Reverse-mode differentiation of the training step.
#include "dialects/Train/Recurrence.h"
#include "passes/Passes.h"

#include "llvm/ADT/MapVector.h"
#include <cmath>

namespace td {
#define GEN_PASS_DEF_DIFFERENTIATE
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
struct Differentiate : td::impl::DifferentiateBase<Differentiate> {
  using DifferentiateBase::DifferentiateBase;

  void runOnOperation() override {
    if (failed(differentiate()))
      signalPassFailure();
  }

  LogicalResult differentiate() {
    ModuleOp module = getOperation();
    // Dividing it out has to be exact.
    int exponent = 0;
    if (!std::isfinite(lossScale) || std::frexp(lossScale, &exponent) != 0.5 ||
        lossScale < 1 || exponent > 25)
      return module.emitError() << "the loss scale is " << lossScale.getValue()
                                << "; it must be a power of two from 1 to 2^24";
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step || !step.getBody().hasOneBlock() || step.getNumResults() != 1 ||
        !isa<FloatType>(getElementTypeOrSelf(step.getResultTypes()[0])) ||
        cast<ShapedType>(step.getResultTypes()[0]).getRank() != 0)
      return module.emitError("there is no function @step of one block that "
                              "returns a loss of rank 0");
    Block &body = step.getBody().front();
    Operation *exit = body.getTerminator();
    for (auto parameter : module.getOps<ParameterOp>())
      if (parameter.getTrainable())
        trainable[parameter.getSymNameAttr()] = parameter;

    if (trainable.empty())
      return module.emitError("no parameter is marked trainable");

    // What its gradient does not need is dropped again.
    for (auto op : llvm::make_early_inc_range(body.getOps<RecurrenceOp>()))
      keepAllValues(op);

    // Forward: what depends on a trainable parameter.
    SmallVector<Operation *> forward;
    for (Operation &op : body.without_terminator()) {
      auto read = dyn_cast<ReadOp>(op);
      if (read ? trainable.contains(read.getParameterAttr().getAttr())
               : !op.hasTrait<StopsGradient>() && dependsOnActive(&op))
        active.insert_range(op.getResults());
      forward.push_back(&op);
    }

    // Backward: what the loss depends on.
    OpBuilder builder(exit);
    Value loss = exit->getOperand(0);
    if (active.contains(loss)) {
      auto type = cast<RankedTensorType>(loss.getType());
      // A scale that follows what overflows is a state (td-insert-updates).
      auto scale = module.lookupSymbol<ParameterOp>("optimizer.loss_scale");
      Attribute seed = builder.getFloatAttr(type.getElementType(), lossScale);
      cotangents[loss] =
          scale ? ReadOp::create(builder, exit->getLoc(), type,
                                 FlatSymbolRefAttr::get(scale.getSymNameAttr()))
                      .getResult()
                : arith::ConstantOp::create(builder, exit->getLoc(),
                                            DenseElementsAttr::get(type, seed))
                      .getResult();
    }
    llvm::MapVector<StringAttr, Value> gradients;
    for (Operation *op : llvm::reverse(forward)) {
      if (!llvm::any_of(op->getResults(), [&](Value result) {
            return cotangents.contains(result);
          }))
        continue;
      if (auto read = dyn_cast<ReadOp>(op)) {
        Value &gradient = gradients[read.getParameterAttr().getAttr()];
        gradient = addCotangents(builder, op->getLoc(), gradient,
                                 cotangents[read.getResult()]);
        continue;
      }
      if (failed(differentiateOp(builder, op)))
        return failure();
    }

    if (gradients.empty())
      return module.emitError("no trainable parameter reaches the loss");
    for (auto [name, gradient] : gradients) {
      builder.setInsertionPointAfterValue(gradient);
      GradientOp::create(builder, gradient.getLoc(), gradient,
                         FlatSymbolRefAttr::get(name));
    }
    // What was joined with others has no use of its own.
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(body))) {
      if (&op == forward.back())
        break;
      if (isa<EmbedOp, ConcatOp>(op) && op.use_empty())
        op.erase();
    }
    for (auto op : llvm::to_vector(body.getOps<RecurrenceOp>()))
      dropUnusedOutputs(op);
    for (auto parameter : module.getOps<ParameterOp>())
      if (parameter.getTrainable() &&
          !gradients.contains(parameter.getSymNameAttr())) {
        parameter.emitWarning()
            << "trainable parameter '" << parameter.getSymName()
            << "' does not reach the loss and will not be updated";
        parameter.setTrainable(false);
      }
    return success();
  }

  /// Whether `op` or an op in its regions uses an active value.
  bool dependsOnActive(Operation *op) {
    WalkResult result = op->walk([&](Operation *nested) {
      return llvm::any_of(
                 nested->getOperands(),
                 [&](Value operand) { return active.contains(operand); })
                 ? WalkResult::interrupt()
                 : WalkResult::advance();
    });
    return result.wasInterrupted();
  }

  /// Builds the vector-Jacobian product of `op` and adds its results to the
  /// cotangents of the op's active operands.
  LogicalResult differentiateOp(OpBuilder &builder, Operation *op) {
    auto differentiable = dyn_cast<DifferentiableOpInterface>(op);
    if (!differentiable) {
      return op->emitOpError("has no gradient; the operators of the train "
                             "dialect have one, linalg.matmul, and "
                             "tensor.collapse_shape and expand_shape");
    }
    SmallVector<Value> incoming;
    for (Value result : op->getResults())
      incoming.push_back(cotangents.lookup(result));
    SmallVector<bool> wanted;
    for (Value operand : op->getOperands())
      wanted.push_back(active.contains(operand));

    Operation *before = op->getBlock()->getTerminator()->getPrevNode();
    SmallVector<Value> outgoing =
        differentiable.buildVJP(builder, incoming, wanted);
    if (failed(verifyResiduals(differentiable, wanted, incoming, before)))
      return failure();
    ++differentiated;
    for (auto [index, operand] : llvm::enumerate(op->getOperands())) {
      if (!wanted[index])
        continue;
      if (!outgoing[index])
        return op->emitOpError("has no gradient with respect to its operand #")
               << index;
      Value &cotangent = cotangents[operand];
      cotangent =
          addCotangents(builder, op->getLoc(), cotangent, outgoing[index]);
    }
    return success();
  }

  /// Checks that the ops made after `before` read nothing of the forward but
  /// the declared residuals.
  LogicalResult verifyResiduals(DifferentiableOpInterface op,
                                ArrayRef<bool> wanted, ArrayRef<Value> incoming,
                                Operation *before) {
    llvm::SmallDenseSet<Value> allowed(incoming.begin(), incoming.end());
    allowed.insert_range(op.getResiduals(wanted));
    Operation *end = op->getBlock()->getTerminator();
    for (Operation *made = before->getNextNode(); made != end;
         made = made->getNextNode()) {
      for (Value operand : made->getOperands())
        if (!allowed.contains(operand))
          return op->emitOpError("has a gradient that reads a value which it "
                                 "does not declare as residual: ")
                 << operand;
      allowed.insert_range(made->getResults());
    }
    return success();
  }

  llvm::MapVector<StringAttr, ParameterOp> trainable;
  llvm::DenseSet<Value> active;
  llvm::DenseMap<Value, Value> cotangents;
};
} // namespace
