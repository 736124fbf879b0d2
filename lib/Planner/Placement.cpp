#include "lib/Planner/Placement.h"

#include "lib/Runtime/Layout.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;

namespace td {

int64_t PlannedBuffer::bytes() const {
  constexpr int64_t alignment = 32;
  return llvm::alignTo(type.getNumElements() *
                           llvm::divideCeil(type.getElementTypeBitWidth(), 8),
                       alignment);
}

namespace {

/// Bytes that a level must hold at once: what persists plus the largest sum of
/// temporaries that live beside each other.
int64_t peakBytes(ArrayRef<PlannedBuffer> buffers, tile::Level level) {
  int64_t persistent = 0;
  unsigned groups = 0;
  for (const PlannedBuffer &buffer : buffers)
    groups = std::max(groups, buffer.lastGroup + 1);
  SmallVector<int64_t> change(groups + 1, 0);
  for (const PlannedBuffer &buffer : buffers) {
    if (buffer.level != level)
      continue;
    if (buffer.role != tile::Role::Temporary) {
      persistent += buffer.bytes();
    } else if (buffer.uses) {
      change[buffer.firstGroup] += buffer.bytes();
      change[buffer.lastGroup + 1] -= buffer.bytes();
    }
  }
  int64_t live = 0, peak = 0;
  for (int64_t delta : change)
    peak = std::max(peak, live += delta);
  return persistent + peak;
}

} // namespace

LogicalResult placeBuffers(const Target &target, int64_t operators,
                           Operation *op,
                           MutableArrayRef<PlannedBuffer> buffers) {
  RuntimeLayout layout(target, operators);
  int64_t capacity = layout.l2End() - layout.l2Begin(),
          l1 = layout.l1End() - layout.l1Begin();
  // Live ranges overlap a little more than group by group once jobs overlap.
  auto fits = [&](int64_t staging) {
    int64_t peak = peakBytes(buffers, tile::Level::L2);
    return peak + peak / 32 + staging <= capacity;
  };
  if (fits(0))
    return success();
  if (!target.has("memory.l3"))
    return op->emitError() << "the training step needs "
                           << peakBytes(buffers, tile::Level::L2)
                           << " bytes of L2, and " << capacity
                           << " are available on a target without L3";
  // What passes between L1 and L3 is staged in L2, at most what L1 holds,
  // twice.
  int64_t staging = 2 * l1;
  SmallVector<PlannedBuffer *> order;
  for (PlannedBuffer &buffer : buffers)
    if (buffer.role != tile::Role::Output &&
        buffer.role != tile::Role::Constant)
      order.push_back(&buffer);
  llvm::stable_sort(order, [](const PlannedBuffer *a, const PlannedBuffer *b) {
    return std::make_pair(a->uses, -a->bytes()) <
           std::make_pair(b->uses, -b->bytes());
  });
  // Small buffers win little: the largest go first, then the rest.
  for (int64_t least : {capacity / 16, int64_t(0)})
    for (PlannedBuffer *buffer : order) {
      if (fits(staging))
        break;
      if (buffer->level == tile::Level::L2 && buffer->bytes() > least)
        buffer->level = tile::Level::L3;
    }
  int64_t needed = peakBytes(buffers, tile::Level::L3),
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

} // namespace td
