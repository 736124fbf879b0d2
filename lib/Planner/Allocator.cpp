#include "lib/Planner/Allocator.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MathExtras.h"
#include <algorithm>
#include <functional>
#include <map>
#include <set>

using namespace llvm;

namespace td {
namespace {

/// For each range the ranges that are live together with it.
std::vector<std::vector<unsigned>> findNeighbours(ArrayRef<LiveRange> ranges) {
  std::vector<std::vector<unsigned>> neighbours(ranges.size());
  std::vector<unsigned> order(ranges.size());
  for (unsigned i = 0; i < order.size(); ++i)
    order[i] = i;
  llvm::stable_sort(order, [&](unsigned a, unsigned b) {
    return ranges[a].begin < ranges[b].begin;
  });
  std::set<std::pair<int64_t, unsigned>> live; // by end
  for (unsigned i : order) {
    while (!live.empty() && live.begin()->first <= ranges[i].begin)
      live.erase(live.begin());
    for (auto [end, other] : live) {
      neighbours[i].push_back(other);
      neighbours[other].push_back(i);
    }
    if (ranges[i].end > ranges[i].begin)
      live.insert({ranges[i].end, i});
  }
  return neighbours;
}

} // namespace

int64_t peakOfLiveBytes(ArrayRef<LiveRange> ranges) {
  std::map<int64_t, int64_t> change;
  for (const LiveRange &range : ranges)
    if (range.end > range.begin) {
      change[range.begin] += range.bytes;
      change[range.end] -= range.bytes;
    }
  int64_t live = 0, peak = 0;
  for (auto [position, bytes] : change)
    peak = std::max(peak, live += bytes);
  return peak;
}

namespace {

/// Places the ranges in the given order, each in the smallest gap between its
/// neighbours that takes it. Among equal gaps the lowest wins.
class OrderedPlacement {
public:
  OrderedPlacement(ArrayRef<LiveRange> ranges,
                   ArrayRef<std::vector<unsigned>> neighbours)
      : ranges(ranges), neighbours(neighbours) {}

  int64_t place(ArrayRef<unsigned> order, std::vector<int64_t> &offsets) {
    offsets.assign(ranges.size(), -1);
    int64_t peak = 0;
    for (unsigned i : order) {
      taken.clear();
      for (unsigned other : neighbours[i])
        if (offsets[other] >= 0)
          taken.push_back(
              {offsets[other], offsets[other] + ranges[other].bytes});
      llvm::sort(taken);
      int64_t best = -1, bestGap = 0, top = 0;
      for (auto [begin, end] : taken) {
        int64_t offset = alignTo(top, ranges[i].alignment);
        int64_t gap = begin - top;
        if (offset + ranges[i].bytes <= begin && (best < 0 || gap < bestGap)) {
          best = offset;
          bestGap = gap;
        }
        top = std::max(top, end);
      }
      offsets[i] =
          best >= 0 ? best : (int64_t)alignTo(top, ranges[i].alignment);
      peak = std::max(peak, offsets[i] + ranges[i].bytes);
    }
    return peak;
  }

private:
  ArrayRef<LiveRange> ranges;
  ArrayRef<std::vector<unsigned>> neighbours;
  SmallVector<std::pair<int64_t, int64_t>> taken;
};

} // namespace

Placement placeRanges(ArrayRef<LiveRange> ranges, int64_t capacity) {
  Placement result;
  result.lowerBound = peakOfLiveBytes(ranges);
  result.offsets.assign(ranges.size(), 0);
  if (ranges.empty())
    return result;
  std::vector<std::vector<unsigned>> neighbours = findNeighbours(ranges);
  OrderedPlacement placer(ranges, neighbours);
  std::vector<unsigned> identity(ranges.size());
  for (unsigned i = 0; i < identity.size(); ++i)
    identity[i] = i;

  // Large and long-lived arrays leave gaps that small ones fill later;
  // in order of birth, arrays of one size follow each other in place.
  using Key = std::tuple<int64_t, int64_t, int64_t>;
  auto length = [](const LiveRange &range) { return range.end - range.begin; };
  const std::function<Key(const LiveRange &)> keys[] = {
      [&](const LiveRange &r) { return Key{-r.bytes, -length(r), r.begin}; },
      [&](const LiveRange &r) { return Key{r.begin, -r.bytes, -length(r)}; },
      [&](const LiveRange &r) {
        return Key{-r.bytes * length(r), -r.bytes, r.begin};
      },
      [&](const LiveRange &r) { return Key{-length(r), -r.bytes, r.begin}; },
  };
  result.peak = -1;
  std::vector<unsigned> bestOrder;
  std::vector<int64_t> offsets;
  auto attempt = [&](const std::vector<unsigned> &order) {
    int64_t peak = placer.place(order, offsets);
    if (result.peak >= 0 && peak >= result.peak)
      return false;
    result.peak = peak;
    result.offsets = offsets;
    bestOrder = order;
    return true;
  };
  for (const auto &key : keys) {
    std::vector<unsigned> order = identity;
    llvm::stable_sort(order, [&](unsigned a, unsigned b) {
      return key(ranges[a]) < key(ranges[b]);
    });
    attempt(order);
    if (result.peak == result.lowerBound)
      return result;
  }

  // Improvement: whoever ends at the peak goes first next time; when that gets
  // stuck, from the best order again with two arrays exchanged. The work is
  // bounded by a count, not by time, so that the result is always the same.
  size_t pairs = ranges.size();
  for (const auto &list : neighbours)
    pairs += list.size();
  int64_t rounds = std::clamp<int64_t>(20'000'000 / (int64_t)pairs, 2, 256);
  constexpr int patience = 6;
  int sinceBest = 0;
  uint64_t state = 1; // of a linear congruential generator
  auto draw = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % ranges.size();
  };
  std::vector<unsigned> order = bestOrder;
  offsets = result.offsets;
  while (result.peak > capacity && result.peak > result.lowerBound &&
         rounds-- > 0) {
    if (++sinceBest > patience) {
      sinceBest = 0;
      order = bestOrder;
      std::swap(order[draw()], order[draw()]);
    } else {
      int64_t peak = 0;
      for (auto [i, range] : llvm::enumerate(ranges))
        peak = std::max(peak, offsets[i] + range.bytes);
      std::stable_partition(order.begin(), order.end(), [&](unsigned i) {
        return offsets[i] + ranges[i].bytes == peak;
      });
    }
    if (attempt(order))
      sinceBest = 0;
  }
  return result;
}

} // namespace td
