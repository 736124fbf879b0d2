// Replaces gradients by the optimizer's updates.
#include "passes/Passes.h"

#include "dialects/Train/Structured.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"

namespace td {
#define GEN_PASS_DEF_INSERTUPDATES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

/// The operations of `block` but its terminator, on other arguments; returns
/// what it yields.
static SmallVector<Value> inlined(OpBuilder &builder, Location location,
                                  Block &block, ValueRange arguments) {
  IRMapping mapping;
  mapping.map(block.getArguments(), arguments);
  for (Operation &op : block.without_terminator())
    builder.clone(op, mapping)->setLoc(location);
  return llvm::map_to_vector(
      block.getTerminator()->getOperands(),
      [&](Value value) { return mapping.lookupOrDefault(value); });
}

namespace {
struct InsertUpdates : td::impl::InsertUpdatesBase<InsertUpdates> {
  using InsertUpdatesBase::InsertUpdatesBase;

  void runOnOperation() override {
    if (failed(insert()))
      signalPassFailure();
  }

  /// What all gradients decide together: what each is multiplied by, and, if
  /// the scale of the loss is a state, whether (1 or 0) none has overflowed.
  struct Guard {
    Value factor, usable;
  };

  LogicalResult insert() {
    ModuleOp module = getOperation();
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

    // What all gradients have to be there for comes behind them, and updates
    // then behind that.
    builder.setInsertionPoint(body.getTerminator());
    Guard guard;
    if (!gradients.empty() &&
        failed(insertGuard(builder, step, gradients, guard)))
      return failure();
    // What each optimizer computes once a step, in the order of first use.
    if (!guard.usable)
      builder.setInsertionPointToStart(&body);
    llvm::MapVector<OptimizerOp, SmallVector<Value>> once;
    SmallVector<OptimizerOp> chosen;
    for (GradientOp gradient : gradients) {
      FailureOr<OptimizerOp> optimizer = optimizerOf(gradient, element);
      if (failed(optimizer))
        return failure();
      chosen.push_back(*optimizer);
      if (once.contains(*optimizer))
        continue;
      FailureOr<SmallVector<Value>> scalars =
          insertOnce(builder, *optimizer, rate, guard);
      if (failed(scalars))
        return failure();
      once[*optimizer] = std::move(*scalars);
    }
    for (auto [gradient, optimizer] : llvm::zip(gradients, chosen))
      if (failed(insertEach(builder, body, gradient, optimizer, once[optimizer],
                            guard)))
        return failure();
    for (auto parameter : module.getOps<ParameterOp>())
      parameter.removeOptimizerAttr();
    for (auto optimizer :
         llvm::make_early_inc_range(module.getOps<OptimizerOp>()))
      optimizer.erase();
    return verifySnapshots(body);
  }

  /// That which the gradient's parameter names, or else the module's only one.
  FailureOr<OptimizerOp> optimizerOf(GradientOp gradient, Type element) {
    auto parameter =
        getOperation().lookupSymbol<ParameterOp>(gradient.getParameterAttr());
    OptimizerOp optimizer;
    if (FlatSymbolRefAttr name = parameter.getOptimizerAttr()) {
      optimizer = getOperation().lookupSymbol<OptimizerOp>(name);
    } else {
      auto all = getOperation().getOps<OptimizerOp>();
      if (all.empty())
        return getOperation().emitError(
            "the module has no train.optimizer, which says how a gradient "
            "moves its parameter");
      if (std::next(all.begin()) != all.end())
        return parameter.emitError()
               << "there are several optimizers, and @"
               << parameter.getSymName() << " names none of them";
      optimizer = *all.begin();
    }
    if (optimizer.getElementType() != element)
      return optimizer.emitError()
             << "computes in " << optimizer.getElementType()
             << ", but the step in " << element;
    return optimizer;
  }

  /// A state of the optimizer, behind `place`: of `parameter`, or a number for
  /// all of them.
  FailureOr<ParameterOp> makeState(OptimizerOp optimizer, Operation *place,
                                   StringRef symbol, StringAttr name,
                                   RankedTensorType type, double first,
                                   ParameterOp parameter) {
    if (getOperation().lookupSymbol(symbol))
      return place->emitError()
             << "the name of its optimizer state, '" << symbol << "', is taken";
    OpBuilder builder(&getContext());
    builder.setInsertionPointAfter(place);
    return ParameterOp::create(
        builder, place->getLoc(), builder.getStringAttr(symbol),
        TypeAttr::get(type), /*trainable=*/UnitAttr(),
        parameter ? FlatSymbolRefAttr::get(parameter.getSymNameAttr())
                  : FlatSymbolRefAttr(),
        parameter ? parameter.getLayoutAttr() : DenseI64ArrayAttr(), name,
        first == 0.0 ? FloatAttr() : builder.getF64FloatAttr(first),
        /*optimizer=*/FlatSymbolRefAttr());
  }

  /// Powers of two: dividing the rate moves a weight by the same bits as
  /// dividing each gradient, which only other optimizers need.
  Value unscaled(OpBuilder &builder, Value value) {
    if (lossScale == 1.0)
      return value;
    auto type = cast<RankedTensorType>(value.getType());
    Attribute inverse =
        builder.getFloatAttr(type.getElementType(), 1.0 / lossScale);
    Value factor = arith::ConstantOp::create(
        builder, value.getLoc(), DenseElementsAttr::get(type, inverse));
    return MulOp::create(builder, value.getLoc(), value, factor);
  }

  /// The optimizer's part of a step: states that all parameters share, and the
  /// numbers that updates need, which are returned. One operator makes all that
  /// is computed.
  FailureOr<SmallVector<Value>> insertOnce(OpBuilder &builder,
                                           OptimizerOp optimizer, Value rate,
                                           const Guard &guard) {
    Location loc = optimizer.getLoc();
    auto type = RankedTensorType::get({}, optimizer.getElementType());
    SmallVector<Value> inputs = {optimizer.getLinear() ? unscaled(builder, rate)
                                                       : rate};
    SmallVector<ParameterOp> states;
    for (auto [number, name] : llvm::enumerate(optimizer.getSharedNames())) {
      std::string symbol =
          (optimizer.getSymName() + "." + name.getValue()).str();
      FailureOr<ParameterOp> state = makeState(
          optimizer, states.empty() ? optimizer : states.back().getOperation(),
          symbol, name, type, optimizer.getFirstOf(number), {});
      if (failed(state))
        return failure();
      states.push_back(*state);
      inputs.push_back(ReadOp::create(
          builder, loc, type, FlatSymbolRefAttr::get(state->getSymNameAttr())));
    }
    Block &block = optimizer.getOnce().front();
    SmallVector<Value> results(block.getTerminator()->getOperands());
    SmallVector<unsigned> computed;
    for (auto [number, result] : llvm::enumerate(results)) {
      if (auto argument = dyn_cast<BlockArgument>(result))
        results[number] = inputs[argument.getArgNumber()];
      else
        computed.push_back(number);
    }
    if (!computed.empty()) {
      Value empty = tensor::EmptyOp::create(builder, loc, ArrayRef<int64_t>(),
                                            type.getElementType());
      AffineMap map = builder.getMultiDimIdentityMap(0);
      unsigned first = results.size() - states.size();
      if (guard.usable)
        inputs.push_back(guard.usable);
      auto made = structured(
          builder, loc, inputs, SmallVector<Value>(computed.size(), empty),
          SmallVector<AffineMap>(inputs.size() + computed.size(), map), {},
          [&](OpBuilder &b, Location l, ValueRange values) {
            SmallVector<Value> all = inlined(
                b, l, block, values.take_front(block.getNumArguments()));
            if (guard.usable)
              for (unsigned i = 0; i < states.size(); ++i)
                all[first + i] = onlyIf(b, l, values[block.getNumArguments()],
                                        all[first + i], values[1 + i]);
            return llvm::map_to_vector(
                computed, [&](unsigned number) { return all[number]; });
          });
      for (auto [number, value] : llvm::zip(computed, made))
        results[number] = value;
    }
    for (auto [state, value] :
         llvm::zip(states, ArrayRef<Value>(results).take_back(states.size())))
      AssignOp::create(builder, loc,
                       FlatSymbolRefAttr::get(state.getSymNameAttr()), value);
    results.truncate(results.size() - states.size());
    return results;
  }

  /// The update of the gradient's parameter. One operator makes the new weight
  /// and the new states: the gradient is read once.
  LogicalResult insertEach(OpBuilder &builder, Block &body, GradientOp gradient,
                           OptimizerOp optimizer, ArrayRef<Value> scalars,
                           const Guard &guard) {
    auto parameter =
        getOperation().lookupSymbol<ParameterOp>(gradient.getParameterAttr());
    Location loc = gradient.getLoc();
    RankedTensorType type = parameter.getType();
    SmallVector<FlatSymbolRefAttr> symbols = {gradient.getParameterAttr()};
    Operation *place = parameter;
    unsigned shared = optimizer.getSharedNames().size();
    for (auto [number, name] : llvm::enumerate(optimizer.getStateNames())) {
      std::string symbol =
          (parameter.getSymName() + "." + name.getValue()).str();
      FailureOr<ParameterOp> state =
          makeState(optimizer, place, symbol, name, type,
                    optimizer.getFirstOf(shared + number), parameter);
      if (failed(state))
        return failure();
      place = *state;
      symbols.push_back(FlatSymbolRefAttr::get(state->getSymNameAttr()));
    }
    Operation *last = lastUse(body, gradient);
    if (last == body.getTerminator())
      return gradient.emitOpError(
          "belongs to a parameter whose old value the step returns");
    builder.setInsertionPointAfter(last);
    Value value = gradient.getValue();
    if (guard.factor) {
      builder.setInsertionPoint(body.getTerminator());
      value = MulOp::create(builder, loc, value, guard.factor);
    }
    if (!optimizer.getLinear())
      value = unscaled(builder, value);

    AffineMap identity = builder.getMultiDimIdentityMap(type.getRank()),
              number = AffineMap::get(type.getRank(), 0, &getContext());
    SmallVector<Value> inputs = {value};
    SmallVector<AffineMap> maps = {identity};
    inputs.append(scalars.begin(), scalars.end());
    maps.append(scalars.size(), number);
    if (guard.usable) {
      inputs.push_back(guard.usable);
      maps.push_back(number);
    }
    unsigned before = inputs.size();
    for (FlatSymbolRefAttr symbol : symbols)
      inputs.push_back(ReadOp::create(builder, loc, type, symbol));
    maps.append(2 * symbols.size(), identity);
    Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(),
                                          type.getElementType());
    SmallVector<Value> updated = structured(
        builder, loc, inputs, SmallVector<Value>(symbols.size(), empty), maps,
        SmallVector<bool>(type.getRank(), false),
        [&](OpBuilder &b, Location l, ValueRange values) {
          // Weight, gradient, states, numbers.
          ValueRange kept = values.slice(before, symbols.size());
          SmallVector<Value> arguments = {kept[0], values[0]};
          llvm::append_range(arguments, kept.drop_front());
          llvm::append_range(arguments, values.slice(1, scalars.size()));
          SmallVector<Value> next =
              inlined(b, l, optimizer.getEach().front(), arguments);
          if (guard.usable)
            for (auto [value, old] : llvm::zip(next, kept))
              value = onlyIf(b, l, values[before - 1], value, old);
          return next;
        });
    for (auto [symbol, result] : llvm::zip(symbols, updated))
      AssignOp::create(builder, loc, symbol, result);
    gradient.erase();
    return success();
  }

  /// All gradients exist before it, so they have buffers and updates come last.
  /// The step returns what has been found behind the loss: their norm, and
  /// whether they are used.
  LogicalResult insertGuard(OpBuilder &builder, func::FuncOp step,
                            ArrayRef<GradientOp> gradients, Guard &guard) {
    auto scale =
        getOperation().lookupSymbol<ParameterOp>("optimizer.loss_scale");
    if (!scale && clipNorm == 0.0)
      return success();
    Operation *exit = builder.getInsertionPoint()->getBlock()->getTerminator();
    Location loc = NameLoc::get(builder.getStringAttr("gradients"));
    if (scale) {
      if (lossScale != 1.0)
        return scale.emitError("the loss has a scale that is a state, and "
                               "another one that is an option");
      Value read =
          ReadOp::create(builder, loc, scale.getType(),
                         FlatSymbolRefAttr::get(scale.getSymNameAttr()));
      guard.factor = onNumber(
          builder, loc, read, [](OpBuilder &b, Location l, Value value) {
            return arith::DivFOp::create(
                       b, l, scalar(b, l, value.getType(), 1.0), value)
                .getResult();
          });
      // Zero times what is not finite is NaN.
      Value total = overAll(
          builder, loc, gradients, [](OpBuilder &b, Location l, Value value) {
            return arith::MulFOp::create(b, l, value,
                                         scalar(b, l, value.getType(), 0.0))
                .getResult();
          });
      guard.usable = onNumber(
          builder, loc, total, [](OpBuilder &b, Location l, Value value) {
            Value zero = scalar(b, l, value.getType(), 0.0);
            Value finite = arith::CmpFOp::create(
                b, l, arith::CmpFPredicate::OEQ, value, zero);
            return arith::SelectOp::create(
                       b, l, finite, scalar(b, l, value.getType(), 1.0), zero)
                .getResult();
          });
      if (failed(moveScale(builder, loc, scale, read, guard.usable)))
        return failure();
    }
    if (clipNorm != 0.0) {
      Value total = overAll(
          builder, loc, gradients, [](OpBuilder &b, Location l, Value value) {
            // Of the magnitude: a sum of products of operands would be one of
            // matrices.
            Value size = math::AbsFOp::create(b, l, value);
            return arith::MulFOp::create(b, l, size, size).getResult();
          });
      Value norm =
          unscaled(builder, SqrtOp::create(builder, loc, total).getResult());
      if (guard.factor)
        norm = MulOp::create(builder, loc, norm, guard.factor);
      // torch.nn.utils.clip_grad_norm_
      Value share = onNumber(
          builder, loc, norm, [&](OpBuilder &b, Location l, Value value) {
            Type type = value.getType();
            Value sum =
                arith::AddFOp::create(b, l, value, scalar(b, l, type, 1e-6));
            Value share =
                arith::DivFOp::create(b, l, scalar(b, l, type, clipNorm), sum);
            return arith::MinimumFOp::create(b, l, share,
                                             scalar(b, l, type, 1.0))
                .getResult();
          });
      guard.factor =
          guard.factor
              ? MulOp::create(builder, loc, share, guard.factor).getResult()
              : share;
      exit->insertOperands(exit->getNumOperands(), norm);
    }
    if (guard.usable)
      exit->insertOperands(exit->getNumOperands(), guard.usable);
    step.setType(builder.getFunctionType(step.getArgumentTypes(),
                                         exit->getOperandTypes()));
    return success();
  }

  /// The next scale of the loss, as torch.amp.GradScaler has it: half of it if
  /// a gradient has overflowed, and twice after a number of steps without.
  LogicalResult moveScale(OpBuilder &builder, Location loc, ParameterOp scale,
                          Value value, Value usable) {
    auto tracker =
        getOperation().lookupSymbol<ParameterOp>("optimizer.growth_tracker");
    auto interval = scale->getAttrOfType<FloatAttr>("train.growth_interval");
    if (!tracker || tracker.getType() != scale.getType() || !interval)
      return scale.emitError("the scale of the loss needs a state "
                             "@optimizer.growth_tracker of its type, and "
                             "train.growth_interval");
    RankedTensorType type = scale.getType();
    SmallVector<Value> inputs = {
        value,
        ReadOp::create(builder, loc, type,
                       FlatSymbolRefAttr::get(tracker.getSymNameAttr())),
        usable};
    Value empty = tensor::EmptyOp::create(builder, loc, ArrayRef<int64_t>(),
                                          type.getElementType());
    SmallVector<Value> next = structured(
        builder, loc, inputs, {empty, empty},
        SmallVector<AffineMap>(5, builder.getMultiDimIdentityMap(0)), {},
        [&](OpBuilder &b, Location l, ValueRange values) {
          Type element = type.getElementType();
          auto number = [&](double constant) {
            return scalar(b, l, element, constant);
          };
          auto equal = [&](Value x, Value y) -> Value {
            return arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, x, y);
          };
          Value steps = arith::AddFOp::create(b, l, values[1], number(1.0));
          Value grows = equal(steps, number(interval.getValueAsDouble()));
          Value twice = arith::AddFOp::create(b, l, values[0], values[0]);
          // But not to infinity.
          Value finite =
              equal(arith::SubFOp::create(b, l, twice, values[0]), values[0]);
          Value larger =
              arith::SelectOp::create(b, l, finite, twice, values[0]);
          Value half = arith::MulFOp::create(b, l, values[0], number(0.5));
          Value kept = arith::SelectOp::create(b, l, grows, larger, values[0]);
          Value count =
              arith::SelectOp::create(b, l, grows, number(0.0), steps);
          return SmallVector<Value>{
              onlyIf(b, l, values[2], kept, half),
              onlyIf(b, l, values[2], count, number(0.0))};
        });
    AssignOp::create(builder, loc,
                     FlatSymbolRefAttr::get(scale.getSymNameAttr()), next[0]);
    AssignOp::create(builder, loc,
                     FlatSymbolRefAttr::get(tracker.getSymNameAttr()), next[1]);
    return success();
  }

  using OnNumber = llvm::function_ref<Value(OpBuilder &, Location, Value)>;

  /// The first number if `usable` is 1, or else the second one.
  static Value onlyIf(OpBuilder &b, Location l, Value usable, Value value,
                      Value otherwise) {
    Value yes = arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, usable,
                                      scalar(b, l, usable.getType(), 1.0));
    return arith::SelectOp::create(b, l, yes, value, otherwise);
  }

  /// A function of a tensor of rank 0.
  static Value onNumber(OpBuilder &builder, Location loc, Value value,
                        OnNumber function) {
    return elementwise(builder, loc, cast<RankedTensorType>(value.getType()),
                       value, [&](OpBuilder &b, Location l, ValueRange values) {
                         return function(b, l, values[0]);
                       });
  }

  /// The sum of a function of all elements of all gradients.
  static Value overAll(OpBuilder &builder, Location loc,
                       ArrayRef<GradientOp> gradients, OnNumber function) {
    Value total;
    for (GradientOp gradient : gradients) {
      Value sum = overElements(builder, loc, gradient->getOperand(0), function);
      total = total ? AddOp::create(builder, loc, total, sum).getResult() : sum;
    }
    return total;
  }

  /// The sum of a function of a value's elements: as a matrix over its rows,
  /// which all cores can do, and over what that leaves.
  static Value overElements(OpBuilder &builder, Location loc, Value value,
                            OnNumber function) {
    constexpr int64_t widest = 512;
    auto type = cast<RankedTensorType>(value.getType());
    int64_t count = type.getNumElements(), columns = std::min(count, widest);
    while (count % columns != 0)
      --columns;
    Value rows = reshapeTo(builder, loc, value, {count / columns, columns});
    Type element = type.getElementType();
    MLIRContext *context = builder.getContext();
    AffineExpr row = builder.getAffineDimExpr(0),
               column = builder.getAffineDimExpr(1);
    SmallVector<Value> sums = structured(
        builder, loc, rows,
        filled(builder, loc, RankedTensorType::get({columns}, element), 0.0),
        {AffineMap::get(2, 0, {row, column}, context),
         AffineMap::get(2, 0, {column}, context)},
        {true, false}, [&](OpBuilder &b, Location l, ValueRange values) {
          return SmallVector<Value>{arith::AddFOp::create(
              b, l, values[1], function(b, l, values[0]))};
        });
    return structured(
        builder, loc, sums,
        filled(builder, loc, RankedTensorType::get({}, element), 0.0),
        {builder.getMultiDimIdentityMap(1), AffineMap::get(1, 0, context)},
        {true}, [](OpBuilder &b, Location l, ValueRange values) {
          return SmallVector<Value>{
              arith::AddFOp::create(b, l, values[1], values[0])};
        })[0];
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
