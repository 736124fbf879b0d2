#include "lib/Kernels/KernelPlan.h"
#include "lib/Kernels/MathExpansion.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;

namespace td {

/// Adds `scale` times `expr` to the sum.
static bool accumulate(AffineExpr expr, int64_t scale, AffineSum &sum) {
  if (auto dim = dyn_cast<AffineDimExpr>(expr)) {
    sum.coefficients[dim.getPosition()] += scale;
    return true;
  }
  if (auto constant = dyn_cast<AffineConstantExpr>(expr)) {
    sum.constant += scale * constant.getValue();
    return true;
  }
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary)
    return false;
  if (expr.getKind() == AffineExprKind::Add)
    return accumulate(binary.getLHS(), scale, sum) &&
           accumulate(binary.getRHS(), scale, sum);
  auto factor = dyn_cast<AffineConstantExpr>(binary.getRHS());
  return expr.getKind() == AffineExprKind::Mul && factor &&
         accumulate(binary.getLHS(), scale * factor.getValue(), sum);
}

std::optional<AffineSum> AffineSum::get(AffineExpr expr, unsigned dimensions) {
  AffineSum sum;
  sum.coefficients.assign(dimensions, 0);
  if (!accumulate(expr, 1, sum) || sum.constant < 0 ||
      llvm::any_of(sum.coefficients, [](int64_t c) { return c < 0; }))
    return std::nullopt;
  return sum;
}

std::optional<unsigned> AffineSum::dimension() const {
  std::optional<unsigned> found;
  for (auto [dim, coefficient] : llvm::enumerate(coefficients)) {
    if (coefficient == 0)
      continue;
    if (found || coefficient != 1)
      return std::nullopt;
    found = dim;
  }
  return constant == 0 ? found : std::nullopt;
}

std::optional<unsigned> KernelPlan::covering(const AffineSum &sum) const {
  std::optional<unsigned> dim = sum.dimension();
  return dim && operands[sizeOf[*dim].first].isTile() ? dim : std::nullopt;
}

namespace {

/// Whether each dimension walks one result at most, alone, one step at a time.
bool isProjection(ArrayRef<AffineSum> sums) {
  SmallVector<bool> walked;
  for (AffineSum sum : sums) {
    sum.constant = 0;
    std::optional<unsigned> dim = sum.dimension();
    if (!dim)
      return false;
    walked.resize(sum.coefficients.size(), false);
    if (std::exchange(walked[*dim], true))
      return false;
  }
  return true;
}

/// Dimensions d and d+1 of the op can be one loop if every operand walks both,
/// next to each other, or neither.
bool canMerge(const KernelPlan &plan, linalg::LinalgOp op,
              ArrayRef<bool> indexed, unsigned first, unsigned second) {
  auto iterators = op.getIteratorTypesArray();
  if (iterators[first] != iterators[second] || indexed[first] ||
      indexed[second])
    return false;
  for (auto [operand, sums] : llvm::zip(plan.operands, plan.sums)) {
    if (!operand.isTile())
      continue;
    auto uses = [&](unsigned dim) {
      return llvm::count_if(
          sums, [&](const AffineSum &s) { return s.coefficients[dim] != 0; });
    };
    unsigned a = uses(first), b = uses(second);
    if (a == 0 && b == 0)
      continue;
    if (a != 1 || b != 1)
      return false;
    // The second has all of its tile's dimension, the first steps over it.
    const AffineSum *over = llvm::find_if(
        sums, [&](const AffineSum &s) { return s.coefficients[first] != 0; });
    if (over->coefficients[first] != 1 || over + 1 == sums.end() ||
        plan.covering(over[1]) != std::optional<unsigned>(second))
      return false;
  }
  return true;
}

/// Operations that cost an instruction each; of a function of `math`, those of
/// its expansion. A conversion between widths goes with the load or store.
unsigned instructions(Operation &op) {
  if (op.hasTrait<OpTrait::ConstantLike>() ||
      isa<arith::BitcastOp, arith::ExtFOp, arith::TruncFOp>(op))
    return 0;
  if (isa<arith::DivFOp>(op))
    return 20;
  if (auto root = dyn_cast<math::SqrtOp>(op);
      root && root.getFastmath() != arith::FastMathFlags::none)
    return 14;
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

/// Of a function by table.
constexpr unsigned tabulatedInstructions = 17;

unsigned bodySize(Block &body) {
  unsigned size = 0;
  DenseSet<Operation *> tabulated;
  for (const TabulatedOp &function : findTabulated(body)) {
    size += tabulatedInstructions;
    tabulated.insert(function.parts.begin(), function.parts.end());
  }
  for (Operation &op : body.without_terminator())
    if (!tabulated.contains(&op))
      size += instructions(op);
  return size;
}

/// The factors if the body is `output + factor * factor`.
std::optional<std::pair<unsigned, unsigned>>
contractionFactors(linalg::LinalgOp op) {
  Block &body = *op.getBlock();
  if (op.getNumDpsInits() != 1 || op.getNumReductionLoops() == 0 ||
      llvm::range_size(body.without_terminator()) != 2)
    return std::nullopt;
  auto product = dyn_cast<arith::MulFOp>(body.front());
  auto sum = dyn_cast<arith::AddFOp>(*std::next(body.begin()));
  if (!product || !sum || body.getTerminator()->getOperand(0) != sum)
    return std::nullopt;
  BlockArgument output = body.getArguments().back();
  if (!(sum.getLhs() == output && sum.getRhs() == product) &&
      !(sum.getRhs() == output && sum.getLhs() == product))
    return std::nullopt;
  auto lhs = dyn_cast<BlockArgument>(product.getLhs()),
       rhs = dyn_cast<BlockArgument>(product.getRhs());
  if (!lhs || !rhs || lhs.getOwner() != &body || rhs.getOwner() != &body ||
      lhs == output || rhs == output)
    return std::nullopt;
  return std::make_pair(lhs.getArgNumber(), rhs.getArgNumber());
}

/// The operation if the body is the larger or smaller of something and the
/// output so far.
Operation *runningExtremum(linalg::LinalgOp op) {
  Block &body = *op.getBlock();
  BlockArgument output = body.getArguments().back();
  Operation *last = body.getTerminator()->getOperand(0).getDefiningOp();
  if (op.getNumDpsInits() != 1 || op.getNumReductionLoops() == 0 ||
      !isa_and_present<arith::MaximumFOp, arith::MinimumFOp>(last) ||
      !output.getType().isF32() || !output.hasOneUse() ||
      !llvm::is_contained(last->getOperands(), output) ||
      !last->getResult(0).hasOneUse())
    return nullptr;
  return last;
}

/// What a maximum takes of the body, if that is cut off at zero.
Operation *cutAtZero(linalg::LinalgOp op, Operation *extremum) {
  if (!isa_and_present<arith::MaximumFOp>(extremum))
    return nullptr;
  BlockArgument output = op.getBlock()->getArguments().back();
  Value taken = extremum->getOperand(extremum->getOperand(0) == output);
  auto cut = taken.getDefiningOp<arith::MaximumFOp>();
  return cut && cut->getBlock() == op.getBlock() && cut->hasOneUse() &&
                 llvm::any_of(cut->getOperands(),
                              [](Value side) {
                                return matchPattern(side, m_PosZeroFloat());
                              })
             ? cut.getOperation()
             : nullptr;
}

/// What the body does if it keeps the first maximum and its place: both are
/// replaced where an element is larger than the maximum, or a NaN.
std::optional<KernelPlan::FirstMaximum> maximumAndPlace(linalg::LinalgOp op) {
  Block &body = *op.getBlock();
  if (op.getNumDpsInits() != 2 || op.getNumReductionLoops() == 0)
    return std::nullopt;
  Value maximum = op.getRegionOutputArgs()[0],
        kept = op.getRegionOutputArgs()[1];
  auto value =
           body.getTerminator()->getOperand(0).getDefiningOp<arith::SelectOp>(),
       place =
           body.getTerminator()->getOperand(1).getDefiningOp<arith::SelectOp>();
  if (!value || !place || value.getCondition() != place.getCondition() ||
      value.getFalseValue() != maximum || place.getFalseValue() != kept ||
      !maximum.getType().isF32() || !kept.getType().isInteger(32) ||
      !kept.hasOneUse())
    return std::nullopt;
  Value element = value.getTrueValue();
  auto wins = value.getCondition().getDefiningOp<arith::OrIOp>();
  if (!wins || wins->getBlock() != &body)
    return std::nullopt;
  auto larger = wins.getLhs().getDefiningOp<arith::CmpFOp>(),
       isNaN = wins.getRhs().getDefiningOp<arith::CmpFOp>();
  if (!larger || !isNaN || larger.getPredicate() != arith::CmpFPredicate::OGT ||
      larger.getLhs() != element || larger.getRhs() != maximum ||
      isNaN.getPredicate() != arith::CmpFPredicate::UNO ||
      isNaN.getLhs() != element || isNaN.getRhs() != element ||
      llvm::range_size(maximum.getUses()) != 2)
    return std::nullopt;
  return KernelPlan::FirstMaximum{
      element, place.getTrueValue(), {larger, isNaN, wins, value, place}};
}

/// Chooses the unrolling of a stream. It hides the load-use stall and shares
/// the loop's own instructions and, for two rows, the loads of what they have
/// in common.
void finishStream(const KernelPlan &plan, LoopStructure &stream,
                  unsigned body) {
  if (!stream.cols)
    return;
  unsigned cols = *stream.cols, streams = 0, strided = 0;
  SmallVector<KernelOperand> operands = plan.operandsOf(stream);
  for (const KernelOperand &operand : operands) {
    streams += operand.isTile() && operand.read && operand.has(cols);
    strided += operand.strided(cols);
  }
  stream.unroll = body > 100                ? 1
                  : body > 12               ? 2
                  : body > 4 || streams > 2 ? 4
                                            : 8;
  if (stream.outer.empty() || body > 12)
    return;
  auto takeRows = [&](unsigned rows, unsigned block) {
    stream.rows = rows;
    stream.rowBlock = block;
    llvm::erase(stream.outer, rows);
  };
  if (strided > 0) {
    // A block of rows loads neighbours where a row alone loads from one column
    // after the other.
    for (unsigned rows : llvm::reverse(stream.outer))
      if (body <= 4 && llvm::any_of(operands, [&](const KernelOperand &o) {
            return o.read && o.strided(cols) && o.contiguous(rows);
          })) {
        stream.transposes = true;
        // The loop has to stay within a core's own instruction cache.
        stream.unroll = std::min(stream.unroll, 4u);
        return takeRows(rows, 4);
      }
    return;
  }
  unsigned rows = stream.outer.back();
  if (llvm::any_of(operands, [&](const KernelOperand &o) {
        return o.isTile() && o.read && o.has(cols) && !o.has(rows);
      }))
    takeRows(rows, 2);
}

} // namespace

FailureOr<KernelPlan> KernelPlan::get(linalg::LinalgOp op) {
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  auto iterators = op.getIteratorTypesArray();
  unsigned dims = iterators.size();
  Block &body = *op.getBlock();
  KernelPlan plan;

  for (OpOperand &operand : op->getOpOperands()) {
    KernelOperand described;
    described.output = op.isDpsInit(&operand);
    described.read = op.payloadUsesValueFromOperand(&operand);
    AffineMap map = maps[operand.getOperandNumber()];
    SmallVector<AffineSum> sums;
    for (AffineExpr result : map.getResults()) {
      std::optional<AffineSum> sum = AffineSum::get(result, dims);
      if (!sum)
        return op->emitOpError("kernels for the cores need indexing maps whose "
                               "results are sums of multiples of dimensions");
      sums.push_back(*sum);
    }
    if (described.output && !isProjection(sums))
      return op->emitOpError("kernels for the cores need indexing maps of "
                             "outputs that are projections, from an element "
                             "on");
    Type type = operand.get().getType();
    if (auto shaped = dyn_cast<ShapedType>(type)) {
      Type element = shaped.getElementType();
      if (!element.isF32() && !element.isF16() &&
          !element.isSignlessInteger(32) && !element.isSignlessInteger(16) &&
          !element.isSignlessInteger(8))
        return op->emitOpError()
               << "kernels for the cores have no elements of type " << element;
      if (described.read || described.output)
        described.bytes = element.getIntOrFloatBitWidth() / 8;
    }
    plan.operands.push_back(described);
    plan.sums.push_back(sums);
  }
  for (Operation &inner : body.without_terminator())
    for (Type type : inner.getResultTypes())
      if (type.isF64() || type.isInteger(64))
        return inner.emitOpError() << "has type " << type
                                   << ", which the cores do not compute with";

  // The size of a dimension is that of a tile which it walks alone, one that is
  // there for its sizes above all: others may be walked in part.
  plan.sizeOf.assign(dims, {~0u, 0});
  for (bool isTile : {false, true})
    for (auto [i, sums] : llvm::enumerate(plan.sums))
      for (auto [r, sum] : llvm::enumerate(sums))
        if (std::optional<unsigned> dim = sum.dimension();
            dim && plan.operands[i].isTile() == isTile &&
            plan.sizeOf[*dim].first == ~0u)
          plan.sizeOf[*dim] = {static_cast<unsigned>(i),
                               static_cast<unsigned>(r)};
  for (unsigned dim = 0; dim < dims; ++dim)
    if (plan.sizeOf[dim].first == ~0u)
      return op->emitOpError()
             << "no operand gives the size of dimension " << dim;

  SmallVector<bool> indexed(dims, false);
  op->walk([&](linalg::IndexOp index) { indexed[index.getDim()] = true; });
  for (unsigned dim = 0; dim < dims; ++dim) {
    if (dim > 0 && canMerge(plan, op, indexed, dim - 1, dim)) {
      plan.loops.back().push_back(dim);
      continue;
    }
    plan.loops.push_back({dim});
    plan.reduction.push_back(iterators[dim] == utils::IteratorType::reduction);
    plan.indexed.push_back(indexed[dim]);
  }
  for (ArrayRef<unsigned> members : plan.loops) {
    int64_t size = 1;
    for (unsigned dim : members) {
      auto [operand, r] = plan.sizeOf[dim];
      auto type = cast<ShapedType>(op->getOperand(operand).getType());
      bool stated = !plan.operands[operand].isTile() && !type.isDynamicDim(r);
      size *= stated ? type.getDimSize(r) : 0;
    }
    plan.known.push_back(size);
  }
  unsigned loops = plan.loops.size();
  for (auto [operand, sums] : llvm::zip(plan.operands, plan.sums))
    if (operand.isTile())
      plan.describeLoops(operand, sums);

  plan.factors = contractionFactors(op);
  plan.extremum = runningExtremum(op);
  plan.cut = cutAtZero(op, plan.extremum);
  plan.firstMaximum = maximumAndPlace(op);
  unsigned size = plan.factors ? 1 : bodySize(body);
  if (plan.extremum)
    size += plan.cut ? 0 : 2;      // see td-lower-kernels
  constexpr unsigned branches = 6; // and what they lead to
  plan.bodyInstructions = plan.firstMaximum ? branches : size;

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
    main.cols = firstOutput->neighbours.front();
    for (unsigned loop : parallel)
      if (loop != *main.cols)
        main.outer.push_back(loop);
  }

  if (main.streamed) {
    finishStream(plan, main, size);
    return plan;
  }

  unsigned inputs = 0, outputs = 0;
  bool stridedCols = false;
  for (const KernelOperand &operand : plan.operands) {
    inputs += operand.isTile() && !operand.output;
    outputs += operand.output;
    stridedCols |= main.cols && !operand.output && operand.strided(*main.cols);
  }
  // Rows: the last parallel loop besides the columns that some input does not
  // walk, so that blocking it saves loads; and the columns save some.
  auto someInputLacks = [&](unsigned loop) {
    return llvm::any_of(plan.operands, [&](const KernelOperand &o) {
      return o.isTile() && !o.output && !o.has(loop);
    });
  };
  if (main.cols && size <= 2 && inputs <= 2 && outputs == 1 &&
      someInputLacks(*main.cols))
    for (unsigned loop : llvm::reverse(main.outer))
      if (someInputLacks(loop)) {
        main.rows = loop;
        llvm::erase(main.outer, loop);
        break;
      }
  main.unroll = size <= 4 ? 4 : size <= 12 ? 2 : 1;
  main.rowBlock = main.rows ? 4 : 1;
  if (!main.cols)
    main.colBlocks = {1};
  else if (main.rows)
    main.colBlocks = {2, 1};
  else if (!stridedCols && outputs == 1 && size <= 4)
    main.colBlocks = {8, 4, 1};
  else
    main.colBlocks = {4, 1};
  main.singleRowBlocks = {8, 4, 1};

  if (plan.factors && reductions.size() == 1) {
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

void KernelPlan::describeLoops(KernelOperand &operand,
                               ArrayRef<AffineSum> sums) const {
  operand.loops.clear();
  operand.neighbours.clear();
  for (auto [loop, members] : llvm::enumerate(loops)) {
    // One step of the loop is one of its innermost dimension.
    unsigned dim = members.back();
    auto walks = [&](const AffineSum &sum) {
      return sum.coefficients[dim] != 0;
    };
    if (llvm::none_of(sums, walks))
      continue;
    operand.loops.push_back(loop);
    if (sums.back().coefficients[dim] == 1 &&
        llvm::none_of(sums.drop_back(), walks))
      operand.neighbours.push_back(loop);
  }
}

SmallVector<KernelOperand>
KernelPlan::operandsOf(const LoopStructure &structure) const {
  SmallVector<KernelOperand> result = operands;
  if (!structure.streamed || main.streamed)
    return result;
  for (auto [operand, indexed] : llvm::zip(result, sums)) {
    if (!operand.isTile())
      continue;
    // A dimension of size one separates no neighbours.
    SmallVector<AffineSum> several = indexed;
    llvm::erase_if(several, [&](const AffineSum &sum) {
      std::optional<unsigned> dim = sum.dimension();
      return dim && llvm::any_of(main.reductions, [&](unsigned loop) {
               return llvm::is_contained(loops[loop], *dim);
             });
    });
    describeLoops(operand, several);
    llvm::erase_if(operand.loops,
                   [&](unsigned loop) { return reduction[loop]; });
    llvm::erase_if(operand.neighbours,
                   [&](unsigned loop) { return reduction[loop]; });
  }
  return result;
}

int64_t KernelPlan::straightSteps(const LoopStructure &structure,
                                  unsigned height, unsigned width) const {
  // All of them stay within a core's own instruction cache.
  constexpr int64_t instructions = 128;
  int64_t steps = known[structure.reductions.back()];
  return steps <= fewTaps &&
                 steps * height * width * (bodyInstructions + 1) <= instructions
             ? steps
             : 0;
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

SmallVector<arith::SelectOp> KernelPlan::uniformSelections(Block &body) const {
  SmallVector<arith::SelectOp> found;
  for (auto select : body.getOps<arith::SelectOp>()) {
    if (!found.empty()) {
      if (select.getCondition() == found.front().getCondition())
        found.push_back(select);
      continue;
    }
    auto condition = select.getCondition().getDefiningOp<arith::CmpFOp>();
    if (!condition || condition->getBlock() != &body)
      continue;
    bool uniform = llvm::all_of(condition->getOperands(), [&](Value operand) {
      if (auto argument = dyn_cast<BlockArgument>(operand))
        return argument.getOwner() == &body &&
               !operands[argument.getArgNumber()].output &&
               operands[argument.getArgNumber()].loops.empty();
      return operand.getDefiningOp()->hasTrait<OpTrait::ConstantLike>();
    });
    if (uniform)
      found.push_back(select);
  }
  return found;
}

bool KernelPlan::varies(Value value, unsigned loop) const {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    const KernelOperand &operand = operands[argument.getArgNumber()];
    return operand.output || operand.has(loop);
  }
  Operation *op = value.getDefiningOp();
  if (auto index = dyn_cast<linalg::IndexOp>(op))
    return llvm::is_contained(loops[loop], index.getDim());
  return llvm::any_of(op->getOperands(), [&](Value operand) {
    // What is around the kernel's op does not change.
    bool around = operand.getParentBlock() != op->getBlock();
    return !around && varies(operand, loop);
  });
}

SmallVector<CoreGrid> coreGrids(const LoopStructure &structure,
                                unsigned cores) {
  SmallVector<CoreGrid> grids;
  if (!structure.cols)
    return {CoreGrid{1, 1}};
  if (!structure.sharesOuter())
    return {CoreGrid{1, cores}};
  for (unsigned inner = 1; inner <= cores; ++inner)
    if (cores % inner == 0)
      grids.push_back({cores / inner, inner});
  // Long inner loops are good, but for blocks full rows of blocks are better,
  // which cutting the columns leaves.
  if (!structure.streamed && !structure.linear())
    std::reverse(grids.begin(), grids.end());
  return grids;
}

Granules granules(const LoopStructure &structure, unsigned cores,
                  int64_t rowsSize, int64_t innerSize) {
  auto granule = [&](int64_t size, unsigned block) {
    return size >= static_cast<int64_t>(block * cores) ? log2OfBlock(block) : 0;
  };
  Granules result;
  result.innerShift =
      granule(innerSize, structure.streamed ? structure.unroll : 4);
  if (!structure.rows)
    return result;
  if (structure.streamed) {
    if (!structure.linear())
      result.outerShift = structure.transposes
                              ? rowsSize >= structure.rowBlock
                                    ? log2OfBlock(structure.rowBlock)
                                    : 0
                              : granule(rowsSize, structure.rowBlock);
    return result;
  }
  if (rowsSize >= structure.rowBlock) {
    result.innerShift = log2OfBlock(structure.colBlocks.front());
    if (!structure.linear())
      result.outerShift = log2OfBlock(structure.rowBlock);
  }
  return result;
}

} // namespace td
