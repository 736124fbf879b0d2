// Turns a step that returns the loss into one that returns sums over samples.
#include "passes/Passes.h"

#include "dialects/Train/Structured.h"

namespace td {
#define GEN_PASS_DEF_ATTACHMETRICS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {
/// Logits as [before, classes, behind], and what addresses them.
struct RowsOfClasses {
  RowsOfClasses(OpBuilder &builder, CrossEntropyOp loss) {
    RankedTensorType type = loss.getLogits().getType();
    int64_t before = 1, behind = 1;
    for (auto [dim, size] : llvm::enumerate(type.getShape()))
      if (static_cast<int64_t>(dim) < loss.getAxis())
        before *= size;
      else if (static_cast<int64_t>(dim) > loss.getAxis())
        behind *= size;
    // No loops of one run.
    SmallVector<int64_t> shape, rowShape;
    SmallVector<AffineExpr> dims;
    auto addRow = [&](int64_t size) {
      dims.push_back(builder.getAffineDimExpr(shape.size()));
      shape.push_back(size);
      rowShape.push_back(size);
      reduced.push_back(false);
    };
    if (before > 1 || behind == 1)
      addRow(before);
    axis = shape.size();
    shape.push_back(type.getDimSize(loss.getAxis()));
    reduced.push_back(true);
    if (behind > 1)
      addRow(behind);
    logits = reshapeTo(builder, loss.getLoc(), loss.getLogits(), shape);
    labels = reshapeTo(builder, loss.getLoc(), loss.getLabels(), rowShape);
    rowType = RankedTensorType::get(rowShape, type.getElementType());
    all = builder.getMultiDimIdentityMap(shape.size());
    row = AffineMap::get(shape.size(), 0, dims, builder.getContext());
  }

  Value logits, labels;
  RankedTensorType rowType;
  AffineMap all, row;
  SmallVector<bool> reduced;
  unsigned axis;
};

struct AttachMetrics : td::impl::AttachMetricsBase<AttachMetrics> {
  using AttachMetricsBase::AttachMetricsBase;

  void runOnOperation() override {
    if (failed(attach()))
      signalPassFailure();
  }

  LogicalResult attach() {
    auto step = getOperation().lookupSymbol<func::FuncOp>("step");
    if (!step || !step.getBody().hasOneBlock() || step.getNumResults() != 1)
      return getOperation().emitError(
          "there is no function @step of one block that returns a loss");
    auto exit = cast<func::ReturnOp>(step.getBody().front().getTerminator());
    Operation *loss = exit.getOperand(0).getDefiningOp();
    OpBuilder builder(exit);
    SmallVector<std::pair<std::string, Value>> sums;
    if (auto entropy = dyn_cast_if_present<CrossEntropyOp>(loss)) {
      if (absoluteError)
        return loss->emitError("absolute errors are those of a target, and "
                               "cross entropy has labels");
      FailureOr<Value> counted = addSamples(step);
      if (failed(counted))
        return failure();
      sums = ofLabels(builder, entropy, *counted);
    } else if (isa_and_present<MSELossOp, L1LossOp, BCELossOp>(loss)) {
      if (!top.empty())
        return loss->emitError("the label's place among logits is a metric of "
                               "cross entropy");
      FailureOr<Value> counted = addSamples(step);
      if (failed(counted))
        return failure();
      sums = ofTarget(builder, loss, *counted);
    } else {
      if (!top.empty() || absoluteError)
        return step.emitError(
            "a model that computes its own loss has no other metrics");
      sums.emplace_back("loss", exit.getOperand(0));
    }
    SmallVector<Value> results;
    for (auto &[name, value] : sums)
      results.push_back(value);
    exit.getOperandsMutable().assign(results);
    step.setType(builder.getFunctionType(step.getArgumentTypes(),
                                         ValueRange(results).getTypes()));
    step.removeResAttrsAttr();
    for (auto [index, sum] : llvm::enumerate(sums))
      step.setResultAttr(index, "train.name", builder.getStringAttr(sum.first));
    if (loss && loss->use_empty())
      loss->erase();
    return success();
  }

  /// The argument that says how many samples count.
  FailureOr<Value> addSamples(func::FuncOp step) {
    OpBuilder builder(step);
    StringAttr name = builder.getStringAttr("samples");
    for (unsigned i = 0; i < step.getNumArguments(); ++i)
      if (step.getArgAttr(i, "train.name") == name)
        return step.emitError("the model already has an input named 'samples', "
                              "which is the name of the number of samples");
    unsigned index = step.getNumArguments();
    if (failed(step.insertArgument(
            index, RankedTensorType::get({}, builder.getI32Type()),
            builder.getDictionaryAttr(builder.getNamedAttr("train.name", name)),
            step.getLoc())))
      return failure();
    return Value(step.getArgument(index));
  }

  /// `value` of the samples that count, and of the others what `otherwise`
  /// makes of the elements of `operands`, the first of which is `value`.
  static Value ofCounted(
      OpBuilder &builder, Location loc, ValueRange operands, Value counted,
      llvm::function_ref<Value(OpBuilder &, Location, ValueRange)> otherwise) {
    SmallVector<Value> all(operands);
    all.push_back(counted);
    return elementwise(
        builder, loc, tensorType(operands[0]), all,
        [&](OpBuilder &b, Location l, ValueRange v) -> Value {
          Value sample = arith::IndexCastOp::create(
              b, l, b.getI32Type(), linalg::IndexOp::create(b, l, 0));
          Value counts = arith::CmpIOp::create(b, l, arith::CmpIPredicate::slt,
                                               sample, v.back());
          return arith::SelectOp::create(b, l, counts, v[0],
                                         otherwise(b, l, v.drop_back()));
        });
  }

  SmallVector<std::pair<std::string, Value>>
  ofLabels(OpBuilder &builder, CrossEntropyOp loss, Value counted) {
    Location loc = loss.getLoc();
    // A label that is no class may stand for samples that do not count.
    auto ignored = static_cast<int32_t>(loss.getIgnored().value_or(-100));
    auto none = [&](OpBuilder &b, Location l) -> Value {
      return arith::ConstantOp::create(b, l, b.getI32IntegerAttr(ignored));
    };
    loss.getLabelsMutable().assign(ofCounted(
        builder, loc, loss.getLabels(), counted,
        [&](OpBuilder &b, Location l, ValueRange) { return none(b, l); }));
    loss.setIgnored(ignored);
    loss.setSum(true);
    loss->moveBefore(&*builder.getInsertionPoint());
    SmallVector<std::pair<std::string, Value>> sums = {
        {"loss", loss.getResult()}};
    if (top.empty())
      return sums;

    RowsOfClasses rows(builder, loss);
    Type element = rows.rowType.getElementType();
    Value zeros = filled(builder, loc, rows.rowType, 0.0);
    auto classAt = [&](OpBuilder &b, Location l) -> Value {
      return arith::IndexCastOp::create(
          b, l, b.getI32Type(), linalg::IndexOp::create(b, l, rows.axis));
    };
    Value labelled =
        structured(builder, loc, {rows.logits, rows.labels}, zeros,
                   {rows.all, rows.row, rows.row}, rows.reduced,
                   [&](OpBuilder &b, Location l, ValueRange v) {
                     Value isLabel = arith::CmpIOp::create(
                         b, l, arith::CmpIPredicate::eq, classAt(b, l), v[1]);
                     return SmallVector<Value>{
                         arith::SelectOp::create(b, l, isLabel, v[0], v[2])};
                   })[0];
    // How many logits of the row come before the label's.
    Value rank = structured(
        builder, loc, {rows.logits, labelled, rows.labels}, zeros,
        {rows.all, rows.row, rows.row, rows.row}, rows.reduced,
        [&](OpBuilder &b, Location l, ValueRange v) {
          Value zero = scalar(b, l, element, 0.0),
                one = scalar(b, l, element, 1.0);
          auto oneIf = [&](Value holds, Value otherwise) -> Value {
            return arith::SelectOp::create(b, l, holds, one, otherwise);
          };
          Value equal = arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ,
                                              v[0], v[1]),
                larger = arith::CmpFOp::create(b, l, arith::CmpFPredicate::OGT,
                                               v[0], v[1]),
                lower = arith::CmpIOp::create(b, l, arith::CmpIPredicate::slt,
                                              classAt(b, l), v[2]);
          Value tie =
              arith::SelectOp::create(b, l, equal, oneIf(lower, zero), zero);
          return SmallVector<Value>{
              arith::AddFOp::create(b, l, v[3], oneIf(larger, tie))};
        })[0];
    for (int64_t k : top)
      sums.emplace_back(
          "top" + std::to_string(k),
          compensatedSum(
              builder, loc, element, {rank, rows.labels}, 1.0, Value(),
              [&](OpBuilder &b, Location l, ValueRange v) -> Value {
                Value zero = scalar(b, l, element, 0.0);
                Value among = arith::CmpFOp::create(
                    b, l, arith::CmpFPredicate::OLT, v[0],
                    scalar(b, l, element, static_cast<double>(k)));
                Value found = arith::SelectOp::create(
                    b, l, among, scalar(b, l, element, 1.0), zero);
                Value isNone = arith::CmpIOp::create(
                    b, l, arith::CmpIPredicate::eq, v[1], none(b, l));
                return arith::SelectOp::create(b, l, isNone, zero, found);
              }));
    return sums;
  }

  SmallVector<std::pair<std::string, Value>>
  ofTarget(OpBuilder &builder, Operation *loss, Value counted) {
    Location loc = loss->getLoc();
    Value prediction = loss->getOperand(0), target = loss->getOperand(1);
    Type type = loss->getResult(0).getType();
    SmallVector<std::pair<std::string, Value>> sums;
    // Where samples do not count, the target is what was predicted.
    Value own;
    if (!isa<BCELossOp>(loss) || absoluteError)
      own = ofCounted(builder, loc, {target, prediction}, counted,
                      [](OpBuilder &, Location, ValueRange v) { return v[1]; });
    if (isa<BCELossOp>(loss)) {
      // A logit of the surest no, and a target of 0: log(1 + exp(-|x|)) is 0.
      auto number = [](double value) {
        return [value](OpBuilder &b, Location l, ValueRange v) {
          return scalar(b, l, v[0].getType(), value);
        };
      };
      Value logits =
                ofCounted(builder, loc, prediction, counted, number(-1000.0)),
            zeros = ofCounted(builder, loc, target, counted, number(0.0));
      sums.emplace_back(
          "loss", BCELossOp::create(builder, loc, type, logits, zeros, true));
    } else if (isa<L1LossOp>(loss)) {
      sums.emplace_back(
          "loss", L1LossOp::create(builder, loc, type, prediction, own, true));
    } else {
      sums.emplace_back(
          "loss", MSELossOp::create(builder, loc, type, prediction, own, true));
    }
    if (absoluteError)
      sums.emplace_back(
          "absolute_error",
          L1LossOp::create(builder, loc, type, prediction, own, true));
    return sums;
  }
};
} // namespace
