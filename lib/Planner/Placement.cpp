#include "lib/Planner/Placement.h"

#include "lib/CostModel/CostModel.h"
#include "lib/Runtime/Layout.h"
#include "llvm/Support/MathExtras.h"
#include <numeric>

using namespace mlir;

namespace td {

int64_t PlannedBuffer::bytes() const {
  constexpr int64_t alignment = 32;
  return llvm::alignTo(type.getNumElements() *
                           llvm::divideCeil(type.getElementTypeBitWidth(), 8),
                       alignment);
}

namespace {

/// What a level must hold at once: what persists plus the largest sum of
/// temporaries that live beside each other, with a margin for these in percent.
struct Peak {
  int64_t bytes = 0;
  unsigned group = 0; // where the temporaries are most

  bool includes(const PlannedBuffer &buffer) const {
    return buffer.role != tile::Role::Temporary ||
           (buffer.firstGroup <= group && group <= buffer.lastGroup);
  }
};

/// Bytes that live at a level in each group, and persist there; temporaries
/// with a margin in percent.
SmallVector<int64_t> liveBytes(ArrayRef<PlannedBuffer> buffers,
                               tile::Level level, int64_t margin) {
  int64_t persistent = 0;
  unsigned groups = 0;
  for (const PlannedBuffer &buffer : buffers)
    groups = std::max(groups, buffer.lastGroup + 1);
  SmallVector<int64_t> live(groups + 1, 0);
  for (const PlannedBuffer &buffer : buffers) {
    if (buffer.level != level)
      continue;
    if (buffer.role != tile::Role::Temporary) {
      persistent += buffer.bytes();
    } else if (!buffer.groups.empty()) {
      live[buffer.firstGroup] += buffer.bytes();
      live[buffer.lastGroup + 1] -= buffer.bytes();
    }
  }
  std::partial_sum(live.begin(), live.end(), live.begin());
  for (int64_t &bytes : live)
    bytes += persistent + bytes * margin / 100;
  return live;
}

Peak peakOf(ArrayRef<PlannedBuffer> buffers, tile::Level level,
            int64_t margin = 0) {
  SmallVector<int64_t> live = liveBytes(buffers, level, margin);
  auto most = llvm::max_element(live);
  return {*most, unsigned(most - live.begin())};
}

// Live ranges overlap a little more than group by group once jobs overlap.
constexpr int64_t margin = 3;

int64_t capacityOfL2(const Target &target, int64_t operators) {
  RuntimeLayout layout(target, operators, /*tables=*/0);
  return layout.l2End() - layout.l2Begin();
}

/// Bytes of L2 that are needed in each group: beside the arrays there, what
/// those in L3 pass through. That is at most what L1 holds, and no more than
/// the group and the next one load and store.
SmallVector<int64_t> bytesOfL2(ArrayRef<PlannedBuffer> buffers, int64_t l1) {
  SmallVector<int64_t> bytes = liveBytes(buffers, tile::Level::L2, margin),
                       passing(bytes.size() + 1, 0);
  for (const PlannedBuffer &buffer : buffers)
    if (buffer.level == tile::Level::L3)
      for (unsigned group : buffer.groups)
        passing[group] += buffer.bytes();
  for (size_t group = 0; group < bytes.size(); ++group)
    bytes[group] += std::min(passing[group] + passing[group + 1], l1);
  return bytes;
}

/// Moves those of `movable` to L3 that cost least for what they free, until the
/// rest fits in L2. What is not there when memory is fullest frees nothing;
/// where it is fullest changes as arrays move.
void moveToL3(ArrayRef<PlannedBuffer> buffers,
              ArrayRef<PlannedBuffer *> movable, const CostModel &costs,
              int64_t capacity, int64_t l1) {
  // Cycles of the uDMA in a step, were each use a transfer of the whole.
  auto cost = [&](const PlannedBuffer &buffer) {
    return double(buffer.groups.size()) *
           costs.hyperCycles(1, 1, buffer.bytes(), /*toL3=*/false);
  };
  SmallVector<std::pair<double, PlannedBuffer *>> candidates;
  while (true) {
    SmallVector<int64_t> bytes = bytesOfL2(buffers, l1);
    auto most = llvm::max_element(bytes);
    Peak peak{*most, unsigned(most - bytes.begin())};
    int64_t missing = peak.bytes - capacity;
    if (missing <= 0)
      break;
    // What an array frees is at most its bytes, less what it needs on its way.
    candidates.clear();
    for (PlannedBuffer *buffer : movable)
      if (buffer->level == tile::Level::L2 && peak.includes(*buffer))
        candidates.push_back(
            {cost(*buffer) / std::min(buffer->bytes(), missing), buffer});
    if (candidates.empty())
      return;
    llvm::stable_sort(candidates, llvm::less_first());
    double least = std::numeric_limits<double>::infinity();
    // Small ones may each need on their way what they free, until that is what
    // L1 holds.
    PlannedBuffer *best = candidates.front().second;
    for (auto [atLeast, buffer] : candidates) {
      if (atLeast >= least)
        break;
      buffer->level = tile::Level::L3;
      int64_t freed = peak.bytes - bytesOfL2(buffers, l1)[peak.group];
      buffer->level = tile::Level::L2;
      double perByte = cost(*buffer) / std::min(freed, missing);
      if (freed > 0 && perByte < least) {
        least = perByte;
        best = buffer;
      }
    }
    best->level = tile::Level::L3;
  }
  // Back comes what others have made room for since, the most expensive first.
  SmallVector<PlannedBuffer *> order(movable);
  llvm::stable_sort(order, [&](const PlannedBuffer *a, const PlannedBuffer *b) {
    return cost(*a) > cost(*b);
  });
  for (PlannedBuffer *buffer : order) {
    if (buffer->level == tile::Level::L2)
      continue;
    buffer->level = tile::Level::L2;
    if (*llvm::max_element(bytesOfL2(buffers, l1)) > capacity)
      buffer->level = tile::Level::L3;
  }
}

} // namespace

LogicalResult placeBuffers(const Target &target, int64_t operators,
                           Operation *op,
                           MutableArrayRef<PlannedBuffer> buffers) {
  RuntimeLayout layout(target, operators,
                       tableBytes(op->getParentOfType<ModuleOp>()));
  int64_t capacity = capacityOfL2(target, operators);
  if (peakOf(buffers, tile::Level::L2, margin).bytes <= capacity)
    return success();
  if (!target.has("memory.l3"))
    return op->emitError() << "the training step needs "
                           << peakOf(buffers, tile::Level::L2).bytes
                           << " bytes of L2, and " << capacity
                           << " are available on a target without L3";
  SmallVector<PlannedBuffer *> order;
  for (PlannedBuffer &buffer : buffers)
    // L3 is reached in whole words; a tile of halfs may begin and end within
    // one.
    if (buffer.role != tile::Role::Output &&
        buffer.role != tile::Role::Constant && !buffer.isProvisional() &&
        buffer.type.getElementTypeBitWidth() >= 32)
      order.push_back(&buffer);
  moveToL3(buffers, order, CostModel(target), capacity,
           layout.l1End() - layout.l1Begin());
  int64_t needed = peakOf(buffers, tile::Level::L3).bytes,
          available = target.integer("memory.l3", "size");
  if (needed > available) {
    const PlannedBuffer *largest = order.front();
    for (const PlannedBuffer *buffer : order)
      if (buffer->bytes() > largest->bytes())
        largest = buffer;
    return op->emitError() << "the training step needs " << needed
                           << " bytes of L3 beside a full L2, and " << available
                           << " are available; its largest array is '"
                           << largest->name << "' with " << largest->bytes()
                           << " bytes: " << needed - available
                           << " bytes less (a smaller batch, fewer trained "
                              "parameters or no momentum) would fit";
  }
  return success();
}

SmallVector<const PlannedBuffer *>
placeProvisional(const Target &target, int64_t operators,
                 MutableArrayRef<PlannedBuffer> buffers) {
  int64_t capacity = capacityOfL2(target, operators);
  SmallVector<int64_t> live = liveBytes(buffers, tile::Level::L2, margin);
  SmallVector<const PlannedBuffer *> homeless;
  for (PlannedBuffer &buffer : buffers) {
    if (!buffer.isProvisional() ||
        live[buffer.firstGroup] + buffer.bytes() <= capacity)
      continue;
    buffer.level = tile::Level::L3;
    if (!target.has("memory.l3") || buffer.type.getElementTypeBitWidth() < 32)
      homeless.push_back(&buffer);
  }
  return homeless;
}

} // namespace td
