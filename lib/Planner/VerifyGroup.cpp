#include "lib/Planner/VerifyGroup.h"

#include "dialects/Tile/Loop.h"
#include "dialects/Tile/Windows.h"
#include "lib/Planner/ScheduleProgram.h"

using namespace mlir;

namespace td {
namespace {

/// The element of a flat array that each point of a domain reads: `constant`
/// plus so many elements for a step of each dimension.
struct Access {
  Value array;
  int64_t constant = 0;
  SmallVector<int64_t> steps;
  int64_t advance = 0; // for a run of the loop that the group is in

  bool operator==(const Access &other) const {
    return array == other.array && constant == other.constant &&
           steps == other.steps && advance == other.advance;
  }
};

class GroupVerifier {
public:
  GroupVerifier(tile::GroupOp op, const OperatorGroup &group, BufferOf bufferOf)
      : op(op), group(group), bufferOf(bufferOf) {}

  LogicalResult run() {
    for (const GroupMember &member : group.members)
      if (accumulatesProducts(member.op) && !hasStage(member))
        return op.emitOpError("reads other elements than '")
               << operatorName(member.op) << "' does, or sums over others";
    return success();
  }

private:
  bool hasStage(const GroupMember &member) {
    linalg::LinalgOp source = member.op;
    std::optional<Access> wanted[2];
    for (unsigned operand : {0, 1})
      wanted[operand] = accessOf(member, source.getDpsInputOperand(operand));
    for (auto stage : op.getBody().getOps<tile::StageOp>()) {
      auto body = cast<linalg::LinalgOp>(stage.getBody().front().back());
      if (!accumulatesProducts(body))
        continue;
      std::optional<Access> found[2];
      for (unsigned operand : {0, 1})
        found[operand] = accessOf(body.getDpsInputOperand(operand)->get());
      auto agree = [](const std::optional<Access> &a,
                      const std::optional<Access> &b) {
        return !a || !b || *a == *b;
      };
      if (((agree(found[0], wanted[0]) && agree(found[1], wanted[1])) ||
           (agree(found[0], wanted[1]) && agree(found[1], wanted[0]))) &&
          sumsOverTheSame(member, body))
        return true;
    }
    // A factor that is one number everywhere is part of another computation.
    return splatOf(source.getDpsInputOperand(0)->get()) ||
           splatOf(source.getDpsInputOperand(1)->get());
  }

  /// What an operand of a member is read by; nothing for what the group makes.
  std::optional<Access> accessOf(const GroupMember &member,
                                 OpOperand *operand) {
    Value tensor = operand->get();
    if (splatOf(tensor) ||
        (tensor.getDefiningOp() && group.contains(tensor.getDefiningOp())))
      return std::nullopt;
    ArrayWindow window = bufferOf(tensor);
    Access access{reshapeSource(window.memref)};
    access.steps.assign(group.sizes.size(), 0);
    auto shape = cast<MemRefType>(window.memref.getType()).getShape();
    int64_t elements = 1;
    linalg::LinalgOp source = member.op;
    SmallVector<tile::AffineSum> sums =
        tile::sumsOf(source.getMatchingIndexingMap(operand));
    for (int64_t i = (int64_t)sums.size() - 1; i >= 0; --i) {
      int64_t stride = elements * window.strides[i];
      access.constant +=
          elements * window.offsets[i] + stride * sums[i].constant;
      for (tile::AffineSum::Term term : sums[i].terms)
        addLoop(access.steps, member, term.dim, stride * term.coefficient);
      if (i == 0)
        access.advance = elements * window.advance;
      elements *= shape[i];
    }
    return withoutSingle(access);
  }

  /// What a step of a member's loop is in the domain. Two dimensions walk the
  /// lines of what is pooled, the inner one within a window.
  void addLoop(SmallVectorImpl<int64_t> &steps, const GroupMember &member,
               unsigned loop, int64_t step) {
    unsigned dim = member.dims[loop];
    const std::optional<Pooling> &pooling = group.pooling;
    if (pooling && pooling->lineInWindow && dim == pooling->dim &&
        &member < &group.members[pooling->from]) {
      steps[*pooling->lineInWindow] += step;
      step *= pooling->stride;
    }
    steps[dim] += step;
  }

  /// What a tile holds: the operand that it was loaded from, or from whose tile
  /// it was prepared; nothing for what other stages make.
  std::optional<Access> accessOf(Value tile) {
    if (auto argument = dyn_cast<BlockArgument>(tile)) {
      unsigned operand = argument.getArgNumber();
      Value array = op->getOperand(operand);
      Access access{reshapeSource(array)};
      access.steps.assign(group.sizes.size(), 0);
      auto shape = cast<MemRefType>(array.getType()).getShape();
      int64_t elements = 1;
      SmallVector<tile::AffineSum> sums =
          tile::sumsOf(cast<AffineMapAttr>(op.getMaps()[operand]).getValue());
      for (int64_t i = (int64_t)sums.size() - 1; i >= 0; --i) {
        access.constant += elements * sums[i].constant;
        for (tile::AffineSum::Term term : sums[i].terms)
          access.steps[term.dim] += elements * term.coefficient;
        if (i == 0)
          access.advance = elements * tile::advanceOf(op, operand);
        elements *= shape[i];
      }
      return withoutSingle(access);
    }
    for (auto stage : op.getBody().getOps<tile::StageOp>()) {
      auto body = cast<linalg::LinalgOp>(stage.getBody().front().back());
      if (stage.getPhase() == tile::Phase::Prepare &&
          body.getNumDpsInputs() == 1 &&
          body.getDpsInitOperand(0)->get() == tile)
        return accessOf(body.getDpsInputOperand(0)->get());
    }
    return std::nullopt;
  }

  /// Whether the result of a stage is walked by the dimensions of the member's
  /// result, and by none that this sums over.
  bool sumsOverTheSame(const GroupMember &member, linalg::LinalgOp body) {
    linalg::LinalgOp source = member.op;
    SmallVector<int64_t> wanted(group.sizes.size(), 0);
    for (const tile::AffineSum &sum : tile::sumsOf(
             source.getMatchingIndexingMap(source.getDpsInitOperand(0))))
      for (tile::AffineSum::Term term : sum.terms)
        addLoop(wanted, member, term.dim, term.coefficient);
    Value result = body.getDpsInitOperand(0)->get();
    AffineMap map;
    if (auto argument = dyn_cast<BlockArgument>(result))
      map =
          cast<AffineMapAttr>(op.getMaps()[argument.getArgNumber()]).getValue();
    else if (auto scratch = result.getDefiningOp<tile::ScratchOp>())
      map = scratch.getMap();
    if (!map)
      return true; // lines behind others
    for (auto [dim, step] : llvm::enumerate(wanted))
      if (group.sizes[dim] > 1 && map.isFunctionOfDim(dim) != (step != 0))
        return false;
    return true;
  }

  /// Steps of dimensions of one element never happen.
  Access withoutSingle(Access access) const {
    for (auto [size, step] : llvm::zip(group.sizes, access.steps))
      if (size == 1)
        step = 0;
    return access;
  }

  tile::GroupOp op;
  const OperatorGroup &group;
  BufferOf bufferOf;
};

} // namespace

LogicalResult verifyGroup(tile::GroupOp op, const OperatorGroup &group,
                          BufferOf bufferOf) {
  return GroupVerifier(op, group, bufferOf).run();
}

} // namespace td
