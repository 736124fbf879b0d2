#include "lib/Kernels/KernelPlan.h"
#include "lib/Kernels/MathExpansion.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;

namespace td {

namespace {

/// Dimensions d and d+1 of the op can be one loop if every operand walks both,
/// next to each other, or neither.
bool canMerge(linalg::LinalgOp op, ArrayRef<AffineMap> maps,
              ArrayRef<bool> indexed, unsigned first, unsigned second) {
  auto iterators = op.getIteratorTypesArray();
  if (iterators[first] != iterators[second] || indexed[first] ||
      indexed[second])
    return false;
  for (AffineMap map : maps) {
    auto position = [&](unsigned dim) -> int {
      for (unsigned i = 0; i < map.getNumResults(); ++i)
        if (map.getDimPosition(i) == dim)
          return i;
      return -1;
    };
    int a = position(first), b = position(second);
    if ((a < 0) != (b < 0) || (a >= 0 && b != a + 1))
      return false;
  }
  return true;
}

/// Operations that cost an instruction each; of a function of `math`, those of
/// its expansion.
unsigned instructions(Operation &op) {
  if (op.hasTrait<OpTrait::ConstantLike>() || isa<arith::BitcastOp>(op))
    return 0;
  if (!isa_and_present<math::MathDialect>(op.getDialect()) ||
      isMathInstruction(&op))
    return 1;
  Block scratch;
  Value x = scratch.addArgument(op.getOperand(0).getType(), op.getLoc());
  OpBuilder b(op.getContext());
  b.setInsertionPointToEnd(&scratch);
  expandMath(b, &op, x);
  unsigned count = 0;
  for (Operation &inner : scratch)
    count += instructions(inner);
  return count;
}

unsigned bodySize(Block &body) {
  unsigned size = 0;
  for (Operation &op : body.without_terminator())
    size += instructions(op);
  return size;
}

/// Chooses the unrolling of a stream. It hides the load-use stall and shares
/// the loop's own instructions and, for two rows, the loads of what they have
/// in common.
void finishStream(const KernelPlan &plan, LoopStructure &stream,
                  unsigned body) {
  if (!stream.cols)
    return;
  unsigned streams = 0;
  for (const KernelOperand &operand : plan.operandsOf(stream))
    streams += operand.isTile() && operand.read && operand.has(*stream.cols);
  stream.unroll = body > 40                 ? 1
                  : body > 12               ? 2
                  : body > 4 || streams > 2 ? 4
                                            : 8;
  if (stream.outer.empty() || body > 12)
    return;
  unsigned rows = stream.outer.back();
  unsigned strided = 0;
  bool shares = false;
  for (const KernelOperand &operand : plan.operandsOf(stream)) {
    strided += operand.strided(*stream.cols);
    shares |= operand.isTile() && operand.read && operand.has(*stream.cols) &&
              !operand.has(rows);
  }
  if (!shares || strided > 0)
    return;
  stream.rows = rows;
  stream.rowBlock = 2;
  stream.outer.pop_back();
}

} // namespace

FailureOr<KernelPlan> KernelPlan::get(linalg::LinalgOp op) {
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  auto iterators = op.getIteratorTypesArray();
  unsigned dims = iterators.size();
  for (AffineMap map : maps)
    if (!map.isProjectedPermutation())
      return op->emitOpError("kernels for the cores need indexing maps that "
                             "are projected permutations");

  SmallVector<bool> indexed(dims, false);
  op->walk([&](linalg::IndexOp index) { indexed[index.getDim()] = true; });

  KernelPlan plan;
  SmallVector<unsigned> loopOf(dims);
  for (unsigned dim = 0; dim < dims; ++dim) {
    if (dim > 0 && canMerge(op, maps, indexed, dim - 1, dim)) {
      plan.loops.back().push_back(dim);
    } else {
      plan.loops.push_back({dim});
      plan.reduction.push_back(iterators[dim] ==
                               utils::IteratorType::reduction);
      plan.indexed.push_back(indexed[dim]);
    }
    loopOf[dim] = plan.loops.size() - 1;
  }
  unsigned loops = plan.loops.size();

  Block &body = *op.getBlock();
  for (OpOperand &operand : op->getOpOperands()) {
    KernelOperand described;
    described.output = op.isDpsInit(&operand);
    described.read = op.payloadUsesValueFromOperand(&operand);
    Type type = operand.get().getType();
    if (auto shaped = dyn_cast<ShapedType>(type)) {
      Type element = shaped.getElementType();
      if (!element.isF32() && !element.isF16() &&
          !element.isSignlessInteger(32) && !element.isSignlessInteger(16) &&
          !element.isSignlessInteger(8))
        return op->emitOpError()
               << "kernels for the cores have no elements of type " << element;
      described.bytes = element.getIntOrFloatBitWidth() / 8;
    }
    AffineMap map = maps[operand.getOperandNumber()];
    for (unsigned i = 0; i < map.getNumResults(); ++i) {
      unsigned loop = loopOf[map.getDimPosition(i)];
      if (described.loops.empty() || described.loops.back() != loop)
        described.loops.push_back(loop);
    }
    plan.operands.push_back(described);
  }
  for (Operation &inner : body.without_terminator())
    for (Type type : inner.getResultTypes())
      if (type.isF64() || type.isInteger(64))
        return inner.emitOpError() << "has type " << type
                                   << ", which the cores do not compute with";

  plan.fused = isa<linalg::MatmulOp>(op);
  // A named matmul's own body is a multiplication and an addition.
  unsigned size = plan.fused ? 1 : bodySize(body);

  SmallVector<unsigned> parallel, reductions;
  for (unsigned loop = 0; loop < loops; ++loop)
    (plan.reduction[loop] ? reductions : parallel).push_back(loop);

  // Outputs are written once per parallel iteration; the columns are where the
  // first output is contiguous.
  const KernelOperand *firstOutput = nullptr;
  for (const KernelOperand &operand : plan.operands) {
    if (!operand.output)
      continue;
    for (unsigned loop : parallel)
      if (!operand.has(loop))
        return op->emitOpError(
            "every parallel dimension has to walk every output");
    for (unsigned loop : reductions)
      if (operand.has(loop))
        return op->emitOpError("a reduction dimension walks an output");
    if (!firstOutput)
      firstOutput = &operand;
  }

  LoopStructure &main = plan.main;
  main.streamed = reductions.empty();
  main.reductions = reductions;
  if (!parallel.empty()) {
    main.cols = firstOutput->loops.back();
    for (unsigned loop : parallel)
      if (loop != *main.cols)
        main.outer.push_back(loop);
  }

  if (main.streamed) {
    finishStream(plan, main, size);
    return plan;
  }

  // Rows: a parallel loop besides the columns that some input does not walk, so
  // that blocking it saves loads.
  if (!main.outer.empty() && size <= 2 && plan.operands.size() <= 3) {
    unsigned loop = main.outer.back();
    if (llvm::any_of(plan.operands, [&](const KernelOperand &o) {
          return o.isTile() && !o.has(loop);
        })) {
      main.rows = loop;
      main.outer.pop_back();
    }
  }
  main.unroll = size <= 4 ? 4 : size <= 12 ? 2 : 1;
  main.rowBlock = main.rows ? 4 : 1;
  if (!main.cols)
    main.colBlocks = {1};
  else if (main.rows)
    main.colBlocks = {2, 1};
  else
    main.colBlocks = {4, 1};
  main.singleRowBlocks = {8, 4, 1};

  if (plan.fused) {
    LoopStructure stream;
    stream.streamed = true;
    stream.outer = main.outer;
    if (main.rows)
      stream.outer.push_back(*main.rows);
    stream.cols = main.cols;
    finishStream(plan, stream, size);
    plan.rankOne = stream;
  }
  return plan;
}

SmallVector<KernelOperand>
KernelPlan::operandsOf(const LoopStructure &structure) const {
  SmallVector<KernelOperand> result = operands;
  if (structure.streamed)
    for (KernelOperand &operand : result)
      llvm::erase_if(operand.loops,
                     [&](unsigned loop) { return reduction[loop]; });
  return result;
}

bool KernelPlan::resultByResult(const LoopStructure &structure, unsigned height,
                                unsigned width) const {
  if (height * width == 1 || (height > 1 && width > 1))
    return false;
  unsigned extent = height > 1 ? *structure.rows : *structure.cols;
  return llvm::any_of(operands, [&](const KernelOperand &operand) {
    return operand.read && !operand.output && operand.strided(extent) &&
           operand.contiguous(structure.reductions.back());
  });
}

SmallVector<CoreGrid> coreGrids(const LoopStructure &structure,
                                unsigned cores) {
  SmallVector<CoreGrid> grids;
  if (!structure.cols)
    return {CoreGrid{1, 1}};
  if (!structure.sharedOuter())
    return {CoreGrid{1, cores}};
  for (unsigned inner = 1; inner <= cores; ++inner)
    if (cores % inner == 0)
      grids.push_back({cores / inner, inner});
  // Streams like long inner loops; blocks like full rows of blocks, which
  // cutting the columns leaves.
  if (!structure.streamed)
    std::reverse(grids.begin(), grids.end());
  return grids;
}

Granules granules(const LoopStructure &structure, unsigned cores,
                  int64_t outerSize, int64_t innerSize) {
  auto granule = [&](int64_t size, unsigned block) {
    return size >= static_cast<int64_t>(block * cores) ? log2OfBlock(block) : 0;
  };
  Granules result;
  result.innerShift =
      granule(innerSize, structure.streamed ? structure.unroll : 4);
  if (structure.rows && structure.outer.empty()) {
    if (structure.streamed)
      result.outerShift = granule(outerSize, structure.rowBlock);
    else if (outerSize >= structure.rowBlock)
      return {log2OfBlock(structure.rowBlock),
              log2OfBlock(structure.colBlocks.front())};
  }
  return result;
}

} // namespace td
