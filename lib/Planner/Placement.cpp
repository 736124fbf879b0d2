#include "lib/Planner/Placement.h"

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
    } else if (buffer.uses) {
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

} // namespace

LogicalResult placeBuffers(const Target &target, int64_t operators,
                           Operation *op,
                           MutableArrayRef<PlannedBuffer> buffers) {
  RuntimeLayout layout(target, operators,
                       tableBytes(op->getParentOfType<ModuleOp>()));
  int64_t capacity = capacityOfL2(target, operators),
          l1 = layout.l1End() - layout.l1Begin();
  auto fits = [&](int64_t staging) {
    return peakOf(buffers, tile::Level::L2, margin).bytes + staging <= capacity;
  };
  if (fits(0))
    return success();
  if (!target.has("memory.l3"))
    return op->emitError() << "the training step needs "
                           << peakOf(buffers, tile::Level::L2).bytes
                           << " bytes of L2, and " << capacity
                           << " are available on a target without L3";
  // What passes between L1 and L3 is staged in L2, at most what L1 holds.
  int64_t staging = l1;
  SmallVector<PlannedBuffer *> order;
  for (PlannedBuffer &buffer : buffers)
    // L3 is reached in whole words; a tile of halfs may begin and end within
    // one.
    if (buffer.role != tile::Role::Output &&
        buffer.role != tile::Role::Constant && !buffer.isProvisional() &&
        buffer.type.getElementTypeBitWidth() >= 32)
      order.push_back(&buffer);
  llvm::stable_sort(order, [](const PlannedBuffer *a, const PlannedBuffer *b) {
    return std::make_pair(a->uses, -a->bytes()) <
           std::make_pair(b->uses, -b->bytes());
  });
  // Small buffers win little: the largest go first, then the rest. What is not
  // there when memory is fullest stays, and is asked again when it is fullest
  // elsewhere.
  for (int64_t least : {capacity / 16, int64_t(0)})
    for (bool moved = true; std::exchange(moved, false);)
      for (PlannedBuffer *buffer : order) {
        if (fits(staging))
          break;
        if (buffer->level == tile::Level::L2 && buffer->bytes() > least &&
            peakOf(buffers, tile::Level::L2, margin).includes(*buffer)) {
          buffer->level = tile::Level::L3;
          moved = true;
        }
      }
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
