#include "lib/Planner/GroupBuilder.h"

#include "dialects/Tile/Loop.h"
#include "dialects/Tile/Windows.h"
#include "lib/Kernels/KernelPlan.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "llvm/ADT/MapVector.h"

using namespace mlir;

namespace td {

std::string operatorName(Operation *op) {
  std::string name;
  op->getLoc()->walk([&](Location location) {
    if (auto named = dyn_cast<NameLoc>(location); named && name.empty())
      name = named.getName().str();
    return WalkResult::advance();
  });
  std::string kind = op->getName().stripDialect().str();
  return name.empty() ? kind : name;
}

namespace {

using tile::AffineSum;

/// The loops of a contraction: those of the result that walk the first operand
/// (rows) or the second (columns) or both (batch), and those that are summed
/// over.
struct Contraction {
  SmallVector<unsigned> rows, columns, summed, batch;

  static std::optional<Contraction> match(linalg::LinalgOp op) {
    if (!accumulatesProducts(op))
      return std::nullopt;
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    Contraction result;
    for (unsigned loop = 0; loop < op.getNumLoops(); ++loop) {
      bool x = maps[0].isFunctionOfDim(loop), w = maps[1].isFunctionOfDim(loop),
           z = maps[2].isFunctionOfDim(loop);
      if (x && w && z)
        result.batch.push_back(loop);
      else if (x && w)
        result.summed.push_back(loop);
      else if (x && z)
        result.rows.push_back(loop);
      else if (w && z)
        result.columns.push_back(loop);
      else // a sum of one operand alone, or an element of another operator
        return std::nullopt;
    }
    return result;
  }
};

/// A contraction as RedMulE computes it: dimensions of the group with more than
/// one element in a tile, in the order of the matrices' rows and columns.
struct Job {
  SmallVector<unsigned> m, n, k;
  llvm::SmallSetVector<int64_t, 4> unit; // dimensions with tiles of 1
};

class GroupBuilder {
public:
  GroupBuilder(OpBuilder &builder, const OperatorGroup &group,
               ArrayRef<Implementation> implementations,
               ArrayRef<Value> outputs, BufferOf bufferOf)
      : builder(builder), group(group), implementations(implementations),
        outputs(outputs), bufferOf(bufferOf), rank(group.sizes.size()),
        context(builder.getContext()) {}

  BuiltGroup build() {
    for (const GroupMember &member : group.members)
      if (isAnchor(member) && implementationOf(member).redmule)
        jobs[isSecond(member)] = findJob(member);
    collectOperands();
    createGroup();
    placeResults();
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToEnd(&op.getBody().front());
    for (const GroupMember &member : group.members)
      if (isAnchor(member) || group.rowwise)
        emitAnchor(member);
      else if (group.pooling && &member == &group.members[group.pooling->from])
        emitPooling(member);
      else
        emitBehind(member, isRow(member) ? rowPhase() : behindPhase());
    BuiltGroup built{op, group.unit, SmallVector<int64_t>(whole.getArrayRef())};
    for (const Job &job : jobs)
      for (int64_t dim : job.unit)
        if (!llvm::is_contained(built.unit, dim))
          built.unit.push_back(dim);
    return built;
  }

private:
  /// A tile: a block argument or a scratch, and how the group's domain walks
  /// it.
  struct Tile {
    Value memref;
    AffineMap map;
  };

  bool isSecond(const GroupMember &member) const {
    return group.secondChain && &member >= &group.members[group.secondChain];
  }
  bool isAnchor(const GroupMember &member) const {
    return &member == &group.members.front() ||
           (group.secondChain && &member == &group.members[group.secondChain]);
  }
  bool isRow(const GroupMember &member) const {
    return group.rowsFrom && &member >= &group.members[group.rowsFrom];
  }
  Implementation implementationOf(const GroupMember &member) const {
    return implementations[isSecond(member)];
  }

  /// Whether two dimensions of the group walk a loop of a member: what is to be
  /// pooled comes in lines for each window.
  bool isNest(const GroupMember &member, unsigned loop) const {
    return group.pooling && group.pooling->lineInWindow &&
           &member < &group.members[group.pooling->from] &&
           member.dims[loop] == group.pooling->dim;
  }

  /// The dimensions that walk a loop of a member, outermost first.
  SmallVector<unsigned, 2> dimsOf(const GroupMember &member,
                                  unsigned loop) const {
    SmallVector<unsigned, 2> dims{member.dims[loop]};
    if (isNest(member, loop))
      dims.push_back(*group.pooling->lineInWindow);
    return dims;
  }

  int64_t stepsOf(const GroupMember &member, unsigned loop) const {
    int64_t steps = 1;
    for (unsigned dim : dimsOf(member, loop))
      steps *= group.sizes[dim];
    return steps;
  }

  /// The map of loops of a member on dimensions of the group.
  AffineMap groupMap(const GroupMember &member, AffineMap map) {
    SmallVector<AffineSum> sums = tile::sumsOf(map);
    for (AffineSum &sum : sums) {
      SmallVector<AffineSum::Term, 2> terms;
      for (AffineSum::Term term : sum.terms) {
        int64_t coefficient = term.coefficient;
        if (isNest(member, term.dim)) {
          terms.push_back({*group.pooling->lineInWindow, coefficient});
          coefficient *= group.pooling->stride;
        }
        terms.push_back({member.dims[term.dim], coefficient});
      }
      sum.terms = terms;
    }
    return tile::mapOf(sums, rank, context);
  }

  /// How a packed tile is walked with one dimension in the place of a nest of
  /// two.
  SmallVector<AffineSum> withoutNests(AffineMap map) const {
    SmallVector<AffineSum> sums = tile::sumsOf(map);
    if (!group.pooling || !group.pooling->lineInWindow)
      return sums;
    for (AffineSum &sum : sums) {
      size_t before = sum.terms.size();
      llvm::erase_if(sum.terms, [&](AffineSum::Term term) {
        return term.dim == *group.pooling->lineInWindow;
      });
      for (AffineSum::Term &term : sum.terms)
        if (term.dim == group.pooling->dim && sum.terms.size() < before)
          term.coefficient = sum.terms.size() == 1
                                 ? 1
                                 : term.coefficient / group.pooling->stride;
    }
    return sums;
  }

  /// How the group's domain walks the array of a tensor that a member indexes
  /// by `map`.
  AffineMap arrayMap(const GroupMember &member, AffineMap map,
                     const ArrayWindow &window) {
    SmallVector<AffineSum> sums = tile::sumsOf(groupMap(member, map));
    for (auto [sum, offset, stride] :
         llvm::zip(sums, window.offsets, window.strides)) {
      sum.constant = sum.constant * stride + offset;
      for (AffineSum::Term &term : sum.terms)
        term.coefficient *= stride;
    }
    return tile::mapOf(sums, rank, context);
  }

  /// The same tile seen from the loops of a member.
  AffineMap memberMap(const GroupMember &member, AffineMap map) {
    SmallVector<AffineSum> sums = withoutNests(map);
    for (AffineSum &sum : sums)
      for (AffineSum::Term &term : sum.terms)
        term.dim = llvm::find(member.dims, term.dim) - member.dims.begin();
    return tile::mapOf(sums, member.dims.size(), context);
  }

  static bool readsInit(linalg::LinalgOp op, OpOperand *init) {
    return op.getNumReductionLoops() != 0 ||
           op.payloadUsesValueFromOperand(init);
  }

  /// A splat becomes a constant in the payload, or a fill, and needs no tile.
  static bool isFolded(linalg::LinalgOp op, OpOperand *operand) {
    return splatOf(operand->get()) &&
           (op.isDpsInit(operand) || isa<linalg::GenericOp>(op.getOperation()));
  }

  /// What a payload reads in the place of an input that needs no tile.
  static TypedAttr constantFor(linalg::LinalgOp op, OpOperand *input) {
    if (!isRead(op, input))
      return Builder(op.getContext())
          .getZeroAttr(getElementTypeOrSelf(input->get().getType()));
    return isFolded(op, input) ? splatOf(input->get()) : TypedAttr();
  }

  /// Whether the elements of an input matter: it may be there to give a loop
  /// its size.
  static bool isRead(linalg::LinalgOp op, OpOperand *operand) {
    return op.isDpsInit(operand) || op.payloadUsesValueFromOperand(operand);
  }

  /// Loops whose sizes tiles with these maps do not give: no operand has a
  /// dimension that such a loop alone walks.
  static SmallVector<unsigned> loopsWithoutTile(unsigned loopCount,
                                                ArrayRef<AffineMap> maps) {
    SmallVector<bool> known(loopCount, false);
    for (AffineMap map : maps)
      for (AffineExpr result : map.getResults())
        if (auto dim = dyn_cast<AffineDimExpr>(result))
          known[dim.getPosition()] = true;
    SmallVector<unsigned> loops;
    for (auto [loop, isKnown] : llvm::enumerate(known))
      if (!isKnown)
        loops.push_back(loop);
    return loops;
  }

  bool isInternal(Value value) {
    Operation *producer = value.getDefiningOp();
    return producer && group.contains(producer);
  }

  /// Two tensors may be one array in memory (two reads of a parameter): an
  /// operand is a buffer and how it is indexed.
  void addInput(Value tensor, const GroupMember &member, AffineMap loops) {
    ArrayWindow window = bufferOf(tensor);
    AffineMap map = arrayMap(member, loops, window);
    for (auto [known, knownMap, advance] :
         llvm::zip(inputBuffers, inputMaps, inputAdvances))
      if (known == window.memref && knownMap == map &&
          advance == window.advance)
        return;
    inputTensors.push_back(tensor);
    inputMaps.push_back(map);
    inputAdvances.push_back(window.advance);
    inputBuffers.push_back(window.memref);
  }

  void collectOperands() {
    for (const GroupMember &member : group.members) {
      linalg::LinalgOp linalgOp = member.op;
      for (OpOperand &operand : linalgOp->getOpOperands()) {
        bool init = linalgOp.isDpsInit(&operand);
        if ((init && !readsInit(linalgOp, &operand)) ||
            !isRead(linalgOp, &operand) || isInternal(operand.get()) ||
            isFolded(linalgOp, &operand))
          continue;
        addInput(operand.get(), member,
                 linalgOp.getMatchingIndexingMap(&operand));
      }
    }
    for (const GroupMember &member : group.members)
      for (OpResult result : member.op->getResults())
        if (llvm::is_contained(outputs, Value(result))) {
          linalg::LinalgOp linalgOp = member.op;
          ArrayWindow window = bufferOf(result);
          outputTensors.push_back(result);
          outputMaps.push_back(arrayMap(
              member, linalgOp.getIndexingMapMatchingResult(result), window));
          outputBuffers.push_back(window.memref);
          outputAdvances.push_back(window.advance);
        }
  }

  MemRefType tileType(Type element, unsigned tileRank) {
    return MemRefType::get(SmallVector<int64_t>(tileRank, ShapedType::kDynamic),
                           element, MemRefLayoutAttrInterface{},
                           tile::MemoryAttr::get(context, tile::Level::L1));
  }

  void createGroup() {
    SmallVector<AffineMap> maps(inputMaps);
    llvm::append_range(maps, outputMaps);
    SmallVector<int64_t> order, sizes(group.sizes);
    for (int64_t dim = 0; dim < (int64_t)rank; ++dim)
      if (!llvm::is_contained(group.reductions, dim))
        order.push_back(dim);
    llvm::append_range(order, group.reductions);
    std::string name;
    for (const GroupMember &member : group.members) {
      std::string part = operatorName(member.op);
      if (name.empty())
        name = part;
      else if (!StringRef(name).contains(part))
        name += " + " + part;
    }
    SmallVector<Location> locations;
    for (const GroupMember &member : group.members)
      locations.push_back(member.op->getLoc());
    op = tile::GroupOp::create(
        builder, builder.getFusedLoc(locations), name, sizes, sizes, order,
        group.reductions, inputBuffers, outputBuffers,
        builder.getAffineMapArrayAttr(maps), ArrayRef<int64_t>{0, 0, 0, 0});
    SmallVector<int64_t> advances(inputAdvances);
    llvm::append_range(advances, outputAdvances);
    if (llvm::any_of(advances, [](int64_t advance) { return advance != 0; }))
      op->setAttr(tile::advanceAttrName,
                  builder.getDenseI64ArrayAttr(advances));
    Block *block = builder.createBlock(&op.getBody());
    for (auto [tensor, map] : llvm::zip(inputTensors, inputMaps))
      inputTiles.push_back(
          {addArgument(block, tensor, map), tile::layoutOf(map)});
    for (auto [tensor, map] : llvm::zip(outputTensors, outputMaps))
      outputTiles.push_back(
          {addArgument(block, tensor, map), tile::layoutOf(map)});
    builder.setInsertionPointAfter(op);
  }

  Value addArgument(Block *block, Value tensor, AffineMap map) {
    Type element = cast<ShapedType>(tensor.getType()).getElementType();
    return block->addArgument(tileType(element, map.getNumResults()),
                              tensor.getLoc());
  }

  bool isUpdateInPlace(unsigned output) {
    return llvm::is_contained(inputBuffers, outputBuffers[output]);
  }

  Tile addScratch(Type element, AffineMap map, ArrayRef<int64_t> shape = {}) {
    OpBuilder inner = scratchBuilder();
    MemRefType type = tileType(element, map.getNumResults());
    if (!shape.empty())
      type = MemRefType::Builder(type).setShape(shape);
    auto scratch = tile::ScratchOp::create(inner, op.getLoc(), type, map);
    return {scratch.getMemref(), map};
  }

  /// A tile that is there for its sizes, those of dimensions of the group.
  /// Kernels know them if they are few, as in a window, and never tiled.
  Tile addSizes(ArrayRef<unsigned> dims, Type element) {
    SmallVector<AffineExpr> results;
    SmallVector<int64_t> shape;
    for (unsigned dim : dims) {
      bool isSmall = group.sizes[dim] <= KernelPlan::fewTaps;
      if (isSmall)
        whole.insert(dim);
      shape.push_back(isSmall ? group.sizes[dim] : ShapedType::kDynamic);
      results.push_back(getAffineDimExpr(dim, context));
    }
    return addScratch(element, AffineMap::get(rank, 0, results, context),
                      shape);
  }

  OpBuilder scratchBuilder() {
    OpBuilder inner(context);
    Block &block = op.getBody().front();
    Operation *last = nullptr;
    for (Operation &inside : block)
      if (isa<tile::ScratchOp>(inside))
        last = &inside;
    last ? inner.setInsertionPointAfter(last)
         : inner.setInsertionPointToStart(&block);
    return inner;
  }

  /// Gives every result of a member a tile. A result that dies where another of
  /// the same layout is made shares its tile, so that a chain of element-wise
  /// ops works in place.
  void placeResults() {
    for (auto [index, tensor] : llvm::enumerate(outputTensors))
      tiles[tensor] = outputTiles[index];
    DenseSet<Value>
        hosts; // results whose tile already takes over from an operand
    for (auto [index, tensor] : llvm::enumerate(outputTensors))
      if (isUpdateInPlace(index))
        hosts.insert(tensor);
    for (const GroupMember &member : llvm::reverse(group.members)) {
      linalg::LinalgOp linalgOp = member.op;
      bool accelerated = isAnchor(member) && implementationOf(member).redmule;
      for (OpResult result : linalgOp->getResults()) {
        AffineMap map = tile::layoutOf(
            groupMap(member, linalgOp.getIndexingMapMatchingResult(result)));
        Type element = cast<ShapedType>(result.getType()).getElementType();
        if (const Job &job = jobs[isSecond(member)];
            accelerated && !isMatrix(map, job.m, job.k, job)) {
          // RedMulE makes the transposed tile; what is stored, or pooled, is
          // moved from it.
          finalTiles[result] = tiles.lookup(result);
          if (group.pooling && result == group.pooling->source)
            finalTiles[result] = addScratch(element, map);
          tiles[result] =
              addScratch(element, matrixMap(job.m, job.k, map, job));
          continue;
        }
        if (tiles.count(result))
          continue;
        if (Value host = findHost(result, map, element);
            host && hosts.insert(host).second)
          tiles[result] = tiles[host];
        else
          tiles[result] = addScratch(element, map);
      }
    }
  }

  /// A result made by the last member that reads `value`, with the same layout.
  Value findHost(Value value, AffineMap map, Type element) {
    const GroupMember *last = nullptr;
    for (const GroupMember &member : group.members)
      if (llvm::is_contained(member.op->getOperands(), value))
        last = &member;
    if (!last)
      return {};
    linalg::LinalgOp linalgOp = last->op;
    // A sum starts before what it reads is read.
    if (linalgOp.getNumReductionLoops() != 0)
      return {};
    for (OpResult result : linalgOp->getResults())
      // What starts from a value of its own overwrites its tile first.
      if (tiles.count(result) && tiles[result].map == map &&
          !readsInit(linalgOp,
                     linalgOp.getDpsInitOperand(result.getResultNumber())) &&
          cast<ShapedType>(result.getType()).getElementType() == element &&
          groupMap(*last, linalgOp.getIndexingMapMatchingResult(result)) == map)
        return result;
    return {};
  }

  Tile tileOf(Value tensor, const GroupMember &member, AffineMap map) {
    if (tiles.count(tensor))
      return tiles[tensor];
    ArrayWindow window = bufferOf(tensor);
    AffineMap full = arrayMap(member, map, window);
    for (auto [known, knownMap, advance, tile] :
         llvm::zip(inputBuffers, inputMaps, inputAdvances, inputTiles))
      if (known == window.memref && knownMap == full &&
          advance == window.advance)
        return tile;
    llvm_unreachable(
        "an operand of a member is an operand or a result of its group");
  }

  Block *addStage(tile::Phase phase, tile::Engine engine, Location location) {
    auto stage = tile::StageOp::create(builder, location, phase, engine);
    return &stage.getBody().emplaceBlock();
  }

  static Type elementOf(Tile tile) {
    return cast<MemRefType>(tile.memref.getType()).getElementType();
  }

  /// `to` gets the elements of `from` on the cores, in the layout of `to` and
  /// rounded to its type.
  void emitMove(tile::Phase phase, Tile from, Tile to, Location location) {
    OpBuilder inside =
        OpBuilder::atBlockEnd(addStage(phase, tile::Engine::Cores, location));
    SmallVector<AffineSum> target = withoutNests(to.map),
                           source = withoutNests(from.map);
    // A transposition has a name.
    SmallVector<int64_t> permutation;
    for (const AffineSum &sum : target)
      for (auto [j, other] : llvm::enumerate(source))
        if (sum.terms.size() == 1 && other.terms.size() == 1 &&
            sum.terms[0].dim == other.terms[0].dim)
          permutation.push_back(j);
    if (permutation.size() == source.size() &&
        permutation.size() == target.size() &&
        elementOf(from) == elementOf(to)) {
      linalg::TransposeOp::create(inside, location, from.memref, to.memref,
                                  permutation);
      return;
    }
    // Loops are the dimensions of the target. Others have tiles of 1.
    SmallVector<int64_t> loopOf(rank, -1);
    unsigned loops = 0;
    for (AffineSum &sum : target)
      for (AffineSum::Term &term : sum.terms) {
        loopOf[term.dim] = loops;
        term.dim = loops++;
      }
    for (AffineSum &sum : source) {
      llvm::erase_if(sum.terms, [&](AffineSum::Term term) {
        return loopOf[term.dim] < 0;
      });
      for (AffineSum::Term &term : sum.terms)
        term.dim = loopOf[term.dim];
      if (sum.terms.size() == 1)
        sum.terms.front().coefficient = 1;
    }
    SmallVector<AffineMap> maps{tile::mapOf(source, loops, context),
                                tile::mapOf(target, loops, context)};
    SmallVector<utils::IteratorType> iterators(loops,
                                               utils::IteratorType::parallel);
    linalg::GenericOp::create(
        inside, location, from.memref, to.memref, maps, iterators,
        [&](OpBuilder &b, Location l, ValueRange values) {
          Value value = values[0];
          if (value.getType() != elementOf(to))
            value = arith::TruncFOp::create(b, l, elementOf(to), value);
          linalg::YieldOp::create(b, l, value);
        });
  }

  void emitInit(const GroupMember &member) {
    linalg::LinalgOp linalgOp = member.op;
    for (auto [index, init] : llvm::enumerate(linalgOp.getDpsInitsMutable())) {
      if (!readsInit(linalgOp, &init))
        continue;
      Tile to = tiles[linalgOp->getResult(index)];
      if (TypedAttr constant = splatOf(init.get())) {
        OpBuilder inside = OpBuilder::atBlockEnd(addStage(
            tile::Phase::Init, tile::Engine::Cores, linalgOp.getLoc()));
        Value scalar =
            arith::ConstantOp::create(inside, linalgOp.getLoc(), constant);
        linalg::FillOp::create(inside, linalgOp.getLoc(), scalar, to.memref);
      } else {
        emitMove(
            tile::Phase::Init,
            tileOf(init.get(), member, linalgOp.getMatchingIndexingMap(&init)),
            to, linalgOp.getLoc());
      }
    }
  }

  void emitAnchor(const GroupMember &member) {
    emitInit(member);
    if (implementationOf(member).redmule)
      emitOnRedMulE(member);
    else
      emitOnCores(member, tile::Phase::Main);
  }

  void emitBehind(const GroupMember &member, tile::Phase phase) {
    emitInit(member);
    emitOnCores(member, phase);
  }

  /// When the anchor's sum is complete.
  tile::Phase behindPhase() const {
    return group.reductions.empty() ? tile::Phase::Main : tile::Phase::Finish;
  }

  /// The same for rows. Some may add up over the tiles, but only where the
  /// anchor's sum is complete in each.
  tile::Phase rowPhase() const {
    bool complete =
        llvm::all_of(group.parts.front().reductions, [&](int64_t dim) {
          return llvm::is_contained(group.whole, dim);
        });
    return complete ? tile::Phase::Main : tile::Phase::Finish;
  }

  /// The member itself, on the tiles of its operands.
  void emitOnCores(const GroupMember &member, tile::Phase phase) {
    linalg::LinalgOp source = member.op;
    Location location = source.getLoc();
    SmallVector<Value> ins, outs;
    SmallVector<AffineMap> maps;
    SmallVector<TypedAttr>
        constants; // per operand of the source: the splat that replaces it
    OpBuilder inside(context);
    // A wider operand of a product is rounded ahead of it, once an element.
    bool product =
        accumulatesProducts(source) &&
        llvm::none_of(source.getDpsInputOperands(), [&](OpOperand *operand) {
          return isFolded(source, operand);
        });
    Type productElement = getElementTypeOrSelf(source->getResult(0).getType());
    bool isWider = false;
    for (OpOperand *operand : source.getDpsInputOperands()) {
      Type element = getElementTypeOrSelf(operand->get().getType());
      isWider |= product && element != productElement;
      constants.push_back(constantFor(source, operand));
      if (constants.back())
        continue;
      Tile operandTile = tileOf(operand->get(), member,
                                source.getMatchingIndexingMap(operand));
      if (product && elementOf(operandTile) != productElement) {
        Tile narrow = addScratch(productElement, operandTile.map);
        emitMove(tile::Phase::Prepare, operandTile, narrow, location);
        operandTile = narrow;
      }
      ins.push_back(operandTile.memref);
      maps.push_back(memberMap(member, operandTile.map));
    }
    unsigned inputs = ins.size();
    for (OpResult result : source->getResults()) {
      outs.push_back(tiles[result].memref);
      maps.push_back(memberMap(member, tiles[result].map));
    }
    if (SmallVector<unsigned> loops =
            loopsWithoutTile(source.getNumLoops(), maps);
        !loops.empty()) {
      Tile sizes = addSizes(
          llvm::to_vector(llvm::map_range(
              loops, [&](unsigned loop) { return member.dims[loop]; })),
          getElementTypeOrSelf(source->getResult(0).getType()));
      ins.push_back(sizes.memref);
      maps.insert(maps.begin() + inputs, memberMap(member, sizes.map));
    }
    inside.setInsertionPointToEnd(
        addStage(phase, tile::Engine::Cores, location));
    if (isa<linalg::MatmulOp>(source.getOperation())) {
      linalg::MatmulOp::create(
          inside, location, ValueRange(ins), ValueRange(outs),
          NamedAttribute(inside.getStringAttr("indexing_maps"),
                         inside.getAffineMapArrayAttr(maps)));
      return;
    }
    if (isWider) {
      emitProduct(inside, location, ins, outs[0], maps,
                  source.getIteratorTypesArray());
      return;
    }
    auto generic = cast<linalg::GenericOp>(source.getOperation());
    auto copy = linalg::GenericOp::create(inside, location, ins, outs, maps,
                                          source.getIteratorTypesArray());
    clonePayload(generic, copy, constants, ins.size() - inputs);
  }

  /// The pooling, of whole lines, those from the tile before ahead of them.
  void emitPooling(const GroupMember &member) {
    const Pooling &pooling = *group.pooling;
    Location location = linalg::LinalgOp(member.op).getLoc();
    Tile made = finalTiles.lookup(pooling.source);
    if (!made.memref)
      made = tiles[pooling.source];
    Value reduced = made.memref;
    if (pooling.kept) {
      OpBuilder inner = scratchBuilder();
      Type type = made.memref.getType();
      auto lines =
          tile::LinesOp::create(inner, location, type, type, type, made.memref,
                                pooling.kept, int64_t(pooling.dim));
      reduced = lines.getWhole();
      OpBuilder inside = OpBuilder::atBlockEnd(
          addStage(tile::Phase::First, tile::Engine::Cores, location));
      Value padding =
          arith::ConstantOp::create(inside, location, pooling.padding);
      linalg::FillOp::create(inside, location, padding, lines.getHead());
      emitMove(tile::Phase::Next, Tile{lines.getBefore(), made.map},
               Tile{lines.getHead(), made.map}, location);
    }
    emitInit(member);
    if (pooling.parts.empty())
      emitWindows(member, reduced, nullptr);
    for (const Pooling::Part &part : pooling.parts)
      emitWindows(member, reduced, &part);
  }

  /// Windows that have the same taps: a part, or all.
  void emitWindows(const GroupMember &member, Value reduced,
                   const Pooling::Part *part) {
    const Pooling &pooling = *group.pooling;
    linalg::LinalgOp pooled = member.op;
    auto source = cast<linalg::GenericOp>(pooled.getOperation());
    Location location = source.getLoc();
    SmallVector<Value> ins{reduced}, outs;
    SmallVector<TypedAttr> constants; // per input: what is no tile
    AffineMap window;
    for (OpOperand *operand : source.getDpsInputOperands()) {
      constants.push_back(constantFor(source, operand));
      if (!constants.back()) // what is pooled is all that it reads
        window = source.getMatchingIndexingMap(operand);
    }
    unsigned loops = source.getNumLoops();
    // A sum over results of the part, from its first on, moved by so much.
    auto moved = [&](AffineMap map, int64_t by) {
      SmallVector<AffineSum> sums = tile::sumsOf(map);
      for (AffineSum &sum : sums)
        for (AffineSum::Term term : sum.terms)
          if (part && term.dim == pooling.resultLoop)
            sum.constant += term.coefficient * part->firstResult + by;
      return tile::mapOf(sums, loops, context);
    };
    SmallVector<AffineMap> maps{
        moved(window, part ? part->firstTap - pooling.ahead : 0)};
    // The loops of which no tile tells the sizes: those of the windows, and of
    // what a part has of them.
    SmallVector<unsigned> taps;
    source.getReductionDims(taps);
    auto giveSizes = [&](ArrayRef<unsigned> sized) {
      SmallVector<unsigned> dims;
      SmallVector<AffineExpr> walked;
      for (unsigned loop : sized) {
        dims.push_back(!part                        ? member.dims[loop]
                       : loop == pooling.tapLoop    ? part->taps
                       : loop == pooling.resultLoop ? part->results
                                                    : member.dims[loop]);
        walked.push_back(getAffineDimExpr(loop, context));
      }
      Tile sizes =
          addSizes(dims, getElementTypeOrSelf(source->getResult(0).getType()));
      ins.push_back(sizes.memref);
      maps.push_back(AffineMap::get(loops, 0, walked, context));
    };
    giveSizes(taps);
    if (part && part->results != member.dims[pooling.resultLoop])
      giveSizes(pooling.resultLoop);
    for (OpResult result : source->getResults()) {
      outs.push_back(tiles[result].memref);
      maps.push_back(moved(memberMap(member, tiles[result].map), 0));
    }
    OpBuilder inside = OpBuilder::atBlockEnd(
        addStage(tile::Phase::Finish, tile::Engine::Cores, location));
    auto copy = linalg::GenericOp::create(inside, location, ins, outs, maps,
                                          source.getIteratorTypesArray());
    clonePayload(source, copy, constants, ins.size() - 1);
    startIndices(copy, [&](OpBuilder &b, unsigned loop) -> Value {
      int64_t start = !part                        ? 0
                      : loop == pooling.resultLoop ? part->firstResult
                      : loop == pooling.tapLoop    ? part->firstTap
                                                   : 0;
      return start ? arith::ConstantIndexOp::create(b, location, start)
                   : Value();
    });
  }

  /// `result` += product of both `inputs`, all of one type.
  static void emitProduct(OpBuilder &inside, Location location,
                          ValueRange inputs, Value result,
                          ArrayRef<AffineMap> maps,
                          ArrayRef<utils::IteratorType> iterators) {
    linalg::GenericOp::create(
        inside, location, inputs, ValueRange{result}, maps, iterators,
        [](OpBuilder &b, Location l, ValueRange v) {
          Value product = arith::MulFOp::create(b, l, v[0], v[1]);
          linalg::YieldOp::create(
              b, l, arith::AddFOp::create(b, l, v[2], product).getResult());
        });
  }

  /// Clones the region with every value from outside, all constants, inside it.
  /// `unread` inputs follow those of `from`.
  void clonePayload(linalg::GenericOp from, linalg::GenericOp to,
                    ArrayRef<TypedAttr> constants, unsigned unread) {
    Block &source = from.getRegion().front();
    OpBuilder inside(context);
    Block *block = inside.createBlock(&to.getRegion());
    IRMapping mapping;
    for (auto [index, argument] : llvm::enumerate(source.getArguments())) {
      if (index == constants.size())
        for (unsigned i = 0; i < unread; ++i)
          block->addArgument(getElementTypeOrSelf(from->getResult(0).getType()),
                             argument.getLoc());
      if (index < constants.size() && argument.use_empty() && constants[index])
        continue;
      if (index < constants.size() && constants[index])
        mapping.map(argument, arith::ConstantOp::create(
                                  inside, argument.getLoc(), constants[index]));
      else
        mapping.map(argument,
                    block->addArgument(argument.getType(), argument.getLoc()));
    }
    from.getRegion().walk([&](Operation *nested) {
      for (Value operand : nested->getOperands())
        if (operand.getParentRegion() != &from.getRegion() &&
            !mapping.contains(operand))
          mapping.map(operand,
                      inside.clone(*operand.getDefiningOp())->getResult(0));
    });
    for (Operation &nested : source)
      inside.clone(nested, mapping);
  }

  /// A map's sums of the dimensions with tiles of more than one element.
  SmallVector<AffineSum> walkedSums(AffineMap map, const Job &job) {
    SmallVector<AffineSum> sums = tile::sumsOf(map);
    for (AffineSum &sum : sums)
      llvm::erase_if(sum.terms, [&](AffineSum::Term term) {
        return job.unit.contains(term.dim);
      });
    return sums;
  }

  /// The dimensions of the group in the order in which a map walks them, one
  /// of size 1 or with tiles of 1 left out. Of several in a sum the one with
  /// the longest steps is the outermost, whatever its number.
  SmallVector<unsigned> walkOf(AffineMap map, const Job &job) {
    SmallVector<unsigned> dims;
    for (const AffineSum &sum : walkedSums(map, job))
      for (AffineSum::Term term : tile::outermostFirst(sum))
        dims.push_back(term.dim);
    return dims;
  }

  /// How RedMulE computes a member: its matrices follow the result's layout
  /// and, for what is summed over, that of an operand without windows.
  Job findJob(const GroupMember &member) {
    linalg::LinalgOp source = member.op;
    Contraction loops = *Contraction::match(source);
    Implementation implementation = implementationOf(member);
    Job job;
    for (auto [dim, size] : llvm::enumerate(group.sizes))
      if (size == 1)
        job.unit.insert(dim);
    for (unsigned loop : loops.batch)
      job.unit.insert(member.dims[loop]);
    SmallVector<AffineMap> maps = source.getIndexingMapsArray();
    bool hasWindows[2] = {};
    for (unsigned i : {0, 1})
      for (const AffineSum &sum : tile::sumsOf(maps[i])) {
        // Of the loops that walk a window the longest is the one that stays:
        // the taps of a filter come one by one.
        unsigned longest = 0;
        for (auto [index, term] : llvm::enumerate(sum.terms))
          if (stepsOf(member, term.dim) >
              stepsOf(member, sum.terms[longest].dim))
            longest = index;
        if (sum.terms.size() < 2)
          continue;
        hasWindows[i] = true;
        for (auto [index, term] : llvm::enumerate(sum.terms))
          if (index != longest && !implementation.gathered)
            job.unit.insert_range(dimsOf(member, term.dim));
      }
    auto add = [&](SmallVector<unsigned> &to, ArrayRef<unsigned> which,
                   AffineMap order) {
      for (unsigned dim : walkOf(groupMap(member, order), job))
        for (unsigned loop : which)
          if (llvm::is_contained(dimsOf(member, loop), dim))
            to.push_back(dim);
    };
    add(job.m, loops.rows, maps[2]);
    add(job.k, loops.columns, maps[2]);
    add(job.n, loops.summed, maps[hasWindows[0] ? 1 : 0]);
    if (implementation.transposed)
      std::swap(job.m, job.k);
    return job;
  }

  /// A scratch tile's map with these dimensions, outermost first, behind those
  /// with tiles of 1 that walk the operand or result that it stands for: it is
  /// another tile when these move on.
  AffineMap matrixMap(ArrayRef<unsigned> rows, ArrayRef<unsigned> columns,
                      AffineMap stands, const Job &job) {
    SmallVector<AffineExpr> results;
    for (int64_t dim : job.unit)
      if (group.sizes[dim] > 1 && stands.isFunctionOfDim(dim))
        results.push_back(getAffineDimExpr(dim, context));
    const std::optional<Pooling> &pooling = group.pooling;
    for (unsigned dim : llvm::concat<const unsigned>(rows, columns)) {
      AffineExpr result = getAffineDimExpr(dim, context);
      if (pooling && pooling->lineInWindow) {
        if (dim == pooling->dim)
          continue; // comes with the lines
        if (dim == *pooling->lineInWindow)
          result = getAffineDimExpr(pooling->dim, context) * pooling->stride +
                   result;
      }
      results.push_back(result);
    }
    return AffineMap::get(rank, 0, results, context);
  }

  /// Whether a packed tile is the row-major matrix of these dimensions.
  bool isMatrix(AffineMap map, ArrayRef<unsigned> rows,
                ArrayRef<unsigned> columns, const Job &job) {
    SmallVector<unsigned> dims(rows);
    llvm::append_range(dims, columns);
    for (const AffineSum &sum : walkedSums(map, job))
      if (!sum.terms.empty() && !tile::isNest(sum, group.sizes, group.sizes))
        return false;
    return walkOf(map, job) == dims;
  }

  void emitOnRedMulE(const GroupMember &member) {
    linalg::LinalgOp source = member.op;
    Location location = source.getLoc();
    bool swapped = implementationOf(member).transposed;
    const Job &job = jobs[isSecond(member)];
    Tile x = rowMajor(member, swapped ? 1 : 0, job.m, job.n, job);
    Tile w = rowMajor(member, swapped ? 0 : 1, job.n, job.k, job);
    Tile z = tiles[source->getResult(0)];
    OpBuilder inside = OpBuilder::atBlockEnd(
        addStage(tile::Phase::Main, tile::Engine::RedMulE, location));
    SmallVector<AffineMap> maps;
    for (const Tile &tile : {x, w, z})
      maps.push_back(memberMap(member, tile.map));
    auto isPlain = [&](AffineMap map, ArrayRef<unsigned> rows,
                       ArrayRef<unsigned> columns) {
      return rows.size() == 1 && columns.size() == 1 &&
             map == AffineMap::getMultiDimMapWithTargets(
                        rank, {rows[0], columns[0]}, context);
    };
    if (source.getNumLoops() == 3 && isPlain(x.map, job.m, job.n) &&
        isPlain(w.map, job.n, job.k) && isPlain(z.map, job.m, job.k)) {
      linalg::MatmulOp::create(inside, location, ValueRange{x.memref, w.memref},
                               ValueRange{z.memref});
    } else {
      // A loop that no tile walks has tiles of 1, and one of a single run that
      // no tile walks alone (the only column of an image) has nothing to add.
      SmallVector<bool> walked(source.getNumLoops(), false);
      for (AffineMap map : maps)
        for (unsigned loop = 0; loop < walked.size(); ++loop)
          if (map.isFunctionOfDim(loop))
            walked[loop] = true;
      for (unsigned loop : loopsWithoutTile(source.getNumLoops(), maps))
        if (stepsOf(member, loop) == 1)
          walked[loop] = false;
      SmallVector<AffineExpr> loops;
      SmallVector<utils::IteratorType> iterators;
      for (auto [loop, isWalked] : llvm::enumerate(walked)) {
        loops.push_back(isWalked ? getAffineDimExpr(iterators.size(), context)
                                 : getAffineConstantExpr(0, context));
        if (isWalked)
          iterators.push_back(source.getIteratorTypesArray()[loop]);
      }
      for (AffineMap &map : maps)
        map = map.replaceDimsAndSymbols(loops, {}, iterators.size(), 0);
      emitProduct(inside, location, ValueRange{x.memref, w.memref}, z.memref,
                  maps, iterators);
    }
    if (Tile stored = finalTiles.lookup(source->getResult(0)); stored.memref)
      emitMove(tile::Phase::Finish, z, stored, location);
  }

  /// The operand as a matrix: as it is, or laid out by the cores.
  Tile rowMajor(const GroupMember &member, unsigned operand,
                ArrayRef<unsigned> rows, ArrayRef<unsigned> columns,
                const Job &job) {
    linalg::LinalgOp source = member.op;
    OpOperand *input = source.getDpsInputOperand(operand);
    Tile loaded =
        tileOf(input->get(), member, source.getMatchingIndexingMap(input));
    Type element = getElementTypeOrSelf(source->getResult(0).getType());
    if (isMatrix(loaded.map, rows, columns, job) &&
        elementOf(loaded) == element) {
      // Only whole runs of what lies within are one behind the other.
      for (const AffineSum &sum : walkedSums(loaded.map, job))
        for (AffineSum::Term term :
             ArrayRef(tile::outermostFirst(sum)).drop_front(!sum.terms.empty()))
          whole.insert(term.dim);
      return loaded;
    }
    Tile matrix =
        addScratch(element, matrixMap(rows, columns, loaded.map, job));
    emitMove(tile::Phase::Prepare, loaded, matrix, source.getLoc());
    return matrix;
  }

  OpBuilder &builder;
  const OperatorGroup &group;
  ArrayRef<Implementation> implementations; // per chain
  ArrayRef<Value> outputs;
  BufferOf bufferOf;
  unsigned rank;
  MLIRContext *context;

  SmallVector<Value> inputTensors, inputBuffers, outputTensors, outputBuffers;
  SmallVector<AffineMap> inputMaps, outputMaps;
  SmallVector<int64_t> inputAdvances, outputAdvances;
  SmallVector<Tile> inputTiles, outputTiles;
  DenseMap<Value, Tile> tiles;            // of the members' results
  DenseMap<Value, Tile> finalTiles;       // where a transposed result is stored
  llvm::SmallSetVector<int64_t, 4> whole; // dimensions that must not be tiled
  Job jobs[2];                            // per chain
  tile::GroupOp op;
};

} // namespace

SmallVector<SmallVector<Implementation>>
possibleImplementations(const OperatorGroup &group,
                        llvm::function_ref<bool(Type)> acceleratorReads) {
  auto ofChain = [&](const GroupMember &anchor) {
    SmallVector<Implementation> result{Implementation()};
    linalg::LinalgOp op = anchor.op;
    // The cores round an operand that is wider than the result.
    bool readable =
        acceleratorReads(getElementTypeOrSelf(op->getResult(0).getType()));
    if (!readable || group.rowwise || !isContraction(op) ||
        !Contraction::match(op))
      return result;
    bool hasWindows = false;
    for (AffineMap map : op.getIndexingMapsArray())
      for (const tile::AffineSum &sum : tile::sumsOf(map))
        hasWindows |=
            llvm::count_if(sum.terms, [&](tile::AffineSum::Term term) {
              return op.getStaticLoopRanges()[term.dim] > 1;
            }) > 1;
    for (bool transposed : {false, true})
      for (bool gathered : {false, true})
        if (hasWindows || !gathered)
          result.push_back({true, transposed, gathered});
    return result;
  };
  SmallVector<SmallVector<Implementation>> result;
  for (Implementation first : ofChain(group.members.front())) {
    if (!group.secondChain) {
      result.push_back({first});
      continue;
    }
    for (Implementation second : ofChain(group.members[group.secondChain]))
      result.push_back({first, second});
  }
  return result;
}

BuiltGroup buildGroup(OpBuilder &builder, const OperatorGroup &group,
                      ArrayRef<Implementation> implementations,
                      ArrayRef<Value> outputs, BufferOf bufferOf) {
  return GroupBuilder(builder, group, implementations, outputs, bufferOf)
      .build();
}

} // namespace td
