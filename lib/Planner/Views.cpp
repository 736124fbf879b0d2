#include "lib/Planner/Views.h"

#include "dialects/Train/Structured.h"

#include "lib/Planner/Grouping.h"
#include "lib/Planner/Loops.h"
#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;

namespace td {
namespace {

/// A strided window of a tensor.
struct Box {
  SmallVector<int64_t> offsets, sizes, strides;

  int64_t last(unsigned dim) const {
    return offsets[dim] + (sizes[dim] - 1) * strides[dim];
  }
  bool isEmpty() const {
    return llvm::any_of(sizes, [](int64_t size) { return size == 0; });
  }
  bool isDense() const {
    for (auto [size, stride] : llvm::zip(sizes, strides))
      if (size > 1 && stride > 1)
        return false;
    return true;
  }
  bool overlaps(const Box &other) const {
    for (unsigned dim = 0; dim < sizes.size(); ++dim) {
      if (last(dim) < other.offsets[dim] || other.last(dim) < offsets[dim])
        return false;
      if (strides[dim] == other.strides[dim] &&
          (offsets[dim] - other.offsets[dim]) % strides[dim] != 0)
        return false;
    }
    return true;
  }
};

template <typename Slice> Box boxOf(Slice op) {
  return {SmallVector<int64_t>(op.getStaticOffsets()),
          SmallVector<int64_t>(op.getStaticSizes()),
          SmallVector<int64_t>(op.getStaticStrides())};
}

Box wholeOf(RankedTensorType type) {
  return {SmallVector<int64_t>(type.getRank(), 0),
          SmallVector<int64_t>(type.getShape()),
          SmallVector<int64_t>(type.getRank(), 1)};
}

/// The parts of `from` that `what` leaves.
SmallVector<Box> subtract(const Box &from, const Box &what) {
  if (!from.overlaps(what))
    return {from};
  SmallVector<Box> rest;
  Box core = from;
  for (unsigned dim = 0; dim < from.sizes.size(); ++dim) {
    int64_t begin = core.offsets[dim], end = begin + core.sizes[dim];
    int64_t cutBegin = std::max(begin, what.offsets[dim]),
            cutEnd = std::min(end, what.last(dim) + 1);
    for (auto [first, past] :
         {std::make_pair(begin, cutBegin), std::make_pair(cutEnd, end)}) {
      Box side = core;
      side.offsets[dim] = first;
      side.sizes[dim] = past - first;
      if (past > first)
        rest.push_back(side);
    }
    core.offsets[dim] = cutBegin;
    core.sizes[dim] = cutEnd - cutBegin;
  }
  return rest;
}

bool isReshape(Operation *op) {
  return isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op);
}

class Preparation {
public:
  explicit Preparation(func::FuncOp step)
      : block(step.getBody().front()), builder(step.getContext()) {}

  void run(DenseMap<Value, tensor::InsertSliceOp> &insertedBy,
           SmallVectorImpl<std::pair<Value, Value>> &overwritten) {
    for (Operation &op : llvm::make_early_inc_range(block)) {
      if (isReshape(&op) &&
          op.getOperand(0).getDefiningOp<tensor::ExtractSliceOp>())
        copyOperand(op.getOpOperand(0));
      // Where a constant cannot become part of the computation, it is an array.
      if (auto matmul = dyn_cast<linalg::MatmulOp>(op))
        for (OpOperand *input : matmul.getDpsInputOperands())
          if (viewSource(input->get()).getDefiningOp<linalg::FillOp>())
            copyOperand(*input);
    }
    SmallVector<tensor::InsertSliceOp> ends;
    for (auto insert : block.getOps<tensor::InsertSliceOp>())
      if (advanceOf(insert.getOperation()))
        insertedBy[insert.getSource()] = insert;
      else if (!continues(insert))
        ends.push_back(insert);
    for (tensor::InsertSliceOp end : ends)
      prepareChain(end, insertedBy, overwritten);
  }

private:
  /// Whether the array of an insert_slice is taken over by another one.
  static bool continues(tensor::InsertSliceOp insert) {
    if (!insert->hasOneUse())
      return false;
    auto next = dyn_cast<tensor::InsertSliceOp>(*insert->user_begin());
    return next && !advanceOf(next.getOperation()) &&
           next.getDest() == insert.getResult() &&
           next.getSource() != insert.getResult();
  }

  /// An operator without inputs, or one that copies.
  Value emit(Location location, RankedTensorType type, ValueRange inputs,
             TypedAttr constant) {
    return train::elementwise(
        builder, location, type, inputs,
        [&](OpBuilder &b, Location l, ValueRange values) -> Value {
          if (constant)
            return arith::ConstantOp::create(b, l, constant);
          return values[0];
        });
  }

  void copyOperand(OpOperand &operand) {
    builder.setInsertionPoint(operand.getOwner());
    operand.set(emit(operand.getOwner()->getLoc(),
                     cast<RankedTensorType>(operand.get().getType()),
                     operand.get(), TypedAttr()));
  }

  Value insert(Location location, Value source, Value into, const Box &box) {
    SmallVector<OpFoldResult> offsets, sizes, strides;
    for (unsigned dim = 0; dim < box.sizes.size(); ++dim) {
      offsets.push_back(builder.getIndexAttr(box.offsets[dim]));
      sizes.push_back(builder.getIndexAttr(box.sizes[dim]));
      strides.push_back(builder.getIndexAttr(box.strides[dim]));
    }
    return tensor::InsertSliceOp::create(builder, location, source, into,
                                         offsets, sizes, strides);
  }

  void prepareChain(tensor::InsertSliceOp end,
                    DenseMap<Value, tensor::InsertSliceOp> &insertedBy,
                    SmallVectorImpl<std::pair<Value, Value>> &overwritten) {
    SmallVector<tensor::InsertSliceOp> chain{end};
    while (auto before =
               chain.back().getDest().getDefiningOp<tensor::InsertSliceOp>()) {
      if (!continues(before))
        break;
      chain.push_back(before);
    }
    std::reverse(chain.begin(), chain.end());
    // What lies under the first part is written by operators of its own.
    tensor::InsertSliceOp first = chain.front();
    Value base = first.getDest();
    RankedTensorType type = end.getType();
    Location location = first.getLoc();
    if (!base.getDefiningOp<tensor::EmptyOp>()) {
      builder.setInsertionPoint(first);
      TypedAttr constant = splatOf(base);
      SmallVector<Box> rest{wholeOf(type)};
      for (tensor::InsertSliceOp part : chain) {
        Box box = boxOf(part);
        if (!box.isDense())
          continue;
        SmallVector<Box> left;
        for (const Box &piece : rest)
          llvm::append_range(left, subtract(piece, box));
        rest = std::move(left);
      }
      Value array = tensor::EmptyOp::create(builder, location, type.getShape(),
                                            type.getElementType());
      SmallVector<tensor::InsertSliceOp> under;
      for (const Box &piece : rest) {
        auto pieceType =
            RankedTensorType::get(piece.sizes, type.getElementType());
        Value source;
        if (constant) {
          source = emit(location, pieceType, {}, constant);
        } else {
          SmallVector<OpFoldResult> offsets, sizes, strides;
          for (unsigned dim = 0; dim < piece.sizes.size(); ++dim) {
            offsets.push_back(builder.getIndexAttr(piece.offsets[dim]));
            sizes.push_back(builder.getIndexAttr(piece.sizes[dim]));
            strides.push_back(builder.getIndexAttr(1));
          }
          Value slice = tensor::ExtractSliceOp::create(
              builder, location, pieceType, base, offsets, sizes, strides);
          source = emit(location, pieceType, slice, TypedAttr());
        }
        array = insert(location, source, array, piece);
        under.push_back(array.getDefiningOp<tensor::InsertSliceOp>());
      }
      first.getDestMutable().assign(array);
      chain.insert(chain.begin(), under.begin(), under.end());
    }
    for (auto [index, part] : llvm::enumerate(chain)) {
      Box box = boxOf(part);
      bool overwrittenLater = false;
      for (tensor::InsertSliceOp later :
           ArrayRef<tensor::InsertSliceOp>(chain).drop_front(index + 1))
        overwrittenLater |= boxOf(later).overlaps(box);
      if (!canBeInPlace(part, overwrittenLater, insertedBy))
        copyOperand(part.getSourceMutable());
      insertedBy[part.getSource()] = part;
      for (tensor::InsertSliceOp before :
           ArrayRef<tensor::InsertSliceOp>(chain).take_front(index))
        if (boxOf(before).overlaps(box))
          overwritten.push_back({before.getSource(), part.getSource()});
    }
  }

  /// Whether the operator that makes the source can write the part itself: the
  /// array then holds the source for all who read it.
  static bool
  canBeInPlace(tensor::InsertSliceOp part, bool overwrittenLater,
               const DenseMap<Value, tensor::InsertSliceOp> &insertedBy) {
    Value source = part.getSource();
    auto producer = source.getDefiningOp<linalg::LinalgOp>();
    if (!producer || isa<linalg::FillOp>(producer.getOperation()) ||
        insertedBy.count(source) || (overwrittenLater && !source.hasOneUse()))
      return false;
    // An array of its own is needed by what is assigned, returned or reshaped.
    return llvm::all_of(source.getUses(), [&](OpOperand &use) {
      Operation *user = use.getOwner();
      return isa<linalg::LinalgOp, tensor::ExtractSliceOp>(user) ||
             (isa<tensor::InsertSliceOp>(user) && use.getOperandNumber() == 0);
    });
  }

  Block &block;
  OpBuilder builder;
};

} // namespace

StepViews StepViews::prepare(func::FuncOp step) {
  StepViews views;
  Preparation(step).run(views.insertedBy, views.overwritten);
  return views;
}

TensorView StepViews::viewOf(Value tensor) const {
  auto shape = cast<RankedTensorType>(tensor.getType()).getShape();
  TensorView view{tensor, tensor, SmallVector<int64_t>(shape.size(), 0),
                  SmallVector<int64_t>(shape.size(), 1)};
  Operation *op = tensor.getDefiningOp();
  if (!op)
    return view;
  if (isReshape(op)) {
    view.root = viewOf(op->getOperand(0)).root;
    return view;
  }
  auto within = [&](Value outer, const Box &box) {
    view = viewOf(outer);
    for (unsigned dim = 0; dim < box.offsets.size(); ++dim) {
      view.offsets[dim] += view.strides[dim] * box.offsets[dim];
      view.strides[dim] *= box.strides[dim];
    }
    return view;
  };
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op))
    return within(slice.getSource(), boxOf(slice));
  if (auto part = insertedBy.lookup(tensor))
    return within(part.getResult(), boxOf(part));
  // In a loop, a part of the array that is there.
  if (auto part = dyn_cast<tensor::InsertSliceOp>(op); part && advanceOf(op))
    return viewOf(part.getDest());
  // An insert_slice is part of what the next one makes of it.
  if (isa<tensor::InsertSliceOp>(op) && op->hasOneUse())
    if (auto next = dyn_cast<tensor::InsertSliceOp>(*op->user_begin());
        next && !advanceOf(next.getOperation()) && next.getDest() == tensor)
      return viewOf(next.getResult());
  return view;
}

SmallVector<Value> StepViews::sourcesOf(Value tensor) const {
  SmallVector<Value> sources, stack{tensor};
  while (!stack.empty()) {
    Value value = stack.pop_back_val();
    Operation *op = value.getDefiningOp();
    if (op && (isReshape(op) || isa<tensor::ExtractSliceOp>(op))) {
      stack.push_back(op->getOperand(0));
    } else if (auto part = dyn_cast_or_null<tensor::InsertSliceOp>(op)) {
      stack.push_back(part.getSource());
      stack.push_back(part.getDest());
    } else if (!op || !isa<tensor::EmptyOp>(op)) {
      sources.push_back(value);
    }
  }
  return sources;
}

} // namespace td
