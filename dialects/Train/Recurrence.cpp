// train.recurrence: its verifier, and its gradient, which is a recurrence that
// runs the other way.
#include "dialects/Train/Recurrence.h"

#include "dialects/Train/Structured.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace td::train;

#define GET_OP_CLASSES
#include "dialects/Train/Recurrence.cpp.inc"

/// The type of one step's part of a stacked array.
static RankedTensorType stepType(Type stacked) {
  auto type = cast<RankedTensorType>(stacked);
  return RankedTensorType::get(type.getShape().drop_front(),
                               type.getElementType());
}

static RankedTensorType stackType(Type step, int64_t count) {
  auto type = cast<RankedTensorType>(step);
  SmallVector<int64_t> shape{count};
  llvm::append_range(shape, type.getShape());
  return RankedTensorType::get(shape, type.getElementType());
}

//===----------------------------------------------------------------------===//
// Verifier
//===----------------------------------------------------------------------===//

LogicalResult RecurrenceOp::verify() {
  constexpr int64_t mostSteps = int64_t(1) << 16;
  int64_t steps = getSteps();
  if (steps < 1 || steps > mostSteps)
    return emitOpError("needs from 1 to ") << mostSteps << " steps";
  if (getStarts().size() != getInputs().size())
    return emitOpError("needs one start for each of its ")
           << getInputs().size() << " inputs";
  for (auto [number, input, start] :
       llvm::enumerate(getInputs(), getStarts())) {
    auto type = cast<RankedTensorType>(input.getType());
    if (type.getRank() < 2)
      return emitOpError("needs inputs with a dimension of time and one more; "
                         "input #")
             << number << " is " << type;
    if (start < 0 || start > type.getDimSize(0) ||
        type.getDimSize(0) - start < steps)
      return emitOpError("takes ")
             << steps << " steps from " << start << " on of input #" << number
             << ", which has " << type.getDimSize(0);
  }
  for (Value initial : getInitials())
    if (cast<RankedTensorType>(initial.getType()).getRank() < 1)
      return emitOpError("needs states of rank 1 or more");
  return success();
}

LogicalResult RecurrenceOp::verifyRegions() {
  Block &body = getBody().front();
  SmallVector<Type> wanted;
  for (Value input : getInputs())
    wanted.push_back(stepType(input.getType()));
  llvm::append_range(wanted, getInitials().getTypes());
  llvm::append_range(wanted, getShared().getTypes());
  if (!llvm::equal(body.getArgumentTypes(), wanted))
    return emitOpError("needs a body whose arguments are one step's part of "
                       "each input, the states and what is shared");
  for (Operation &inner : body)
    if (isa<RecurrenceOp>(inner))
      return inner.emitOpError("stands in the body of another one");
  auto next = cast<NextOp>(body.getTerminator());
  if (next.getNumOperands() != getNumResults() ||
      getNumResults() < getInitials().size())
    return next.emitOpError("needs an operand for each of the ")
           << getNumResults() << " results, the states first";
  for (auto [number, value, result] :
       llvm::enumerate(next.getOperands(), getResultTypes())) {
    auto type = cast<RankedTensorType>(value.getType());
    bool isState = number < getInitials().size();
    if (isState && type != getInitials()[number].getType())
      return next.emitOpError("gives state #")
             << number << " the type " << type << ", but it starts as "
             << getInitials()[number].getType();
    if (type.getRank() < 1)
      return next.emitOpError("needs operands of rank 1 or more");
    RankedTensorType stacked = stackType(type, getSteps() + isState);
    if (result != stacked)
      return next.emitOpError("makes result #")
             << number << " of type " << stacked << ", not " << result;
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Other results
//===----------------------------------------------------------------------===//

/// The same recurrence with other outputs: `outputs` are values of its body.
/// Uses of outputs that are there no more are the caller's.
static RecurrenceOp withOutputs(RecurrenceOp op, ArrayRef<Value> outputs) {
  OpBuilder builder(op);
  unsigned states = op.getInitials().size();
  SmallVector<Type> types(op->getResults().take_front(states).getTypes());
  for (Value output : outputs)
    types.push_back(stackType(output.getType(), op.getSteps()));
  auto made = RecurrenceOp::create(
      builder, op.getLoc(), types, op.getStepsAttr(), op.getStartsAttr(),
      op.getReverseAttr(), op.getInputs(), op.getInitials(), op.getShared());
  made->setDiscardableAttrs(op->getDiscardableAttrDictionary());
  made.getBody().takeBody(op.getBody());
  Operation *next = made.getBody().front().getTerminator();
  SmallVector<Value> operands(next->getOperands().take_front(states));
  llvm::append_range(operands, outputs);
  next->setOperands(operands);
  for (unsigned state = 0; state < states; ++state)
    op.getResult(state).replaceAllUsesWith(made.getResult(state));
  return made;
}

RecurrenceOp td::train::keepAllValues(RecurrenceOp op) {
  Block &body = op.getBody().front();
  unsigned states = op.getInitials().size();
  llvm::SetVector<Value> outputs;
  SmallVector<unsigned> places; // of the outputs that it has
  for (Value output : body.getTerminator()->getOperands().drop_front(states)) {
    outputs.insert(output);
    places.push_back(llvm::find(outputs, output) - outputs.begin());
  }
  for (Operation &inner : body.without_terminator())
    for (Value result : inner.getResults())
      if (auto type = dyn_cast<RankedTensorType>(result.getType());
          type && type.getRank() > 0 && isa<FloatType>(type.getElementType()) &&
          !inner.hasTrait<OpTrait::ConstantLike>())
        outputs.insert(result);
  RecurrenceOp made = withOutputs(op, outputs.getArrayRef());
  for (auto [output, place] : llvm::enumerate(places))
    op.getResult(states + output)
        .replaceAllUsesWith(made.getResult(states + place));
  op.erase();
  return made;
}

void td::train::dropUnusedOutputs(RecurrenceOp op) {
  unsigned states = op.getInitials().size();
  Operation *next = op.getBody().front().getTerminator();
  SmallVector<Value> outputs;
  SmallVector<OpResult> results;
  for (OpResult result : op->getResults().drop_front(states))
    if (!result.use_empty()) {
      outputs.push_back(next->getOperand(result.getResultNumber()));
      results.push_back(result);
    }
  if (outputs.size() + states == op.getNumResults())
    return;
  RecurrenceOp made = withOutputs(op, outputs);
  for (auto [place, result] : llvm::enumerate(results))
    result.replaceAllUsesWith(made.getResult(states + place));
  op.erase();
}

//===----------------------------------------------------------------------===//
// Gradient
//===----------------------------------------------------------------------===//

namespace {

/// Builds the recurrence that carries cotangents from the last step to the
/// first. Its steps are vector-Jacobian products of the body's operators, on
/// the values that the forward kept; what all steps share gets its gradient
/// outside, by one product over all of them.
class Reversal {
public:
  Reversal(RecurrenceOp op, OpBuilder &builder, ValueRange cotangents,
           ArrayRef<bool> wanted)
      : op(op), builder(builder), loc(op.getLoc()), cotangents(cotangents),
        wanted(wanted), body(op.getBody().front()),
        next(cast<NextOp>(body.getTerminator())), steps(op.getSteps()),
        inputs(op.getInputs().size()), states(op.getInitials().size()),
        inside(builder.getContext()) {}

  SmallVector<Value> build() {
    SmallVector<Value> gradients(op->getNumOperands());
    findActive();
    region.emplaceBlock();
    inside.setInsertionPointToEnd(&region.front());
    cloneBody();
    seed();
    if (!sweep())
      return gradients;
    finish();
    RecurrenceOp reversed = create();
    for (auto [i, result] : llvm::enumerate(inputResults))
      if (result)
        gradients[i] = whole(reversed.getResult(*result), i);
    for (unsigned state = 0; state < states; ++state)
      if (wanted[inputs + state])
        gradients[inputs + state] = ofInitial(reversed, state);
    for (auto [linear, result] : linears)
      addShared(linear, reversed.getResult(result), gradients);
    for (unsigned i = inputs + states; i < gradients.size(); ++i)
      if (wanted[i] && !gradients[i])
        gradients[i] =
            zeros(builder, cast<RankedTensorType>(op->getOperand(i).getType()));
    return gradients;
  }

private:
  /// An argument of the reversed body and what it comes from.
  struct Feed {
    Value array;
    int64_t start;
    BlockArgument argument;
  };

  Value argumentOf(unsigned operand) { return body.getArgument(operand); }
  bool isShared(Value value) {
    auto argument = dyn_cast<BlockArgument>(value);
    return argument && argument.getArgNumber() >= inputs + states;
  }

  Value zeros(OpBuilder &b, RankedTensorType type) {
    return arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
  }

  /// What depends on something whose gradient is wanted; states carry that
  /// from step to step.
  void findActive() {
    for (auto [operand, isWanted] : llvm::enumerate(wanted))
      if (isWanted)
        active.insert(argumentOf(operand));
    for (bool changed = true; changed;) {
      changed = false;
      for (Operation &inner : body.without_terminator())
        if (llvm::any_of(inner.getOperands(),
                         [&](Value value) { return active.contains(value); }))
          active.insert_range(inner.getResults());
      for (unsigned state = 0; state < states; ++state)
        if (active.contains(next.getOperand(state)))
          changed |= active.insert(argumentOf(inputs + state)).second;
    }
  }

  /// The part of a stacked array that belongs to a step.
  Value feed(Value array, int64_t start) {
    for (const Feed &known : feeds)
      if (known.array == array && known.start == start)
        return known.argument;
    feeds.push_back(
        {array, start,
         region.front().addArgument(stepType(array.getType()), loc)});
    return feeds.back().argument;
  }

  /// Index of a state's value after a step in its stack is the step's and
  /// this; before it, the other one.
  int64_t after() { return op.getReverse() ? 0 : 1; }
  int64_t before() { return op.getReverse() ? 1 : 0; }

  /// The stack that holds a value of the body, and from where on.
  std::pair<Value, int64_t> stackOf(Value value) {
    if (auto argument = dyn_cast<BlockArgument>(value)) {
      unsigned number = argument.getArgNumber();
      if (number < inputs)
        return {op.getInputs()[number], op.getStarts()[number]};
      return {op.getResult(number - inputs), before()};
    }
    for (unsigned i = 0; i < next.getNumOperands(); ++i)
      if (next.getOperand(i) == value)
        return {op.getResult(i), i < states ? after() : 0};
    return {Value(), 0};
  }

  /// The forward's operators stand in the reversed body while gradients are
  /// built: what these read is then taken from what was kept.
  void cloneBody() {
    for (unsigned i = 0; i < inputs + states; ++i) {
      auto [array, start] = stackOf(argumentOf(i));
      mapping.map(argumentOf(i), feed(array, start));
    }
    for (Value shared : op.getShared()) {
      Value argument = region.front().addArgument(shared.getType(), loc);
      sharedArguments.push_back(cast<BlockArgument>(argument));
      mapping.map(argumentOf(inputs + states + sharedArguments.size() - 1),
                  argument);
    }
    for (Operation &inner : body.without_terminator())
      clones.push_back(inside.clone(inner, mapping));
  }

  void add(Value value, Value cotangent) {
    if (!active.contains(value))
      return;
    Value &sum = sums[value];
    sum = addCotangents(inside, loc, sum, cotangent);
  }

  void seed() {
    for (unsigned i = 0; i < next.getNumOperands(); ++i)
      if (cotangents[i])
        add(next.getOperand(i), feed(cotangents[i], i < states ? after() : 0));
    carries.resize(states);
    for (unsigned state = 0; state < states; ++state) {
      Value argument = argumentOf(inputs + state);
      if (!active.contains(argument))
        continue;
      carries[state] = region.front().addArgument(argument.getType(), loc);
      add(next.getOperand(state), carries[state]);
    }
  }

  /// False if an operator has no gradient.
  bool sweep() {
    SmallVector<Operation *> forward;
    for (Operation &inner : body.without_terminator())
      forward.push_back(&inner);
    for (size_t i = forward.size(); i-- > 0;) {
      Operation *inner = forward[i], *clone = clones[i];
      SmallVector<Value> incoming;
      for (Value result : inner->getResults())
        incoming.push_back(sums.lookup(result));
      if (llvm::none_of(incoming, [](Value value) { return !!value; }))
        continue;
      auto differentiable = dyn_cast<DifferentiableOpInterface>(clone);
      if (!differentiable) {
        inner->emitOpError("has no gradient within a recurrence");
        return false;
      }
      SmallVector<bool> asked;
      bool usesShared = false;
      for (Value operand : inner->getOperands()) {
        bool isActive = active.contains(operand);
        usesShared |= isActive && isShared(operand);
        asked.push_back(isActive && !isShared(operand));
      }
      if (usesShared) {
        auto linear = dyn_cast<LinearOp>(inner);
        if (!linear || isShared(linear.getInput())) {
          inner->emitOpError(
              "uses what all steps of a recurrence share; that has a gradient "
              "as weight or bias of train.linear alone");
          return false;
        }
        linearCotangents.push_back({linear, incoming.front()});
      }
      if (!llvm::is_contained(asked, true))
        continue;
      SmallVector<Value> outgoing =
          differentiable.buildVJP(inside, incoming, asked);
      for (auto [index, operand] : llvm::enumerate(inner->getOperands())) {
        if (!asked[index])
          continue;
        if (!outgoing[index]) {
          inner->emitOpError("has no gradient with respect to its operand #")
              << index;
          return false;
        }
        add(operand, outgoing[index]);
      }
    }
    return true;
  }

  Value sumOf(Value value) {
    if (Value sum = sums.lookup(value))
      return sum;
    return zeros(inside, cast<RankedTensorType>(value.getType()));
  }

  /// Takes the forward's operators out of the reversed body, and ends it.
  void finish() {
    SmallVector<Value> results;
    for (unsigned state = 0; state < states; ++state)
      if (carries[state])
        results.push_back(sumOf(argumentOf(inputs + state)));
    inputResults.resize(inputs);
    for (unsigned i = 0; i < inputs; ++i)
      if (wanted[i]) {
        inputResults[i] = results.size();
        results.push_back(sumOf(argumentOf(i)));
      }
    for (auto [linear, cotangent] : linearCotangents) {
      linears.push_back({linear, results.size()});
      results.push_back(cotangent);
    }
    llvm::SmallPtrSet<Operation *, 16> forward(clones.begin(), clones.end());
    SmallVector<Operation *> originals;
    for (Operation &inner : body.without_terminator())
      originals.push_back(&inner);
    NextOp::create(inside, loc, results);
    for (auto [inner, clone] : llvm::zip_equal(originals, clones))
      for (auto [value, made] :
           llvm::zip_equal(inner->getResults(), clone->getResults())) {
        auto isOutside = [&](OpOperand &use) {
          return !forward.contains(use.getOwner());
        };
        if (llvm::none_of(made.getUses(), isOutside))
          continue;
        if (auto [array, start] = stackOf(value); array)
          made.replaceUsesWithIf(feed(array, start), isOutside);
      }
    // What was not kept (constants) is computed again.
    for (Operation *clone : llvm::reverse(clones))
      if (clone->use_empty())
        clone->erase();
  }

  /// The reversed recurrence, with the arguments that its body uses.
  RecurrenceOp create() {
    SmallVector<Value> arrays, initials, shared;
    SmallVector<int64_t> starts;
    Block *made = new Block;
    auto take = [&](BlockArgument argument) {
      argument.replaceAllUsesWith(made->addArgument(argument.getType(), loc));
    };
    for (const Feed &known : feeds)
      if (!known.argument.use_empty()) {
        arrays.push_back(known.array);
        starts.push_back(known.start);
        take(known.argument);
      }
    for (unsigned state = 0; state < states; ++state)
      if (carries[state]) {
        carryOf.push_back(initials.size());
        initials.push_back(
            zeros(builder, cast<RankedTensorType>(carries[state].getType())));
        take(cast<BlockArgument>(carries[state]));
      } else {
        carryOf.push_back(~0u);
      }
    for (auto [value, argument] :
         llvm::zip_equal(op.getShared(), sharedArguments))
      if (!argument.use_empty()) {
        shared.push_back(value);
        take(argument);
      }
    made->getOperations().splice(made->end(), region.front().getOperations());
    SmallVector<Type> types;
    for (auto [i, value] :
         llvm::enumerate(made->getTerminator()->getOperands()))
      types.push_back(
          stackType(value.getType(), steps + (i < initials.size())));
    auto reversed = RecurrenceOp::create(
        builder, loc, types, op.getStepsAttr(),
        builder.getDenseI64ArrayAttr(starts),
        op.getReverse() ? UnitAttr() : builder.getUnitAttr(), arrays, initials,
        shared);
    reversed.getBody().push_back(made);
    return reversed;
  }

  /// The gradient of an input, of which the steps may read a part.
  Value whole(Value gradient, unsigned input) {
    auto type = cast<RankedTensorType>(op.getInputs()[input].getType());
    if (gradient.getType() == type)
      return gradient;
    SmallVector<int64_t> offsets(type.getRank(), 0), ones(type.getRank(), 1);
    offsets[0] = op.getStarts()[input];
    return EmbedOp::create(builder, loc, type, gradient, offsets, ones);
  }

  /// One entry of a stack.
  Value entry(Value stack, int64_t at) {
    RankedTensorType type = tensorType(stack);
    SmallVector<int64_t> shape(type.getShape()), offsets(type.getRank(), 0),
        ones(type.getRank(), 1);
    shape[0] = 1;
    offsets[0] = at;
    Value slice = SliceOp::create(
        builder, loc, RankedTensorType::get(shape, type.getElementType()),
        stack, offsets, ones);
    return ReshapeOp::create(builder, loc, stepType(type), slice);
  }

  Value ofInitial(RecurrenceOp reversed, unsigned state) {
    int64_t first = op.getReverse() ? steps : 0;
    Value gradient = entry(reversed.getResult(carryOf[state]), first);
    if (Value cotangent = cotangents[state])
      gradient = AddOp::create(builder, loc, gradient, entry(cotangent, first));
    return gradient;
  }

  /// A stack from `start` on as a matrix, one row for each vector of the last
  /// dimension.
  Value asMatrix(Value stack, int64_t start) {
    RankedTensorType type = tensorType(stack);
    int64_t columns = type.getShape().back(),
            rows = type.getNumElements() / columns,
            rowsOfStep = rows / type.getDimSize(0), taken = steps * rowsOfStep;
    // First the matrix, then its rows: both are views.
    Value matrix = ReshapeOp::create(
        builder, loc,
        RankedTensorType::get({rows, columns}, type.getElementType()), stack);
    if (taken == rows)
      return matrix;
    return SliceOp::create(
        builder, loc,
        RankedTensorType::get({taken, columns}, type.getElementType()), matrix,
        ArrayRef<int64_t>{start * rowsOfStep, 0}, ArrayRef<int64_t>{1, 1});
  }

  /// Adds the gradients of a linear layer's weight and bias.
  void addShared(LinearOp linear, Value cotangent,
                 SmallVectorImpl<Value> &gradients) {
    Value rows = asMatrix(cotangent, 0);
    auto accumulate = [&](Value operand, Value gradient) {
      Value &sum = gradients[cast<BlockArgument>(operand).getArgNumber()];
      sum = addCotangents(builder, loc, sum, gradient);
    };
    auto isWanted = [&](Value operand) {
      return operand && isShared(operand) && active.contains(operand);
    };
    if (isWanted(linear.getWeight())) {
      auto [stack, start] = stackOf(linear.getInput());
      accumulate(linear.getWeight(),
                 contract(builder, linear.getLoc(), rows, "mk",
                          asMatrix(stack, start), "mn", "kn"));
    }
    if (isWanted(linear.getBias()))
      accumulate(linear.getBias(),
                 SumToOp::create(builder, linear.getLoc(),
                                 linear.getBias().getType(), rows));
  }

  RecurrenceOp op;
  OpBuilder &builder;
  Location loc;
  ValueRange cotangents;
  ArrayRef<bool> wanted;
  Block &body;
  NextOp next;
  int64_t steps;
  unsigned inputs, states;
  OpBuilder inside;
  Region region;
  IRMapping mapping;
  llvm::DenseSet<Value> active;
  llvm::DenseMap<Value, Value> sums; // cotangents of the body's values
  SmallVector<Feed> feeds;
  SmallVector<BlockArgument> sharedArguments;
  SmallVector<Operation *> clones;
  SmallVector<Value> carries;
  SmallVector<unsigned> carryOf;
  SmallVector<std::optional<unsigned>> inputResults;
  SmallVector<std::pair<LinearOp, Value>> linearCotangents;
  SmallVector<std::pair<LinearOp, unsigned>> linears;
};

} // namespace

SmallVector<Value> RecurrenceOp::buildVJP(OpBuilder &builder,
                                          ValueRange cotangents,
                                          ArrayRef<bool> wanted) {
  return Reversal(*this, builder, cotangents, wanted).build();
}

SmallVector<Value> RecurrenceOp::getResiduals(ArrayRef<bool>) {
  SmallVector<Value> residuals(getInputs());
  llvm::append_range(residuals, getShared());
  llvm::append_range(residuals, getResults());
  return residuals;
}
