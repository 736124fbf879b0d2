// Lowers recurrences to loops, for the host.
#include "dialects/Train/Recurrence.h"
#include "passes/Passes.h"

#include "mlir/IR/IRMapping.h"

namespace td {
#define GEN_PASS_DEF_LOWERRECURRENCES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

namespace {

/// The part of a stack at a time, without the dimension of time.
struct Part {
  Part(OpBuilder &builder, RankedTensorType stack, OpFoldResult time)
      : offsets(stack.getRank(), builder.getIndexAttr(0)),
        strides(stack.getRank(), builder.getIndexAttr(1)) {
    offsets[0] = time;
    for (int64_t size : stack.getShape())
      sizes.push_back(builder.getIndexAttr(sizes.empty() ? 1 : size));
  }
  SmallVector<OpFoldResult> offsets, sizes, strides;
};

Value insert(OpBuilder &b, Location loc, Value step, Value stack,
             OpFoldResult time) {
  Part part(b, cast<RankedTensorType>(stack.getType()), time);
  return tensor::InsertSliceOp::create(b, loc, step, stack, part.offsets,
                                       part.sizes, part.strides);
}

Value extract(OpBuilder &b, Location loc, Value stack, OpFoldResult time) {
  auto type = cast<RankedTensorType>(stack.getType());
  Part part(b, type, time);
  auto step = RankedTensorType::get(type.getShape().drop_front(),
                                    type.getElementType());
  return tensor::ExtractSliceOp::create(b, loc, step, stack, part.offsets,
                                        part.sizes, part.strides);
}

void lower(RecurrenceOp op) {
  OpBuilder builder(op);
  Location loc = op.getLoc();
  int64_t steps = op.getSteps();
  unsigned inputs = op.getInputs().size(), states = op.getInitials().size();
  SmallVector<Value> stacks;
  for (auto [i, type] : llvm::enumerate(op.getResultTypes())) {
    auto stack = cast<RankedTensorType>(type);
    Value made = tensor::EmptyOp::create(builder, loc, stack.getShape(),
                                         stack.getElementType());
    if (i < states)
      made = insert(builder, loc, op.getInitials()[i], made,
                    builder.getIndexAttr(op.getReverse() ? steps : 0));
    stacks.push_back(made);
  }
  auto index = [](OpBuilder &b, Location l, int64_t value) -> Value {
    return arith::ConstantIndexOp::create(b, l, value);
  };
  Value zero = index(builder, loc, 0), one = index(builder, loc, 1),
        end = index(builder, loc, steps);
  auto loop = scf::ForOp::create(
      builder, loc, zero, end, one, stacks,
      [&](OpBuilder &b, Location l, Value run, ValueRange carried) {
        Value time = run;
        if (op.getReverse())
          time = arith::SubIOp::create(b, l, index(b, l, steps - 1), run);
        auto later = [&](int64_t steps) -> OpFoldResult {
          return arith::AddIOp::create(b, l, time, index(b, l, steps))
              .getResult();
        };
        OpFoldResult before = later(op.getReverse() ? 1 : 0),
                     after = later(op.getReverse() ? 0 : 1);
        Block &body = op.getBody().front();
        IRMapping mapping;
        for (unsigned i = 0; i < inputs; ++i)
          mapping.map(body.getArgument(i), extract(b, l, op.getInputs()[i],
                                                   later(op.getStarts()[i])));
        for (unsigned i = 0; i < states; ++i)
          mapping.map(body.getArgument(inputs + i),
                      extract(b, l, carried[i], before));
        for (auto [i, shared] : llvm::enumerate(op.getShared()))
          mapping.map(body.getArgument(inputs + states + i), shared);
        for (Operation &inner : body.without_terminator())
          b.clone(inner, mapping);
        SmallVector<Value> results;
        for (auto [i, value] :
             llvm::enumerate(body.getTerminator()->getOperands()))
          results.push_back(insert(b, l, mapping.lookupOrDefault(value),
                                   carried[i],
                                   i < states ? after : OpFoldResult(time)));
        scf::YieldOp::create(b, l, results);
      });
  op.replaceAllUsesWith(loop.getResults());
  op.erase();
}

struct LowerRecurrences : td::impl::LowerRecurrencesBase<LowerRecurrences> {
  void runOnOperation() override {
    getOperation().walk([](RecurrenceOp op) { lower(op); });
  }
};

} // namespace
