#include "lib/Planner/Grouping.h"

#include "dialects/Tile/Windows.h"
#include "dialects/Train/Train.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"
#include <queue>

using namespace mlir;

namespace td {

bool OperatorGroup::contains(Operation *op) const {
  return llvm::any_of(
      members, [&](const GroupMember &member) { return member.op == op; });
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
  void fuse() {
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
        SmallVector<unsigned> dims;
        if (!alignLoops(groups[into], consumer, operand, dims) ||
            !mayMerge(into, own, consumer, dims))
          continue;
        merge(into, own, GroupMember{consumer, dims});
        break;
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
    while (!ready.empty()) {
      unsigned next = ready.top().second;
      ready.pop();
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
    return result;
  }

private:
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

  /// Whether `consumer` may run inside group `into`: no other path leads from
  /// the group to it, and what it reads of the group it reads element by
  /// element.
  bool mayMerge(unsigned into, unsigned own, linalg::LinalgOp consumer,
                ArrayRef<unsigned> dims) {
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

  void merge(unsigned into, unsigned own, GroupMember member) {
    groupOf[member.op] = into;
    groups[into].members.push_back(std::move(member));
    groups[own].members.clear();
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
                                                 const StepViews &views) {
  GroupGraph graph(step, views);
  if (failed(graph.build()))
    return failure();
  graph.fuse();
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
  if (first.secondChain || second.secondChain || !isMatmul(first) ||
      !(isMatmul(second) || isElementwise))
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
