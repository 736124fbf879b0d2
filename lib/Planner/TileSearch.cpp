#include "lib/Planner/TileSearch.h"

#include "dialects/Tile/Windows.h"
#include "lib/CostModel/Contention.h"
#include "lib/Kernels/KernelPlan.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/raw_ostream.h"
#include <algorithm>
#include <array>
#include <numeric>
#include <unordered_map>

using namespace mlir;

namespace td {

namespace {

constexpr int64_t tileAlignment = 32; // bytes; RedMulE's port width
constexpr int64_t maxJobSize = 65535; // RedMulE's registers have 16 bits
// What passes between L2 and L3 does so beside other groups, too, as far as L2
// has room for it. One cycle of so many of the uDMA is a group's own.
constexpr int64_t hyperShare = 4;

int64_t bytesOf(Type element) {
  return llvm::divideCeil(element.getIntOrFloatBitWidth(), 8);
}

/// A tile that a group moves or keeps, by the map that indexes it.
struct TileInfo {
  AffineMap map;
  SmallVector<bool> walked; // by which dimensions of the domain
  MemRefType array;         // null for scratch
  Type element;
  bool input = false, output = false;
  // Of a tile behind lines: the dimension that these are slices of, and how
  // many more, or only, there are.
  unsigned line = 0;
  int64_t more = 0, only = 0;
  unsigned along = 0;  // the dimension of the domain that walks these
  bool isView = false; // in another tile
  int64_t elementBytes = bytesOf(element);
};

/// What a group's tiles of one operand cost under the tile sizes at hand,
/// loaded or stored once each.
struct TransferCost {
  int64_t first = 0;       // cycles of the DMA for one load
  int64_t in = 0, out = 0; // cycles of the DMA
  int64_t issue = 0;       // cycles of core 0, each way
  int64_t moved = 0;       // bytes, each way
  int64_t hyperIn = 0, hyperOut = 0;
};

/// What a stage costs under the tile sizes at hand, run once for each kind of
/// tile that it walks.
struct StageTotal {
  double cycles = 0, accesses = 0, runs = 0;
  double first = 0; // cycles of one on full tiles
  SmallVector<std::pair<double, GemmCost>, 4> jobs;
  SmallVector<bool> walked;
  bool possible = true;
};

struct HashOfSizes {
  size_t operator()(ArrayRef<int64_t> sizes) const {
    return llvm::hash_combine_range(sizes);
  }
};

/// One execution of a stage, alone on the machine.
struct StageCost {
  double cycles = 0, accesses = 0; // accesses to L1 in all
  GemmCost gemm;                   // of RedMulE
};

struct StageInfo {
  tile::Phase phase;
  tile::Engine engine;
  linalg::LinalgOp op;
  SmallVector<unsigned> operands; // tiles
  SmallVector<unsigned> dims;   // of the group that the stage's cost depends on
  SmallVector<unsigned> matrix; // RedMulE: whether each belongs to M, N or K
  // Of a kernel on the cores that they can run; it does not depend on sizes.
  std::optional<KernelPlan> plan;
  std::unordered_map<SmallVector<int64_t>, StageCost, HashOfSizes> memo;
};

} // namespace

struct GroupCostModel::Impl {
  CostModel costs;
  Contention contention;
  SmallVector<int64_t> sizes;
  std::vector<TileInfo> tiles;
  std::vector<StageInfo> stages;
  bool hasRedmule = false;

  Impl(const Target &target, tile::GroupOp group)
      : costs(target), contention(target), sizes(group.getSizes()) {
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
      tiles.push_back(
          {map, dimsOf(map), type, type.getElementType(), !output, output});
    }
    for (auto scratch : block.getOps<tile::ScratchOp>()) {
      tileOf[scratch.getMemref()] = tiles.size();
      tiles.push_back(
          {scratch.getMap(), dimsOf(scratch.getMap()), MemRefType(),
           cast<MemRefType>(scratch.getMemref().getType()).getElementType()});
    }
    for (auto lines : block.getOps<tile::LinesOp>()) {
      TileInfo &own = tiles[tileOf.at(lines.getTile())];
      own.isView = true;
      TileInfo whole = own, part = own;
      whole.isView = false;
      whole.line = part.line = lines.getLine();
      whole.more = part.only = lines.getCount();
      whole.along = lines.getAlong();
      tileOf[lines.getWhole()] = tiles.size();
      tileOf[lines.getHead()] = tileOf[lines.getBefore()] = tiles.size() + 1;
      tiles.push_back(whole);
      tiles.push_back(part);
    }
    for (auto stage : block.getOps<tile::StageOp>()) {
      StageInfo info{stage.getPhase(), stage.getEngine(),
                     cast<linalg::LinalgOp>(stage.getBody().front().back())};
      SmallVector<bool> dims(sizes.size(), false);
      for (Value operand : info.op->getOperands()) {
        auto found = tileOf.find(operand);
        if (found == tileOf.end())
          continue; // a fill's constant
        info.operands.push_back(found->second);
        for (auto [dim, walks] : llvm::enumerate(tiles[found->second].walked))
          dims[dim] = dims[dim] || walks;
      }
      for (auto [dim, walks] : llvm::enumerate(dims))
        if (walks)
          info.dims.push_back(dim);
      if (info.engine == tile::Engine::RedMulE)
        for (unsigned dim : info.dims) {
          bool x = tiles[info.operands[0]].walked[dim],
               w = tiles[info.operands[1]].walked[dim];
          info.matrix.push_back(x && w ? 1 : x ? 0 : 2);
        }
      else if (FailureOr<KernelPlan> plan = KernelPlan::get(info.op);
               succeeded(plan))
        info.plan = std::move(*plan);
      hasRedmule |= info.engine == tile::Engine::RedMulE;
      stages.push_back(std::move(info));
    }
  }

  /// The packed tile's shape under tile sizes that are set by `setTiles`.
  SmallVector<int64_t> shapeOf(const TileInfo &tile,
                               ArrayRef<int64_t> extent) const {
    SmallVector<int64_t> shape(windows[&tile - tiles.data()].shape(extent));
    if (tile.more || tile.only)
      shape[tile.line] = tile.only ? tile.only : shape[tile.line] + tile.more;
    return shape;
  }

  void setTiles(ArrayRef<int64_t> tileSizes) {
    // In another order. A group of no loops has no sizes, from the start on.
    if (!windows.empty() && windowSizes == tileSizes)
      return;
    windowSizes.assign(tileSizes.begin(), tileSizes.end());
    tileBytes.clear();
    transfers.clear();
    totals.clear();
    for (auto [index, tile] : llvm::enumerate(tiles)) {
      if (index == windows.size())
        windows.emplace_back(tile.map, tileSizes);
      else
        windows[index].setTiles(tileSizes);
      tileBytes.push_back(
          tile.isView
              ? 0
              : llvm::alignTo(bytesOfShape(tile, shapeOf(tile, tileSizes)),
                              tileAlignment));
    }
  }

  static int64_t bytesOfShape(const TileInfo &tile, ArrayRef<int64_t> shape) {
    int64_t bytes = tile.elementBytes;
    for (int64_t size : shape)
      bytes *= size;
    return bytes;
  }

  /// One execution of a stage on tiles of the given extent; none if it is no
  /// job that RedMulE can do.
  const StageCost *stageCost(StageInfo &stage, ArrayRef<int64_t> extent) {
    SmallVector<int64_t> key;
    for (unsigned dim : stage.dims)
      key.push_back(extent[dim]);
    auto [entry, inserted] = stage.memo.try_emplace(key);
    StageCost &cost = entry->second;
    if (!inserted)
      return cost.cycles > 0 ? &cost : nullptr;
    if (stage.engine == tile::Engine::RedMulE) {
      int64_t matrix[3] = {1, 1, 1};
      for (auto [dim, which] : llvm::zip(stage.dims, stage.matrix))
        matrix[which] *= extent[dim];
      if (llvm::any_of(matrix, [](int64_t size) { return size > maxJobSize; }))
        return nullptr;
      cost.gemm = costs.gemm(matrix[0], matrix[1], matrix[2],
                             tiles[stage.operands[0]].element);
      cost.cycles = cost.gemm.cycles(1);
      cost.accesses = cost.gemm.beats() * contention.portWords;
      return &cost;
    }
    SmallVector<SmallVector<int64_t>> shapes;
    if (isa<linalg::FillOp>(stage.op.getOperation()))
      shapes.push_back({}); // the constant
    for (unsigned operand : stage.operands)
      shapes.push_back(shapeOf(tiles[operand], extent));
    KernelCost kernel =
        stage.plan ? costs.kernel(stage.op, *stage.plan, shapes) : KernelCost();
    cost.cycles = kernel.cycles + costs.callCycles;
    cost.accesses = kernel.accesses;
    return &cost;
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
    for (unsigned dim = 0; dim < sizes.size(); ++dim)
      walked[dim] = map.isFunctionOfDim(dim);
    return walked;
  }

  /// How often a tile is fetched anew because a loop outside of its own runs
  /// on.
  int64_t refetches(ArrayRef<bool> own, ArrayRef<int64_t> tileSizes,
                    ArrayRef<int64_t> order) const {
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
             << tile.output << tile.more << tile.only;
    for (const StageInfo &stage : stages) {
      linalg::LinalgOp op = stage.op;
      stream << "|" << stringifyPhase(stage.phase)
             << stringifyEngine(stage.engine) << op->getName();
      llvm::interleaveComma(stage.operands, stream);
      for (AffineMap map : op.getIndexingMapsArray())
        stream << map;
      for (utils::IteratorType loop : op.getIteratorTypesArray())
        stream << static_cast<unsigned>(loop);
      op.getBlock()->walk([&](Operation *inner) {
        stream << inner->getName() << inner->getNumOperands();
      });
    }
    return text;
  }

  /// Whether one tile of an input serves all tiles of the domain.
  bool isLoadedOnce(const TileInfo &tile, ArrayRef<int64_t> tileSizes) const {
    for (auto [walks, size, tileSize] :
         llvm::zip(tile.walked, sizes, tileSizes))
      if (walks && tileSize < size)
        return false;
    return tile.input && !tile.output;
  }

  /// Of one operand under the tile sizes at hand.
  TransferCost transferCost(const TileInfo &tile,
                            ArrayRef<int64_t> tileSizes) const {
    TransferCost total;
    if (!tile.array)
      return total;
    auto level = cast<tile::MemoryAttr>(tile.array.getMemorySpace()).getLevel();
    if (level == tile::Level::L1)
      return total;
    forEachKind(
        tileSizes, tile.walked, [&](ArrayRef<int64_t> extent, int64_t count) {
          SmallVector<int64_t> shape = shapeOf(tile, extent);
          tile::WindowNest nest = window(tile, shape);
          int64_t lines = nest.runs(), lineBytes = nest.run;
          auto dma = [&](bool toL1) {
            return level == tile::Level::L2
                       ? costs.dmaCycles(nest.commands(), lines, lineBytes,
                                         toL1)
                       : costs.dmaCycles(1, 1, lines * lineBytes, toL1);
          };
          auto hyper = [&](bool toL3) {
            return level == tile::Level::L3
                       ? costs.hyperCycles(nest.commands(), lines, lineBytes,
                                           toL3)
                       : 0;
          };
          int64_t each = costs.issueCycles(nest.commands()) + costs.waitCycles;
          if (level == tile::Level::L3)
            each += costs.issueCycles(1) + costs.waitCycles;
          total.issue += each * count;
          total.moved += bytesOfShape(tile, shape) * count;
          if (tile.input) {
            total.first = std::max(total.first, dma(true));
            total.in += dma(true) * count;
            total.hyperIn += hyper(/*toL3=*/false) * count;
          }
          if (tile.output) {
            total.out += dma(false) * count;
            total.hyperOut += hyper(/*toL3=*/true) * count;
          }
        });
    return total;
  }

  /// Of one stage under the tile sizes at hand. Init and finish run once for
  /// each tile that they write, preparations for each combination of those that
  /// they touch.
  StageTotal stageTotal(StageInfo &stage, ArrayRef<int64_t> tileSizes) {
    StageTotal total;
    total.walked.assign(sizes.size(), stage.phase == tile::Phase::Main);
    // As if there were lines ahead of every tile.
    if (stage.phase == tile::Phase::First)
      return total;
    if (stage.phase == tile::Phase::Prepare)
      for (unsigned dim : stage.dims)
        total.walked[dim] = true;
    else if (stage.phase != tile::Phase::Main)
      total.walked = tiles[stage.operands.back()].walked;
    forEachKind(tileSizes, total.walked,
                [&](ArrayRef<int64_t> extent, int64_t count) {
                  const StageCost *each = stageCost(stage, extent);
                  if (!each) {
                    total.possible = false;
                    return;
                  }
                  total.runs += count;
                  total.cycles += count * each->cycles;
                  total.accesses += count * each->accesses;
                  if (stage.engine == tile::Engine::RedMulE)
                    total.jobs.push_back({count, each->gemm});
                });
    if (total.possible)
      total.first = stageCost(stage, tileSizes)->cycles;
    return total;
  }

  /// Stops early once the cost is known to exceed `bound`, or the bytes of the
  /// smallest buffers `budget`.
  GroupCost evaluate(ArrayRef<int64_t> tileSizes, ArrayRef<int64_t> order,
                     int64_t budget, int64_t bound) {
    GroupCost cost;
    setTiles(tileSizes);
    cost.total = std::numeric_limits<int64_t>::max();
    int64_t tripsAll = 1, onceBytes = 0;
    for (unsigned dim = 0; dim < sizes.size(); ++dim)
      tripsAll *= llvm::divideCeil(sizes[dim], tileSizes[dim]);

    for (auto [tile, bytes] : llvm::zip(tiles, tileBytes)) {
      // In flight at once: the tile in use, the next being loaded or made, the
      // one before being stored.
      int64_t copies = tile.input && tile.output ? 3 : 2;
      if (!tile.array && tripsAll == 1)
        copies = 1;
      cost.minBytes += bytes;
      // Its last lines are needed until the next tile is complete.
      if (tile.more && tileSizes[tile.along] < sizes[tile.along])
        cost.minBytes += bytes;
      cost.l1Bytes += bytes * copies;
      if (tripsAll > 1 && isLoadedOnce(tile, tileSizes))
        onceBytes += bytes;
    }
    if (cost.minBytes > budget)
      return cost;
    if (transfers.empty())
      for (const TileInfo &tile : tiles)
        transfers.push_back(transferCost(tile, tileSizes));
    // Without room for overlap a tiling is still right, only slow. One that
    // lacks it only for what is loaded once waits for that.
    bool overlaps = cost.l1Bytes - onceBytes <= budget,
         waits = cost.l1Bytes > budget;
    auto combine = [&](std::initializer_list<int64_t> cycles) {
      return overlaps
                 ? std::max(cycles)
                 : std::accumulate(cycles.begin(), cycles.end(), int64_t(0));
    };

    int64_t dmaIn = 0, dmaOut = 0, hyperIn = 0, hyperOut = 0, issue = 0,
            exposedLoads = 0;
    for (auto [tile, transfer] : llvm::zip(tiles, transfers)) {
      int64_t times = tile.input ? refetches(tile.walked, tileSizes, order) : 0;
      dmaIn += transfer.in * times;
      dmaOut += transfer.out;
      hyperIn += transfer.hyperIn * times;
      hyperOut += transfer.hyperOut;
      issue += transfer.issue * (times + tile.output);
      cost.movedBytes += transfer.moved * (times + tile.output);
      if (waits && isLoadedOnce(tile, tileSizes))
        exposedLoads += transfer.first;
    }

    cost.dma = combine({dmaIn, dmaOut});
    cost.hyper = hyperIn + hyperOut; // one bus
    if (cost.dma + cost.hyper / hyperShare > bound)
      return cost;

    // Work of the engines, and what of it cannot overlap: the first tile's
    // preparation and the last one's epilogue beside an idle accelerator.
    double exposedCores = 0, exposedJob = 0, cores = issue, redmule = 0;
    double coreAccesses = 0, portAccesses = 0;
    SmallVector<std::pair<double, GemmCost>, 4> jobs;
    if (totals.empty())
      for (StageInfo &stage : stages)
        totals.push_back(stageTotal(stage, tileSizes));
    for (auto [stage, total] : llvm::zip(stages, totals)) {
      if (!total.possible)
        return cost;
      double times = stage.phase == tile::Phase::Prepare
                         ? refetches(total.walked, tileSizes, order)
                         : 1;
      if (stage.engine == tile::Engine::RedMulE) {
        redmule += times * total.cycles;
        cores += times * total.runs * (costs.issueCycles(1) + costs.waitCycles);
        portAccesses += times * total.accesses;
        for (auto [count, gemm] : total.jobs)
          jobs.push_back({count * times, gemm});
        exposedJob += total.first;
      } else {
        cores += times * total.cycles;
        coreAccesses += times * total.accesses;
        exposedCores += total.first;
      }
    }
    cost.cores = cores;
    cost.redmule = redmule;
    if (!overlaps) {
      cost.total = combine({cost.dma, cost.hyper, cost.redmule, cost.cores});
      return cost;
    }
    if (double least = std::max(cost.redmule + exposedCores,
                                cost.cores + (hasRedmule ? exposedJob : 0));
        least > bound) {
      cost.total = least;
      return cost;
    }
    // Engines meet in L1 for the share of the time in which they work.
    std::array<Activity, engineCount> work;
    work[(size_t)Engine::DmaIn] = {double(dmaIn), dmaIn * contention.dmaWords};
    work[(size_t)Engine::DmaOut] = {double(dmaOut),
                                    dmaOut * contention.dmaWords};
    work[(size_t)Engine::Cores] = {cores, coreAccesses};
    work[(size_t)Engine::RedMulE] = {redmule, portAccesses, jobs};
    std::array<double, engineCount> busy = contention.busyCycles(work);
    double exposed = hasRedmule ? exposedCores : 0;
    cost.total =
        exposedLoads + cost.hyper / hyperShare +
        std::max({busy[(size_t)Engine::DmaIn], busy[(size_t)Engine::DmaOut],
                  busy[(size_t)Engine::RedMulE] + exposed,
                  busy[(size_t)Engine::Cores] + (hasRedmule ? exposedJob : 0)});
    return cost;
  }

  /// What a copy of a tile moves. Where it starts does not matter.
  tile::WindowNest window(const TileInfo &tile, ArrayRef<int64_t> shape) const {
    return {tile.array.getShape(), SmallVector<int64_t>(shape.size(), 0), shape,
            windows[&tile - tiles.data()].steps(), tile.elementBytes};
  }

  // Under the tile sizes at hand: per tile, and per stage once they are needed.
  SmallVector<int64_t> windowSizes;
  std::vector<tile::TiledOperand> windows;
  SmallVector<int64_t> tileBytes;
  std::vector<TransferCost> transfers;
  std::vector<StageTotal> totals;
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

/// Loop orders worth trying: reductions innermost, every order of the parallel
/// dimensions that can be tiled, or, if these are many, any of them innermost
/// or outermost. Tiles that keep lines of the one before follow it.
SmallVector<SmallVector<int64_t>>
loopOrders(ArrayRef<int64_t> sizes, ArrayRef<SmallVector<int64_t>> candidates,
           ArrayRef<int64_t> reductions, std::optional<int64_t> along) {
  SmallVector<int64_t> first, parallel;
  for (int64_t dim = 0; dim < (int64_t)sizes.size(); ++dim)
    if (!llvm::is_contained(reductions, dim))
      if (dim != along)
        (sizes[dim] == candidates[dim].back() ? first : parallel)
            .push_back(dim);
  SmallVector<SmallVector<int64_t>> orders;
  auto add = [&](ArrayRef<int64_t> middle) {
    SmallVector<int64_t> order(first);
    llvm::append_range(order, middle);
    if (along)
      order.push_back(*along);
    llvm::append_range(order, reductions);
    if (!llvm::is_contained(orders, order))
      orders.push_back(order);
  };
  constexpr size_t few = 3;
  if (parallel.size() <= few) {
    do
      add(parallel);
    while (std::next_permutation(parallel.begin(), parallel.end()));
    return orders;
  }
  add(parallel);
  for (size_t at = 0; at < parallel.size(); ++at) {
    SmallVector<int64_t> moved(parallel);
    std::rotate(moved.begin(), moved.begin() + at, moved.begin() + at + 1);
    add(moved);
    moved = parallel;
    std::rotate(moved.begin() + at, moved.begin() + at + 1, moved.end());
    add(moved);
  }
  return orders;
}

} // namespace

const TileSearch::Result &TileSearch::search(tile::GroupOp group,
                                             ArrayRef<int64_t> whole,
                                             ArrayRef<int64_t> unit) {
  GroupCostModel model(target, group);
  std::string key = model.key();
  for (int64_t dim : whole)
    key += "|whole" + std::to_string(dim);
  for (int64_t dim : unit)
    key += "|unit" + std::to_string(dim);
  auto [entry, inserted] = results.try_emplace(key);
  Result &result = entry->second;
  if (!inserted)
    return result;

  ArrayRef<int64_t> sizes = group.getSizes();
  SmallVector<SmallVector<int64_t>> candidates;
  for (auto [dim, size] : llvm::enumerate(sizes))
    candidates.push_back(llvm::is_contained(whole, (int64_t)dim)
                             ? SmallVector<int64_t>{size}
                         : llvm::is_contained(unit, (int64_t)dim)
                             ? SmallVector<int64_t>{1}
                             : candidateSizes(size, exhaustive));
  std::optional<int64_t> along;
  for (auto lines : group.getBody().getOps<tile::LinesOp>())
    along = lines.getAlong();
  SmallVector<SmallVector<int64_t>> orders =
      loopOrders(sizes, candidates, group.getReductions(), along);

  constexpr int64_t unknown = std::numeric_limits<int64_t>::max();
  result.smallest = unknown;
  auto better = [](const TileChoice &a, const TileChoice &b) {
    if (a.cost.total == unknown || b.cost.total == unknown)
      return a.cost.total < b.cost.total;
    return std::make_tuple(a.cost.total,
                           a.cost.cores + a.cost.redmule + a.cost.dma,
                           a.cost.l1Bytes) <
           std::make_tuple(b.cost.total,
                           b.cost.cores + b.cost.redmule + b.cost.dma,
                           b.cost.l1Bytes);
  };
  TileChoice none;
  none.cost.total = unknown;
  auto found = [&](const TileChoice &choice) {
    return choice.cost.total != unknown;
  };
  // Tile sizes in their best order, if that costs no more than `bound`.
  auto evaluate = [&](ArrayRef<int64_t> tiles, int64_t bound) {
    TileChoice best = none;
    for (ArrayRef<int64_t> order : orders) {
      TileChoice choice;
      choice.cost = model.evaluate(tiles, order, budget, bound);
      ++evaluated;
      result.smallest = std::min(result.smallest, choice.cost.minBytes);
      if (choice.cost.minBytes > budget)
        break; // in any order
      if (!better(choice, best))
        continue;
      choice.tiles.assign(tiles.begin(), tiles.end());
      choice.order.assign(order.begin(), order.end());
      best = std::move(choice);
      bound = std::min(bound, best.cost.total);
    }
    return best;
  };
  // Takes other tile sizes if they are better.
  auto improve = [&](TileChoice &best, ArrayRef<int64_t> tiles) {
    TileChoice choice = evaluate(tiles, best.cost.total);
    if (!better(choice, best))
      return false;
    best = std::move(choice);
    return true;
  };

  constexpr size_t few = 16;
  SmallVector<TileChoice> starts;
  SmallVector<int64_t> tiles(sizes.size());
  // The best few of a coarse grid, the best one first.
  auto recurse = [&](auto &&self, unsigned dim) -> void {
    if (dim == sizes.size()) {
      TileChoice choice = evaluate(
          tiles, starts.size() < few ? unknown : starts.back().cost.total);
      if (!better(choice, starts.size() < few ? none : starts.back()))
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
  // In a grid with too many points: from the smallest tiles, and from the
  // largest that fit with what is summed over left whole, or cut first, to the
  // best other size of one dimension, or of two.
  auto climb = [&](TileChoice best) {
    auto changeOne = [&] {
      bool improved = false;
      for (unsigned dim = 0; dim < sizes.size(); ++dim) {
        tiles = best.tiles;
        for (int64_t tile : candidates[dim]) {
          tiles[dim] = tile;
          improved |= improve(best, tiles);
        }
      }
      return improved;
    };
    auto changeTwo = [&] {
      for (unsigned a = 0; a < sizes.size(); ++a)
        for (unsigned b = a + 1; b < sizes.size(); ++b) {
          if (candidates[a].size() < 2 || candidates[b].size() < 2)
            continue;
          tiles = best.tiles;
          bool improved = false;
          for (int64_t tileA : candidates[a])
            for (int64_t tileB : candidates[b]) {
              tiles[a] = tileA;
              tiles[b] = tileB;
              improved |= improve(best, tiles);
            }
          if (improved)
            return true;
        }
      return false;
    };
    while (found(best) && (changeOne() || changeTwo()))
      ;
    if (found(best))
      starts.push_back(std::move(best));
  };
  auto climbFromAll = [&] {
    TileChoice smallest = none;
    for (unsigned dim = 0; dim < sizes.size(); ++dim)
      tiles[dim] = candidates[dim].back();
    improve(smallest, tiles);
    climb(std::move(smallest));
    for (bool cutSums : {false, true}) {
      TileChoice largest = none;
      for (unsigned dim = 0; dim < sizes.size(); ++dim)
        tiles[dim] = candidates[dim].front();
      while (!improve(largest, tiles)) {
        // Cuts the longest dimension, of the kind that is cut first.
        std::optional<unsigned> cut;
        auto rank = [&](unsigned dim) {
          bool summed = llvm::is_contained(group.getReductions(), (int64_t)dim);
          return std::make_pair(summed == cutSums, tiles[dim]);
        };
        for (unsigned dim = 0; dim < sizes.size(); ++dim)
          if (tiles[dim] > candidates[dim].back() &&
              (!cut || rank(dim) > rank(*cut)))
            cut = dim;
        if (!cut)
          break;
        tiles[*cut] = *llvm::find_if(
            candidates[*cut], [&](int64_t tile) { return tile < tiles[*cut]; });
      }
      climb(std::move(largest));
    }
  };
  int64_t points = 1;
  constexpr int64_t most = 10000;
  for (ArrayRef<int64_t> list : candidates)
    points = std::min<int64_t>(points * list.size(), most + 1);
  if (exhaustive || points <= most)
    recurse(recurse, 0);
  else
    climbFromAll();

  // Descend from each of them in small steps.
  for (TileChoice &best : starts)
    for (bool improved = true; improved;) {
      improved = false;
      for (unsigned dim = 0; dim < sizes.size(); ++dim) {
        SmallVector<int64_t> start = best.tiles;
        for (int64_t step : {-4, -3, -2, -1, 1, 2, 3, 4}) {
          tiles = start;
          tiles[dim] += step;
          if (candidates[dim].size() > 1 && tiles[dim] >= 1 &&
              tiles[dim] <= sizes[dim])
            improved |= improve(best, tiles);
        }
      }
    }
  llvm::stable_sort(starts, better);
  for (TileChoice &choice : starts)
    if (found(choice) &&
        llvm::none_of(result.choices, [&](const TileChoice &other) {
          return other.tiles == choice.tiles && other.order == choice.order;
        }))
      result.choices.push_back(std::move(choice));
  return result;
}

} // namespace td
