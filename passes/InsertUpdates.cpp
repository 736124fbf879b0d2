// Replaces gradients by the optimizer's updates.
#include "passes/Passes.h"
#include "passes/ZerothOrder.h"

#include "dialects/Train/Structured.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"

namespace td {
#define GEN_PASS_DEF_INSERTUPDATES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td;
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

  /// What all gradients decide together: what each is multiplied by, and
  /// whether they are used (1 or 0), if that is not always so: the scale of the
  /// loss is a state and one has overflowed, or further steps add to them.
  struct Guard {
    Value factor, usable;
  };

  /// A parameter that is updated, its gradient, and where that comes from.
  /// Without a gradient its elements are estimated from differences of the
  /// loss; `first` is the number of the first one among those of all.
  struct Update {
    ParameterOp parameter;
    Value gradient;
    Operation *source;
    Location loc;
    uint64_t first = 0;
  };

  LogicalResult insert() {
    ModuleOp module = getOperation();
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step || step.getNumResults() != 1)
      return module.emitError("there is no function @step that returns a loss");
    Block &body = step.getBody().front();
    SmallVector<Update> updates;
    for (auto gradient : body.getOps<GradientOp>())
      updates.push_back(
          {module.lookupSymbol<ParameterOp>(gradient.getParameterAttr()),
           gradient.getValue(), gradient, gradient.getLoc()});
    ZerothOrder differences{zerothOrder, directions, oneSided, signs, seed};
    if (differences.distance != 0.0) {
      if (!updates.empty())
        return updates.front().source->emitOpError(
            "is not used: differences of the loss take its place");
      updates = perturbedParameters(body);
    }

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
    ZerothOrder::Numbers numbers;
    if (differences.distance != 0.0) {
      FailureOr<ZerothOrder::Numbers> inserted =
          differences.insert(builder, step, rate);
      if (failed(inserted))
        return failure();
      numbers = *inserted;
      rate = numbers.rate;
      guard.usable = numbers.last;
    } else if (!updates.empty()) {
      Value last;
      if (accumulate > 1 && failed(insertSums(builder, module, updates, last)))
        return failure();
      if (failed(insertGuard(builder, step, updates, last, guard)))
        return failure();
    }
    // What each optimizer computes once a step, in the order of first use.
    if (!guard.usable)
      builder.setInsertionPointToStart(&body);
    llvm::MapVector<OptimizerOp, SmallVector<Value>> once;
    SmallVector<OptimizerOp> chosen;
    for (const Update &update : updates) {
      FailureOr<OptimizerOp> optimizer = optimizerOf(update.parameter, element);
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
    for (auto [update, optimizer] : llvm::zip(updates, chosen))
      if (failed(insertEach(builder, body, update, optimizer, once[optimizer],
                            guard, differences, numbers)))
        return failure();
    for (auto parameter : module.getOps<ParameterOp>())
      parameter.removeOptimizerAttr();
    for (auto optimizer :
         llvm::make_early_inc_range(module.getOps<OptimizerOp>()))
      optimizer.erase();
    return verifySnapshots(body);
  }

  /// Trainable parameters that the loss depends on.
  SmallVector<Update> perturbedParameters(Block &body) {
    llvm::DenseSet<StringAttr> read;
    llvm::SetVector<Operation *> needed;
    needed.insert(body.getTerminator());
    for (unsigned i = 0; i < needed.size(); ++i)
      needed[i]->walk([&](Operation *op) {
        if (auto use = dyn_cast<ReadOp>(op))
          read.insert(use.getParameterAttr().getAttr());
        for (Value operand : op->getOperands())
          if (Operation *made = operand.getDefiningOp())
            if (Operation *outer = body.findAncestorOpInBlock(*made))
              needed.insert(outer);
      });
    SmallVector<Update> updates;
    uint64_t first = 0;
    for (auto parameter : getOperation().getOps<ParameterOp>()) {
      if (!parameter.getTrainable())
        continue;
      if (!read.contains(parameter.getSymNameAttr())) {
        parameter.emitWarning()
            << "trainable parameter '" << parameter.getSymName()
            << "' does not reach the loss and will not be updated";
        parameter.setTrainable(false);
        continue;
      }
      updates.push_back({parameter, Value(), body.getTerminator(),
                         parameter.getLoc(), first});
      first += parameter.getType().getNumElements();
    }
    return updates;
  }

  /// That which the parameter names, or else the module's only one.
  FailureOr<OptimizerOp> optimizerOf(ParameterOp parameter, Type element) {
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

  /// An optimizer's state, behind `place`: of `parameter`, or a number for all
  /// of them.
  FailureOr<ParameterOp> makeState(Operation *place, StringRef symbol,
                                   StringAttr name, RankedTensorType type,
                                   double first, ParameterOp parameter) {
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
      FailureOr<ParameterOp> state =
          makeState(states.empty() ? optimizer : states.back().getOperation(),
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

  /// Symbols of a parameter's states, made behind it.
  FailureOr<SmallVector<FlatSymbolRefAttr>>
  insertStates(OptimizerOp optimizer, ParameterOp parameter) {
    SmallVector<FlatSymbolRefAttr> symbols;
    Operation *place = parameter;
    unsigned shared = optimizer.getSharedNames().size();
    for (auto [number, name] : llvm::enumerate(optimizer.getStateNames())) {
      std::string symbol =
          (parameter.getSymName() + "." + name.getValue()).str();
      FailureOr<ParameterOp> state =
          makeState(place, symbol, name, parameter.getType(),
                    optimizer.getFirstOf(shared + number), parameter);
      if (failed(state))
        return failure();
      place = *state;
      symbols.push_back(FlatSymbolRefAttr::get(state->getSymNameAttr()));
    }
    return symbols;
  }

  /// The update of a parameter. One operator makes the new weight and the new
  /// states: the gradient is read once.
  LogicalResult insertEach(OpBuilder &builder, Block &body,
                           const Update &update, OptimizerOp optimizer,
                           ArrayRef<Value> scalars, const Guard &guard,
                           const ZerothOrder &differences,
                           const ZerothOrder::Numbers &numbers) {
    ParameterOp parameter = update.parameter;
    Location loc = update.loc;
    RankedTensorType type = parameter.getType();
    FailureOr<SmallVector<FlatSymbolRefAttr>> states =
        insertStates(optimizer, parameter);
    if (failed(states))
      return failure();
    SmallVector<FlatSymbolRefAttr> symbols = {
        FlatSymbolRefAttr::get(parameter.getSymNameAttr())};
    llvm::append_range(symbols, *states);
    Operation *last = lastUse(body, update);
    if (last == body.getTerminator() && update.gradient)
      return update.source->emitOpError(
          "belongs to a parameter whose old value the step returns");
    Value value = update.gradient;
    if (value && !guard.factor)
      builder.setInsertionPointAfter(last);
    else
      builder.setInsertionPoint(body.getTerminator());
    if (value && guard.factor)
      value = MulOp::create(builder, loc, value, guard.factor);
    if (value && !optimizer.getLinear())
      value = unscaled(builder, value);

    AffineMap identity = builder.getMultiDimIdentityMap(type.getRank()),
              number = AffineMap::get(type.getRank(), 0, &getContext());
    // Gradient, numbers of the optimizer and of differences, whether it is
    // used; a linear optimizer has a rate of 0 where there is no update.
    bool guarded = guard.usable && (value || !optimizer.getLinear());
    SmallVector<Value> inputs(scalars);
    llvm::append_range(inputs, numbers.ofElement);
    if (guarded)
      inputs.push_back(guard.usable);
    SmallVector<AffineMap> maps(inputs.size(), number);
    if (value) {
      inputs.insert(inputs.begin(), value);
      maps.insert(maps.begin(), identity);
    }
    unsigned before = inputs.size(), first = value ? 1 : 0;
    for (FlatSymbolRefAttr symbol : symbols)
      inputs.push_back(ReadOp::create(builder, loc, type, symbol));
    maps.append(2 * symbols.size(), identity);
    Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(),
                                          type.getElementType());
    SmallVector<Value> updated = structured(
        builder, loc, inputs, SmallVector<Value>(symbols.size(), empty), maps,
        SmallVector<bool>(type.getRank(), false),
        [&](OpBuilder &b, Location l, ValueRange values) {
          SmallVector<Value> kept(values.slice(before, symbols.size()));
          ValueRange own = values.slice(first, scalars.size());
          std::optional<ZerothOrder::Element> element;
          if (!value) {
            element = differences.element(
                b, l,
                values.slice(first + scalars.size(), numbers.ofElement.size()),
                kept[0], parameter, update.first);
            kept[0] = element->restored;
          }
          // Weight, gradient, states, numbers.
          SmallVector<Value> arguments = {kept[0], element ? element->gradient
                                                           : values[0]};
          llvm::append_range(arguments, ArrayRef<Value>(kept).drop_front());
          llvm::append_range(arguments, own);
          SmallVector<Value> next =
              inlined(b, l, optimizer.getEach().front(), arguments);
          if (guarded)
            for (auto [value, old] : llvm::zip(next, kept))
              value = onlyIf(b, l, values[before - 1], value, old);
          if (element)
            next[0] = element->perturbed(b, l, next[0]);
          if (auto channels =
                  parameter->getAttrOfType<IntegerAttr>(lastChannelsAttrName)) {
            Value moves = amongLast(b, l, parameter, channels.getInt());
            for (auto [value, old] :
                 llvm::zip(next, values.slice(before, symbols.size())))
              value = arith::SelectOp::create(b, l, moves, value, old);
          }
          return next;
        });
    for (auto [symbol, result] : llvm::zip(symbols, updated))
      AssignOp::create(builder, loc, symbol, result);
    if (value)
      update.source->erase();
    return success();
  }

  static constexpr llvm::StringLiteral lastChannelsAttrName =
      "train.last_channels";

  /// Whether an element is in the last `count` indices of the first axis that
  /// the model's tensor has.
  static Value amongLast(OpBuilder &b, Location l, ParameterOp parameter,
                         int64_t count) {
    int64_t loop = 0;
    if (std::optional<ArrayRef<int64_t>> layout = parameter.getLayout())
      loop = llvm::find(*layout, 0) - layout->begin();
    Value index = arith::IndexCastOp::create(
        b, l, b.getI32Type(), linalg::IndexOp::create(b, l, loop));
    Value first = arith::ConstantOp::create(
        b, l,
        b.getI32IntegerAttr(parameter.getType().getDimSize(loop) - count));
    return arith::CmpIOp::create(b, l, arith::CmpIPredicate::sge, index, first);
  }

  /// The sums of gradients over runs, of which the last of `accumulate` makes
  /// an update: they are states, and take the place of gradients. `last` tells
  /// that run: 1, or 0.
  LogicalResult insertSums(OpBuilder &builder, ModuleOp module,
                           MutableArrayRef<Update> updates, Value &last) {
    Location loc = NameLoc::get(builder.getStringAttr("gradients"));
    RankedTensorType type = RankedTensorType::get(
        {}, getElementTypeOrSelf(updates.front().gradient.getType()));
    StringRef symbol = "optimizer.micro_batches";
    if (module.lookupSymbol(symbol))
      return module.emitError() << "the name '" << symbol << "' is taken";
    {
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPoint(module.lookupSymbol("step"));
      ParameterOp::create(builder, loc, builder.getStringAttr(symbol),
                          TypeAttr::get(type), UnitAttr(), FlatSymbolRefAttr(),
                          DenseI64ArrayAttr(),
                          builder.getStringAttr("micro_batches"), FloatAttr(),
                          FlatSymbolRefAttr());
    }
    auto name = FlatSymbolRefAttr::get(&getContext(), symbol);
    Value empty = tensor::EmptyOp::create(builder, loc, ArrayRef<int64_t>(),
                                          type.getElementType());
    SmallVector<Value> counted = structured(
        builder, loc, ReadOp::create(builder, loc, type, name).getResult(),
        {empty, empty},
        SmallVector<AffineMap>(3, builder.getMultiDimIdentityMap(0)), {},
        [&](OpBuilder &b, Location l, ValueRange values) {
          Type element = type.getElementType();
          Value one = scalar(b, l, element, 1.0),
                zero = scalar(b, l, element, 0.0);
          Value done = arith::AddFOp::create(b, l, values[0], one);
          Value ends =
              arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, done,
                                    scalar(b, l, element, double(accumulate)));
          return SmallVector<Value>{
              arith::SelectOp::create(b, l, ends, one, zero),
              arith::SelectOp::create(b, l, ends, zero, done)};
        });
    AssignOp::create(builder, loc, name, counted[1]);
    last = counted[0];
    for (Update &update : updates) {
      ParameterOp parameter = update.parameter;
      RankedTensorType type = parameter.getType();
      std::string symbol = (parameter.getSymName() + ".accumulated").str();
      FailureOr<ParameterOp> state =
          makeState(parameter, symbol, builder.getStringAttr("accumulated"),
                    type, 0.0, parameter);
      if (failed(state))
        return failure();
      auto name = FlatSymbolRefAttr::get((*state).getSymNameAttr());
      AffineMap identity = builder.getMultiDimIdentityMap(type.getRank()),
                number = AffineMap::get(type.getRank(), 0, &getContext());
      Value empty = tensor::EmptyOp::create(
          builder, update.loc, type.getShape(), type.getElementType());
      SmallVector<Value> sums = structured(
          builder, update.loc,
          {update.gradient, last,
           ReadOp::create(builder, update.loc, type, name)},
          {empty, empty}, {identity, number, identity, identity, identity},
          SmallVector<bool>(type.getRank(), false),
          [&](OpBuilder &b, Location l, ValueRange values) {
            Type element = type.getElementType();
            Value sum = arith::AddFOp::create(b, l, values[2], values[0]);
            Value whole =
                meanOfSteps
                    ? arith::MulFOp::create(
                          b, l, sum,
                          scalar(b, l, element, 1.0 / double(accumulate)))
                          .getResult()
                    : sum;
            Value ends =
                arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ,
                                      values[1], scalar(b, l, element, 1.0));
            return SmallVector<Value>{
                whole, arith::SelectOp::create(
                           b, l, ends, scalar(b, l, element, 0.0), sum)};
          });
      AssignOp::create(builder, update.loc, name, sums[1]);
      update.gradient = sums[0];
    }
    return success();
  }

  /// All gradients exist before it, so they have buffers and updates come last.
  /// The step returns what has been found behind the loss: their norm, and
  /// whether they are used.
  LogicalResult insertGuard(OpBuilder &builder, func::FuncOp step,
                            ArrayRef<Update> updates, Value last,
                            Guard &guard) {
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
          builder, loc, updates, [](OpBuilder &b, Location l, Value value) {
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
      if (failed(moveScale(builder, loc, scale, read, guard.usable, last)))
        return failure();
    }
    if (last)
      guard.usable =
          guard.usable
              ? MulOp::create(builder, loc, last, guard.usable).getResult()
              : last;
    if (clipNorm != 0.0) {
      Value total = overAll(
          builder, loc, updates, [](OpBuilder &b, Location l, Value value) {
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
    if (scale)
      exit->insertOperands(exit->getNumOperands(), guard.usable);
    step.setType(builder.getFunctionType(step.getArgumentTypes(),
                                         exit->getOperandTypes()));
    return success();
  }

  /// The next scale of the loss, as torch.amp.GradScaler has it: half of it if
  /// a gradient has overflowed, and twice after a number of steps without.
  /// `last`, if given, is 1 where a run ends an update, and 0 where it stays.
  LogicalResult moveScale(OpBuilder &builder, Location loc, ParameterOp scale,
                          Value value, Value usable, Value last) {
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
    if (last)
      inputs.push_back(last);
    Value empty = tensor::EmptyOp::create(builder, loc, ArrayRef<int64_t>(),
                                          type.getElementType());
    SmallVector<Value> next = structured(
        builder, loc, inputs, {empty, empty},
        SmallVector<AffineMap>(inputs.size() + 2,
                               builder.getMultiDimIdentityMap(0)),
        {}, [&](OpBuilder &b, Location l, ValueRange values) {
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
          SmallVector<Value> after = {
              onlyIf(b, l, values[2], kept, half),
              onlyIf(b, l, values[2], count, number(0.0))};
          if (last)
            for (unsigned i = 0; i < 2; ++i)
              after[i] = onlyIf(b, l, values[3], after[i], values[i]);
          return after;
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
                       ArrayRef<Update> updates, OnNumber function) {
    Value total;
    for (const Update &update : updates) {
      Value sum = overElements(builder, loc, update.gradient, function);
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

  /// The last op of `body` that uses the old value of the parameter, or where
  /// the gradient comes from.
  static Operation *lastUse(Block &body, const Update &update) {
    Operation *last = update.source;
    StringAttr parameter = ParameterOp(update.parameter).getSymNameAttr();
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
