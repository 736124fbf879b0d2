#include "lib/Planner/Grouping.h"

#include "dialects/Tile/Windows.h"
#include "dialects/Train/Train.h"
#include "lib/Kernels/KernelPlan.h"
#include "lib/Planner/Loops.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"
#include <queue>

using namespace mlir;

namespace td {

bool OperatorGroup::contains(Operation *op) const {
  return llvm::any_of(
             members,
             [&](const GroupMember &member) { return member.op == op; }) ||
         (pooling && llvm::is_contained(pooling->between, op));
}

Value viewSource(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (!isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op))
      break;
    value = op->getOperand(0);
  }
  return value;
}

bool accumulatesProducts(linalg::LinalgOp op) {
  if (op.getNumDpsInputs() != 2 || op.getNumDpsInits() != 1)
    return false;
  if (isa<linalg::MatmulOp>(op.getOperation()))
    return true;
  auto generic = dyn_cast<linalg::GenericOp>(op.getOperation());
  if (!generic)
    return false;
  Block &body = generic.getRegion().front();
  auto isArgument = [&](Value value, unsigned number) {
    if (auto rounded = value.getDefiningOp<arith::TruncFOp>())
      value = rounded.getIn();
    return value == body.getArgument(number);
  };
  auto sum = body.getTerminator()->getOperand(0).getDefiningOp<arith::AddFOp>();
  if (!sum || sum->getBlock() != &body)
    return false;
  for (unsigned side : {0, 1}) {
    auto product = sum->getOperand(side).getDefiningOp<arith::MulFOp>();
    if (product && isArgument(sum->getOperand(1 - side), 2) &&
        ((isArgument(product.getLhs(), 0) && isArgument(product.getRhs(), 1)) ||
         (isArgument(product.getLhs(), 1) && isArgument(product.getRhs(), 0))))
      return true;
  }
  return false;
}

bool isContraction(linalg::LinalgOp op) {
  if (!accumulatesProducts(op))
    return false;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  for (unsigned loop = 0; loop < op.getNumLoops(); ++loop)
    if (maps[0].isFunctionOfDim(loop) != maps[1].isFunctionOfDim(loop) &&
        maps[2].isFunctionOfDim(loop))
      return true;
  return false;
}

void startIndices(linalg::LinalgOp op,
                  llvm::function_ref<Value(OpBuilder &, unsigned loop)> start) {
  SmallVector<linalg::IndexOp> uses;
  op->walk([&](linalg::IndexOp use) { uses.push_back(use); });
  for (linalg::IndexOp use : uses) {
    OpBuilder builder(use->getContext());
    builder.setInsertionPointAfter(use);
    Value first = start(builder, use.getDim());
    if (!first)
      continue;
    auto sum = arith::AddIOp::create(builder, use.getLoc(), use, first);
    use.getResult().replaceAllUsesExcept(sum, sum);
  }
}

TypedAttr splatOf(Value value) {
  value = viewSource(value);
  while (auto slice = value.getDefiningOp<tensor::ExtractSliceOp>())
    value = viewSource(slice.getSource());
  if (auto fill = value.getDefiningOp<linalg::FillOp>()) {
    TypedAttr constant;
    if (matchPattern(fill.getInputs()[0], m_Constant(&constant)))
      return constant;
  }
  DenseElementsAttr elements;
  if (matchPattern(value, m_Constant(&elements)) && elements.isSplat())
    return elements.getSplatValue<TypedAttr>();
  return {};
}

namespace {

/// Nodes are the groups; an edge says what must run before what.
class GroupGraph {
public:
  GroupGraph(func::FuncOp step, const StepViews &views)
      : block(step.getBody().front()), views(views) {}

  /// One group per operator.
  LogicalResult build() {
    for (Operation &op : block) {
      auto structured = dyn_cast<linalg::LinalgOp>(op);
      if (isa<linalg::FillOp>(op))
        continue;
      if (!structured) {
        if (!isa<train::ReadOp, train::AssignOp, tensor::CollapseShapeOp,
                 tensor::ExpandShapeOp, tensor::ExtractSliceOp,
                 tensor::InsertSliceOp, tensor::EmptyOp, arith::ConstantOp,
                 func::ReturnOp>(op))
          return op.emitError()
                 << "'" << op.getName()
                 << "' is not an operator that the planner knows";
        continue;
      }
      for (OpOperand &operand : op.getOpOperands()) {
        AffineMap map = structured.getMatchingIndexingMap(&operand);
        if (structured.isDpsInit(&operand) ? !map.isProjectedPermutation()
                                           : !tile::affineSums(map))
          return op.emitError("has an operand that is not indexed by sums of "
                              "multiples of the loops, or a result by a "
                              "projection");
      }
      OperatorGroup group;
      GroupMember anchor{structured, {}};
      group.sizes = structured.getStaticLoopRanges();
      for (unsigned i = 0; i < group.sizes.size(); ++i) {
        anchor.dims.push_back(i);
        if (structured.getIteratorTypesArray()[i] ==
            utils::IteratorType::reduction)
          group.reductions.push_back(i);
      }
      group.members.push_back(anchor);
      groupOf[&op] = groups.size();
      groups.push_back(std::move(group));
    }
    collectEdges();
    return success();
  }

  /// Moves every element-wise op into the group of an operand that it can share
  /// loops with. Visited in program order, so that chains follow.
  void fuse(const KeptApart &apart) {
    for (Operation &op : block) {
      auto consumer = dyn_cast<linalg::LinalgOp>(op);
      auto found = groupOf.find(&op);
      if (!consumer || found == groupOf.end() ||
          consumer.getNumReductionLoops() != 0 || consumer.hasIndexSemantics())
        continue;
      unsigned own = found->second;
      for (OpOperand &operand : consumer->getOpOperands()) {
        Operation *producer = operand.get().getDefiningOp();
        auto producerGroup = producer ? groupOf.find(producer) : groupOf.end();
        if (producerGroup == groupOf.end() || producerGroup->second == own)
          continue;
        unsigned into = producerGroup->second;
        if (apart.fromContractions.contains(&op) &&
            isContraction(groups[into].members.front().op))
          continue;
        SmallVector<unsigned> dims;
        if (!alignLoops(groups[into], consumer, operand, dims) ||
            !mayMerge(into, own, consumer, dims))
          continue;
        merge(into, own, GroupMember{consumer, dims});
        break;
      }
    }
  }

  /// Joins a pooling, with what follows it element by element, with the
  /// contraction whose results it reduces.
  void fusePooling(const KeptApart &apart) {
    for (Operation &op : block) {
      auto found = groupOf.find(&op);
      if (found == groupOf.end() || apart.poolings.contains(&op) ||
          groups[found->second].members.front().op.getOperation() != &op)
        continue;
      unsigned own = found->second;
      if (std::optional<Pooled> pooled = joinPooling(own)) {
        for (unsigned padding : pooled->paddings) {
          groups[padding].members.clear();
          redirect(pooled->into, padding);
        }
        replace(pooled->into, own, std::move(pooled->group));
      }
    }
  }

  /// Joins groups without contractions where one consumes what the other makes
  /// and both can run on the same tiles: those of dimensions that all members
  /// walk, and that no member needs the whole sum over.
  void fuseRows(int64_t rowBytes, const KeptApart &apart) {
    auto isCandidate = [&](unsigned group) {
      return llvm::none_of(groups[group].members, [&](const GroupMember &m) {
        return isContraction(m.op) || apart.fromRows.contains(m.op);
      });
    };
    // Others would wait for the rows, too.
    auto isShared = [&](unsigned group) {
      return groups[group].sizes.empty() && successors[group].size() > 1;
    };
    for (bool changed = true; changed;) {
      changed = false;
      for (Operation &op : block) {
        auto found = groupOf.find(&op);
        if (found == groupOf.end() || !isCandidate(found->second))
          continue;
        unsigned own = found->second;
        for (Value operand : op.getOperands()) {
          Operation *producer = operand.getDefiningOp();
          auto other = producer ? groupOf.find(producer) : groupOf.end();
          if (other == groupOf.end() || other->second == own ||
              !isCandidate(other->second) || isShared(other->second))
            continue;
          unsigned into = other->second;
          std::optional<OperatorGroup> merged = joinRows(into, own, rowBytes);
          if (!merged)
            continue;
          replace(into, own, std::move(*merged));
          own = into;
          changed = true;
        }
      }
    }
  }

  /// Joins a group without contractions with the contraction whose rows it
  /// works on.
  void fuseRowsWithContractions(int64_t rowBytes, const KeptApart &apart) {
    for (Operation &op : block) {
      auto found = groupOf.find(&op);
      if (found == groupOf.end())
        continue;
      unsigned own = found->second;
      if (llvm::any_of(groups[own].members, [&](const GroupMember &m) {
            return isContraction(m.op) || apart.fromContractions.contains(m.op);
          }))
        continue;
      for (Value operand : op.getOperands()) {
        Operation *producer = operand.getDefiningOp();
        auto other = producer ? groupOf.find(producer) : groupOf.end();
        if (other == groupOf.end() || other->second == own ||
            groups[other->second].rowsFrom || groups[other->second].pooling ||
            !isContraction(groups[other->second].members.front().op))
          continue;
        unsigned into = other->second;
        if (std::optional<OperatorGroup> merged =
                joinRows(into, own, rowBytes)) {
          replace(into, own, std::move(*merged));
          break;
        }
      }
    }
  }

  /// Kahn's algorithm; among the ready groups the first in program order.
  std::vector<OperatorGroup> order() {
    using Entry = std::pair<unsigned, unsigned>; // position, group
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
    SmallVector<unsigned> pending(groups.size(), 0);
    for (auto &targets : successors)
      for (unsigned target : targets)
        ++pending[target];
    auto push = [&](unsigned group) {
      if (pending[group] == 0 && !groups[group].members.empty())
        ready.push({positions.lookup(groups[group].members.back().op), group});
    };
    for (unsigned i = 0; i < groups.size(); ++i)
      push(i);
    std::vector<OperatorGroup> result;
    DenseMap<unsigned, unsigned> place;
    // Groups of a loop come in a row: whatever they need that is not among them
    // has run when the first of them is ready.
    std::optional<int64_t> loop;
    std::vector<Entry> others;
    while (!ready.empty()) {
      unsigned next = ready.top().second;
      ready.pop();
      if (loop && loopOf(groups[next]) != loop) {
        others.push_back(
            {positions.lookup(groups[next].members.back().op), next});
        if (!ready.empty())
          continue;
        loop.reset();
        for (Entry other : others)
          ready.push(other);
        others.clear();
        continue;
      }
      loop = loopOf(groups[next]);
      place[next] = result.size();
      result.push_back(groups[next]);
      for (unsigned target : successors[next]) {
        --pending[target];
        push(target);
      }
    }
    for (auto [group, at] : place)
      for (unsigned target : successors[group])
        result[place[target]].predecessors.push_back(at);
    for (OperatorGroup &group : result)
      if (group.parts.empty() && mayPart(group))
        group.parts = {anchorOf(group), restOf(group)};
    return result;
  }

private:
  /// Whether a contraction may also leave what follows it to another group.
  /// What updates a parameter never does: there is to be no array for a
  /// gradient.
  static bool mayPart(const OperatorGroup &group) {
    return group.members.size() > 1 &&
           isContraction(group.members.front().op) &&
           llvm::none_of(group.members, [](const GroupMember &member) {
             return llvm::any_of(member.op->getUsers(),
                                 llvm::IsaPred<train::AssignOp>);
           });
  }

  static OperatorGroup anchorOf(const OperatorGroup &group) {
    OperatorGroup anchor;
    anchor.members = {group.members.front()};
    anchor.sizes = group.sizes;
    anchor.reductions = group.reductions;
    return anchor;
  }

  /// The element-wise members behind an anchor, on the dimensions that are left
  /// of its domain.
  static OperatorGroup restOf(const OperatorGroup &group) {
    OperatorGroup rest;
    SmallVector<unsigned> dimOf(group.sizes.size());
    for (auto [dim, size] : llvm::enumerate(group.sizes))
      if (!llvm::is_contained(group.reductions, (int64_t)dim)) {
        dimOf[dim] = rest.sizes.size();
        rest.sizes.push_back(size);
      }
    for (GroupMember member : ArrayRef(group.members).drop_front()) {
      for (unsigned &dim : member.dims)
        dim = dimOf[dim];
      rest.members.push_back(std::move(member));
    }
    return rest;
  }

  void addEdge(unsigned from, unsigned to) {
    if (from != to)
      successors[from].insert(to);
  }

  void collectEdges() {
    successors.resize(groups.size());
    unsigned position = 0;
    // The groups that use the value of a parameter before its update.
    llvm::StringMap<llvm::SetVector<unsigned>> readers;
    for (Operation &op : block) {
      positions[&op] = position++;
      auto found = groupOf.find(&op);
      if (found == groupOf.end())
        continue;
      for (Value operand : op.getOperands())
        for (Value source : views.sourcesOf(operand)) {
          if (auto read = source.getDefiningOp<train::ReadOp>())
            readers[read.getParameter()].insert(found->second);
          else if (Operation *producer = source.getDefiningOp();
                   producer && groupOf.contains(producer))
            addEdge(groupOf[producer], found->second);
        }
    }
    for (auto [before, after] : views.overwritten)
      addEdge(groupOf[before.getDefiningOp()], groupOf[after.getDefiningOp()]);
    for (auto assign : block.getOps<train::AssignOp>()) {
      Operation *producer = viewSource(assign.getValue()).getDefiningOp();
      if (!producer || !groupOf.contains(producer))
        continue;
      for (unsigned reader : readers[assign.getParameter()])
        addEdge(reader, groupOf[producer]);
    }
    surroundLoops();
  }

  /// What a group of a loop needs of others runs before all of the loop, and
  /// what needs a group of it after all.
  void surroundLoops() {
    llvm::MapVector<int64_t, SmallVector<unsigned>> loops;
    for (unsigned i = 0; i < groups.size(); ++i)
      if (std::optional<int64_t> loop = loopOf(groups[i]))
        loops[*loop].push_back(i);
    for (auto &[loop, inside] : loops) {
      llvm::SmallSetVector<unsigned, 8> before, after;
      for (unsigned i = 0; i < groups.size(); ++i) {
        bool isInside = loopOf(groups[i]) == loop;
        for (unsigned target : successors[i])
          if ((loopOf(groups[target]) == loop) != isInside)
            isInside ? after.insert(target) : before.insert(i);
      }
      for (unsigned group : inside) {
        for (unsigned other : before)
          addEdge(other, group);
        for (unsigned other : after)
          addEdge(group, other);
      }
    }
  }

  /// Maps the consumer's loops on the group's dimensions through an operand
  /// that the group makes; false unless each loop is covered exactly once.
  bool alignLoops(const OperatorGroup &group, linalg::LinalgOp consumer,
                  OpOperand &operand, SmallVector<unsigned> &dims) {
    AffineMap consumerMap = consumer.getMatchingIndexingMap(&operand);
    if (!consumerMap.isPermutation())
      return false;
    auto result = cast<OpResult>(operand.get());
    for (const GroupMember &member : group.members) {
      if (member.op != result.getOwner())
        continue;
      linalg::LinalgOp producer = member.op;
      AffineMap producerMap = producer.getIndexingMapMatchingResult(result);
      dims.assign(consumer.getNumLoops(), 0);
      for (unsigned i = 0; i < consumerMap.getNumResults(); ++i)
        dims[consumerMap.getDimPosition(i)] =
            member.dims[producerMap.getDimPosition(i)];
      return true;
    }
    return false;
  }

  /// Group `own` behind `into`, as one group whose members run tile by tile.
  std::optional<OperatorGroup> joinRows(unsigned into, unsigned own,
                                        int64_t rowBytes) {
    if (!areInOneLoop(into, own))
      return std::nullopt;
    for (unsigned next : successors[into])
      if (next != own && reaches(next, own))
        return std::nullopt;
    OperatorGroup merged = groups[into];
    const OperatorGroup &second = groups[own];
    bool isProduct = isContraction(merged.members.front().op);
    // What a contraction sums over is gone when the rows are there.
    SmallVector<int64_t> summed;
    if (isProduct)
      summed = merged.reductions;
    // The dimensions of the second group among those of the first: where a
    // member reads what the first makes, and by what both read.
    constexpr unsigned unknown = ~0u;
    SmallVector<unsigned> dimOf(second.sizes.size(), unknown);
    auto match = [&](const GroupMember &member, AffineMap map,
                     ArrayRef<unsigned> made) {
      for (unsigned i = 0; i < map.getNumResults(); ++i) {
        unsigned &dim = dimOf[member.dims[map.getDimPosition(i)]];
        if (dim != unknown && dim != made[i])
          return false;
        dim = made[i];
      }
      return true;
    };
    for (const GroupMember &member : second.members) {
      linalg::LinalgOp linalgOp = member.op;
      for (OpOperand &operand : linalgOp->getOpOperands()) {
        AffineMap map = linalgOp.getMatchingIndexingMap(&operand);
        for (Value source : views.sourcesOf(operand.get())) {
          Operation *producer = source.getDefiningOp();
          if (!producer || !merged.contains(producer))
            continue;
          if (source != operand.get() || !map.isProjectedPermutation() ||
              !match(member, map, walkOf(merged, cast<OpResult>(source))))
            return std::nullopt;
        }
      }
    }
    for (auto [before, after] : views.overwritten)
      if ((merged.contains(before.getDefiningOp()) &&
           second.contains(after.getDefiningOp())) ||
          (second.contains(before.getDefiningOp()) &&
           merged.contains(after.getDefiningOp())))
        return std::nullopt;
    for (const GroupMember &member : second.members)
      for (OpOperand &operand : member.op->getOpOperands())
        matchShared(merged, member, operand, dimOf);
    for (auto [dim, size] : llvm::enumerate(second.sizes)) {
      for (unsigned to = 0; dimOf[dim] == unknown && to < merged.sizes.size();
           ++to)
        if (merged.sizes[to] == size && !llvm::is_contained(dimOf, to) &&
            !llvm::is_contained(summed, to))
          dimOf[dim] = to;
      if (dimOf[dim] == unknown && isProduct)
        return std::nullopt;
      if (dimOf[dim] == unknown) {
        dimOf[dim] = merged.sizes.size();
        merged.sizes.push_back(size);
      }
      if (merged.sizes[dimOf[dim]] != size ||
          llvm::count(dimOf, dimOf[dim]) > 1 ||
          llvm::is_contained(summed, dimOf[dim]))
        return std::nullopt;
    }
    if (isProduct) {
      merged.rowsFrom = merged.members.size();
      merged.parts = {groups[into], second};
    }
    for (GroupMember member : second.members) {
      for (unsigned &dim : member.dims)
        dim = dimOf[dim];
      merged.members.push_back(std::move(member));
    }
    if (overwritesWhatItReads(merged))
      return std::nullopt;
    finishRows(merged, summed);
    if (bytesOfRow(merged) > rowBytes)
      return std::nullopt;
    return merged;
  }

  /// A pooling joined with group `into`; the groups `paddings` wrote what lies
  /// around that one's results.
  struct Pooled {
    unsigned into;
    SmallVector<unsigned> paddings;
    OperatorGroup group;
  };

  std::optional<Pooled> joinPooling(unsigned own) {
    const OperatorGroup &second = groups[own];
    linalg::LinalgOp anchor = second.members.front().op;
    auto reduction = dyn_cast<linalg::GenericOp>(anchor.getOperation());
    if (!reduction || reduction.getNumReductionLoops() == 0 || second.rowwise ||
        second.rowsFrom)
      return std::nullopt;
    // What it reduces; other operands only give sizes, or are one constant.
    OpOperand *reduced = nullptr;
    for (OpOperand &operand : reduction->getOpOperands()) {
      if (splatOf(operand.get()) ||
          !reduction.payloadUsesValueFromOperand(&operand))
        continue;
      if (reduced || reduction.isDpsInit(&operand))
        return std::nullopt;
      reduced = &operand;
    }
    for (OpOperand &init : reduction.getDpsInitsMutable())
      if (!splatOf(init.get()))
        return std::nullopt;
    if (!reduced || !isa<RankedTensorType>(reduced->get().getType()))
      return std::nullopt;

    // Its source is the result of a contraction's chain, maybe amid padding.
    Pooled pooled;
    Pooling pooling;
    pooling.input = reduced->get();
    SmallVector<Value> stack{pooling.input};
    while (!stack.empty()) {
      Value value = stack.pop_back_val();
      Operation *producer = value.getDefiningOp();
      if (!producer || (!value.hasOneUse() && !isa<tensor::EmptyOp>(producer)))
        return std::nullopt;
      if (auto found = groupOf.find(producer); found != groupOf.end()) {
        auto constant = dyn_cast<linalg::GenericOp>(producer);
        TypedAttr padding;
        if (constant && constant.getNumDpsInputs() == 0 &&
            groups[found->second].members.size() == 1 &&
            matchPattern(
                constant.getRegion().front().getTerminator()->getOperand(0),
                m_Constant(&padding))) {
          if (pooling.padding && pooling.padding != padding)
            return std::nullopt;
          pooling.padding = padding;
          pooled.paddings.push_back(found->second);
          continue;
        }
        if (pooling.source)
          return std::nullopt;
        pooling.source = value;
        pooled.into = found->second;
        continue;
      }
      if (auto insert = dyn_cast<tensor::InsertSliceOp>(producer)) {
        stack.push_back(insert.getSource());
        stack.push_back(insert.getDest());
      } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(producer)) {
        stack.push_back(slice.getSource());
      } else if (!isa<tensor::EmptyOp>(producer)) {
        return std::nullopt;
      }
      pooling.between.push_back(producer);
    }
    if (!pooling.source || pooled.into == own ||
        !areInOneLoop(pooled.into, own))
      return std::nullopt;
    OperatorGroup &merged = pooled.group;
    merged = groups[pooled.into];
    if (!isContraction(merged.members.front().op) || merged.rowsFrom ||
        merged.pooling ||
        merged.members.back().op != pooling.source.getDefiningOp())
      return std::nullopt;
    for (unsigned next : successors[pooled.into])
      if (next != own && reaches(next, own))
        return std::nullopt;
    // Nothing but the pooling needs what its windows see.
    for (const GroupMember &member : merged.members)
      for (Value result : member.op->getResults())
        for (Operation *user : result.getUsers())
          if (!merged.contains(user) && result != pooling.source)
            return std::nullopt;
    for (const GroupMember &member : second.members)
      for (Value operand : member.op->getOperands())
        if (operand != pooling.input)
          for (Value source : views.sourcesOf(operand))
            if (Operation *producer = source.getDefiningOp();
                producer && merged.contains(producer))
              return std::nullopt;

    // How windows go along each dimension of the source.
    TensorView seen = views.viewOf(pooling.input),
               made = views.viewOf(pooling.source);
    auto isPlain = [](const TensorView &view) {
      return llvm::all_of(view.strides,
                          [](int64_t stride) { return stride == 1; });
    };
    if (seen.root != made.root || seen.shaped != made.shaped ||
        !isPlain(seen) || !isPlain(made))
      return std::nullopt;
    merged.pooling = pooling;
    if (!placeWindows(merged, reduction, *reduced, seen, made))
      return std::nullopt;
    merged.parts = {groups[pooled.into]};
    for (unsigned padding : pooled.paddings)
      merged.parts.push_back(groups[padding]);
    merged.parts.push_back(second);
    return pooled;
  }

  /// Gives every loop of `reduction` a dimension of the group that is to pool
  /// what it makes; false if windows do not lie so that tiles of the source can
  /// follow each other.
  bool placeWindows(OperatorGroup &group, linalg::GenericOp reduction,
                    OpOperand &reduced, const TensorView &seen,
                    const TensorView &made) {
    Pooling &pooling = *group.pooling;
    constexpr unsigned unknown = ~0u;
    SmallVector<int64_t> loops = reduction.getStaticLoopRanges();
    SmallVector<unsigned> dims(loops.size(), unknown);
    SmallVector<unsigned> walk = walkOf(group, cast<OpResult>(pooling.source));
    auto shape = cast<RankedTensorType>(pooling.source.getType()).getShape();
    SmallVector<int64_t> whole, taps;
    auto addDim = [&](int64_t size) -> unsigned {
      group.sizes.push_back(size);
      whole.push_back(group.sizes.size() - 1);
      return group.sizes.size() - 1;
    };
    auto addTaps = [&](int64_t size) {
      unsigned dim = addDim(size);
      taps.push_back(dim);
      return dim;
    };
    bool hasLines = false, goesAcross = false;
    for (auto [i, sum] : llvm::enumerate(
             tile::sumsOf(reduction.getMatchingIndexingMap(&reduced)))) {
      // One loop over results, and one over taps maybe.
      std::optional<tile::AffineSum::Term> result, tap;
      for (tile::AffineSum::Term term : sum.terms) {
        bool isTap = reduction.getIteratorTypesArray()[term.dim] ==
                     utils::IteratorType::reduction;
        std::optional<tile::AffineSum::Term> &known = isTap ? tap : result;
        if (known || dims[term.dim] != unknown)
          return false;
        known = term;
      }
      if (!result || sum.constant != 0)
        return false;
      int64_t count = loops[result->dim], width = tap ? loops[tap->dim] : 1,
              stride = result->coefficient,
              ahead = made.offsets[i] - seen.offsets[i];
      if (width == 1 && ahead == 0 && count == shape[i] &&
          (stride == 1 || count == 1)) {
        dims[result->dim] = walk[i];
        if (tap)
          dims[tap->dim] = addTaps(1);
        continue;
      }
      if (!tap || tap->coefficient != 1 || width < 2 || ahead < 0)
        return false;
      dims[tap->dim] = addTaps(width);
      if (!hasLines) {
        hasLines = true;
        pooling.kept = width - stride;
        if (pooling.kept < 0 || ahead != pooling.kept ||
            stride * count > shape[i] || (pooling.kept && !pooling.padding))
          return false;
        pooling.dim = dims[result->dim] = walk[i];
        pooling.stride = stride;
        group.sizes[walk[i]] = count;
        if (stride > 1)
          pooling.lineInWindow = addDim(stride);
        // Lines of the tile before are views of it.
        for (unsigned outer : ArrayRef(walk).take_front(i))
          if (pooling.kept)
            group.unit.push_back(outer);
        continue;
      }
      if (goesAcross)
        return false;
      goesAcross = true;
      whole.push_back(walk[i]);
      pooling.resultLoop = result->dim;
      pooling.tapLoop = tap->dim;
      pooling.ahead = ahead;
      dims[result->dim] = addDim(count);
      // Taps of a window within the source.
      auto tapsOf = [&](int64_t at) {
        int64_t start = at * stride - ahead;
        return std::make_pair(std::max<int64_t>(-start, 0),
                              std::min(width, shape[i] - start));
      };
      for (int64_t first = 0, past; first < count; first = past) {
        auto [begin, end] = tapsOf(first);
        for (past = first + 1;
             past < count && tapsOf(past) == std::make_pair(begin, end); ++past)
          ;
        if (begin >= end ||
            (end - begin < width && !mayLeaveOut(group, reduction, reduced)))
          return false;
        Pooling::Part part{dims[result->dim], dims[tap->dim], first, begin};
        if (past - first < count)
          part.results = addDim(past - first);
        if (end - begin < width)
          part.taps = addTaps(end - begin);
        pooling.parts.push_back(part);
      }
    }
    if (!hasLines || llvm::is_contained(dims, unknown))
      return false;
    pooling.from = group.members.size();
    const OperatorGroup &second = groups[groupOf.at(reduction)];
    for (GroupMember member : second.members) {
      for (unsigned &dim : member.dims)
        dim = dims[dim];
      group.members.push_back(std::move(member));
    }
    llvm::append_range(group.whole, whole);
    llvm::append_range(group.reductions, taps);
    return true;
  }

  /// Whether a window's result is the same without its taps on padding, of
  /// which it has others.
  static bool mayLeaveOut(const OperatorGroup &group,
                          linalg::GenericOp reduction, OpOperand &reduced) {
    auto padding = dyn_cast_if_present<FloatAttr>(group.pooling->padding);
    if (!padding)
      return false;
    Block &body = reduction.getRegion().front();
    Value tap = body.getArgument(reduced.getOperandNumber()),
          sum = body.getArgument(reduction.getNumDpsInputs());
    Operation *made = body.getTerminator()->getOperand(0).getDefiningOp();
    if (!made)
      return false;
    auto isOf = [&](Value value) {
      if (auto cut = value.getDefiningOp<arith::MaximumFOp>();
          cut && cut.getLhs() == tap &&
          matchPattern(cut.getRhs(), m_Constant()))
        value = tap;
      return value == tap;
    };
    bool ofSum = made->getNumOperands() == 2 &&
                 ((made->getOperand(0) == sum && isOf(made->getOperand(1))) ||
                  (made->getOperand(1) == sum && isOf(made->getOperand(0))));
    APFloat value = padding.getValue();
    if (isa<arith::AddFOp>(made))
      return ofSum && value.isZero() &&
             llvm::is_contained(made->getOperands(), tap);
    if (!value.isInfinity() || !value.isNegative())
      return false;
    if (isa<arith::MaximumFOp>(made))
      return ofSum;
    FailureOr<KernelPlan> plan = KernelPlan::get(reduction);
    return succeeded(plan) && plan->firstMaximum &&
           plan->firstMaximum->element == tap;
  }

  /// The dimensions of a group that walk a result of a member.
  static SmallVector<unsigned> walkOf(const OperatorGroup &group,
                                      OpResult result) {
    SmallVector<unsigned> walk;
    for (const GroupMember &member : group.members) {
      linalg::LinalgOp linalgOp = member.op;
      if (linalgOp != result.getOwner())
        continue;
      AffineMap map = linalgOp.getIndexingMapMatchingResult(result);
      for (unsigned i = 0; i < map.getNumResults(); ++i)
        walk.push_back(member.dims[map.getDimPosition(i)]);
    }
    return walk;
  }

  /// Dimensions of a member that are still unknown, from an operand that a
  /// member of the group reads as well.
  static void matchShared(const OperatorGroup &group, const GroupMember &member,
                          OpOperand &operand, MutableArrayRef<unsigned> dimOf) {
    linalg::LinalgOp linalgOp = member.op;
    AffineMap map = linalgOp.getMatchingIndexingMap(&operand);
    if (!map.isProjectedPermutation() || linalgOp.isDpsInit(&operand))
      return;
    for (const GroupMember &other : group.members) {
      linalg::LinalgOp otherOp = other.op;
      for (OpOperand *input : otherOp.getDpsInputOperands()) {
        AffineMap otherMap = otherOp.getMatchingIndexingMap(input);
        if (input->get() != operand.get() || !otherMap.isProjectedPermutation())
          continue;
        for (unsigned i = 0; i < map.getNumResults(); ++i) {
          unsigned to = other.dims[otherMap.getDimPosition(i)];
          unsigned &dim = dimOf[member.dims[map.getDimPosition(i)]];
          if (dim == ~0u && !llvm::is_contained(dimOf, to))
            dim = to;
        }
      }
    }
  }

  /// Whether a group updates a parameter that another member than the one that
  /// updates it reads, or that one not element by element.
  bool overwritesWhatItReads(const OperatorGroup &group) {
    for (const GroupMember &member : group.members)
      for (Operation *user : member.op->getUsers())
        if (auto assign = dyn_cast<train::AssignOp>(user))
          for (const GroupMember &other : group.members)
            for (Value operand : other.op->getOperands())
              for (Value source : views.sourcesOf(operand))
                if (auto read = source.getDefiningOp<train::ReadOp>();
                    read && read.getParameter() == assign.getParameter() &&
                    other.op != member.op)
                  return true;
    return false;
  }

  /// Which dimensions of a group with rows are whole, and which are summed
  /// over; `summed` are those that a contraction ahead of the rows sums over.
  static void finishRows(OperatorGroup &group, ArrayRef<int64_t> summed) {
    group.rowwise = !group.rowsFrom;
    llvm::SmallSetVector<int64_t, 4> whole,
        reductions(summed.begin(), summed.end());
    for (const GroupMember &member :
         ArrayRef(group.members).drop_front(group.rowsFrom)) {
      linalg::LinalgOp linalgOp = member.op;
      for (int64_t dim = 0; dim < (int64_t)group.sizes.size(); ++dim)
        if (!llvm::is_contained(member.dims, dim) &&
            !llvm::is_contained(summed, dim))
          whole.insert(dim);
      bool usedInside =
          llvm::any_of(linalgOp->getUsers(),
                       [&](Operation *user) { return group.contains(user); });
      for (unsigned i = 0; i < member.dims.size(); ++i)
        if (linalgOp.getIteratorTypesArray()[i] ==
            utils::IteratorType::reduction) {
          reductions.insert(member.dims[i]);
          // What adds up over the tiles does so once in each.
          if (usedInside)
            whole.insert(member.dims[i]);
          else
            whole.insert(summed.begin(), summed.end());
        }
    }
    group.whole = SmallVector<int64_t>(whole.getArrayRef());
    group.reductions = SmallVector<int64_t>(reductions.getArrayRef());
  }

  /// Bytes of L1 that the smallest tiles of a group need, roughly.
  static int64_t bytesOfRow(const OperatorGroup &group) {
    int64_t bytes = 0;
    llvm::DenseSet<Value> seen;
    auto add = [&](const GroupMember &member, Value value, AffineMap map) {
      if (!isa<RankedTensorType>(value.getType()) || !seen.insert(value).second)
        return;
      int64_t elements = 1;
      for (unsigned loop = 0; loop < member.dims.size(); ++loop)
        if (map.isFunctionOfDim(loop) &&
            llvm::is_contained(group.whole, (int64_t)member.dims[loop]))
          elements *= group.sizes[member.dims[loop]];
      Type element = getElementTypeOrSelf(value.getType());
      bytes += elements * llvm::divideCeil(element.getIntOrFloatBitWidth(), 8);
    };
    for (const GroupMember &member : group.members) {
      linalg::LinalgOp linalgOp = member.op;
      for (OpOperand *input : linalgOp.getDpsInputOperands())
        add(member, input->get(), linalgOp.getMatchingIndexingMap(input));
      for (OpResult result : linalgOp->getResults())
        add(member, result, linalgOp.getIndexingMapMatchingResult(result));
    }
    return bytes;
  }

  /// Whether `consumer` may run inside group `into`: no other path leads from
  /// the group to it, and what it reads of the group it reads element by
  /// element.
  bool mayMerge(unsigned into, unsigned own, linalg::LinalgOp consumer,
                ArrayRef<unsigned> dims) {
    if (!areInOneLoop(into, own))
      return false;
    for (unsigned next : successors[into])
      if (next != own && reaches(next, own))
        return false;
    for (OpOperand &operand : consumer->getOpOperands())
      for (Value source : views.sourcesOf(operand.get())) {
        Operation *producer = source.getDefiningOp();
        auto found = producer ? groupOf.find(producer) : groupOf.end();
        if (found == groupOf.end() || found->second != into)
          continue;
        SmallVector<unsigned> other;
        if (source != operand.get() ||
            !alignLoops(groups[into], consumer, operand, other) ||
            ArrayRef<unsigned>(other) != dims)
          return false;
      }
    for (auto [before, after] : views.overwritten)
      if (after.getDefiningOp() == consumer &&
          groups[into].contains(before.getDefiningOp()))
        return false;
    // A group that overwrites a parameter may read it only through the tile
    // that it overwrites, so no other member may read it.
    for (Operation *user : consumer->getUsers())
      if (auto assign = dyn_cast<train::AssignOp>(user))
        for (const GroupMember &member : groups[into].members)
          for (Value operand : member.op->getOperands())
            for (Value source : views.sourcesOf(operand))
              if (auto read = source.getDefiningOp<train::ReadOp>())
                if (read.getParameter() == assign.getParameter())
                  return false;
    return true;
  }

  /// Whether both groups run in the same loop, or both in none.
  bool areInOneLoop(unsigned a, unsigned b) const {
    return loopOf(groups[a]) == loopOf(groups[b]);
  }

  bool reaches(unsigned from, unsigned to) {
    SmallVector<unsigned> stack{from};
    llvm::DenseSet<unsigned> seen{from};
    while (!stack.empty()) {
      unsigned next = stack.pop_back_val();
      if (next == to)
        return true;
      for (unsigned target : successors[next])
        if (seen.insert(target).second)
          stack.push_back(target);
    }
    return false;
  }

  /// Group `merged` takes the place of the two.
  void replace(unsigned into, unsigned own, OperatorGroup merged) {
    for (const GroupMember &member : groups[own].members)
      groupOf[member.op] = into;
    groups[into] = std::move(merged);
    groups[own].members.clear();
    redirect(into, own);
  }

  void merge(unsigned into, unsigned own, GroupMember member) {
    groupOf[member.op] = into;
    groups[into].members.push_back(std::move(member));
    groups[own].members.clear();
    redirect(into, own);
  }

  /// Edges of group `own` become those of `into`.
  void redirect(unsigned into, unsigned own) {
    for (unsigned target : successors[own])
      addEdge(into, target);
    successors[own].clear();
    for (unsigned i = 0; i < groups.size(); ++i)
      if (successors[i].remove(own))
        addEdge(i, into);
  }

  Block &block;
  const StepViews &views;
  std::vector<OperatorGroup> groups;
  llvm::DenseMap<Operation *, unsigned> groupOf, positions;
  SmallVector<llvm::SetVector<unsigned>> successors;
};

} // namespace

FailureOr<std::vector<OperatorGroup>> formGroups(func::FuncOp step,
                                                 const StepViews &views,
                                                 int64_t rowBytes,
                                                 const KeptApart &apart) {
  GroupGraph graph(step, views);
  if (failed(graph.build()))
    return failure();
  graph.fuse(apart);
  graph.fusePooling(apart);
  graph.fuseRows(rowBytes, apart);
  graph.fuseRowsWithContractions(rowBytes, apart);
  return graph.order();
}

std::optional<OperatorGroup> mergeSiblings(const OperatorGroup &first,
                                           const OperatorGroup &second,
                                           const StepViews &views) {
  // The second is a matmul, or at batch 1 an outer product.
  auto isMatmul = [](const OperatorGroup &group) {
    return isa<linalg::MatmulOp>(group.members.front().op) &&
           group.sizes.size() == 3;
  };
  bool isElementwise = second.reductions.empty() && second.sizes.size() == 2;
  if (first.secondChain || second.secondChain || first.rowwise ||
      second.rowwise || first.rowsFrom || second.rowsFrom || first.pooling ||
      second.pooling || !isMatmul(first) ||
      !(isMatmul(second) || isElementwise) || loopOf(first) != loopOf(second))
    return std::nullopt;
  // Within a tile the second may not wait for a sum of the first.
  for (const GroupMember &member : second.members)
    for (Value operand : member.op->getOperands())
      for (Value source : views.sourcesOf(operand))
        if (Operation *producer = source.getDefiningOp();
            producer && first.contains(producer))
          return std::nullopt;
  // The parameter that the second updates, and how its domain indexes it.
  for (const GroupMember &member : second.members) {
    linalg::LinalgOp updating = member.op;
    for (OpResult result : updating->getResults())
      for (Operation *user : result.getUsers()) {
        auto assign = dyn_cast<train::AssignOp>(user);
        if (!assign)
          continue;
        linalg::LinalgOp reading = first.members.front().op;
        for (OpOperand *operand : reading.getDpsInputOperands()) {
          auto read = operand->get().getDefiningOp<train::ReadOp>();
          if (!read || read.getParameter() != assign.getParameter())
            continue;
          AffineMap from = updating.getIndexingMapMatchingResult(result);
          AffineMap to = reading.getMatchingIndexingMap(operand);
          SmallVector<unsigned> dimOf(second.sizes.size(), 3);
          for (unsigned i = 0; i < 2; ++i)
            dimOf[member.dims[from.getDimPosition(i)]] = to.getDimPosition(i);
          unsigned batch = 3 - to.getDimPosition(0) - to.getDimPosition(1);
          for (unsigned &dim : dimOf)
            dim = dim == 3 ? batch : dim;
          for (unsigned dim = 0; dim < second.sizes.size(); ++dim)
            if (second.sizes[dim] != first.sizes[dimOf[dim]])
              return std::nullopt;
          OperatorGroup merged = first;
          merged.parts.clear();
          merged.secondChain = merged.members.size();
          merged.whole = {batch};
          for (GroupMember moved : second.members) {
            for (unsigned &dim : moved.dims)
              dim = dimOf[dim];
            merged.members.push_back(std::move(moved));
          }
          return merged;
        }
      }
  }
  return std::nullopt;
}

} // namespace td
