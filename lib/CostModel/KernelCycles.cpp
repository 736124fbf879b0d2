// Predicted cycles of kernels: the instructions that td-lower-kernels emits,
// counted loop by loop, and what the cores make each other wait.
#include "lib/CostModel/CostModel.h"
#include "lib/CostModel/KernelPrediction.h"
#include "lib/Kernels/KernelPlan.h"
#include "lib/Kernels/MathExpansion.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"
#include <cmath>

using namespace mlir;

namespace td {

namespace {

/// Instructions of a piece of straight code.
struct Work {
  double issue = 0;    ///< cycles without waiting for anyone
  double floating = 0; ///< of these, uses of the shared floating-point units
  double memory = 0;   ///< of these, accesses to L1
  double divider = 0;  ///< cycles of the one unit for division and square root

  Work &operator+=(const Work &other) {
    issue += other.issue, floating += other.floating, memory += other.memory,
        divider += other.divider;
    return *this;
  }
  friend Work operator+(Work a, const Work &b) { return a += b; }
  friend Work operator*(double times, Work work) {
    return {times * work.issue, times * work.floating, times * work.memory,
            times * work.divider};
  }
};

/// Time on the core with the most to do, its accesses to L1 in it, and the
/// instructions that it comes by: those of a loop count once.
struct Span {
  double cycles = 0, accesses = 0, code = 0;

  Span() = default;
  /// Straight code that accesses nothing.
  Span(double cycles) : cycles(cycles), code(cycles) {}
  Span(double cycles, double accesses, double code)
      : cycles(cycles), accesses(accesses), code(code) {}
  Span &operator+=(const Span &other) {
    cycles += other.cycles, accesses += other.accesses, code += other.code;
    return *this;
  }
  friend Span operator+(Span a, const Span &b) { return a += b; }
  friend Span operator*(double times, const Span &span) {
    return {times * span.cycles, times * span.accesses, span.code};
  }
};

// What LLVM makes of the code around the loops, in instructions.
constexpr double entryOfBlocks = 85, entryOfStreams = 18, entryOfNests = 58;
constexpr double instructionBytes = 3.3; // many are compressed
constexpr unsigned constantRegisters = 14;
constexpr double remakeConstant = 2;
constexpr double gridCandidate = 9, shareOfLoop = 10;
// Division without the divider: by what varies, and by what does not.
// A comparison and a branch, which is taken, or for about one element in three
// another of each and the element taken over.
constexpr Work firstMaximumWork{4.0, 1.2, 0, 0};
constexpr Work quotientWork{19, 11, 0, 0}, correctionWork{7, 3, 0, 0};
// Those that need not be rounded correctly.
constexpr Work approximateQuotientWork{12, 7, 0, 0},
    approximateRootWork{14, 8, 0, 0};
// Functions by tables: 5 loads, which meet in the banks more than those of
// streams, and a polynomial of fourth degree; GELU is a product.
constexpr Work geluWork{20, 8, 5, 0}, geluSlopeWork{19, 7, 5, 0};
// Loops that cores share as one.
constexpr double nestLoopEntry = 12, nestStep = 4;
constexpr double reductionStep = 9, straightStep = 2;
constexpr double loopEntry = 5, blockEntry = 18, rowEntry = 30,
                 streamRowEntry = 11;

class Estimate : CostModel::Cluster {
public:
  Estimate(const CostModel::Cluster &cluster, linalg::LinalgOp op,
           const KernelPlan &plan, ArrayRef<SmallVector<int64_t>> shapes)
      : Cluster(cluster), plan(plan) {
    SmallVector<int64_t> dimensions;
    for (auto [operand, r] : plan.sizeOf)
      dimensions.push_back(shapes[operand][r]);
    for (ArrayRef<unsigned> members : plan.loops) {
      int64_t size = 1;
      for (unsigned member : members)
        size *= dimensions[member];
      sizes.push_back(size);
    }
    body = op.getBlock();
  }

  KernelCost cost() {
    const LoopStructure *structure = &plan.main;
    if (plan.rankOne && llvm::all_of(plan.main.reductions, [&](unsigned loop) {
          return sizes[loop] == 1;
        }))
      structure = &*plan.rankOne;
    operands = plan.operandsOf(*structure);
    countBody(*structure);
    double entry = !plan.main.streamed       ? entryOfBlocks
                   : plan.main.sharesOuter() ? entryOfNests
                                             : entryOfStreams;
    streamed = structure->streamed;
    bankConflicts = structure->transposes ? (element.floating > 0 ? 3 : 1)
                    : structure->streamed ? 0.4
                    : structure->rows     ? 1
                                          : 0.2;
    Span span = structureCycles(*structure);
    // Cores without a share access nothing.
    double accesses = span.accesses * cores;
    span += entry + barrier;
    return {std::llround(span.cycles), accesses,
            std::llround(span.code * instructionBytes)};
  }

private:
  /// Time of `work` on every core at once. Cores that share a floating-point
  /// unit meet there as often as the other uses it; accesses meet in a bank
  /// likewise.
  Span together(const Work &work) const {
    if (work.issue == 0)
      return {};
    double sharing = std::ceil(cores / units) - 1;
    double time = work.issue, density = work.floating / work.issue;
    // Uses of a unit come in bursts. In streams, cores that use it seldom fall
    // in behind one another, and those that use it much meet in each burst.
    double unitConflicts =
        streamed ? std::clamp(6.5 * (density - 0.25), 0.0, 1.9) : 1.12;
    for (int round = 0; round < 8; ++round) {
      double meetUnit =
          unitConflicts * sharing * work.floating * work.floating / time;
      double meetBank = work.memory * work.memory / time * (cores - 1) /
                        (2 * banks) * bankConflicts;
      time = work.issue + meetUnit + meetBank;
    }
    time = std::max(time, work.floating * (sharing + 1));
    return {std::max(time, work.divider * cores), work.memory, work.issue};
  }

  Span loopCycles(double trips, Work work) const {
    if (trips < 1)
      return {};
    work.issue += 1 + takenBranch;
    return trips * together(work) + Span(1 - takenBranch);
  }

  Span structureCycles(const LoopStructure &structure) {
    counts = sizes;
    if (!structure.cols) {
      cores = 1;
      return structure.streamed ? together(streamWork(structure, 1, 1))
                                : blockCycles(structure, 1, 1);
    }
    bool sharesOuter = structure.sharesOuter();
    std::optional<unsigned> shared;
    if (sharesOuter && !structure.linear())
      shared = structure.rows ? *structure.rows : structure.outer.front();
    int64_t innerSize = sizes[*structure.cols],
            rowsSize = structure.rows ? sizes[*structure.rows] : 1;
    int64_t outerSize = shared ? sizes[*shared] : 1;
    if (structure.linear()) {
      for (unsigned loop : structure.outer)
        outerSize *= sizes[loop];
      if (structure.rows)
        outerSize *= llvm::divideCeil(rowsSize, structure.rowBlock);
    }
    Granules granule = granules(structure, cores, rowsSize, innerSize);
    auto count = [](int64_t size, unsigned shift) {
      return (size + (int64_t(1) << shift) - 1) >> shift;
    };
    int64_t inner = count(innerSize, granule.innerShift),
            outer = count(outerSize, granule.outerShift);
    int64_t best = -1;
    SmallVector<CoreGrid> grids = coreGrids(structure, cores);
    int64_t busyInner = 1, busyOuter = 1, outerCount = 1;
    for (CoreGrid grid : grids) {
      int64_t innerShare = llvm::divideCeil(inner, grid.inner),
              outerShare = llvm::divideCeil(outer, grid.outer);
      if (best >= 0 && innerShare * outerShare >= best)
        continue;
      best = innerShare * outerShare;
      counts[*structure.cols] =
          std::min(innerSize, innerShare << granule.innerShift);
      busyInner = llvm::divideCeil(inner, innerShare);
      outerCount = std::min(outerSize, outerShare << granule.outerShift);
      busyOuter = llvm::divideCeil(outer, outerShare);
    }
    Span cycles = grids.size() > 1 ? grids.size() * gridCandidate : 0;
    cycles += (sharesOuter ? 2 : 1) * shareOfLoop;
    // Cores without a share disturb nobody.
    cores = std::min<double>(cores, busyInner * busyOuter);
    if (structure.linear())
      return cycles + nestCycles(structure, outerCount, outerSize);
    if (shared)
      counts[*shared] = outerCount;
    if (structure.outer.empty())
      return cycles + rowsCycles(structure);
    return cycles + loopEntry +
           outerCount * (rowCycles(structure, 1) + Span(2 + takenBranch));
  }

  /// `count` of `total` iterations of several loops run as one.
  Span nestCycles(const LoopStructure &structure, int64_t count,
                  int64_t total) const {
    unsigned depth = structure.outer.size() + (structure.rows ? 1 : 0);
    // Where a core begins takes a division a loop.
    double entry = (depth - 1) * (divideInteger + nestLoopEntry);
    double moving = 0;
    for (const KernelOperand &operand : operands)
      moving += !operand.loops.empty();
    double step = nestStep + moving + takenBranch;
    Span full = rowCycles(structure, structure.rowBlock) + step;
    if (!structure.rows)
      return Span(entry) + count * full;
    double each = structure.streamed ? streamRowEntry : rowEntry;
    full += each;
    int64_t rows = sizes[*structure.rows], rest = rows % structure.rowBlock,
            blocks = llvm::divideCeil(rows, structure.rowBlock);
    if (rest == 0)
      return Span(entry) + count * full;
    // The last block of each row loop has fewer rows: the core with the most to
    // do.
    Span partial =
        rest * (Span(each + takenBranch) + rowCycles(structure, 1)) + step;
    Span most;
    for (int64_t begin = 0; begin < total; begin += count) {
      int64_t end = std::min(begin + count, total);
      int64_t partials = end / blocks - begin / blocks;
      Span span = (end - begin - partials) * full + partials * partial;
      if (span.cycles > most.cycles)
        most = span;
    }
    return Span(entry) + most;
  }

  Span rowCycles(const LoopStructure &structure, unsigned height) const {
    return structure.streamed ? streamCycles(structure, height)
                              : columnsCycles(structure, height);
  }

  Span rowsCycles(const LoopStructure &structure) const {
    if (!structure.rows)
      return rowCycles(structure, 1);
    int64_t rows = counts[*structure.rows];
    double perRow =
        (structure.streamed ? streamRowEntry : rowEntry) + takenBranch;
    Span cycles = loopEntry;
    if (int64_t full = rows / structure.rowBlock)
      cycles +=
          full * (Span(perRow) + rowCycles(structure, structure.rowBlock));
    if (int64_t rest = rows % structure.rowBlock)
      cycles += rest * (Span(perRow) + rowCycles(structure, 1));
    return cycles;
  }

  Span columnsCycles(const LoopStructure &structure, unsigned height) const {
    int64_t left = counts[*structure.cols];
    Span cycles;
    for (unsigned width : structure.widths(height)) {
      cycles += 2;
      if (int64_t trips = left / width)
        cycles += trips * (blockCycles(structure, height, width) +
                           Span(3 + takenBranch));
      left %= width;
    }
    return cycles;
  }

  /// Addresses and distinct elements that an operand has in a block.
  double addresses(const LoopStructure &structure, const KernelOperand &operand,
                   unsigned height, unsigned width) const {
    return (structure.rows && operand.strided(*structure.rows) ? height : 1) *
           (structure.cols && operand.strided(*structure.cols) ? width : 1);
  }
  double elements(const LoopStructure &structure, const KernelOperand &operand,
                  unsigned height, unsigned width) const {
    return (structure.rows && operand.has(*structure.rows) ? height : 1) *
           (structure.cols && operand.has(*structure.cols) ? width : 1);
  }

  Span blockCycles(const LoopStructure &structure, unsigned height,
                   unsigned width) const {
    double setup = structure.rows ? blockEntry : 2, transfers = 0;
    for (const KernelOperand &operand : operands) {
      if (!operand.isTile() || operand.loops.empty())
        continue;
      setup += addresses(structure, operand, height, width);
      if (operand.output)
        transfers += 2 * elements(structure, operand, height, width);
    }
    Work around{setup + transfers, 0, transfers, 0};
    if (plan.extremum)
      around += double(height * width) * integer(2) + integer(3);
    Span cycles = together(around);
    double times = 1;
    int64_t straight = plan.straightSteps(structure, height, width);
    for (unsigned loop : ArrayRef<unsigned>(structure.reductions).drop_back()) {
      cycles += times * loopEntry;
      times *= sizes[loop];
      // Addresses step, and are set aside while the loops within move them.
      double kept = 0;
      for (const KernelOperand &operand : operands)
        if (operand.has(loop))
          kept += addresses(structure, operand, height, width);
      double each =
          height * width > 1 && !straight ? 3 : 1; // by registers left
      cycles += times * ((straight ? straightStep : reductionStep) +
                         each * kept + takenBranch);
    }
    int64_t steps = sizes[structure.reductions.back()];
    if (straight)
      return cycles +
             times * together(stepsWork(structure, straight, height, width));
    Span inner = steps < structure.unroll ? 2 : loopEntry;
    inner += loopCycles(steps / structure.unroll,
                        stepsWork(structure, structure.unroll, height, width));
    for (unsigned rest = structure.unroll / 2; rest >= 1; rest /= 2)
      inner += steps & rest
                   ? together(stepsWork(structure, rest, height, width)) + 2
                   : Span(1 + takenBranch);
    return cycles + times * inner;
  }

  Work stepsWork(const LoopStructure &structure, unsigned steps,
                 unsigned height, unsigned width) const {
    unsigned loop = structure.reductions.back();
    Work work = (double(steps) * height * width) * element;
    work.issue += remade;
    work += double(steps) * invariant;
    for (const KernelOperand &operand : operands) {
      if (!operand.isTile() || operand.loops.empty())
        continue;
      if (operand.read && !operand.output) {
        double loads = elements(structure, operand, height, width) *
                       (operand.has(loop) ? steps : 1);
        work.issue += loads, work.memory += loads;
      }
      double each = addresses(structure, operand, height, width);
      work.issue += operand.contiguous(loop) ? each
                    : operand.has(loop)      ? each * steps
                                             : 0;
    }
    // If rows step by an addition and columns lie along the reduction, the
    // first load of a step ends up next to its use.
    if (structure.rows && structure.cols) {
      bool rowsStep = false, colsAlong = false;
      for (const KernelOperand &operand : operands) {
        rowsStep |= operand.has(*structure.rows) && operand.strided(loop);
        colsAlong |= operand.has(*structure.cols) && operand.contiguous(loop);
      }
      if (rowsStep && colsAlong)
        work.issue += loadUse * steps;
    }
    if (steps * height * width == 1)
      work.issue += loadUse;
    return work;
  }

  Span streamCycles(const LoopStructure &structure, unsigned height) const {
    int64_t count = counts[*structure.cols];
    Span cycles = 2 * loopEntry;
    for (const KernelOperand &operand : operands)
      if (operand.isTile() && operand.read && !operand.loops.empty() &&
          !operand.has(*structure.cols))
        cycles += height;
    cycles += together(height * invariant);
    cycles += loopCycles(count / structure.unroll,
                         streamWork(structure, height, structure.unroll));
    if (structure.unroll > 1)
      cycles += loopCycles(count % structure.unroll,
                           streamWork(structure, height, 1));
    return cycles;
  }

  Work streamWork(const LoopStructure &structure, unsigned height,
                  unsigned width) const {
    Work work = (double(height) * width) * element;
    work.issue += remade;
    for (const KernelOperand &operand : operands) {
      if (!operand.isTile() || operand.loops.empty())
        continue;
      bool walked = structure.cols && operand.has(*structure.cols);
      if (structure.cols && !walked)
        continue;
      double rows = structure.rows && operand.has(*structure.rows) ? height : 1;
      double accesses = rows * width * (operand.read + operand.output);
      work.issue += accesses, work.memory += accesses;
      if (walked)
        work.issue +=
            operand.contiguous(*structure.cols)
                ? (structure.rows && operand.strided(*structure.rows) ? height
                                                                      : 1)
                : width;
    }
    if (width == 1)
      work.issue += loadUse;
    return work;
  }

  //===--- The computation of one element
  //----------------------------------===//
  void countBody(const LoopStructure &structure) {
    if (plan.factors) {
      element = {1, 1, 0, 0};
      return;
    }
    DenseSet<Attribute> constants;
    DenseSet<Value> masks;
    if (plan.firstMaximum)
      element += firstMaximumWork;
    SmallVector<arith::SelectOp> decided = plan.uniformSelections(*body);
    DenseSet<Operation *> tabulated;
    for (const TabulatedOp &function : findTabulated(*body)) {
      tabulated.insert(function.parts.begin(), function.parts.end());
      bool varies = !structure.cols || plan.varies(function.x, *structure.cols);
      (varies ? element : invariant) +=
          function.function == Tabulated::Gelu ? geluWork : geluSlopeWork;
    }
    for (Operation &op : body->without_terminator()) {
      if (tabulated.contains(&op))
        continue;
      if (!decided.empty() &&
          (llvm::is_contained(decided, dyn_cast<arith::SelectOp>(op)) ||
           &op == decided.front().getCondition().getDefiningOp()))
        continue;
      if (&op == plan.cut)
        continue;
      if (plan.firstMaximum &&
          llvm::is_contained(plan.firstMaximum->chain, &op))
        continue;
      if (&op == plan.extremum) {
        element += plan.cut ? Work{2, 0, 0, 0} : Work{3, 1, 0, 0};
        continue;
      }
      if (isConstant(op)) {
        operationWork(op, constants);
        continue;
      }
      bool varies =
          !structure.cols || plan.varies(op.getResult(0), *structure.cols);
      if (auto quotient = dyn_cast<arith::DivFOp>(op);
          quotient && varies && quotient.getType().isF32()) {
        if (!structure.streamed || !structure.cols ||
            plan.varies(quotient.getRhs(), *structure.cols)) {
          element +=
              isApproximate(quotient) ? approximateQuotientWork : quotientWork;
          constants.insert(StringAttr::get(op.getContext(), "guess"));
        } else {
          element += isApproximate(quotient) ? floating(1) : correctionWork;
          invariant += Work{double(divide), 0, 0, double(divide)};
        }
        continue;
      }
      if (auto root = dyn_cast<math::SqrtOp>(op);
          root && varies && isApproximate(root)) {
        element += approximateRootWork;
        constants.insert(StringAttr::get(op.getContext(), "root"));
        continue;
      }
      (varies ? element : invariant) += operationWork(op, constants, varies);
      // Selections by one condition share its mask.
      if (auto select = dyn_cast<arith::SelectOp>(op))
        if (!masks.insert(select.getCondition()).second)
          (varies ? element : invariant).issue -= 1;
    }
    // LLVM makes those anew that have no register, or reloads them.
    if (constants.size() > constantRegisters)
      remade = remakeConstant * (constants.size() - constantRegisters);
  }
  /// Whether it may differ from the correctly rounded result.
  template <typename Op> static bool isApproximate(Op op) {
    return op.getType().isF32() &&
           op.getFastmath() != arith::FastMathFlags::none;
  }
  static bool isConstant(Operation &op) {
    return op.hasTrait<OpTrait::ConstantLike>();
  }

  Work floating(double count) const { return {count, count, 0, 0}; }
  Work integer(double count) const { return {count, 0, 0, 0}; }

  Work operationWork(Operation &op, DenseSet<Attribute> &constants,
                     bool varies = true) const {
    Attribute constant;
    APInt immediate;
    if (matchPattern(&op, m_Constant(&constant)) &&
        !(matchPattern(&op, m_ConstantInt(&immediate)) &&
          immediate.isSignedIntN(12)) &&
        !matchPattern(op.getResult(0), m_NaNFloat()))
      constants.insert(constant);
    if (op.hasTrait<OpTrait::ConstantLike>() ||
        isa<arith::BitcastOp, arith::IndexCastOp, arith::IndexCastUIOp,
            linalg::IndexOp, linalg::YieldOp>(op))
      return {};
    if (isa<arith::DivFOp, math::SqrtOp>(op))
      return {double(divide), 0, 0, double(divide)};
    if (auto compare = dyn_cast<arith::CmpFOp>(op))
      switch (compare.getPredicate()) {
      case arith::CmpFPredicate::OEQ:
      case arith::CmpFPredicate::OLT:
      case arith::CmpFPredicate::OLE:
      case arith::CmpFPredicate::OGT:
      case arith::CmpFPredicate::OGE:
        return floating(1);
      case arith::CmpFPredicate::ORD:
      case arith::CmpFPredicate::UNO:
        if (compare.getLhs() == compare.getRhs())
          return floating(1);
        return Work{3, 2, 0, 0};
      case arith::CmpFPredicate::ONE:
      case arith::CmpFPredicate::UEQ:
        return Work{4, 2, 0, 0};
      default:
        return Work{2, 1, 0, 0};
      }
    if (auto select = dyn_cast<arith::SelectOp>(op)) {
      auto simple = [](Value value) {
        return matchPattern(value, m_PosZeroFloat()) ||
               matchPattern(value, m_Zero());
      };
      return integer(simple(select.getTrueValue()) ||
                             simple(select.getFalseValue()) ||
                             matchPattern(select.getFalseValue(), m_NaNFloat())
                         ? 2
                         : 4);
    }
    if (isa<arith::MaximumFOp, arith::MinimumFOp>(op)) {
      bool cut = isa<arith::MaximumFOp>(op) &&
                 llvm::any_of(op.getOperands(), [](Value value) {
                   return matchPattern(value, m_PosZeroFloat());
                 });
      return cut ? Work{3, 1, 0, 0} : Work{6, 3, 0, 0};
    }
    if (isa<arith::NegFOp>(op) &&
        llvm::all_of(op.getUsers(),
                     [](Operation *user) { return isa<math::FmaOp>(user); }))
      return {}; // fnmsub, fnmadd
    if (isa<arith::ExtUIOp>(op) && op.getOperand(0).getType().isInteger(1))
      return {};
    if (isa<arith::MulIOp>(op))
      return integer(multiply);
    if (isa<math::MathDialect>(op.getDialect()) && !isMathInstruction(&op)) {
      // Counted on its expansion.
      Block scratch;
      Value x = scratch.addArgument(op.getOperand(0).getType(), op.getLoc());
      OpBuilder b(op.getContext());
      b.setInsertionPointToEnd(&scratch);
      expandMath(b, &op, x);
      Work work;
      for (Operation &inner : scratch)
        work += isa<arith::DivFOp>(inner) && varies
                    ? quotientWork
                    : operationWork(inner, constants);
      return work;
    }
    bool real = llvm::any_of(op.getOperandTypes(),
                             [](Type type) { return isa<FloatType>(type); }) ||
                isa<FloatType>(op.getResult(0).getType());
    return real ? floating(1) : integer(1);
  }

  const KernelPlan &plan;
  bool streamed = false;
  /// Accesses meet less often than independent ones would, since the cores fall
  /// in step.
  double bankConflicts = 1;
  SmallVector<int64_t> sizes, counts;
  SmallVector<KernelOperand> operands;
  Block *body;
  Work element;      ///< the computation of one
  Work invariant;    ///< what a stream computes ahead of its innermost loop
  double remade = 0; ///< instructions for constants, each iteration
};

} // namespace

KernelCost CostModel::kernel(linalg::LinalgOp kernel,
                             ArrayRef<SmallVector<int64_t>> shapes) const {
  FailureOr<KernelPlan> plan = KernelPlan::get(kernel);
  if (failed(plan))
    return {};
  return this->kernel(kernel, *plan, shapes);
}

KernelCost CostModel::kernel(linalg::LinalgOp kernel, const KernelPlan &plan,
                             ArrayRef<SmallVector<int64_t>> shapes) const {
  return Estimate(cluster, kernel, plan, shapes).cost();
}

std::optional<int64_t> predictedKernelCycles(Operation *operation,
                                             std::string &reason) {
  auto op = llvm::dyn_cast<linalg::LinalgOp>(operation);
  if (!op) {
    reason = "no linalg op";
    return {};
  }
  FailureOr<Target> target = Target::get(op);
  if (failed(target)) {
    reason = "the op's module has no target description";
    return {};
  }
  SmallVector<SmallVector<int64_t>> shapes;
  for (Value operand : op->getOperands()) {
    auto type = llvm::dyn_cast<ShapedType>(operand.getType());
    shapes.emplace_back();
    if (type)
      shapes.back().assign(type.getShape().begin(), type.getShape().end());
  }
  return CostModel(*target).kernel(op, shapes).cycles;
}

} // namespace td
