// Turns the training step on tensors into a plan: buffers with a place, groups
// with an engine and a tiling.
#include "dialects/Tile/Loop.h"
#include "dialects/Train/Recurrence.h"
#include "dialects/Train/Structured.h"
#include "lib/Planner/ExpandGroups.h"
#include "lib/Planner/GroupBuilder.h"
#include "lib/Planner/JobScheduler.h"
#include "lib/Planner/Loops.h"
#include "lib/Planner/Placement.h"
#include "lib/Planner/Recompute.h"
#include "lib/Planner/TileSearch.h"
#include "lib/Planner/VerifyGroup.h"
#include "lib/Runtime/Layout.h"
#include "passes/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/FormatVariadic.h"

namespace td {
#define GEN_PASS_DEF_PLANSTEP
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td;

namespace {

/// Builds the program of one step.
class StepPlanner {
public:
  StepPlanner(func::FuncOp step, const Target &target, bool exhaustive,
              bool fuseAlways, bool estimates)
      : step(step), module(step->getParentOfType<ModuleOp>()), target(target),
        exhaustive(exhaustive), fuseAlways(fuseAlways), estimates(estimates),
        tables(tableBytes(module)), builder(step.getContext()) {}

  LogicalResult run() {
    if (failed(checkArrays()))
      return failure();
    materializeCopies();
    recomputeActivations(step, target, roomForTemporaries());
    roundParametersOnce();
    runs = openRecurrences(step);
    views = StepViews::prepare(step);
    closeLoops(step);
    KeptApart apart;
    while (true) {
      FailureOr<std::vector<OperatorGroup>> formed =
          formGroups(step, views, budget() / rowsInFlight, apart);
      if (failed(formed))
        return failure();
      groups = std::move(*formed);
      collectBuffers();
      if (failed(placeBuffers(target, groups.size(), step, planned)))
        return failure();
      homeless.clear();
      for (const PlannedBuffer *buffer :
           placeProvisional(target, groups.size(), planned))
        homeless.insert(buffer->root);
      emitBuffers();
      // What was found stays right as long as tiles have as much room.
      if (!search || searchBudget != budget()) {
        search.emplace(target, searchBudget = budget(), exhaustive);
        chosenPlaces.clear();
        partsAreCheaper.clear();
      }
      size_t before = apart.size();
      if (failed(planGroups(apart)))
        return failure();
      if (apart.size() == before)
        break;
      reset();
    }
    for (Value provisional : provisionals)
      eraseWithViews(provisional.getDefiningOp());
    encloseLoops();
    if (Attribute flop = step->getAttr("train.flop"))
      program->setAttr("tile.flop", flop);
    return success();
  }

  int64_t evaluated() const { return search ? search->evaluated : 0; }

private:
  static int64_t bytesOf(ShapedType type) {
    return type.getNumElements() *
           llvm::divideCeil(type.getElementTypeBitWidth(), 8);
  }

  /// Every array has elements, of numbers that lie in memory, and so many that
  /// their bytes can be counted.
  LogicalResult checkArrays() {
    constexpr int64_t most = int64_t(1) << 48;
    auto check = [&](Operation *op, Type type) -> LogicalResult {
      auto array = dyn_cast<RankedTensorType>(type);
      if (!array)
        return success();
      Type element = array.getElementType();
      int64_t bytes = element.isIntOrFloat()
                          ? llvm::divideCeil(element.getIntOrFloatBitWidth(), 8)
                          : 0;
      for (int64_t size : array.getShape())
        bytes = size < 1 || bytes > most / size ? 0 : bytes * size;
      if (bytes == 0)
        return op->emitError("the plan has no place for an array of type ")
               << array << ": it needs one element or more, and numbers";
      return success();
    };
    for (Type type : step.getArgumentTypes())
      if (failed(check(step, type)))
        return failure();
    WalkResult result = step.walk([&](Operation *op) -> WalkResult {
      for (Type type : op->getResultTypes())
        if (failed(check(op, type)))
          return WalkResult::interrupt();
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  /// An operator that copies `source`, rounded to `element` if that is
  /// narrower.
  Value copyOf(Value source, Type element, Location location) {
    auto type = cast<RankedTensorType>(source.getType()).clone(element);
    return train::elementwise(
        builder, location, type, source,
        [&](OpBuilder &b, Location l, ValueRange values) -> Value {
          if (values[0].getType() == element)
            return values[0];
          return arith::TruncFOp::create(b, l, element, values[0]);
        });
  }

  /// What is assigned or returned but not computed by an operator (a
  /// parameter's own value, an input) gets an operator that copies it.
  void materializeCopies() {
    auto needsCopy = [](Value value) {
      Operation *producer = viewSource(value).getDefiningOp();
      return !producer || !isa<linalg::LinalgOp>(producer) ||
             isa<linalg::FillOp>(producer);
    };
    auto copy = [&](Operation *user, OpOperand &operand) {
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPoint(user);
      operand.set(copyOf(operand.get(),
                         getElementTypeOrSelf(operand.get().getType()),
                         user->getLoc()));
    };
    DenseSet<Value> taken; // arrays that are a parameter or an output
    for (Operation &op : llvm::make_early_inc_range(step.getBody().front()))
      if (isa<train::AssignOp, func::ReturnOp>(op))
        for (OpOperand &operand : op.getOpOperands())
          if (needsCopy(operand.get()) ||
              !taken.insert(viewSource(operand.get())).second)
            copy(&op, operand);
  }

  /// A parameter that several products read rounded is rounded once if L2 has
  /// room for that beside all other arrays, as if they lived at the same time.
  void roundParametersOnce() {
    // Neither a parameter nor the tile of an operator and its only reader.
    auto isArray = [](OpResult result) {
      Operation *user = result.hasOneUse() ? *result.user_begin() : nullptr;
      auto generic = dyn_cast_if_present<linalg::GenericOp>(user);
      return !isa<linalg::FillOp>(result.getOwner()) &&
             !(generic && generic.getNumReductionLoops() == 0) &&
             llvm::none_of(result.getUsers(), [](Operation *user) {
               return isa<train::AssignOp>(user);
             });
    };
    int64_t room = roomForTemporaries();
    llvm::MapVector<std::pair<Value, Type>, SmallVector<OpOperand *>> reads;
    for (auto op : step.getOps<linalg::LinalgOp>()) {
      for (OpResult result : op->getResults())
        if (isArray(result))
          room -= bytesOf(cast<ShapedType>(result.getType()));
      if (!accumulatesProducts(op))
        continue;
      Type element = getElementTypeOrSelf(op->getResult(0).getType());
      for (OpOperand *input : op.getDpsInputOperands())
        if (getElementTypeOrSelf(input->get().getType()) != element)
          reads[{input->get(), element}].push_back(input);
    }
    for (auto &[read, operands] : reads) {
      auto type = cast<RankedTensorType>(read.first.getType());
      RankedTensorType narrow = type.clone(read.second);
      if (operands.size() < 2 || bytesOf(narrow) > room)
        continue;
      room -= bytesOf(narrow);
      Operation *first = operands.front()->getOwner();
      builder.setInsertionPoint(first);
      Value rounded = copyOf(read.first, read.second, first->getLoc());
      for (OpOperand *operand : operands) {
        operand->set(rounded);
        auto op = cast<linalg::LinalgOp>(operand->getOwner());
        BlockArgument argument = op.getMatchingBlockArgument(operand);
        argument.setType(read.second);
        for (Operation *user : llvm::make_early_inc_range(argument.getUsers()))
          if (auto rounding = dyn_cast<arith::TruncFOp>(user)) {
            rounding.getResult().replaceAllUsesWith(argument);
            rounding.erase();
          }
      }
    }
  }

  PlannedBuffer &addBuffer(Value root, std::string name, tile::Role role,
                           RankedTensorType type) {
    PlannedBuffer buffer;
    buffer.root = root;
    buffer.name = std::move(name);
    buffer.role = role;
    buffer.type = MemRefType::get(type.getShape(), type.getElementType());
    indexOf[root] = planned.size();
    planned.push_back(std::move(buffer));
    return planned.back();
  }

  void use(Value root, unsigned group) {
    auto found = indexOf.find(root);
    if (found == indexOf.end())
      return;
    PlannedBuffer &buffer = planned[found->second];
    buffer.firstGroup = std::min(buffer.firstGroup, group);
    buffer.lastGroup = std::max(buffer.lastGroup, group);
    buffer.groups.push_back(group);
  }

  void collectBuffers() {
    for (BlockArgument argument : step.getArguments()) {
      auto name = step.getArgAttrOfType<StringAttr>(argument.getArgNumber(),
                                                    "train.name");
      addBuffer(argument,
                name ? name.str()
                     : llvm::formatv("input{0}", argument.getArgNumber()).str(),
                tile::Role::Input, cast<RankedTensorType>(argument.getType()));
    }
    // One buffer a parameter, whatever reads it.
    llvm::StringMap<Value> parameterRoot;
    for (auto parameter : module.getOps<train::ParameterOp>()) {
      Value root;
      for (auto read : step.getOps<train::ReadOp>())
        if (read.getParameter() == parameter.getSymName()) {
          if (!root)
            root = read.getResult();
          else
            alias[read.getResult()] = root;
        }
      for (auto assign : step.getOps<train::AssignOp>())
        if (!root && assign.getParameter() == parameter.getSymName())
          root = viewSource(assign.getValue());
      if (!root)
        continue; // not part of the step
      auto &buffer = addBuffer(root, parameter.getSymName().str(),
                               parameter.getState() ? tile::Role::State
                                                    : tile::Role::Parameter,
                               cast<RankedTensorType>(root.getType()));
      buffer.trainable = parameter.getTrainable();
      parameterRoot[parameter.getSymName()] = root;
    }
    for (auto assign : step.getOps<train::AssignOp>()) {
      Value made = viewSource(assign.getValue()),
            root = parameterRoot[assign.getParameter()];
      if (made != root)
        alias[made] = root;
    }
    Operation *terminator = step.getBody().front().getTerminator();
    for (auto [index, operand] : llvm::enumerate(terminator->getOperands())) {
      Value root = viewSource(operand);
      if (alias.count(root) || indexOf.count(root))
        continue;
      auto name = step.getResultAttrOfType<StringAttr>(index, "train.name");
      addBuffer(root,
                name         ? name.str()
                : index == 0 ? "loss"
                             : llvm::formatv("output{0}", index).str(),
                tile::Role::Output, cast<RankedTensorType>(root.getType()));
    }
    for (auto [index, group] : llvm::enumerate(groups))
      for (const GroupMember &member : group.members) {
        for (OpResult result : member.op->getResults())
          if (isNeededOutside(group, result)) {
            Value root = rootOf(result);
            if (!indexOf.count(root))
              addBuffer(root,
                        operatorName(member.op) +
                            llvm::formatv("#{0}", temporaries++).str(),
                        tile::Role::Temporary,
                        cast<RankedTensorType>(root.getType()));
            use(root, index);
          }
        for (Value operand : member.op->getOperands()) {
          Value source = views.rootOf(operand);
          DenseElementsAttr elements;
          if (matchPattern(source, m_Constant(&elements)) &&
              !indexOf.count(source)) {
            auto &buffer = addBuffer(
                source, llvm::formatv("constant#{0}", temporaries++).str(),
                tile::Role::Constant, cast<RankedTensorType>(source.getType()));
            buffer.init = elements;
          }
          use(rootOf(operand), index);
        }
      }
    // What a loop uses lives as long as it runs.
    for (auto [first, last] : spansOfLoops())
      for (PlannedBuffer &buffer : planned)
        if (buffer.firstGroup <= last && buffer.lastGroup >= first) {
          buffer.firstGroup = std::min(buffer.firstGroup, first);
          buffer.lastGroup = std::max(buffer.lastGroup, last);
        }
    // To know what a group's parts would cost, what passes between them needs a
    // place, too.
    for (auto [index, group] : llvm::enumerate(groups))
      for (const OperatorGroup &part : group.parts)
        for (Value result : outputsOf(part))
          if (Value root = rootOf(result); !indexOf.count(root)) {
            PlannedBuffer &buffer =
                addBuffer(root, "provisional", tile::Role::Temporary,
                          cast<RankedTensorType>(root.getType()));
            buffer.firstGroup = buffer.lastGroup = index;
          }
  }

  /// The first and the last group of each loop.
  SmallVector<std::pair<unsigned, unsigned>> spansOfLoops() {
    SmallVector<std::pair<unsigned, unsigned>> spans;
    std::optional<int64_t> before;
    for (auto [index, group] : llvm::enumerate(groups)) {
      std::optional<int64_t> loop = loopOf(group);
      if (loop && loop == before)
        spans.back().second = index;
      else if (loop)
        spans.emplace_back(index, index);
      before = loop;
    }
    return spans;
  }

  /// Puts the groups of each loop, which stand in a row, in one.
  void encloseLoops() {
    tile::LoopOp loop;
    std::optional<int64_t> number;
    for (auto group : llvm::make_early_inc_range(
             program.getBody().front().getOps<tile::GroupOp>())) {
      std::optional<int64_t> own = loopOf(group);
      group->removeAttr(loopAttrName);
      if (own && own != number) {
        builder.setInsertionPoint(group);
        loop = tile::LoopOp::create(builder, group.getLoc(), runs[*own]);
        loop.getBody().emplaceBlock();
      }
      number = own;
      if (own)
        group->moveBefore(&loop.getBody().front(),
                          loop.getBody().front().end());
    }
  }

  Value rootOf(Value value) {
    value = views.rootOf(value);
    auto found = alias.find(value);
    return found == alias.end() ? value : found->second;
  }

  static bool isNeededOutside(const OperatorGroup &group, OpResult result) {
    return llvm::any_of(result.getUsers(),
                        [&](Operation *user) { return !group.contains(user); });
  }

  /// Forgets a plan, to make another one.
  void reset() {
    groups.clear();
    planned.clear();
    indexOf.clear();
    alias.clear();
    memrefs.clear();
    reshaped.clear();
    provisionals.clear();
    temporaries = 0;
    program.erase();
  }

  void emitBuffers() {
    builder.setInsertionPointAfter(step);
    program =
        tile::ProgramOp::create(builder, step.getLoc(), "step", target.name());
    builder.createBlock(&program.getBody());
    for (PlannedBuffer &buffer : planned) {
      if (buffer.role == tile::Role::Constant && buffer.groups.empty())
        continue;
      auto type = MemRefType::get(
          buffer.type.getShape(), buffer.type.getElementType(),
          MemRefLayoutAttrInterface{},
          tile::MemoryAttr::get(builder.getContext(), buffer.level));
      auto op = tile::BufferOp::create(builder, buffer.root.getLoc(), type,
                                       buffer.name, buffer.role, IntegerAttr(),
                                       buffer.init);
      if (buffer.trainable)
        op->setAttr("trainable", builder.getUnitAttr());
      memrefs[buffer.root] = op.getMemref();
      if (buffer.isProvisional())
        provisionals.push_back(op.getMemref());
    }
  }

  static void eraseWithViews(Operation *array) {
    for (Operation *view : llvm::make_early_inc_range(array->getUsers()))
      eraseWithViews(view);
    array->erase();
  }

  /// Where a tensor lies: its buffer, seen under the shape that the tensor is a
  /// window of.
  ArrayWindow bufferOf(Value tensor) {
    TensorView view = views.viewOf(tensor);
    return {arrayOf(view), view.offsets, view.strides, advanceOf(tensor)};
  }

  Value arrayOf(const TensorView &view) {
    Value memref = memrefs.lookup(rootOf(view.root));
    assert(memref && "every operand of a group has a buffer");
    auto from = cast<MemRefType>(memref.getType());
    auto to = cast<RankedTensorType>(view.shaped.getType());
    if (from.getShape() == to.getShape())
      return memref;
    auto key = std::make_pair(memref, Type(to));
    if (Value known = reshaped.lookup(key))
      return known;
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointAfterValue(memref);
    // Through one dimension: any two shapes of a contiguous buffer are so
    // related.
    ReassociationIndices everything =
        llvm::to_vector(llvm::seq<int64_t>(0, from.getRank()));
    Location location = memref.getLoc();
    if (to.getRank() == 0)
      memref = memref::CollapseShapeOp::create(
          builder, location, memref, ArrayRef<ReassociationIndices>{});
    else if (from.getRank() > 1)
      memref = memref::CollapseShapeOp::create(
          builder, location, memref,
          ArrayRef<ReassociationIndices>{everything});
    if (to.getRank() > 1 || (to.getRank() == 1 && from.getRank() == 0)) {
      SmallVector<ReassociationIndices> groups;
      if (from.getRank() > 0)
        groups.push_back(llvm::to_vector(llvm::seq<int64_t>(0, to.getRank())));
      memref = memref::ExpandShapeOp::create(builder, location, to.getShape(),
                                             memref, groups);
    }
    return reshaped[key] = memref;
  }

  /// A group under its best implementation and tiling; null if it has no use or
  /// does not fit, which `needed` tells (bytes of L1).
  struct PlannedGroup {
    tile::GroupOp op;
    TileChoice choice;
    SmallVector<Implementation, 2> implementations;
    int64_t needed = std::numeric_limits<int64_t>::max();
  };

  /// Results of its members that others need.
  static SmallVector<Value> outputsOf(const OperatorGroup &group) {
    SmallVector<Value> outputs;
    for (const GroupMember &member : group.members)
      for (OpResult result : member.op->getResults())
        if (isNeededOutside(group, result))
          outputs.push_back(result);
    return outputs;
  }

  BuiltGroup build(const OperatorGroup &group,
                   ArrayRef<Implementation> implementations) {
    BuiltGroup built =
        buildGroup(builder, group, implementations, outputsOf(group),
                   [&](Value tensor) { return bufferOf(tensor); });
    if (std::optional<int64_t> loop = loopOf(group))
      built.op->setAttr(loopAttrName, builder.getI64IntegerAttr(*loop));
    return built;
  }

  PlannedGroup planGroup(const OperatorGroup &group) {
    PlannedGroup best;
    SmallVector<PlannedGroup, 0> candidates;
    SmallVector<const TileSearch::Result *> results;
    for (ArrayRef<Implementation> implementations :
         possibleImplementations(group, [&](Type element) {
           return target.readsOnAccelerator(element);
         })) {
      auto [op, unit, whole] = build(group, implementations);
      llvm::append_range(whole, group.whole);
      // Rows that are whole cannot come one element at a time.
      if (llvm::any_of(unit, [&, whole = ArrayRef(whole)](int64_t dim) {
            return group.sizes[dim] > 1 && llvm::is_contained(whole, dim);
          })) {
        op.erase();
        continue;
      }
      const TileSearch::Result &found = search->search(op, whole, unit);
      best.needed = std::min(best.needed, found.smallest);
      results.push_back(&found);
      for (const TileChoice &choice : found.choices)
        candidates.push_back(
            {op, choice, SmallVector<Implementation, 2>(implementations)});
      if (found.choices.empty())
        op.erase();
    }
    if (candidates.empty())
      return best;
    PlannedGroup &chosen = candidates[choose(candidates, results)];
    chosen.needed = best.needed;
    llvm::SmallPtrSet<Operation *, 4> others;
    for (PlannedGroup &candidate : candidates)
      if (candidate.op != chosen.op)
        others.insert(candidate.op);
    for (Operation *other : others)
      other->erase();
    isRight &= succeeded(verifyGroup(
        chosen.op, group, [&](Value tensor) { return bufferOf(tensor); }));
    return chosen;
  }

  /// The place of the candidate that takes least. The search's estimate does
  /// not know what waits for what, so those that it finds close are simulated,
  /// the least first: alone, and twice in a row, as they will have others
  /// beside them.
  size_t choose(ArrayRef<PlannedGroup> candidates,
                const SmallVector<const TileSearch::Result *> &results) {
    constexpr int64_t close = 10; // percent
    auto [known, isNew] = chosenPlaces.try_emplace(results);
    if (!isNew)
      return known->second;
    auto total = [&](size_t place) {
      return candidates[place].choice.cost.total;
    };
    SmallVector<size_t> places =
        llvm::to_vector(llvm::seq<size_t>(0, candidates.size()));
    llvm::stable_sort(places,
                      [&](size_t a, size_t b) { return total(a) < total(b); });
    known->second = places.front();
    // What comes from L3 is loaded ahead in the step, and not in a simulation
    // that begins with it.
    if (estimates || candidates[places.front()].choice.cost.hyper > 0)
      return known->second;
    int64_t tiles = 0;
    std::optional<int64_t> fewest;
    for (size_t place : places) {
      PlannedGroup candidate = candidates[place];
      tiles += tilesOf(candidate);
      if (total(place) * 100 > total(places.front()) * (100 + close) ||
          tiles > mostSimulated)
        break;
      std::optional<int64_t> alone = simulate(candidate),
                             twice = simulate({candidate, candidate});
      if (!alone || !twice || (fewest && *alone + *twice >= *fewest))
        continue;
      fewest = *alone + *twice;
      known->second = place;
    }
    return known->second;
  }

  /// Tiles of its domain.
  static int64_t tilesOf(const PlannedGroup &planned) {
    int64_t tiles = 1;
    tile::GroupOp op = planned.op;
    for (auto [size, tile] : llvm::zip(op.getSizes(), planned.choice.tiles))
      tiles *= llvm::divideCeil(size, tile);
    return tiles;
  }

  /// What groups take one after the other: by simulation, or, where that would
  /// take long, by the search's estimate.
  std::optional<int64_t> price(ArrayRef<PlannedGroup> sequence) {
    int64_t tiles = 0, cycles = 0;
    for (const PlannedGroup &planned : sequence) {
      tiles += tilesOf(planned);
      cycles += planned.choice.cost.total;
    }
    return tiles > mostSimulated || estimates ? cycles : simulate(sequence);
  }

  /// Predicted cycles of groups one after the other, their jobs in the order
  /// that td-schedule-jobs finds; none if their tiles do not fit so.
  std::optional<int64_t> simulate(ArrayRef<PlannedGroup> sequence) {
    OwningOpRef<ModuleOp> scratch = ModuleOp::create(step.getLoc());
    (*scratch)->setAttr(targetAttrName, target.dictionary());
    OpBuilder inside = OpBuilder::atBlockEnd(scratch->getBody());
    auto jobs =
        tile::ProgramOp::create(inside, step.getLoc(), "step", target.name());
    inside.createBlock(&jobs.getBody());
    IRMapping mapping;
    for (const PlannedGroup &planned : sequence) {
      tile::GroupOp op = planned.op;
      SmallVector<Operation *> arrays;
      for (Value operand : op->getOperands())
        for (Operation *array = operand.getDefiningOp(); array;
             array = array->getNumOperands()
                         ? array->getOperand(0).getDefiningOp()
                         : nullptr)
          arrays.push_back(array);
      for (Operation *array : llvm::reverse(arrays))
        if (!mapping.contains(array->getResult(0)))
          inside.clone(*array, mapping);
    }
    for (const PlannedGroup &planned : sequence) {
      IRMapping own(mapping); // a group may come twice
      auto copy =
          cast<tile::GroupOp>(inside.clone(*tile::GroupOp(planned.op), own));
      copy.setTiles(planned.choice.tiles);
      copy.setOrder(planned.choice.order);
    }
    // What cannot be expanded costs nothing but this try.
    ScopedDiagnosticHandler quiet(step.getContext(),
                                  [](Diagnostic &) { return success(); });
    if (failed(expandGroups(*scratch)))
      return std::nullopt;
    FailureOr<JobProgram> program = JobProgram::read(jobs);
    if (failed(program))
      return std::nullopt;
    std::optional<Schedule> schedule =
        JobScheduler(*program, target).shortest({100, 100}, /*inPlace=*/true);
    if (!schedule)
      return std::nullopt;
    return schedule->makespan;
  }

  /// Whether the parts of a group cost less than the group does. Rows, and
  /// lines that are kept for the next tile, leave the neighbours of their group
  /// less room, and must win by what mixing with these may save; what stays in
  /// L1 element by element needs no array, and leaves it only if that saves as
  /// much.
  bool arePartsCheaper(const OperatorGroup &group, const PlannedGroup &whole) {
    constexpr int64_t gain = 5; // percent
    if (!whole.op || fuseAlways)
      return !whole.op;
    // What passes between the parts is at some level, or fits nowhere.
    std::string key = GroupCostModel(target, whole.op).key();
    for (const OperatorGroup &part : group.parts)
      for (Value result : outputsOf(part)) {
        Value root = rootOf(result);
        if (homeless.contains(root))
          return false;
        key += stringifyLevel(planned[indexOf.at(root)].level);
      }
    auto [known, isNew] = partsAreCheaper.try_emplace(key);
    if (!isNew)
      return known->second;
    SmallVector<PlannedGroup, 2> parts;
    for (const OperatorGroup &part : group.parts) {
      // An anchor alone takes much the same tiles as with what follows it
      // element by element, and other ones than with rows.
      if (!group.rowsFrom && !group.pooling && parts.empty()) {
        PlannedGroup anchor = whole;
        anchor.op = build(part, whole.implementations).op;
        anchor.choice.cost =
            GroupCostModel(target, anchor.op)
                .evaluate(whole.choice.tiles, whole.choice.order, budget(),
                          std::numeric_limits<int64_t>::max());
        parts.push_back(anchor);
      } else if (PlannedGroup planned = planGroup(part); planned.op) {
        parts.push_back(planned);
      }
    }
    if (parts.size() == group.parts.size()) {
      std::optional<int64_t> together = price(whole), alone = price(parts);
      bool leavesLessRoom =
          group.rowsFrom || (group.pooling && group.pooling->kept);
      int64_t least = leavesLessRoom  ? 100 - gain
                      : group.pooling ? 100
                                      : 100 + gain;
      known->second = alone && (!together || *together * 100 > *alone * least);
    }
    for (PlannedGroup &part : parts)
      part.op.erase();
    return known->second;
  }

  /// Plans every group in order; a pair that can share a tile of a parameter is
  /// planned both ways. Members of groups that do not fit, or cost more than
  /// their parts, are added to `apart`, and the plan is of no use then.
  LogicalResult planGroups(KeptApart &apart) {
    DenseMap<unsigned, PlannedGroup>
        ahead; // planned beside a sibling, to be placed in their turn
    DenseSet<unsigned> merged;
    for (auto [index, group] : llvm::enumerate(groups)) {
      if (merged.contains(index))
        continue;
      PlannedGroup planned;
      if (auto found = ahead.find(index); found != ahead.end()) {
        planned = found->second;
        if (planned.op)
          planned.op->moveBefore(&program.getBody().front(),
                                 program.getBody().front().end());
      } else {
        planned = planGroup(group);
      }
      for (unsigned other = index + 1; other < groups.size() && planned.op;
           ++other) {
        auto isBefore = [&, at = index](unsigned predecessor) {
          return predecessor <= at;
        };
        if (ahead.contains(other) ||
            !llvm::is_contained(groups[other].predecessors, index) ||
            !llvm::all_of(groups[other].predecessors, isBefore))
          continue;
        std::optional<OperatorGroup> pair =
            mergeSiblings(group, groups[other], views);
        if (!pair)
          continue;
        PlannedGroup together = planGroup(*pair),
                     alone = planGroup(groups[other]);
        if (together.op && (!alone.op || together.choice.cost.total <
                                             planned.choice.cost.total +
                                                 alone.choice.cost.total)) {
          planned.op.erase();
          if (alone.op)
            alone.op.erase();
          planned = together;
          merged.insert(other);
          merged.insert(index);
        } else {
          if (together.op)
            together.op.erase();
          ahead[other] = alone;
        }
        break;
      }
      if (!planned.op && group.rowwise) {
        for (const GroupMember &member : group.members)
          apart.fromRows.insert(member.op);
        continue;
      }
      if (!group.parts.empty() && !merged.contains(index) &&
          arePartsCheaper(group, planned)) {
        for (const GroupMember &member : group.parts.back().members)
          (group.pooling ? apart.poolings : apart.fromContractions)
              .insert(member.op);
        if (planned.op)
          planned.op.erase();
        continue;
      }
      if (!planned.op) {
        const GroupMember &anchor = group.members.front();
        return anchor.op->emitError()
               << "operator '" << operatorName(anchor.op) << "' needs at least "
               << planned.needed << " bytes of L1 for its smallest tiles, and "
               << budget() << " are available; a target with "
               << planned.needed - budget() << " bytes more L1 would fit it";
      }
      const TileChoice &choice = planned.choice;
      planned.op.setTiles(choice.tiles);
      planned.op.setOrder(choice.order);
      planned.op.setPredicted({choice.cost.total, choice.cost.dma,
                               choice.cost.cores, choice.cost.redmule});
    }
    return success(isRight);
  }

  /// Bytes of L2 for temporaries: beside what persists, and code and job
  /// tables, which the number of operators tells roughly. With the margin of
  /// the placement.
  int64_t roomForTemporaries() {
    constexpr int64_t tableBytes = 500, margin = 3;
    auto ops = step.getOps<linalg::LinalgOp>();
    int64_t reserved = target.integer("runtime", "l2_reserved"),
            code = reserved / 2 +
                   std::distance(ops.begin(), ops.end()) * tableBytes;
    RuntimeLayout layout(target, /*operators=*/0, tables);
    int64_t bytes = layout.l2End() - layout.l2Begin() -
                    std::max<int64_t>(code - reserved, 0);
    for (Type type : step.getArgumentTypes())
      bytes -= bytesOf(cast<ShapedType>(type));
    for (auto parameter : module.getOps<train::ParameterOp>())
      bytes -= bytesOf(cast<ShapedType>(parameter.getType()));
    for (auto recurrence : step.getOps<train::RecurrenceOp>())
      for (Type type : recurrence.getResultTypes())
        bytes -= bytesOf(cast<ShapedType>(type));
    bytes = std::max<int64_t>(bytes, 0);
    return bytes * 100 / (100 + margin);
  }

  /// Bytes of L1 for tiles, whether groups of parts stay or not.
  int64_t budget() const {
    size_t operators = groups.size();
    for (const OperatorGroup &group : groups)
      operators += group.parts.empty() ? 0 : group.parts.size() - 1;
    RuntimeLayout layout(target, operators, tables);
    return layout.l1End() - layout.l1Begin();
  }

  /// Tiles of the groups that a decision may simulate.
  static constexpr int64_t mostSimulated = 1000;
  /// Tiles of a row-wise group beside each other: in use, loaded, stored.
  static constexpr int64_t rowsInFlight = 3;

  func::FuncOp step;
  ModuleOp module;
  const Target &target;
  bool exhaustive, fuseAlways, estimates;
  int64_t tables; // bytes of L1
  OpBuilder builder;
  StepViews views;
  SmallVector<int64_t> runs; // of each loop
  std::vector<OperatorGroup> groups;
  SmallVector<PlannedBuffer> planned;
  DenseMap<Value, unsigned> indexOf;
  DenseMap<Value, Value> alias; // tensors that live in another's buffer
  DenseMap<Value, Value> memrefs;
  DenseMap<std::pair<Value, Type>, Value> reshaped;
  tile::ProgramOp program;
  SmallVector<Value> provisionals; // only there to price what was not chosen
  DenseSet<Value> homeless; // tensors between parts that no level has room for
  std::optional<TileSearch> search;
  int64_t searchBudget = 0; // bytes of L1
  // Decisions about groups of one kind: the candidate that was chosen, by what
  // the search found for each implementation, and whether the parts are
  // cheaper, by the whole group's key.
  std::map<SmallVector<const TileSearch::Result *>, size_t> chosenPlaces;
  std::map<std::string, bool> partsAreCheaper;
  unsigned temporaries = 0;
  bool isRight = true; // every group that was chosen does what it stands for
};

struct PlanStep : td::impl::PlanStepBase<PlanStep> {
  using PlanStepBase::PlanStepBase;
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto step = module.lookupSymbol<func::FuncOp>("step");
    if (!step) {
      module.emitError("has no function @step to plan");
      return signalPassFailure();
    }
    for (Value result : step.getBody().front().getTerminator()->getOperands()) {
      Value root = result;
      for (Operation *op = root.getDefiningOp();
           isa_and_nonnull<tensor::ExtractSliceOp, tensor::CollapseShapeOp,
                           tensor::ExpandShapeOp>(op);
           op = root.getDefiningOp())
        root = op->getOperand(0);
      if (root.getDefiningOp<tensor::EmptyOp>()) {
        step.emitError("returns an array that nothing has written");
        return signalPassFailure();
      }
    }
    // What is wrong with a kernel is said where it is priced, and prices are no
    // place to stop.
    bool wrong = false;
    ScopedDiagnosticHandler handler(&getContext(), [&](Diagnostic &diagnostic) {
      wrong |= diagnostic.getSeverity() == DiagnosticSeverity::Error;
      return failure(); // others print it
    });
    FailureOr<Target> target = Target::get(module);
    if (failed(target))
      return signalPassFailure();
    StepPlanner planner(step, *target, exhaustive, fuseAlways, estimates);
    if (failed(planner.run()) || wrong)
      return signalPassFailure();
    tilings += planner.evaluated();
    step.erase();
    for (auto parameter :
         llvm::make_early_inc_range(module.getOps<train::ParameterOp>()))
      parameter.erase();
  }
};

} // namespace
