#include "lib/Planner/Recompute.h"

#include "dialects/Train/Train.h"
#include "lib/Planner/Grouping.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"
#include <cmath>

using namespace mlir;

namespace td {
namespace {

bool isView(Operation *op) {
  return isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op);
}

int64_t bytesOf(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type ? type.getNumElements() *
                    llvm::divideCeil(type.getElementTypeBitWidth(), 8)
              : 0;
}

/// An op without sums that writes each element of its results once.
linalg::GenericOp asElementwise(Operation *op) {
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic || generic.getNumReductionLoops() != 0 ||
      generic.hasIndexSemantics())
    return {};
  for (OpOperand &init : generic.getDpsInitsMutable())
    if (!generic.getMatchingIndexingMap(&init).isPermutation() ||
        generic.payloadUsesValueFromOperand(&init))
      return {};
  return generic;
}

/// A value that waits while memory is full, and how to make it again.
struct Candidate {
  linalg::LinalgOp maker;
  SmallVector<OpOperand *> late; // uses behind that place
  linalg::GenericOp host;        // reads the inputs anyway; or none
  double cost = 0;               // cycles a byte, roughly
};

class Recomputation {
public:
  Recomputation(func::FuncOp step, const Target &target, int64_t capacity)
      : block(step.getBody().front()), target(target), capacity(capacity) {}

  void run() {
    while (true) {
      measure();
      std::optional<Candidate> best;
      for (Operation &op : block)
        if (std::optional<Candidate> candidate = candidateOf(&op);
            candidate && (!best || candidate->cost < best->cost))
          best = std::move(candidate);
      if (!best)
        return;
      makeAgain(*best);
    }
  }

private:
  /// Where a value is defined and last used, by position of ops.
  struct Life {
    unsigned first = 0, last = 0;
  };

  void measure() {
    positions.clear();
    lives.clear();
    for (Operation &op : block)
      positions.insert({&op, positions.size()});
    std::vector<int64_t> change(positions.size() + 2, 0);
    for (Operation &op : block) {
      if (!isa<linalg::LinalgOp>(op) || isa<linalg::FillOp>(op))
        continue;
      for (OpResult result : op.getResults()) {
        if (isEpilogueOf(result))
          continue;
        Life life{positions[&op], positions[&op]};
        for (OpOperand *use : usesOf(result))
          life.last = std::max(life.last, positions[use->getOwner()]);
        lives[result] = life;
        change[life.first] += bytesOf(result);
        change[life.last + 1] -= bytesOf(result);
      }
    }
    live.clear();
    most = 0;
    for (int64_t delta : change) {
      live.push_back((live.empty() ? 0 : live.back()) + delta);
      most = std::max(most, live.back());
    }
  }

  /// The uses between which a value waits longest where too much is live.
  struct Gap {
    unsigned begin = 0, end = 0;
    unsigned full = 0; // positions with too much
  };

  Gap longestGap(Value value) {
    SmallVector<unsigned> places{lives.lookup(value).first};
    for (OpOperand *use : usesOf(value))
      if (!isView(use->getOwner()))
        places.push_back(positions[use->getOwner()]);
    llvm::sort(places);
    Gap longest;
    for (size_t i = 0; i + 1 < places.size(); ++i) {
      Gap gap{places[i], places[i + 1], 0};
      for (unsigned at = gap.begin + 1; at < gap.end; ++at)
        gap.full += live[at] > capacity;
      if (gap.full > longest.full)
        longest = gap;
    }
    return longest;
  }

  /// Whether a value is no array: the operator that alone reads it works on the
  /// tile.
  static bool isEpilogueOf(OpResult result) {
    return result.hasOneUse() && asElementwise(*result.user_begin());
  }

  /// The uses of a value and of what is the same array in another shape or a
  /// part of it.
  static SmallVector<OpOperand *> usesOf(Value value) {
    SmallVector<OpOperand *> uses;
    SmallVector<Value> views{value};
    while (!views.empty())
      for (OpOperand &use : views.pop_back_val().getUses()) {
        uses.push_back(&use);
        if (isView(use.getOwner()) ||
            isa<tensor::ExtractSliceOp, tensor::InsertSliceOp>(use.getOwner()))
          views.push_back(use.getOwner()->getResult(0));
      }
    return uses;
  }

  /// The cheapest way to make a value again that waits where more than fits is
  /// live.
  std::optional<Candidate> candidateOf(Operation *op) {
    Candidate candidate;
    candidate.maker = dyn_cast<linalg::LinalgOp>(op);
    linalg::GenericOp elementwise = asElementwise(op);
    if (!candidate.maker || op->getNumResults() != 1 ||
        (!elementwise && !isContractionFromZero(candidate.maker)))
      return std::nullopt;
    Value made = op->getResult(0);
    Life life = lives.lookup(made);
    // A small array is not worth the work.
    constexpr int64_t share = 64;
    if (life.first == life.last || bytesOf(made) * share < most)
      return std::nullopt;
    // Made again soon, it would be in the way as before.
    Gap gap = longestGap(made);
    if (gap.full == 0 ||
        gap.full * 2 < llvm::count_if(live, [&](int64_t bytes) {
          return bytes > capacity;
        }))
      return std::nullopt;
    bool usedBefore = false;
    for (OpOperand *use : usesOf(made)) {
      Operation *user = use->getOwner();
      if (isView(user))
        continue;
      if (!isa<linalg::LinalgOp>(user))
        return std::nullopt;
      if (positions[user] > gap.begin)
        candidate.late.push_back(use);
      else
        usedBefore = true;
    }
    // Otherwise it would only be made later.
    if (!usedBefore)
      return std::nullopt;
    unsigned firstLate = gap.end;
    if (isAlive(candidate.maker, firstLate))
      candidate.cost = cyclesOf(candidate.maker) / bytesOf(made);
    else
      candidate.cost = std::numeric_limits<double>::infinity();
    if (elementwise)
      for (Operation &host : block)
        if (2 * positions[&host] > gap.begin + gap.end &&
            isHost(&host, elementwise, candidate.late)) {
          auto generic = cast<linalg::GenericOp>(host);
          double cost = cyclesOf(elementwise, generic) / bytesOf(made);
          if (cost < candidate.cost) {
            candidate.cost = cost;
            candidate.host = generic;
          }
          break;
        }
    if (std::isinf(candidate.cost))
      return std::nullopt;
    return candidate;
  }

  static bool isContractionFromZero(linalg::LinalgOp op) {
    return isContraction(op) &&
           op.getDpsInits()[0].getDefiningOp<linalg::FillOp>();
  }

  /// What making a value again costs, roughly: on the cores the instructions of
  /// a stream, or on RedMulE the products. A further result of `host` costs
  /// what that does not compute anyway, and a store into a loop that has
  /// registers for fewer elements at a time.
  double cyclesOf(linalg::LinalgOp maker, linalg::GenericOp host = {}) {
    constexpr double transcendental = 20, access = 2, furtherStore = 10;
    double elements = 1;
    for (int64_t size : maker.getStaticLoopRanges())
      elements *= size;
    if (!asElementwise(maker)) {
      double macs = target.readsOnAccelerator(
                        getElementTypeOrSelf(maker->getResult(0).getType()))
                        ? target.integer("redmule", "rows") *
                              target.integer("redmule", "columns")
                        : target.integer("fpu", "count");
      return elements / macs;
    }
    auto instructions = [&](Operation *op) {
      double sum = 0;
      op->walk([&](Operation *inner) {
        if (isa<math::MathDialect>(inner->getDialect()))
          sum += isa<math::FmaOp>(inner) ? 1 : transcendental;
        else if (isa<arith::ArithDialect>(inner->getDialect()))
          sum += isa<arith::DivFOp>(inner) ? transcendental : 1;
      });
      return sum;
    };
    double each;
    if (host) {
      // Transcendental functions are the same, or there would be none.
      each = furtherStore;
      maker->walk([&](Operation *inner) {
        each += isa<arith::ArithDialect>(inner->getDialect());
      });
    } else {
      each = instructions(maker) + access * maker->getNumOperands();
    }
    return each * elements / target.integer("cores", "count");
  }

  /// Whether what an op reads is there at a position: parameters with their
  /// old value, and arrays that live as long anyway unless they are small.
  bool isAlive(linalg::LinalgOp maker, unsigned position) {
    for (Value input : maker.getDpsInputs()) {
      if (StringAttr parameter = train::getSnapshotParameter(input)) {
        for (auto assign : block.getOps<train::AssignOp>())
          if (assign.getParameterAttr().getAttr() == parameter &&
              positions[assign] < position)
            return false;
        continue;
      }
      Value root = input;
      while (Operation *op = root.getDefiningOp()) {
        if (!isView(op))
          break;
        root = op->getOperand(0);
      }
      auto life = lives.find(root);
      bool isMade = root.getDefiningOp<linalg::LinalgOp>();
      if (isMade && isLarge(input, maker) &&
          (life == lives.end() || life->second.last < position))
        return false;
    }
    return true;
  }

  static bool isLarge(Value input, Operation *maker) {
    return bytesOf(input) * 4 > bytesOf(maker->getResult(0));
  }

  /// The maker's loops among those of the host, by the large inputs that both
  /// read; empty if the host does not read them all, or in another way.
  static SmallVector<unsigned> alignLoops(linalg::GenericOp maker,
                                          linalg::GenericOp host) {
    if (maker.getNumLoops() != host.getNumLoops())
      return {};
    SmallVector<unsigned> loops;
    for (OpOperand *input : maker.getDpsInputOperands()) {
      if (!isLarge(input->get(), maker))
        continue;
      AffineMap from = maker.getMatchingIndexingMap(input);
      SmallVector<unsigned> found;
      for (OpOperand *other : host.getDpsInputOperands()) {
        AffineMap to = host.getMatchingIndexingMap(other);
        if (other->get() != input->get() || !from.isPermutation() ||
            !to.isPermutation())
          continue;
        found.resize(maker.getNumLoops());
        for (unsigned i = 0; i < found.size(); ++i)
          found[from.getDimPosition(i)] = to.getDimPosition(i);
      }
      if (found.empty() || (!loops.empty() && loops != found))
        return {};
      loops = found;
    }
    return loops;
  }

  bool isHost(Operation *op, linalg::GenericOp maker,
              ArrayRef<OpOperand *> late) {
    linalg::GenericOp host = asElementwise(op);
    if (!host || alignLoops(maker, host).empty() ||
        !isAlive(maker, positions[op]))
      return false;
    llvm::SetVector<Operation *> moved = dependents(late, host);
    // What makes the host's operands cannot wait for it, nor can what reads a
    // parameter that is updated before it.
    return !moved.contains(host) &&
           llvm::none_of(block.getOps<train::AssignOp>(),
                         [&](train::AssignOp assign) {
                           return positions[assign] < positions[op] &&
                                  !moved.contains(assign) &&
                                  readsBefore(moved.getArrayRef(), assign);
                         });
  }

  /// Whether one of the ops stands before an update and reads the parameter.
  bool readsBefore(ArrayRef<Operation *> ops, train::AssignOp assign) {
    return llvm::any_of(ops, [&](Operation *op) {
      return positions[op] < positions[assign] &&
             llvm::any_of(
                 op->getOperands(),
                 [&](Value operand) {
                   return train::getSnapshotParameter(operand) ==
                          assign.getParameterAttr().getAttr();
                 });
    });
  }

  /// The users and what depends on them, as far as it stands before `end`, and
  /// `end` itself if it does.
  llvm::SetVector<Operation *> dependents(ArrayRef<OpOperand *> uses,
                                          Operation *end) {
    llvm::SetVector<Operation *> slice;
    auto add = [&](Operation *op) {
      if (positions[op] <= positions[end])
        slice.insert(op);
    };
    for (OpOperand *use : uses)
      add(use->getOwner());
    for (size_t i = 0; i < slice.size(); ++i)
      for (Operation *user : slice[i]->getUsers())
        add(user);
    return slice;
  }

  void makeAgain(Candidate &candidate) {
    OpBuilder builder(candidate.maker);
    Value again;
    if (candidate.host) {
      llvm::SmallVector<Operation *> moved =
          dependents(candidate.late, candidate.host).takeVector();
      llvm::sort(moved, [&](Operation *a, Operation *b) {
        return positions[a] < positions[b];
      });
      Operation *behind = candidate.host;
      for (Operation *op : moved) {
        op->moveAfter(behind);
        behind = op;
      }
      again = addResult(builder, cast<linalg::GenericOp>(*candidate.maker),
                        candidate.host);
    } else {
      Operation *first = *llvm::min_element(
          llvm::map_range(candidate.late,
                          [](OpOperand *use) { return use->getOwner(); }),
          [&](Operation *a, Operation *b) {
            return positions[a] < positions[b];
          });
      builder.setInsertionPoint(first);
      again = builder.clone(*candidate.maker)->getResult(0);
    }
    Value made = candidate.maker->getResult(0);
    for (OpOperand *use : candidate.late) {
      SmallVector<Operation *> views;
      for (Value value = use->get(); value != made;
           value = views.back()->getOperand(0))
        views.push_back(value.getDefiningOp());
      builder.setInsertionPoint(use->getOwner());
      Value seen = again;
      for (Operation *view : llvm::reverse(views)) {
        IRMapping mapping;
        mapping.map(view->getOperand(0), seen);
        seen = builder.clone(*view, mapping)->getResult(0);
      }
      use->set(seen);
      for (Operation *view : views)
        if (view->use_empty())
          view->erase();
    }
    if (candidate.maker->use_empty())
      candidate.maker->erase();
  }

  /// Puts the work of `maker` into `host`, which is replaced; returns the new
  /// result.
  static Value addResult(OpBuilder &builder, linalg::GenericOp maker,
                         linalg::GenericOp host) {
    SmallVector<unsigned> loops = alignLoops(maker, host);
    SmallVector<AffineExpr> dims;
    for (unsigned loop : loops)
      dims.push_back(builder.getAffineDimExpr(loop));
    auto onHost = [&](AffineMap map) {
      return map.replaceDimsAndSymbols(dims, {}, loops.size(), 0);
    };
    SmallVector<Value> inputs(host.getInputs());
    SmallVector<AffineMap> maps;
    for (OpOperand *input : host.getDpsInputOperands())
      maps.push_back(host.getMatchingIndexingMap(input));
    SmallVector<unsigned> inputOf;
    for (OpOperand *input : maker.getDpsInputOperands()) {
      AffineMap map = onHost(maker.getMatchingIndexingMap(input));
      unsigned at = 0;
      while (at < inputs.size() &&
             (inputs[at] != input->get() || maps[at] != map))
        ++at;
      if (at == inputs.size()) {
        inputs.push_back(input->get());
        maps.push_back(map);
      }
      inputOf.push_back(at);
    }
    builder.setInsertionPoint(host);
    SmallVector<Value> inits(host.getOutputs());
    auto type = cast<RankedTensorType>(maker.getResult(0).getType());
    inits.push_back(tensor::EmptyOp::create(
        builder, maker.getLoc(), type.getShape(), type.getElementType()));
    for (OpOperand &init : host.getDpsInitsMutable())
      maps.push_back(host.getMatchingIndexingMap(&init));
    maps.push_back(
        onHost(maker.getMatchingIndexingMap(maker.getDpsInitOperand(0))));
    SmallVector<Type> types(host.getResultTypes());
    types.push_back(type);
    auto body = [&](OpBuilder &b, Location location, ValueRange values) {
      IRMapping mapping;
      Block *first = host.getBody(), *second = maker.getBody();
      for (unsigned i = 0; i < host.getNumDpsInputs(); ++i)
        mapping.map(first->getArgument(i), values[i]);
      for (Operation &op : first->without_terminator())
        b.clone(op, mapping);
      SmallVector<Value> results;
      for (Value value : first->getTerminator()->getOperands())
        results.push_back(mapping.lookupOrDefault(value));
      for (auto [i, at] : llvm::enumerate(inputOf))
        mapping.map(second->getArgument(i), values[at]);
      for (Operation &op : second->without_terminator())
        cloneOnce(b, op, mapping);
      results.push_back(
          mapping.lookupOrDefault(second->getTerminator()->getOperand(0)));
      linalg::YieldOp::create(b, location, results);
    };
    SmallVector<utils::IteratorType> iterators(loops.size(),
                                               utils::IteratorType::parallel);
    auto merged = linalg::GenericOp::create(
        builder, host.getLoc(), types, inputs, inits, maps, iterators, body);
    for (unsigned i = 0; i < host.getNumResults(); ++i)
      host.getResult(i).replaceAllUsesWith(merged.getResult(i));
    host.erase();
    return merged->getResults().back();
  }

  /// Clones an op unless one before it computes the same.
  static void cloneOnce(OpBuilder &builder, Operation &op, IRMapping &mapping) {
    Operation *clone = builder.clone(op, mapping);
    for (Operation &other : *clone->getBlock()) {
      if (&other == clone)
        break;
      if (!OperationEquivalence::isEquivalentTo(
              &other, clone, OperationEquivalence::IgnoreLocations))
        continue;
      for (auto [from, to] : llvm::zip(op.getResults(), other.getResults()))
        mapping.map(from, to);
      clone->erase();
      return;
    }
  }

  Block &block;
  const Target &target;
  int64_t capacity;
  llvm::DenseMap<Operation *, unsigned> positions;
  llvm::DenseMap<Value, Life> lives;
  std::vector<int64_t> live; // bytes, by position
  int64_t most = 0;
};

} // namespace

void recomputeActivations(func::FuncOp step, const Target &target,
                          int64_t capacity) {
  Recomputation(step, target, capacity).run();
}

} // namespace td
