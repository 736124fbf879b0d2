#include "lib/Planner/TileSearch.h"

#include "lib/CostModel/CostModel.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/raw_ostream.h"
#include <algorithm>
#include <map>
#include <numeric>

using namespace mlir;

namespace td {

namespace {

constexpr int64_t tileAlignment = 32; // bytes; RedMulE's port width

int64_t bytesOf(Type element, ArrayRef<int64_t> shape) {
  int64_t bytes = llvm::divideCeil(element.getIntOrFloatBitWidth(), 8);
  for (int64_t size : shape)
    bytes *= size;
  return bytes;
}

/// A tile that a group moves or keeps, by the projection that indexes it.
struct TileInfo {
  AffineMap map;
  MemRefType array; // null for scratch
  Type element;
  bool input = false, output = false;
};

struct StageInfo {
  tile::Phase phase;
  tile::Engine engine;
  linalg::LinalgOp op;
  SmallVector<unsigned> operands; // tiles
  SmallVector<unsigned> dims; // of the group that the stage's cost depends on
  std::map<SmallVector<int64_t>, int64_t> memo;
};

} // namespace

struct GroupCostModel::Impl {
  Target target;
  SmallVector<int64_t> sizes;
  SmallVector<TileInfo> tiles;
  SmallVector<StageInfo> stages;
  bool hasRedmule = false;

  Impl(const Target &target, tile::GroupOp group)
      : target(target), sizes(group.getSizes()) {
    DenseMap<Value, unsigned> tileOf;
    Block &block = group.getBody().front();
    unsigned inputs = group.getIns().size();
    for (auto [index, argument] : llvm::enumerate(block.getArguments())) {
      Value buffer = group.getOperand(index);
      AffineMap map = cast<AffineMapAttr>(group.getMaps()[index]).getValue();
      auto type = cast<MemRefType>(buffer.getType());
      bool output = index >= inputs;
      bool shared = false;
      if (output) // an update in place is one tile, loaded and stored
        for (unsigned other = 0; other < inputs && !shared; ++other)
          if (group.getOperand(other) == buffer && tiles[other].map == map) {
            tiles[other].output = true;
            tileOf[argument] = other;
            shared = true;
          }
      if (shared)
        continue;
      tileOf[argument] = tiles.size();
      tiles.push_back({map, type, type.getElementType(), !output, output});
    }
    for (auto scratch : block.getOps<tile::ScratchOp>()) {
      tileOf[scratch.getMemref()] = tiles.size();
      tiles.push_back(
          {scratch.getMap(), MemRefType(),
           cast<MemRefType>(scratch.getMemref().getType()).getElementType()});
    }
    for (auto stage : block.getOps<tile::StageOp>()) {
      StageInfo info{stage.getPhase(), stage.getEngine(),
                     cast<linalg::LinalgOp>(stage.getBody().front().back())};
      llvm::SmallSetVector<unsigned, 4> dims;
      for (Value operand : info.op->getOperands()) {
        auto found = tileOf.find(operand);
        if (found == tileOf.end())
          continue; // a fill's constant
        info.operands.push_back(found->second);
        AffineMap map = tiles[found->second].map;
        for (unsigned i = 0; i < map.getNumResults(); ++i)
          dims.insert(map.getDimPosition(i));
      }
      info.dims = llvm::to_vector(dims);
      hasRedmule |= info.engine == tile::Engine::RedMulE;
      stages.push_back(std::move(info));
    }
  }

  SmallVector<int64_t> shapeOf(const TileInfo &tile,
                               ArrayRef<int64_t> extent) const {
    SmallVector<int64_t> shape;
    for (unsigned i = 0; i < tile.map.getNumResults(); ++i)
      shape.push_back(extent[tile.map.getDimPosition(i)]);
    return shape;
  }

  /// Cycles of one execution of a stage on tiles of the given extent.
  int64_t stageCycles(StageInfo &stage, ArrayRef<int64_t> extent) {
    SmallVector<int64_t> key;
    for (unsigned dim : stage.dims)
      key.push_back(extent[dim]);
    auto [entry, inserted] = stage.memo.try_emplace(key, 0);
    if (!inserted)
      return entry->second;
    if (stage.engine == tile::Engine::RedMulE) {
      SmallVector<int64_t> x = shapeOf(tiles[stage.operands[0]], extent),
                           w = shapeOf(tiles[stage.operands[1]], extent);
      return entry->second = redmuleCycles(target, x[0], x[1], w[1],
                                           tiles[stage.operands[0]].element);
    }
    SmallVector<SmallVector<int64_t>> shapes;
    if (isa<linalg::FillOp>(stage.op.getOperation()))
      shapes.push_back({}); // the constant
    for (unsigned operand : stage.operands)
      shapes.push_back(shapeOf(tiles[operand], extent));
    return entry->second = kernelCycles(target, stage.op, shapes);
  }

  /// Calls `visit(extent, times)` for each kind of tile: full and edge sizes of
  /// the dimensions `dims`; other dimensions count once, at full extent.
  template <typename Visit>
  void forEachKind(ArrayRef<int64_t> tileSizes, ArrayRef<bool> walked,
                   Visit visit) const {
    SmallVector<int64_t> extent(tileSizes);
    auto recurse = [&](auto &&self, unsigned dim, int64_t times) -> void {
      if (dim == sizes.size())
        return visit(ArrayRef<int64_t>(extent), times);
      if (!walked[dim]) {
        extent[dim] = tileSizes[dim];
        return self(self, dim + 1, times);
      }
      int64_t full = sizes[dim] / tileSizes[dim],
              edge = sizes[dim] % tileSizes[dim];
      if (full) {
        extent[dim] = tileSizes[dim];
        self(self, dim + 1, times * full);
      }
      if (edge) {
        extent[dim] = edge;
        self(self, dim + 1, times);
      }
    };
    recurse(recurse, 0, 1);
  }

  SmallVector<bool> dimsOf(AffineMap map) const {
    SmallVector<bool> walked(sizes.size(), false);
    for (unsigned i = 0; i < map.getNumResults(); ++i)
      walked[map.getDimPosition(i)] = true;
    return walked;
  }

  /// How often a tile is fetched anew because a loop outside of its own runs
  /// on.
  int64_t refetches(AffineMap map, ArrayRef<int64_t> tileSizes,
                    ArrayRef<int64_t> order) const {
    SmallVector<bool> own = dimsOf(map);
    int64_t result = 1, pending = 1;
    for (int64_t dim : order) {
      int64_t trips = llvm::divideCeil(sizes[dim], tileSizes[dim]);
      if (!own[dim])
        pending *= trips;
      else if (trips > 1) {
        result *= pending;
        pending = 1;
      }
    }
    return result;
  }

  /// What the cost depends on: two groups of one key cost the same.
  std::string key() const {
    std::string text;
    llvm::raw_string_ostream stream(text);
    llvm::interleaveComma(sizes, stream);
    for (const TileInfo &tile : tiles)
      stream << "|" << tile.map << tile.array << tile.element << tile.input
             << tile.output;
    for (StageInfo stage : stages) {
      stream << "|" << stringifyPhase(stage.phase)
             << stringifyEngine(stage.engine) << stage.op->getName();
      llvm::interleaveComma(stage.operands, stream);
      for (AffineMap map : stage.op.getIndexingMapsArray())
        stream << map;
      for (utils::IteratorType loop : stage.op.getIteratorTypesArray())
        stream << static_cast<unsigned>(loop);
      stage.op.getBlock()->walk([&](Operation *op) {
        stream << op->getName() << op->getNumOperands();
      });
    }
    return text;
  }

  /// Stops early once the cost is known to exceed `bound`, or the bytes of the
  /// smallest buffers `budget`.
  GroupCost evaluate(ArrayRef<int64_t> tileSizes, ArrayRef<int64_t> order,
                     int64_t budget, int64_t bound) {
    GroupCost cost;
    cost.total = std::numeric_limits<int64_t>::max();
    int64_t tripsAll = 1;
    for (unsigned dim = 0; dim < sizes.size(); ++dim)
      tripsAll *= llvm::divideCeil(sizes[dim], tileSizes[dim]);

    for (const TileInfo &tile : tiles) {
      int64_t bytes = llvm::alignTo(
          bytesOf(tile.element, shapeOf(tile, tileSizes)), tileAlignment);
      // In flight at once: the tile in use, the next being loaded or made, the
      // one before being stored.
      int64_t copies = tile.input && tile.output ? 3 : 2;
      if (!tile.array && tripsAll == 1)
        copies = 1;
      cost.minBytes += bytes;
      cost.l1Bytes += bytes * copies;
    }
    if (cost.minBytes > budget)
      return cost;
    // Without room for overlap a tiling is still right, only slow.
    bool overlaps = cost.l1Bytes <= budget;
    auto combine = [&](std::initializer_list<int64_t> cycles) {
      return overlaps
                 ? std::max(cycles)
                 : std::accumulate(cycles.begin(), cycles.end(), int64_t(0));
    };

    int64_t dmaIn = 0, dmaOut = 0, hyperIn = 0, hyperOut = 0;
    for (const TileInfo &tile : tiles) {
      if (!tile.array)
        continue;
      auto level =
          cast<tile::MemoryAttr>(tile.array.getMemorySpace()).getLevel();
      if (level == tile::Level::L1)
        continue;
      int64_t times = refetches(tile.map, tileSizes, order);
      forEachKind(tileSizes, dimsOf(tile.map),
                  [&](ArrayRef<int64_t> extent, int64_t count) {
                    SmallVector<int64_t> shape = shapeOf(tile, extent);
                    auto [lines, lineBytes] = window(tile, shape);
                    int64_t dma =
                        dmaCycles(target, level == tile::Level::L2 ? lines : 1,
                                  level == tile::Level::L2 ? lineBytes
                                                           : lines * lineBytes);
                    int64_t moved = bytesOf(tile.element, shape);
                    if (tile.input) {
                      dmaIn += dma * count * times;
                      cost.movedBytes += moved * count * times;
                      if (level == tile::Level::L3)
                        hyperIn += hyperCycles(target, lines, lineBytes,
                                               /*toL3=*/false) *
                                   count * times;
                    }
                    if (tile.output) {
                      dmaOut += dma * count;
                      cost.movedBytes += moved * count;
                      if (level == tile::Level::L3)
                        hyperOut += hyperCycles(target, lines, lineBytes,
                                                /*toL3=*/true) *
                                    count;
                    }
                  });
    }

    cost.dma = combine({dmaIn, dmaOut});
    cost.hyper = combine({hyperIn, hyperOut});
    if (combine({cost.dma, cost.hyper}) > bound)
      return cost;

    // Work of the engines, and what of it cannot overlap: the first tile's
    // preparation and the last one's epilogue beside an idle accelerator.
    SmallVector<bool> all(sizes.size(), true);
    int64_t exposedCores = 0, exposedJob = 0;
    for (StageInfo &stage : stages) {
      int64_t cycles = 0, times = 1;
      SmallVector<bool> walked = all;
      // All but the main stages run once for each tile that they write.
      AffineMap written = tiles[stage.operands.back()].map;
      if (stage.phase != tile::Phase::Main)
        walked = dimsOf(written);
      if (stage.phase == tile::Phase::Prepare)
        times = refetches(written, tileSizes, order);
      forEachKind(tileSizes, walked,
                  [&](ArrayRef<int64_t> extent, int64_t count) {
                    cycles += stageCycles(stage, extent) * count;
                  });
      (stage.engine == tile::Engine::RedMulE ? cost.redmule : cost.cores) +=
          cycles * times;
      int64_t once = stageCycles(stage, tileSizes);
      (stage.engine == tile::Engine::RedMulE ? exposedJob : exposedCores) +=
          once;
    }
    cost.total =
        overlaps && hasRedmule
            ? std::max({cost.dma, cost.hyper, cost.redmule + exposedCores,
                        cost.cores + exposedJob})
            : combine({cost.dma, cost.hyper, cost.redmule, cost.cores});
    return cost;
  }

  /// Lines and bytes a line of a window: inner dimensions that the tile covers
  /// whole merge into one line.
  std::pair<int64_t, int64_t> window(const TileInfo &tile,
                                     ArrayRef<int64_t> shape) const {
    int64_t lines = 1, lineBytes = bytesOf(tile.element, {});
    bool merged = true;
    for (int dim = (int)shape.size() - 1; dim >= 0; --dim) {
      (merged ? lineBytes : lines) *= shape[dim];
      merged &= shape[dim] == tile.array.getDimSize(dim);
    }
    return {lines, lineBytes};
  }
};

GroupCostModel::GroupCostModel(const Target &target, tile::GroupOp group)
    : impl(std::make_unique<Impl>(target, group)) {}
GroupCostModel::~GroupCostModel() = default;
GroupCost GroupCostModel::evaluate(ArrayRef<int64_t> tiles,
                                   ArrayRef<int64_t> order, int64_t budget,
                                   int64_t bound) {
  return impl->evaluate(tiles, order, budget, bound);
}
std::string GroupCostModel::key() const { return impl->key(); }

namespace {

/// Tile sizes worth trying: all of a small dimension; of a larger one the even
/// splits and the multiples of the accelerator's rows and port.
SmallVector<int64_t> candidateSizes(int64_t size, bool exhaustive) {
  constexpr int64_t small = 16, splits = 12;
  llvm::SmallSetVector<int64_t, 32> result;
  if (exhaustive || size <= small) {
    for (int64_t tile = size; tile >= 1; --tile)
      result.insert(tile);
    return result.takeVector();
  }
  result.insert(size);
  for (int64_t parts = 2; parts <= splits; ++parts)
    result.insert(llvm::divideCeil(size, parts));
  for (int64_t granule : {12, 16})
    for (int64_t tile = granule; tile < size; tile *= 2)
      result.insert(tile);
  for (int64_t tile = 1; tile < small; tile *= 2)
    result.insert(tile);
  SmallVector<int64_t> sorted = result.takeVector();
  llvm::sort(sorted, std::greater<>());
  return sorted;
}

} // namespace

const TileSearch::Result &TileSearch::search(tile::GroupOp group,
                                             ArrayRef<int64_t> whole) {
  GroupCostModel model(target, group);
  std::string key = model.key();
  for (int64_t dim : whole)
    key += "|whole" + std::to_string(dim);
  auto [entry, inserted] = results.try_emplace(key);
  Result &result = entry->second;
  if (!inserted)
    return result;

  ArrayRef<int64_t> sizes = group.getSizes();
  SmallVector<SmallVector<int64_t>> candidates;
  for (auto [dim, size] : llvm::enumerate(sizes))
    candidates.push_back(llvm::is_contained(whole, (int64_t)dim)
                             ? SmallVector<int64_t>{size}
                             : candidateSizes(size, exhaustive));

  // Loop orders: every order of the parallel dimensions, reductions innermost.
  SmallVector<int64_t> parallel, reductions(group.getReductions());
  for (int64_t dim = 0; dim < (int64_t)sizes.size(); ++dim)
    if (!llvm::is_contained(reductions, dim))
      parallel.push_back(dim);
  SmallVector<SmallVector<int64_t>> orders;
  do {
    orders.push_back(parallel);
    llvm::append_range(orders.back(), reductions);
  } while (std::next_permutation(parallel.begin(), parallel.end()));

  constexpr int64_t unknown = std::numeric_limits<int64_t>::max();
  result.smallest = unknown;
  auto better = [](const TileChoice &a, const TileChoice &b) {
    return std::make_tuple(a.cost.total,
                           a.cost.cores + a.cost.redmule + a.cost.dma,
                           a.cost.l1Bytes) <
           std::make_tuple(b.cost.total,
                           b.cost.cores + b.cost.redmule + b.cost.dma,
                           b.cost.l1Bytes);
  };
  // Tile sizes in their best order, if that costs no more than `bound`.
  auto evaluate = [&](ArrayRef<int64_t> tiles, int64_t bound) {
    TileChoice best;
    for (ArrayRef<int64_t> order : orders) {
      TileChoice choice;
      choice.cost = model.evaluate(tiles, order, budget, bound);
      ++evaluated;
      result.smallest = std::min(result.smallest, choice.cost.minBytes);
      if (choice.cost.total == unknown ||
          (!best.tiles.empty() && !better(choice, best)))
        continue;
      choice.tiles.assign(tiles.begin(), tiles.end());
      choice.order.assign(order.begin(), order.end());
      best = std::move(choice);
      bound = std::min(bound, best.cost.total);
    }
    return best;
  };

  // The best few of a coarse grid, the best one first.
  constexpr size_t few = 4;
  SmallVector<TileChoice> starts;
  SmallVector<int64_t> tiles(sizes.size());
  auto recurse = [&](auto &&self, unsigned dim) -> void {
    if (dim == sizes.size()) {
      TileChoice choice = evaluate(
          tiles, starts.size() < few ? unknown : starts.back().cost.total);
      if (choice.tiles.empty() ||
          (starts.size() == few && !better(choice, starts.back())))
        return;
      if (starts.size() == few)
        starts.pop_back();
      starts.insert(llvm::upper_bound(starts, choice, better),
                    std::move(choice));
      return;
    }
    for (int64_t tile : candidates[dim]) {
      tiles[dim] = tile;
      self(self, dim + 1);
    }
  };
  recurse(recurse, 0);

  // Descend from each of them in small steps.
  for (TileChoice &best : starts)
    for (bool improved = true; improved;) {
      improved = false;
      for (unsigned dim = 0; dim < sizes.size(); ++dim) {
        SmallVector<int64_t> start = best.tiles;
        for (int64_t step : {-4, -3, -2, -1, 1, 2, 3, 4}) {
          tiles = start;
          tiles[dim] += step;
          if (candidates[dim].size() <= 1 || tiles[dim] < 1 ||
              tiles[dim] > sizes[dim])
            continue;
          TileChoice choice = evaluate(tiles, best.cost.total);
          if (choice.tiles.empty() || !better(choice, best))
            continue;
          best = std::move(choice);
          improved = true;
        }
      }
    }
  if (!starts.empty())
    result.choice = std::move(*llvm::min_element(starts, better));
  return result;
}

} // namespace td
