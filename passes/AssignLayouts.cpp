// Chooses how each parameter lies in memory.
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_ASSIGNLAYOUTS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

static SmallVector<int64_t> inverse(ArrayRef<int64_t> permutation) {
  SmallVector<int64_t> result(permutation.size());
  for (auto [to, from] : llvm::enumerate(permutation))
    result[from] = to;
  return result;
}

static RankedTensorType permutedType(Type type, ArrayRef<int64_t> permutation) {
  auto from = cast<RankedTensorType>(type);
  SmallVector<int64_t> shape;
  for (int64_t axis : permutation)
    shape.push_back(from.getDimSize(axis));
  return RankedTensorType::get(shape, from.getElementType());
}

namespace {
struct AssignLayouts : td::impl::AssignLayoutsBase<AssignLayouts> {
  using AssignLayoutsBase::AssignLayoutsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step)
      return;
    llvm::DenseMap<StringAttr, SmallVector<ReadOp>> reads;
    llvm::DenseMap<StringAttr, SmallVector<GradientOp>> gradients;
    step.walk([&](Operation *op) {
      if (auto read = dyn_cast<ReadOp>(op))
        reads[read.getParameterAttr().getAttr()].push_back(read);
      else if (auto gradient = dyn_cast<GradientOp>(op))
        gradients[gradient.getParameterAttr().getAttr()].push_back(gradient);
    });
    for (auto parameter : module.getOps<ParameterOp>()) {
      StringAttr name = parameter.getSymNameAttr();
      if (parameter.getLayout())
        continue;
      SmallVector<int64_t> layout = wantedLayout(reads[name]);
      if (layout.empty() || llvm::is_sorted(layout))
        continue;
      apply(parameter, layout, reads[name], gradients[name]);
      ++permutedParameters;
    }
  }

  /// The order of axes that a parameter's users want, empty if they do not
  /// care: that of all its permutes, or [in, out] for a weight of the forward's
  /// products alone (of several rows), which is how the second operand of
  /// RedMulE lies.
  static SmallVector<int64_t> wantedLayout(ArrayRef<ReadOp> reads) {
    SmallVector<int64_t> layout;
    bool first = true;
    for (ReadOp read : reads)
      for (Operation *user : read->getUsers()) {
        SmallVector<int64_t> wanted;
        if (auto permute = dyn_cast<PermuteOp>(user))
          wanted.assign(permute.getPermutation().begin(),
                        permute.getPermutation().end());
        else if (auto linear = dyn_cast<LinearOp>(user);
                 linear && linear.getWeight() == read.getResult() &&
                 linear.getInput() != read.getResult() && rows(linear) > 1)
          wanted = {1, 0};
        else
          return {};
        if (!first && wanted != layout)
          return {};
        layout = wanted;
        first = false;
      }
    return layout;
  }

  static int64_t rows(LinearOp linear) {
    RankedTensorType input = linear.getInput().getType();
    return input.getNumElements() / input.getShape().back();
  }

  static void apply(ParameterOp parameter, ArrayRef<int64_t> layout,
                    ArrayRef<ReadOp> reads, ArrayRef<GradientOp> gradients) {
    OpBuilder builder(parameter.getContext());
    RankedTensorType stored = permutedType(parameter.getType(), layout);
    for (ReadOp read : reads) {
      builder.setInsertionPointAfter(read);
      Type model = read.getType();
      read.getResult().setType(stored);
      Value turned = PermuteOp::create(builder, read.getLoc(), model,
                                       read.getResult(), inverse(layout));
      read.getResult().replaceAllUsesExcept(turned, turned.getDefiningOp());
    }
    for (GradientOp gradient : gradients) {
      builder.setInsertionPoint(gradient);
      gradient.getValueMutable().assign(PermuteOp::create(
          builder, gradient.getLoc(), stored, gradient.getValue(), layout));
    }
    parameter.setType(stored);
    parameter.setLayout(layout);
  }
};
} // namespace
