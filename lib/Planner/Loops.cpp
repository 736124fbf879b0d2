#include "lib/Planner/Loops.h"

#include "dialects/Train/Recurrence.h"
#include "dialects/Train/Structured.h"
#include "mlir/IR/IRMapping.h"

using namespace mlir;

namespace td {

std::optional<int64_t> loopOf(Operation *op) {
  if (auto number = op->getAttrOfType<IntegerAttr>(loopAttrName))
    return number.getInt();
  return std::nullopt;
}

std::optional<int64_t> loopOf(const OperatorGroup &group) {
  return group.members.empty() ? std::nullopt
                               : loopOf(group.members.front().op);
}

int64_t advanceOf(Operation *slice) {
  auto elements = slice->getAttrOfType<IntegerAttr>(sliceAdvanceAttrName);
  return elements ? elements.getInt() : 0;
}

int64_t advanceOf(Value tensor) {
  if (auto slice = tensor.getDefiningOp<tensor::ExtractSliceOp>())
    return advanceOf(slice.getOperation()) + advanceOf(slice.getSource());
  // Written into an array, as a part of one that is maybe.
  for (OpOperand &use : tensor.getUses())
    if (auto part = dyn_cast<tensor::InsertSliceOp>(use.getOwner());
        part && loopOf(part)) {
      if (int64_t advance = advanceOf(part.getOperation()))
        return use.getOperandNumber() == 0 ? advance : 0;
      return advanceOf(part.getResult());
    }
  return 0;
}

namespace {

/// Attribute of the two ops that hold the ends of a loop.
constexpr llvm::StringLiteral edgeAttrName = "train.loop_edge";

class Opening {
public:
  Opening(train::RecurrenceOp op, int64_t number)
      : op(op), builder(op), loc(op.getLoc()), number(number),
        steps(op.getSteps()), states(op.getInitials().size()) {}

  void run() {
    Block &body = op.getBody().front();
    auto next = cast<train::NextOp>(body.getTerminator());
    int64_t first = op.getReverse() ? steps - 1 : 0,
            before = op.getReverse() ? 1 : 0, after = 1 - before;
    SmallVector<Value> inputs, arrays;
    for (Value input : op.getInputs())
      inputs.push_back(flat(input));
    for (auto [i, value] : llvm::enumerate(next.getOperands())) {
      auto type = cast<RankedTensorType>(value.getType());
      SmallVector<int64_t> shape(type.getShape());
      shape[0] *= steps + (i < states);
      Value array =
          tensor::EmptyOp::create(builder, loc, shape, type.getElementType());
      if (i < states)
        array = insert(copyOf(op.getInitials()[i]), array,
                       op.getReverse() ? steps : 0);
      arrays.push_back(array);
    }
    edge();
    IRMapping mapping;
    for (auto [i, input] : llvm::enumerate(inputs))
      mapping.map(body.getArgument(i),
                  slice(input, body.getArgument(i).getType(),
                        op.getStarts()[i] + first));
    for (unsigned state = 0; state < states; ++state) {
      BlockArgument argument = body.getArgument(inputs.size() + state);
      mapping.map(argument,
                  slice(arrays[state], argument.getType(), first + before));
    }
    for (auto [i, shared] : llvm::enumerate(op.getShared()))
      mapping.map(body.getArgument(inputs.size() + states + i), shared);
    for (Operation &inner : body.without_terminator())
      mark(builder.clone(inner, mapping));
    SmallVector<Value> made;
    for (Value value : next.getOperands()) {
      Value step = mapping.lookupOrDefault(value);
      if (!hasOwnPlace(step) || llvm::is_contained(made, step))
        step = mark(copyOf(step).getDefiningOp())->getResult(0);
      made.push_back(step);
    }
    for (auto [i, step] : llvm::enumerate(made)) {
      Value all = insert(step, arrays[i], first + (i < states ? after : 0));
      advance(all.getDefiningOp());
      arrays[i] = all;
    }
    edge();
    for (auto [result, array] : llvm::zip_equal(op.getResults(), arrays))
      result.replaceAllUsesWith(train::reshapeTo(
          builder, loc, array,
          cast<RankedTensorType>(result.getType()).getShape()));
    op.erase();
  }

private:
  Operation *mark(Operation *inner) {
    inner->setAttr(loopAttrName, builder.getI64IntegerAttr(number));
    return inner;
  }

  /// Marks a slice that moves by one step from run to run.
  void advance(Operation *part) {
    auto sizes = cast<OffsetSizeAndStrideOpInterface>(part).getStaticSizes();
    mark(part)->setAttr(
        sliceAdvanceAttrName,
        builder.getI64IntegerAttr(op.getReverse() ? -sizes[0] : sizes[0]));
  }

  void edge() {
    Operation *held = tensor::EmptyOp::create(
        builder, loc, ArrayRef<int64_t>{1}, builder.getF32Type());
    mark(held)->setAttr(edgeAttrName, builder.getUnitAttr());
  }

  /// A stack with time and the step's leading dimension as one.
  Value flat(Value stack) {
    auto shape = cast<RankedTensorType>(stack.getType()).getShape();
    SmallVector<int64_t> merged{shape[0] * shape[1]};
    llvm::append_range(merged, shape.drop_front(2));
    return train::reshapeTo(builder, loc, stack, merged);
  }

  /// An operator that makes the same elements, of a constant without reading.
  Value copyOf(Value value) {
    TypedAttr constant = splatOf(value);
    return train::elementwise(
        builder, loc, cast<RankedTensorType>(value.getType()),
        constant ? ValueRange() : ValueRange(value),
        [&](OpBuilder &b, Location l, ValueRange values) -> Value {
          if (constant)
            return arith::ConstantOp::create(b, l, constant);
          return values[0];
        });
  }

  /// Offsets, sizes and strides of a step's part.
  struct Part {
    SmallVector<OpFoldResult> offsets, sizes, strides;
  };
  Part partAt(Type step, int64_t time) {
    Part part;
    for (int64_t size : cast<RankedTensorType>(step).getShape()) {
      part.offsets.push_back(
          builder.getIndexAttr(part.offsets.empty() ? time * size : 0));
      part.sizes.push_back(builder.getIndexAttr(size));
      part.strides.push_back(builder.getIndexAttr(1));
    }
    return part;
  }

  Value slice(Value array, Type step, int64_t time) {
    Part part = partAt(step, time);
    auto made = tensor::ExtractSliceOp::create(
        builder, loc, cast<RankedTensorType>(step), array, part.offsets,
        part.sizes, part.strides);
    advance(made);
    return made;
  }

  Value insert(Value step, Value array, int64_t time) {
    Part part = partAt(step.getType(), time);
    return tensor::InsertSliceOp::create(
        builder, loc, step, array, part.offsets, part.sizes, part.strides);
  }

  /// Whether an operator of the loop makes the value, which then can lie in the
  /// stack for all who read it.
  static bool hasOwnPlace(Value value) {
    Operation *maker = value.getDefiningOp();
    if (!maker || !loopOf(maker) ||
        !isa<linalg::LinalgOp, tensor::InsertSliceOp>(maker) ||
        isa<linalg::FillOp>(maker))
      return false;
    return llvm::all_of(value.getUses(), [](OpOperand &use) {
      return isa<linalg::LinalgOp, tensor::ExtractSliceOp>(use.getOwner());
    });
  }

  train::RecurrenceOp op;
  OpBuilder builder;
  Location loc;
  int64_t number, steps;
  unsigned states;
};

} // namespace

SmallVector<int64_t> openRecurrences(func::FuncOp step) {
  SmallVector<int64_t> runs;
  for (auto op :
       llvm::make_early_inc_range(step.getOps<train::RecurrenceOp>())) {
    runs.push_back(op.getSteps());
    Opening(op, runs.size() - 1).run();
  }
  return runs;
}

void closeLoops(func::FuncOp step) {
  Operation *open = nullptr;
  for (Operation &op : llvm::make_early_inc_range(step.getBody().front())) {
    if (op.hasAttr(edgeAttrName)) {
      if (open) {
        open->erase();
        op.erase();
        open = nullptr;
      } else {
        open = &op;
      }
      continue;
    }
    if (open)
      op.setAttr(loopAttrName, open->getAttr(loopAttrName));
  }
}

} // namespace td
