#include "lib/Planner/ExpandGroups.h"

#include "dialects/RedMulE/RedMulE.h"
#include "dialects/Tile/Loop.h"
#include "dialects/Tile/Windows.h"
#include "lib/Planner/Grouping.h"
#include "lib/Planner/ScheduleProgram.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/raw_ostream.h"
#include <numeric>

using namespace mlir;
using namespace td::tile;

namespace {

using Index = SmallVector<int64_t, 4>;

MemRefType tileType(MemRefType like, ArrayRef<int64_t> shape, Level level) {
  return MemRefType::get(shape, like.getElementType(),
                         MemRefLayoutAttrInterface(),
                         MemoryAttr::get(like.getContext(), level));
}

Level levelOf(Value buffer) {
  return cast<MemoryAttr>(cast<MemRefType>(buffer.getType()).getMemorySpace())
      .getLevel();
}

/// Outlines stages into kernels; two stages that compute the same share one.
class KernelTable {
public:
  explicit KernelTable(ModuleOp module) : module(module) {}

  /// The kernel that runs `op` on `operands` (its distinct memrefs), which
  /// `maps` address, and whose trailing arguments are the first indices of the
  /// loops in `indexed`.
  func::FuncOp outline(linalg::LinalgOp op, ArrayRef<Value> operands,
                       ArrayRef<Value> representatives,
                       ArrayRef<AffineMap> maps, ArrayRef<int64_t> indexed) {
    OpBuilder builder(module.getContext());
    Location loc = op.getLoc();
    SmallVector<Type> types;
    for (Value operand : operands)
      types.push_back(operand.getType());
    types.append(indexed.size(), builder.getIndexType());
    auto function = func::FuncOp::create(
        loc, "kernel", builder.getFunctionType(types, TypeRange()));
    function.setPrivate();
    function->setAttr("tile.kernel", builder.getUnitAttr());
    Block *body = function.addEntryBlock();
    builder.setInsertionPointToEnd(body);
    IRMapping mapping;
    for (auto [operand, argument] :
         llvm::zip(operands, body->getArguments().take_front(operands.size())))
      mapping.map(operand, argument);
    for (auto [operand, representative] :
         llvm::zip(op->getOperands(), representatives))
      if (representative && !mapping.contains(operand))
        mapping.map(operand, mapping.lookup(representative));
    for (Operation &constant : *op->getBlock())
      if (&constant != op.getOperation())
        builder.clone(constant, mapping);
    auto copy = cast<linalg::LinalgOp>(builder.clone(*op, mapping));
    if (auto generic = dyn_cast<linalg::GenericOp>(copy.getOperation()))
      generic.setIndexingMapsAttr(builder.getAffineMapArrayAttr(maps));
    // A tile's own indices start at zero: shift them to the domain's.
    td::startIndices(copy, [&](OpBuilder &, unsigned loop) -> Value {
      const int64_t *place = llvm::find(indexed, (int64_t)loop);
      return body->getArgument(operands.size() + (place - indexed.begin()));
    });
    builder.setInsertionPointToEnd(body);
    func::ReturnOp::create(builder, loc);

    std::string text;
    llvm::raw_string_ostream stream(text);
    // Where an operator comes from, and what the user wants printed, is no part
    // of what a kernel does.
    function->print(
        stream,
        OpPrintingFlags().printGenericOpForm().useLocalScope().enableDebugInfo(
            false));
    auto [entry, isNew] = kernels.try_emplace(text, function);
    if (!isNew) {
      function->destroy();
      return entry->second;
    }
    // The first free name: the module may hold kernels already.
    do
      function.setName("kernel_" + std::to_string(next++));
    while (module.lookupSymbol(function.getName()));
    module.push_back(function);
    return function;
  }

private:
  ModuleOp module;
  llvm::StringMap<func::FuncOp> kernels;
  unsigned next = 0;
};

/// What an operand or scratch of a group has in L1 at one time.
struct Slot {
  Value buffer; // null for scratch
  AffineMap map;
  TiledOperand window;
  MemRefType type; // of the tile, sizes dynamic
  std::string symbol;
  int64_t advance = 0; // of the window along the first dimension, each run
  bool loaded = false, stored = false;
  bool isView = false; // made with the lines that it is part of
  unsigned lines = 0;  // place + 1 among the group's, if there are ahead of it
  // The tile in use.
  bool valid = false, fresh = false;
  Index index;
  Value tile;
};

/// A scratch slot behind lines of the tile before it, and the slots of views.
struct Lines {
  unsigned tile, whole, head, before;
  int64_t count, along;
  unsigned line; // dimension of the tile
};

/// One stage with what its job needs.
struct Stage {
  StageOp op;
  linalg::LinalgOp body;
  SmallVector<unsigned> slots;    // the kernel's or GEMM's tiles
  SmallVector<unsigned> reads;    // slots that it reads
  SmallVector<unsigned> writes;   // slots that it writes
  bool accumulates = false;       // it reads what it writes
  SmallVector<int64_t> indexDims; // domain dimensions of its index arguments
  func::FuncOp kernel;
  SmallVector<AffineSum> loops; // dimensions of the domain that each walks
};

class GroupExpander {
public:
  /// Jobs are put before `position`.
  GroupExpander(GroupOp group, int32_t opIndex, KernelTable &kernels,
                Operation *position)
      : group(group), opIndex(opIndex), kernels(kernels), builder(position),
        loc(group.getLoc()), sizes(group.getSizes()), tiles(group.getTiles()) {
    for (auto [size, tile] : llvm::zip(sizes, tiles))
      counts.push_back(llvm::divideCeil(size, tile));
    place.resize(sizes.size(), 0);
  }

  LogicalResult prepare() {
    return failure(failed(checkCount()) || failed(collectSlots()) ||
                   failed(checkOutputs()) || failed(checkLines()) ||
                   failed(collectStages()));
  }

  /// The jobs of one run of the loop that the group is in.
  LogicalResult run(int64_t number = 0) {
    runNumber = number;
    for (Slot &slot : slots)
      slot.valid = false;
    do
      if (failed(step()))
        return failure();
    while (advance());
    return success();
  }

private:
  /// Each tile takes a record or more of the table, which lies in L2.
  LogicalResult checkCount() {
    constexpr int64_t most = 1 << 17;
    int64_t total = 1;
    for (int64_t count : counts)
      if (count > most || (total *= count) > most)
        return group.emitOpError("has more than ")
               << most << " tiles, whose jobs no table holds; larger tiles "
               << "would be fewer";
    return success();
  }

  /// To the next tile of the loop nest; false after the last.
  bool advance() {
    for (int64_t dim : llvm::reverse(group.getOrder())) {
      if (++place[dim] < counts[dim])
        return true;
      place[dim] = 0;
    }
    return false;
  }

  unsigned addSlot(Slot slot) {
    slots.push_back(std::move(slot));
    return slots.size() - 1;
  }

  LogicalResult collectSlots() {
    unsigned inputs = group.getIns().size();
    Block &block = group.getBody().front();
    for (auto [i, operand] : llvm::enumerate(group.getOperands())) {
      AffineMap map = cast<AffineMapAttr>(group.getMaps()[i]).getValue();
      auto found = llvm::find_if(slots, [&](const Slot &slot) {
        return slot.buffer == operand && slot.map == map &&
               slot.advance == advanceOf(group, i);
      });
      unsigned index = found - slots.begin();
      if (found == slots.end()) {
        Slot slot;
        slot.buffer = operand;
        slot.map = map;
        slot.advance = advanceOf(group, i);
        slot.window = TiledOperand(map, tiles);
        slot.type = cast<MemRefType>(block.getArgument(i).getType());
        auto buffer = td::reshapeSource(operand).getDefiningOp<BufferOp>();
        if (!buffer)
          return group.emitOpError("works on arrays of its program alone");
        slot.symbol = buffer.getSymbol().str();
        index = addSlot(std::move(slot));
      }
      (i < inputs ? slots[index].loaded : slots[index].stored) = true;
      slotOf[block.getArgument(i)] = index;
    }
    for (auto scratch : block.getOps<ScratchOp>()) {
      Slot slot;
      slot.map = scratch.getMap();
      slot.window = TiledOperand(slot.map, tiles);
      slot.type = cast<MemRefType>(scratch.getMemref().getType());
      slot.symbol = group.getName().str();
      slotOf[scratch.getMemref()] = addSlot(std::move(slot));
    }
    for (auto op : block.getOps<LinesOp>()) {
      unsigned tile = slotOf.at(op.getTile());
      auto add = [&](Value view) {
        Slot slot = slots[tile];
        slot.isView = true;
        return slotOf[view] = addSlot(std::move(slot));
      };
      unsigned whole = add(op.getWhole()), head = add(op.getHead()),
               before = add(op.getBefore());
      lines.push_back({tile, whole, head, before, int64_t(op.getCount()),
                       int64_t(op.getAlong()), op.getLine()});
      slots[tile].lines = lines.size();
    }
    return success();
  }

  /// The tiles along the lines come one after the other.
  LogicalResult checkLines() {
    for (const Lines &kept : lines) {
      bool within = false;
      for (int64_t dim : group.getOrder()) {
        if (dim == kept.along)
          within = true;
        else if (within && counts[dim] > 1 &&
                 slots[kept.tile].map.isFunctionOfDim(dim))
          return group.emitOpError("keeps lines along dimension ")
                 << kept.along << ", but tiles of dimension " << dim
                 << " lie within";
      }
    }
    return success();
  }

  /// A tile of an output is complete before the next begins: every tiled
  /// dimension that does not walk it lies within those that do.
  LogicalResult checkOutputs() {
    for (const Slot &slot : slots) {
      if (!slot.stored)
        continue;
      bool within = false;
      for (int64_t dim : group.getOrder()) {
        if (counts[dim] == 1)
          continue;
        bool walks = slot.map.isFunctionOfDim(dim);
        if (walks && within)
          return group.emitOpError("visits a tile of '")
                 << slot.symbol << "' again after others: tiled dimension "
                 << dim
                 << " must lie outside of the dimensions it is reduced over";
        within |= !walks;
      }
    }
    return success();
  }

  LogicalResult collectStages() {
    for (auto op : group.getBody().front().getOps<StageOp>()) {
      Stage stage;
      stage.op = op;
      stage.body = cast<linalg::LinalgOp>(op.getBody().front().back());
      linalg::LinalgOp body = stage.body;
      for (AffineMap map : body.getIndexingMapsArray())
        if (!affineSums(map))
          return op.emitOpError(
              "addresses tiles by sums of multiples of loops");
      SmallVector<Value> distinct, representatives;
      for (OpOperand &operand : body->getOpOperands()) {
        auto found = slotOf.find(operand.get());
        if (found == slotOf.end()) {
          representatives.push_back(Value());
          if (isa<MemRefType>(operand.get().getType()))
            return op.emitOpError("uses a memref that is no tile of its group");
          continue;
        }
        unsigned slot = found->second;
        if (!llvm::is_contained(stage.slots, slot)) {
          stage.slots.push_back(slot);
          distinct.push_back(operand.get());
        }
        representatives.push_back(
            distinct[llvm::find(stage.slots, slot) - stage.slots.begin()]);
        if (body.isDpsInit(&operand)) {
          stage.writes.push_back(slot);
          stage.accumulates |= body.payloadUsesValueFromOperand(&operand);
        } else {
          stage.reads.push_back(slot);
        }
      }
      if (failed(findLoops(stage)) || failed(checkPlaces(stage)))
        return failure();
      if (op.getEngine() == Engine::RedMulE) {
        if (failed(checkGemm(stage)))
          return failure();
      } else {
        SmallVector<int64_t> indexed;
        body->walk([&](linalg::IndexOp use) {
          if (!llvm::is_contained(indexed, (int64_t)use.getDim()))
            indexed.push_back(use.getDim());
        });
        llvm::sort(indexed);
        for (int64_t loop : indexed) {
          if (stage.loops[loop].terms.size() > 1)
            return op.emitOpError("uses the index of a loop that walks several "
                                  "dimensions of the domain");
          stage.indexDims.push_back(stage.loops[loop].terms.front().dim);
        }
        SmallVector<AffineMap> maps;
        for (AffineMap map : body.getIndexingMapsArray())
          maps.push_back(packedMap(map, stage));
        stage.kernel =
            kernels.outline(body, distinct, representatives, maps, indexed);
      }
      stages.push_back(std::move(stage));
    }
    return success();
  }

  /// The dimensions of the group's domain that each loop of a stage's op
  /// walks: one, or those of a nest.
  LogicalResult findLoops(Stage &stage) {
    linalg::LinalgOp body = stage.body;
    stage.loops.resize(body.getNumLoops());
    for (bool nests : {false, true})
      for (OpOperand &operand : body->getOpOperands()) {
        auto found = slotOf.find(operand.get());
        if (found == slotOf.end())
          continue;
        AffineMap map = body.getMatchingIndexingMap(&operand);
        for (unsigned i = 0; i < map.getNumResults(); ++i) {
          AffineSum sum = slots[found->second].window.sums()[i];
          auto dim = dyn_cast<AffineDimExpr>(map.getResult(i));
          if (!dim || sum.terms.empty() || (sum.terms.size() > 1) != nests ||
              !isNest(sum, sizes, tiles))
            continue;
          AffineSum &walked = stage.loops[dim.getPosition()];
          if (!walked.terms.empty())
            continue;
          int64_t step = sum.terms.front().coefficient;
          for (AffineSum::Term term : sum.terms)
            step = std::min(step, term.coefficient);
          for (AffineSum::Term &term : sum.terms)
            term.coefficient /= step;
          walked.terms = sum.terms;
        }
      }
    for (auto [loop, walked] : llvm::enumerate(stage.loops))
      if (walked.terms.empty())
        return stage.op->emitOpError("loop ") << loop << " walks no operand";
    return success();
  }

  /// The steps of a stage's loop on a tile that goes so far in the domain.
  static int64_t stepsOf(const AffineSum &loop, ArrayRef<int64_t> extents) {
    int64_t last = 0;
    for (AffineSum::Term term : loop.terms)
      last += term.coefficient * (extents[term.dim] - 1);
    return last + 1;
  }

  /// A stage's map of an operand on the tile as it is packed: where several
  /// loops walk a dimension, those with tiles of one element add nothing, and
  /// what divides all others' coefficients is no part of the tile.
  AffineMap packedMap(AffineMap map, const Stage &stage) const {
    SmallVector<AffineSum> sums = sumsOf(map);
    for (AffineSum &sum : sums) {
      if (sum.terms.size() < 2)
        continue;
      int64_t step = 0;
      llvm::erase_if(sum.terms, [&](AffineSum::Term term) {
        return stepsOf(stage.loops[term.dim], tiles) == 1;
      });
      for (AffineSum::Term term : sum.terms)
        step = std::gcd(step, term.coefficient);
      for (AffineSum::Term &term : sum.terms)
        term.coefficient /= step;
    }
    return mapOf(sums, map.getNumDims(), map.getContext());
  }

  /// Whether all tiles of a stage are addressed at the same points of the
  /// domain: an element that its loops reach lies where the tile's own map puts
  /// it. Of lines behind others, and of what reads whole rows behind a sum, the
  /// tile is another one.
  LogicalResult checkPlaces(Stage &stage) {
    if (stage.op.getPhase() == Phase::Finish)
      return success();
    linalg::LinalgOp body = stage.body;
    for (OpOperand &operand : body->getOpOperands()) {
      auto found = slotOf.find(operand.get());
      if (found == slotOf.end())
        continue;
      const Slot &slot = slots[found->second];
      if (slot.isView || slot.lines)
        continue;
      SmallVector<AffineSum> sums =
          sumsOf(packedMap(body.getMatchingIndexingMap(&operand), stage));
      for (auto [i, sum] : llvm::enumerate(sums)) {
        SmallVector<int64_t> steps(tiles.size(), 0);
        for (AffineSum::Term term : sum.terms)
          for (AffineSum::Term walked : stage.loops[term.dim].terms)
            steps[walked.dim] += term.coefficient * walked.coefficient;
        for (AffineSum::Term term : slot.window.sums()[i].terms)
          steps[term.dim] -= term.coefficient / slot.window.steps()[i];
        for (auto [dim, step] : llvm::enumerate(steps))
          if (step != 0 && tiles[dim] > 1)
            return stage.op->emitOpError("addresses dimension ")
                   << i << " of a tile of '" << slot.symbol
                   << "' by other steps of the domain's dimension " << dim
                   << " than the tile has";
      }
    }
    return success();
  }

  LogicalResult checkGemm(Stage &stage) {
    if (stage.slots.size() != 3 || stage.body.getNumDpsInputs() != 2 ||
        !td::accumulatesProducts(stage.body))
      return stage.op->emitOpError(
          "RedMulE runs only a contraction of two tiles into a third");
    return jobSizes(stage, tiles);
  }

  /// M, N and K of a job on tiles that go so far in the domain. RedMulE sees
  /// row-major matrices: each loop of the contraction has to walk the rows or
  /// columns of two of them, and the loops together have to count these up,
  /// wherever they walk, in the order that two matrices share.
  FailureOr<SmallVector<int64_t>> jobSizes(const Stage &stage,
                                           ArrayRef<int64_t> extents) {
    linalg::LinalgOp body = stage.body;
    SmallVector<int64_t> stepsIn[3]; // elements of X, W and Z for each loop
    for (unsigned operand : {0, 1, 2}) {
      stepsIn[operand].assign(body.getNumLoops(), 0);
      int64_t elements = 1;
      auto shape = slots[stage.slots[operand]].window.shape(extents);
      SmallVector<AffineSum> sums =
          sumsOf(packedMap(body.getIndexingMapsArray()[operand], stage));
      for (auto [sum, size] :
           llvm::zip(llvm::reverse(sums), llvm::reverse(shape))) {
        for (AffineSum::Term term : sum.terms)
          stepsIn[operand][term.dim] += elements * term.coefficient;
        elements *= size;
      }
    }
    auto notPlain = [&] {
      return stage.op->emitOpError(
          "RedMulE runs only on plain row-major operands");
    };
    enum { M, N, K };
    SmallVector<unsigned> loops[3];
    SmallVector<int64_t> job(3, 1);
    for (auto [loop, walked] : llvm::enumerate(stage.loops)) {
      int64_t steps = stepsOf(walked, extents);
      bool x = stepsIn[0][loop], w = stepsIn[1][loop], z = stepsIn[2][loop];
      if (steps == 1)
        continue;
      if (x && w && z)
        return stage.op->emitOpError("dimension ")
               << walked.terms.front().dim
               << " is walked by all tiles and must have tiles of 1";
      if (x + w + z != 2)
        return notPlain();
      unsigned which = !w ? M : !z ? N : K;
      loops[which].push_back(loop);
      job[which] *= steps;
    }
    // Whether a matrix of `columns` has rows of as many elements.
    auto isRowMajor = [&](unsigned operand, unsigned rows, unsigned columns) {
      int64_t expected = 1;
      for (unsigned which : {columns, rows}) {
        SmallVector<unsigned> inward(loops[which]);
        llvm::stable_sort(inward, [&](unsigned a, unsigned b) {
          return stepsIn[operand][a] < stepsIn[operand][b];
        });
        for (unsigned loop : inward) {
          if (stepsIn[operand][loop] != expected)
            return false;
          expected *= stepsOf(stage.loops[loop], extents);
        }
      }
      return true;
    };
    // And whether two matrices have the loops in one order.
    auto agree = [&](unsigned which, unsigned a, unsigned b) {
      for (unsigned one : loops[which])
        for (unsigned other : loops[which])
          if ((stepsIn[a][one] < stepsIn[a][other]) !=
              (stepsIn[b][one] < stepsIn[b][other]))
            return false;
      return true;
    };
    if (!isRowMajor(0, M, N) || !isRowMajor(1, N, K) || !isRowMajor(2, M, K) ||
        !agree(M, 0, 2) || !agree(N, 0, 1) || !agree(K, 1, 2))
      return notPlain();
    return job;
  }

  /// Whether all tiled dimensions that do not walk the given slots are at their
  /// first (or last) tile.
  bool atEdge(ArrayRef<unsigned> which, bool last) const {
    for (auto [dim, count] : llvm::enumerate(counts)) {
      bool walks = llvm::any_of(which, [&](unsigned slot) {
        return slots[slot].map.isFunctionOfDim(dim);
      });
      if (!walks && place[dim] != (last ? count - 1 : 0))
        return false;
    }
    return true;
  }

  /// Where the tile at this place of the loop nest starts in the domain, and
  /// how far it goes.
  void locate(Index &starts, Index &extents) const {
    for (auto [at, tile, size] : llvm::zip(place, tiles, sizes)) {
      starts.push_back(at * tile);
      extents.push_back(std::min(tile, size - starts.back()));
    }
  }

  void window(const Slot &slot, Index &offsets, Index &shape) const {
    Index starts, extents;
    locate(starts, extents);
    offsets = slot.window.offsets(starts);
    if (slot.advance)
      offsets[0] += runNumber * slot.advance;
    shape = slot.window.shape(extents);
  }

  Value alloc(const Slot &slot, ArrayRef<int64_t> extents, Level level) {
    return AllocOp::create(builder, loc, tileType(slot.type, extents, level),
                           builder.getStringAttr(slot.symbol), IntegerAttr());
  }

  void copyAndWait(Value array, ArrayRef<int64_t> offsets,
                   ArrayRef<int64_t> extents, ArrayRef<int64_t> steps,
                   Value tile, bool load) {
    bool strided = llvm::any_of(steps, [](int64_t step) { return step > 1; });
    auto copy = CopyOp::create(
        builder, loc, builder.getType<TokenType>(), array, tile,
        builder.getDenseI64ArrayAttr(offsets),
        builder.getDenseI64ArrayAttr(extents),
        strided ? builder.getDenseI64ArrayAttr(steps) : DenseI64ArrayAttr(),
        builder.getBoolAttr(load), builder.getI32IntegerAttr(opIndex));
    SmallVector<Value> made{tile};
    if (!load)
      made.push_back(array);
    WaitOp::create(builder, loc, ValueRange(copy.getToken()), made);
  }

  /// A new tile for the slot at this place of the loop nest.
  LogicalResult refresh(Slot &slot) {
    Index offsets, extents;
    window(slot, offsets, extents);
    if (slot.lines) {
      refreshLines(lines[slot.lines - 1], extents);
    } else if (!slot.buffer) {
      slot.tile = alloc(slot, extents, Level::L1);
    } else if (levelOf(slot.buffer) == Level::L1) {
      auto type = cast<MemRefType>(slot.buffer.getType());
      slot.tile = slot.buffer;
      if (type.getShape() != ArrayRef<int64_t>(extents)) {
        for (size_t i = 0, inner = 0; i < extents.size(); ++i) {
          if ((inner && extents[i] != type.getDimSize(i)) ||
              (extents[i] != 1 && slot.window.steps()[i] != 1))
            return group.emitOpError("tile of '")
                   << slot.symbol << "' is not contiguous in l1: only the "
                   << "leading dimension of a resident buffer may be tiled";
          inner |= extents[i] != 1;
        }
        slot.tile =
            ViewOp::create(builder, loc, tileType(type, extents, Level::L1),
                           slot.buffer, offsets, extents);
      }
    } else {
      slot.tile = alloc(slot, extents, Level::L1);
      if (slot.loaded) {
        Value array = slot.buffer;
        Index steps(slot.window.steps());
        if (levelOf(array) == Level::L3) {
          Value staging = alloc(slot, extents, Level::L2);
          copyAndWait(array, offsets, extents, steps, staging, /*load=*/true);
          array = staging;
          offsets.assign(offsets.size(), 0);
          steps.assign(steps.size(), 1);
        }
        copyAndWait(array, offsets, extents, steps, slot.tile, /*load=*/true);
      }
    }
    slot.fresh = slot.valid = true;
    return success();
  }

  /// A new tile of so many elements behind lines of the tile before.
  void refreshLines(const Lines &kept, ArrayRef<int64_t> extents) {
    Value before = slots[kept.whole].tile;
    auto view = [&](unsigned slot, Value array, int64_t from, int64_t count) {
      Index offsets(extents.size(), 0), part(extents);
      offsets[kept.line] = from;
      part[kept.line] = count;
      slots[slot].tile = ViewOp::create(
          builder, loc, tileType(slots[slot].type, part, Level::L1), array,
          offsets, part);
    };
    Index all(extents);
    all[kept.line] += kept.count;
    Value whole = alloc(slots[kept.whole], all, Level::L1);
    slots[kept.whole].tile = whole;
    view(kept.tile, whole, kept.count, extents[kept.line]);
    view(kept.head, whole, 0, kept.count);
    if (place[kept.along] == 0)
      return;
    int64_t past = cast<MemRefType>(before.getType()).getDimSize(kept.line);
    view(kept.before, before, past - kept.count, kept.count);
  }

  /// Whether lines lie ahead of the tile of a slot that is a view.
  bool hasLinesBefore(unsigned slot) const {
    return llvm::any_of(lines, [&](const Lines &kept) {
      return kept.head == slot && place[kept.along] > 0;
    });
  }

  void store(Slot &slot) {
    if (levelOf(slot.buffer) == Level::L1)
      return;
    Index offsets, extents;
    window(slot, offsets, extents);
    ArrayRef<int64_t> steps = slot.window.steps();
    if (levelOf(slot.buffer) == Level::L2)
      return copyAndWait(slot.buffer, offsets, extents, steps, slot.tile,
                         /*load=*/false);
    Value staging = alloc(slot, extents, Level::L2);
    Index origin(extents.size(), 0), ones(extents.size(), 1);
    copyAndWait(staging, origin, extents, ones, slot.tile, /*load=*/false);
    copyAndWait(slot.buffer, offsets, extents, steps, staging, /*load=*/false);
  }

  LogicalResult runStage(Stage &stage) {
    // A result that is written anew needs no tile that others still read.
    if (stage.op.getPhase() == Phase::Prepare && !stage.accumulates)
      for (unsigned index : stage.writes)
        if (Slot &slot = slots[index]; !slot.buffer && !slot.fresh)
          if (failed(refresh(slot)))
            return failure();
    if (stage.op.getPhase() == Phase::Prepare)
      for (unsigned index : stage.writes)
        slots[index].fresh = true;
    SmallVector<Value> operands;
    for (unsigned index : stage.slots)
      operands.push_back(slots[index].tile);
    Location at = stage.body.getLoc();
    if (stage.op.getEngine() == Engine::RedMulE) {
      Index starts, extents;
      locate(starts, extents);
      FailureOr<SmallVector<int64_t>> job = jobSizes(stage, extents);
      if (failed(job))
        return failure();
      auto isMatrix = [&](Value tile, unsigned rows, unsigned columns) {
        return cast<MemRefType>(tile.getType()).getShape() ==
               ArrayRef<int64_t>{(*job)[rows], (*job)[columns]};
      };
      bool matrices = isMatrix(operands[0], 0, 1) &&
                      isMatrix(operands[1], 1, 2) &&
                      isMatrix(operands[2], 0, 2);
      DenseI64ArrayAttr sizesAttr = builder.getDenseI64ArrayAttr(*job);
      auto gemm = td::redmule::GemmOp::create(
          builder, at, builder.getType<TokenType>(), operands[0], operands[1],
          operands[2], matrices ? DenseI64ArrayAttr() : sizesAttr,
          builder.getI32IntegerAttr(opIndex));
      WaitOp::create(builder, at, ValueRange(gemm.getToken()), operands);
      return success();
    }
    SmallVector<int64_t> indices;
    for (int64_t dim : stage.indexDims)
      indices.push_back(place[dim] * tiles[dim]);
    CallOp::create(builder, at, stage.kernel.getName(), operands, indices,
                   opIndex);
    return success();
  }

  /// The jobs of one tile of the domain.
  LogicalResult step() {
    for (Slot &slot : slots) {
      Index index;
      for (const AffineSum &sum : slot.window.sums())
        for (AffineSum::Term term : sum.terms)
          index.push_back(place[term.dim]);
      slot.fresh = false;
      if (slot.isView || (slot.valid && slot.index == index))
        continue;
      slot.index = index;
      if (failed(refresh(slot)))
        return failure();
    }
    for (Stage &stage : stages) {
      bool runs = true;
      switch (stage.op.getPhase()) {
      case Phase::Prepare:
        runs = llvm::any_of(llvm::concat<unsigned>(stage.reads, stage.writes),
                            [&](unsigned slot) { return slots[slot].fresh; });
        break;
      case Phase::Init:
        runs = atEdge(stage.writes, /*last=*/false);
        break;
      case Phase::Main:
        break;
      case Phase::Finish:
        runs = atEdge(stage.writes, /*last=*/true);
        break;
      case Phase::First:
      case Phase::Next:
        runs = atEdge(stage.writes, /*last=*/true) &&
               hasLinesBefore(stage.writes.front()) ==
                   (stage.op.getPhase() == Phase::Next);
        break;
      }
      if (runs && failed(runStage(stage)))
        return failure();
    }
    for (auto [i, slot] : llvm::enumerate(slots))
      if (slot.stored && atEdge({(unsigned)i}, /*last=*/true))
        store(slot);
    return success();
  }

  GroupOp group;
  int32_t opIndex;
  int64_t runNumber = 0;
  KernelTable &kernels;
  OpBuilder builder;
  Location loc;
  ArrayRef<int64_t> sizes, tiles;
  SmallVector<int64_t> counts, place;
  std::vector<Slot> slots;
  std::vector<Lines> lines;
  DenseMap<Value, unsigned> slotOf;
  std::vector<Stage> stages;
};

} // namespace

LogicalResult td::expandGroups(ModuleOp module) {
  KernelTable kernels(module);
  for (auto program : module.getOps<ProgramOp>()) {
    SmallVector<Operation *> parts; // groups and loops
    for (Operation &op : program.getBody().front())
      if (isa<GroupOp, LoopOp>(op))
        parts.push_back(&op);
    auto runsOf = [](Operation *part) {
      auto loop = dyn_cast<LoopOp>(part);
      return loop ? (int64_t)loop.getRuns() : 1;
    };
    for (Operation *part : parts)
      part->walk([&](GroupOp group) {
        OpBuilder builder(parts.front());
        SmallVector<int64_t> predicted(group.getPredicted());
        for (int64_t &cycles : predicted)
          cycles *= runsOf(part);
        OperatorOp::create(builder, group.getLoc(), group.getName(), predicted);
      });
    int32_t index = 0;
    for (Operation *part : parts) {
      std::vector<GroupExpander> groups;
      WalkResult walked = part->walk([&](GroupOp group) {
        groups.emplace_back(group, index++, kernels, part);
        return WalkResult(groups.back().prepare());
      });
      if (walked.wasInterrupted())
        return failure();
      for (int64_t run = 0; run < runsOf(part); ++run)
        for (GroupExpander &group : groups)
          if (failed(group.run(run)))
            return failure();
    }
    for (Operation *part : parts)
      part->erase();
  }
  return success();
}
