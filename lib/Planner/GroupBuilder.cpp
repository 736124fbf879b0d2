#include "lib/Planner/GroupBuilder.h"

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

/// The loops of a plain contraction C[m,k] += A[m,n] B[n,k], in any layout.
struct Contraction {
  unsigned m, n, k;
  static std::optional<Contraction> match(linalg::LinalgOp op) {
    if (!isa<linalg::MatmulOp>(op.getOperation()) || op.getNumLoops() != 3)
      return std::nullopt;
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    for (AffineMap map : maps)
      if (map.getNumResults() != 2)
        return std::nullopt;
    auto has = [&](unsigned operand, unsigned dim) {
      return maps[operand].isFunctionOfDim(dim);
    };
    Contraction result{3, 3, 3};
    for (unsigned dim = 0; dim < 3; ++dim) {
      if (has(0, dim) && has(2, dim) && !has(1, dim))
        result.m = dim;
      else if (has(0, dim) && has(1, dim) && !has(2, dim))
        result.n = dim;
      else if (has(1, dim) && has(2, dim) && !has(0, dim))
        result.k = dim;
    }
    if (result.m == 3 || result.n == 3 || result.k == 3)
      return std::nullopt;
    return result;
  }
};

class GroupBuilder {
public:
  GroupBuilder(OpBuilder &builder, const OperatorGroup &group,
               ArrayRef<Implementation> implementations,
               ArrayRef<Value> outputs, BufferOf bufferOf)
      : builder(builder), group(group), implementations(implementations),
        outputs(outputs), bufferOf(bufferOf), rank(group.sizes.size()),
        context(builder.getContext()) {}

  tile::GroupOp build() {
    collectOperands();
    createGroup();
    placeResults();
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToEnd(&op.getBody().front());
    for (const GroupMember &member : group.members)
      isAnchor(member) ? emitAnchor(member) : emitElementwise(member);
    return op;
  }

private:
  /// A tile: a block argument or a scratch, and the projection that indexes it.
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
  Implementation implementationOf(const GroupMember &member) const {
    return implementations[isSecond(member)];
  }

  /// The projection of the group's domain by which a member indexes an operand.
  AffineMap groupMap(const GroupMember &member, AffineMap map) {
    SmallVector<AffineExpr> results;
    for (unsigned i = 0; i < map.getNumResults(); ++i)
      results.push_back(
          getAffineDimExpr(member.dims[map.getDimPosition(i)], context));
    return AffineMap::get(rank, 0, results, context);
  }

  /// The same tile seen from the loops of a member.
  AffineMap memberMap(const GroupMember &member, AffineMap map) {
    SmallVector<AffineExpr> results;
    for (unsigned i = 0; i < map.getNumResults(); ++i) {
      auto place = llvm::find(member.dims, map.getDimPosition(i));
      results.push_back(getAffineDimExpr(place - member.dims.begin(), context));
    }
    return AffineMap::get(member.dims.size(), 0, results, context);
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

  bool isInternal(Value value) {
    Operation *producer = value.getDefiningOp();
    return producer && group.contains(producer);
  }

  /// Two tensors may be one array in memory (two reads of a parameter): an
  /// operand is a buffer and how it is indexed.
  void addInput(Value tensor, AffineMap map) {
    Value buffer = bufferOf(tensor);
    for (auto [known, knownMap] : llvm::zip(inputBuffers, inputMaps))
      if (known == buffer && knownMap == map)
        return;
    inputTensors.push_back(tensor);
    inputMaps.push_back(map);
    inputBuffers.push_back(buffer);
  }

  void collectOperands() {
    for (const GroupMember &member : group.members) {
      linalg::LinalgOp linalgOp = member.op;
      for (OpOperand &operand : linalgOp->getOpOperands()) {
        bool init = linalgOp.isDpsInit(&operand);
        if ((init && !readsInit(linalgOp, &operand)) ||
            isInternal(operand.get()) || isFolded(linalgOp, &operand))
          continue;
        addInput(operand.get(),
                 groupMap(member, linalgOp.getMatchingIndexingMap(&operand)));
      }
    }
    for (const GroupMember &member : group.members)
      for (OpResult result : member.op->getResults())
        if (llvm::is_contained(outputs, Value(result))) {
          linalg::LinalgOp linalgOp = member.op;
          outputTensors.push_back(result);
          outputMaps.push_back(
              groupMap(member, linalgOp.getIndexingMapMatchingResult(result)));
          outputBuffers.push_back(bufferOf(result));
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
    Block *block = builder.createBlock(&op.getBody());
    for (auto [tensor, map] : llvm::zip(inputTensors, inputMaps))
      inputTiles.push_back({addArgument(block, tensor, map), map});
    for (auto [tensor, map] : llvm::zip(outputTensors, outputMaps))
      outputTiles.push_back({addArgument(block, tensor, map), map});
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

  Tile addScratch(Type element, AffineMap map) {
    OpBuilder inner = scratchBuilder();
    auto scratch = tile::ScratchOp::create(
        inner, op.getLoc(), tileType(element, map.getNumResults()), map);
    return {scratch.getMemref(), map};
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
      bool accelerated =
          isAnchor(member) && implementationOf(member) != Implementation::Cores;
      for (OpResult result : linalgOp->getResults()) {
        AffineMap map =
            groupMap(member, linalgOp.getIndexingMapMatchingResult(result));
        Type element = cast<ShapedType>(result.getType()).getElementType();
        if (accelerated && jobMaps(member)[2] != map) {
          // RedMulE makes the transposed tile; what is stored is moved from it.
          finalTiles[result] = tiles.lookup(result);
          tiles[result] = addScratch(element, jobMaps(member)[2]);
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
    for (OpResult result : linalgOp->getResults())
      if (tiles.count(result) && tiles[result].map == map &&
          cast<ShapedType>(result.getType()).getElementType() == element &&
          groupMap(*last, linalgOp.getIndexingMapMatchingResult(result)) == map)
        return result;
    return {};
  }

  Tile tileOf(Value tensor, AffineMap map) {
    if (tiles.count(tensor))
      return tiles[tensor];
    Value buffer = bufferOf(tensor);
    for (auto [known, tile] : llvm::zip(inputBuffers, inputTiles))
      if (known == buffer && tile.map == map)
        return tile;
    llvm_unreachable(
        "an operand of a member is an operand or a result of its group");
  }

  Block *addStage(tile::Phase phase, tile::Engine engine, Location location) {
    auto stage = tile::StageOp::create(builder, location, phase, engine);
    return &stage.getBody().emplaceBlock();
  }

  /// `to` gets the elements of `from` on the cores, in the layout of `to`.
  void emitMove(tile::Phase phase, Tile from, Tile to, Location location) {
    OpBuilder inside =
        OpBuilder::atBlockEnd(addStage(phase, tile::Engine::Cores, location));
    SmallVector<int64_t> permutation;
    for (unsigned i = 0; i < to.map.getNumResults(); ++i)
      for (unsigned j = 0; j < from.map.getNumResults(); ++j)
        if (from.map.getDimPosition(j) == to.map.getDimPosition(i))
          permutation.push_back(j);
    linalg::TransposeOp::create(inside, location, from.memref, to.memref,
                                permutation);
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
            tileOf(init.get(),
                   groupMap(member, linalgOp.getMatchingIndexingMap(&init))),
            to, linalgOp.getLoc());
      }
    }
  }

  void emitAnchor(const GroupMember &member) {
    emitInit(member);
    if (implementationOf(member) == Implementation::Cores)
      emitOnCores(member, tile::Phase::Main);
    else
      emitOnRedMulE(member);
  }

  void emitElementwise(const GroupMember &member) {
    emitInit(member);
    emitOnCores(member, group.reductions.empty() ? tile::Phase::Main
                                                 : tile::Phase::Finish);
  }

  /// The member itself, on the tiles of its operands.
  void emitOnCores(const GroupMember &member, tile::Phase phase) {
    linalg::LinalgOp source = member.op;
    Location location = source.getLoc();
    SmallVector<Value> ins, outs;
    SmallVector<AffineMap> maps;
    SmallVector<TypedAttr>
        constants; // per operand of the source: the splat that replaces it
    for (OpOperand *operand : source.getDpsInputOperands()) {
      AffineMap map = groupMap(member, source.getMatchingIndexingMap(operand));
      bool folded = isFolded(source, operand);
      constants.push_back(folded ? splatOf(operand->get()) : TypedAttr());
      if (folded)
        continue;
      Tile operandTile = tileOf(operand->get(), map);
      ins.push_back(operandTile.memref);
      maps.push_back(memberMap(member, operandTile.map));
    }
    for (OpResult result : source->getResults()) {
      outs.push_back(tiles[result].memref);
      maps.push_back(memberMap(member, tiles[result].map));
    }
    OpBuilder inside =
        OpBuilder::atBlockEnd(addStage(phase, tile::Engine::Cores, location));
    if (isa<linalg::MatmulOp>(source.getOperation())) {
      linalg::MatmulOp::create(
          inside, location, ValueRange(ins), ValueRange(outs),
          NamedAttribute(inside.getStringAttr("indexing_maps"),
                         inside.getAffineMapArrayAttr(maps)));
      return;
    }
    auto generic = cast<linalg::GenericOp>(source.getOperation());
    auto copy = linalg::GenericOp::create(inside, location, ins, outs, maps,
                                          source.getIteratorTypesArray());
    clonePayload(generic, copy, constants);
  }

  /// Clones the region with every value from outside, all constants, inside it.
  void clonePayload(linalg::GenericOp from, linalg::GenericOp to,
                    ArrayRef<TypedAttr> constants) {
    Block &source = from.getRegion().front();
    OpBuilder inside(context);
    Block *block = inside.createBlock(&to.getRegion());
    IRMapping mapping;
    for (auto [index, argument] : llvm::enumerate(source.getArguments())) {
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

  /// The layouts of X [M,N], W [N,K] and Z [M,K] that the job needs.
  SmallVector<AffineMap> jobMaps(const GroupMember &member) {
    Contraction loops = *Contraction::match(member.op);
    auto dim = [&](unsigned loop) {
      return getAffineDimExpr(member.dims[loop], context);
    };
    AffineExpr m = dim(loops.m), n = dim(loops.n), k = dim(loops.k);
    if (implementationOf(member) == Implementation::RedMulETransposed)
      std::swap(m, k);
    return {AffineMap::get(rank, 0, {m, n}, context),
            AffineMap::get(rank, 0, {n, k}, context),
            AffineMap::get(rank, 0, {m, k}, context)};
  }

  void emitOnRedMulE(const GroupMember &member) {
    linalg::LinalgOp source = member.op;
    Location location = source.getLoc();
    bool swapped =
        implementationOf(member) == Implementation::RedMulETransposed;
    SmallVector<AffineMap> maps = jobMaps(member);
    Tile x = rowMajor(member, swapped ? 1 : 0, maps[0]);
    Tile w = rowMajor(member, swapped ? 0 : 1, maps[1]);
    Tile z = tiles[source->getResult(0)];
    OpBuilder inside = OpBuilder::atBlockEnd(
        addStage(tile::Phase::Main, tile::Engine::RedMulE, location));
    linalg::MatmulOp::create(inside, location, ValueRange{x.memref, w.memref},
                             ValueRange{z.memref});
    if (Tile stored = finalTiles.lookup(source->getResult(0)); stored.memref)
      emitMove(tile::Phase::Finish, z, stored, location);
  }

  /// The operand in the layout `map`: as it is, or transposed by the cores.
  Tile rowMajor(const GroupMember &member, unsigned operand, AffineMap map) {
    linalg::LinalgOp source = member.op;
    OpOperand *input = source.getDpsInputOperand(operand);
    Tile loaded = tileOf(
        input->get(), groupMap(member, source.getMatchingIndexingMap(input)));
    if (loaded.map == map)
      return loaded;
    Tile transposed = addScratch(
        cast<ShapedType>(input->get().getType()).getElementType(), map);
    emitMove(tile::Phase::Prepare, loaded, transposed, source.getLoc());
    return transposed;
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
  SmallVector<Tile> inputTiles, outputTiles;
  DenseMap<Value, Tile> tiles;      // of the members' results
  DenseMap<Value, Tile> finalTiles; // where a transposed result is stored
  tile::GroupOp op;
};

} // namespace

SmallVector<SmallVector<Implementation>>
possibleImplementations(const OperatorGroup &group,
                        llvm::function_ref<bool(Type)> acceleratorReads) {
  auto ofChain = [&](const GroupMember &anchor) {
    SmallVector<Implementation> result{Implementation::Cores};
    bool readable = llvm::all_of(anchor.op->getOperands(), [&](Value operand) {
      return acceleratorReads(
          cast<ShapedType>(operand.getType()).getElementType());
    });
    if (readable && Contraction::match(anchor.op))
      llvm::append_values(result, Implementation::RedMulE,
                          Implementation::RedMulETransposed);
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

tile::GroupOp buildGroup(OpBuilder &builder, const OperatorGroup &group,
                         ArrayRef<Implementation> implementations,
                         ArrayRef<Value> outputs, BufferOf bufferOf) {
  return GroupBuilder(builder, group, implementations, outputs, bufferOf)
      .build();
}

} // namespace td
