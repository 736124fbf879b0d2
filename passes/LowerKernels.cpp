// Turns kernels (one linalg op on packed tiles in L1) into SPMD loops in the
// LLVM dialect. The loop structure is lib/Kernels/KernelPlan.h's.
#include "lib/Kernels/KernelPlan.h"
#include "lib/Kernels/MathExpansion.h"
#include "lib/Target/Target.h"
#include "passes/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/IRMapping.h"
#include <map>

namespace td {
#define GEN_PASS_DEF_LOWERKERNELS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td;

namespace {

/// Where a nest of loops stands: per operand the address of the current element
/// (several, if a block's elements are no constant distance apart), and per
/// loop its index if the computation asks for it.
struct Position {
  SmallVector<SmallVector<Value, 1>> addresses;
  SmallVector<Value> indices;
};

class KernelEmitter {
public:
  KernelEmitter(linalg::LinalgOp op, const KernelPlan &plan, unsigned cores,
                LLVM::LLVMFuncOp function)
      : op(op), plan(plan), cores(cores), function(function),
        b(function.getContext()), loc(op.getLoc()) {}

  void emit() {
    Block *entry = function.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    exit = b.createBlock(&function.getBody());
    LLVM::ReturnOp::create(b, loc, ValueRange());
    b.setInsertionPointToEnd(entry);
    core = entry->getArgument(1);
    for (Operation &other : *op->getBlock())
      if (other.hasTrait<OpTrait::ConstantLike>())
        b.clone(other, constants);
    loadArguments(entry->getArgument(0));

    selections = plan.uniformSelections(*op.getBlock());
    if (!selections.empty()) {
      IRMapping mapping = constants;
      for (auto [argument, value] :
           llvm::zip(op.getBlock()->getArguments(), scalars))
        if (value)
          mapping.map(argument, value);
      Operation *condition = selections.front().getCondition().getDefiningOp();
      for (Value operand : condition->getOperands())
        if (Operation *inner = operand.getDefiningOp();
            inner && !mapping.contains(operand))
          b.clone(*inner, mapping);
      Operation *compare = b.clone(*condition, mapping);
      auto [yes, no] = branch(compare->getResult(0));
      b.setInsertionPointToEnd(yes);
      selected = true;
      emitStructures();
      b.setInsertionPointToEnd(no);
      selected = false;
    }
    emitStructures();
  }

private:
  //===--- Small arithmetic, all on i32
  //------------------------------------===//
  Value constant(int64_t value) {
    return arith::ConstantOp::create(
        b, loc, b.getI32IntegerAttr(static_cast<int32_t>(value)));
  }
  Value add(Value x, Value y) {
    return b.createOrFold<arith::AddIOp>(loc, x, y);
  }
  Value sub(Value x, Value y) {
    return b.createOrFold<arith::SubIOp>(loc, x, y);
  }
  Value mul(Value x, Value y) {
    return b.createOrFold<arith::MulIOp>(loc, x, y);
  }
  Value bitAnd(Value x, Value y) {
    return b.createOrFold<arith::AndIOp>(loc, x, y);
  }
  Value shiftLeft(Value x, Value y) {
    return b.createOrFold<arith::ShLIOp>(loc, x, y);
  }
  Value shiftRight(Value x, Value y) {
    return b.createOrFold<arith::ShRUIOp>(loc, x, y);
  }
  Value compare(arith::CmpIPredicate predicate, Value x, Value y) {
    return b.createOrFold<arith::CmpIOp>(loc, predicate, x, y);
  }
  Value select(Value condition, Value x, Value y) {
    return b.createOrFold<arith::SelectOp>(loc, condition, x, y);
  }
  /// ceil(x / y)
  Value ceilDiv(Value x, unsigned y) {
    if (y == 1)
      return x;
    return b.createOrFold<arith::DivUIOp>(loc, add(x, constant(y - 1)),
                                          constant(y));
  }

  //===--- Memory
  //----------------------------------------------------------===//
  Value offset(Value address, int64_t bytes) {
    if (bytes == 0)
      return address;
    return LLVM::GEPOp::create(
        b, loc, address.getType(), b.getI8Type(), address,
        ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)});
  }
  Value offset(Value address, Value bytes) {
    return LLVM::GEPOp::create(b, loc, address.getType(), b.getI8Type(),
                               address, ArrayRef<LLVM::GEPArg>{bytes});
  }
  /// The same for an address that an innermost loop carries.
  Value advance(Value address, Value bytes) {
    return pulp::AdvanceOp::create(b, loc, address.getType(), address, bytes);
  }
  /// The value itself, at this place of the instruction stream: LLVM's
  /// scheduler would move an unrolled loop's loads together and run out of
  /// registers.
  Value pin(Value value) {
    return LLVM::InlineAsmOp::create(b, loc, value.getType(), value, "", "=r,0",
                                     /*has_side_effects=*/true,
                                     /*is_align_stack=*/false,
                                     LLVM::TailCallKind::None,
                                     /*asm_dialect=*/LLVM::AsmDialectAttr(),
                                     /*operand_attrs=*/ArrayAttr())
        .getResult(0);
  }
  Type elementType(unsigned operand) {
    return getElementTypeOrSelf(op->getOperand(operand).getType());
  }
  Value load(unsigned operand, Value address, int64_t bytes) {
    return LLVM::LoadOp::create(b, loc, elementType(operand),
                                offset(address, bytes));
  }
  void store(Value value, Value address, int64_t bytes) {
    LLVM::StoreOp::create(b, loc, value, offset(address, bytes));
  }

  /// The table holds, per tile, its address and its sizes; then the kernel's
  /// index arguments.
  void loadArguments(Value table) {
    auto wordAt = [&](unsigned word) -> Value {
      return LLVM::LoadOp::create(b, loc, b.getI32Type(),
                                  offset(table, 4 * word));
    };
    // The first word of each argument: an op may use one twice, in place.
    SmallVector<unsigned> firstWord;
    unsigned words = 0;
    for (BlockArgument argument : op->getBlock()->getArguments()) {
      firstWord.push_back(words);
      // Last come plain indices, where a tile starts in its array.
      auto tile = dyn_cast<MemRefType>(argument.getType());
      words += tile ? 1 + tile.getRank() : 1;
      if (!tile)
        constants.map(argument,
                      arith::IndexCastOp::create(b, loc, b.getIndexType(),
                                                 wordAt(firstWord.back())));
    }
    // Sizes that the types state are constants. A dimension's size is read
    // once.
    auto tileSize = [&](unsigned operand, unsigned r) -> Value {
      auto type = cast<MemRefType>(op->getOperand(operand).getType());
      if (!type.isDynamicDim(r))
        return constant(type.getDimSize(r));
      auto argument = cast<BlockArgument>(op->getOperand(operand));
      return wordAt(firstWord[argument.getArgNumber()] + 1 + r);
    };
    SmallVector<Value> dimensionSizes;
    for (auto [operand, r] : plan.sizeOf)
      dimensionSizes.push_back(tileSize(operand, r));
    for (ArrayRef<unsigned> members : plan.loops) {
      Value size = dimensionSizes[members.front()];
      for (unsigned member : members.drop_front())
        size = mul(size, dimensionSizes[member]);
      sizes.push_back(size);
    }
    start.indices.resize(plan.loops.size());
    for (auto [loop, indexed] : llvm::enumerate(plan.indexed))
      if (indexed)
        start.indices[loop] = constant(0);

    for (auto [i, operand] : llvm::enumerate(plan.operands)) {
      start.addresses.emplace_back();
      strides.emplace_back(plan.loops.size());
      if (!operand.isTile())
        continue;
      unsigned word =
          firstWord[cast<BlockArgument>(op->getOperand(i)).getArgNumber()];
      Value address = LLVM::IntToPtrOp::create(
          b, loc, LLVM::LLVMPointerType::get(b.getContext()), wordAt(word));
      // Distances in bytes, from the innermost dimension of the tile out.
      Value distance = constant(operand.bytes), first = constant(0);
      ArrayRef<AffineSum> sums = plan.sums[i];
      for (unsigned r = sums.size(); r-- > 0;) {
        const AffineSum &sum = sums[r];
        if (sum.constant != 0)
          first = add(first, mul(distance, constant(sum.constant)));
        for (unsigned loop : operand.loops) {
          int64_t coefficient = sum.coefficients[plan.loops[loop].back()];
          if (coefficient == 0)
            continue;
          Value part = mul(distance, constant(coefficient));
          Value &stride = strides.back()[loop];
          stride = stride ? add(stride, part) : part;
        }
        if (r > 0) {
          std::optional<unsigned> dim = plan.covering(sum);
          distance = mul(distance, dim ? dimensionSizes[*dim] : tileSize(i, r));
        }
      }
      if (!matchPattern(first, m_Zero()))
        address = offset(address, first);
      start.addresses.back().push_back(address);
    }
    // Scalars are read once: no kernel writes an operand that it broadcasts.
    for (auto [i, operand] : llvm::enumerate(plan.operands)) {
      scalars.push_back({});
      if (!operand.isTile()) {
        if (!isa<ShapedType>(op->getOperand(i).getType()))
          scalars.back() = constants.lookup(op->getOperand(i));
      } else if (operand.loops.empty() && operand.read && !operand.output)
        scalars.back() = load(i, start.addresses[i].front(), 0);
    }
  }

  //===--- Control flow
  //----------------------------------------------------===//
  std::pair<Block *, Block *> branch(Value condition) {
    Block *from = b.getInsertionBlock();
    Block *yes = b.createBlock(exit), *no = b.createBlock(exit);
    b.setInsertionPointToEnd(from);
    LLVM::CondBrOp::create(b, loc, condition, yes, no);
    return {yes, no};
  }

  /// A loop of `trips` iterations (none if not positive) over carried values.
  SmallVector<Value> loop(Value trips, ValueRange initial,
                          function_ref<SmallVector<Value>(ValueRange)> body) {
    if (auto known = trips.getDefiningOp<arith::ConstantOp>())
      if (cast<IntegerAttr>(known.getValue()).getInt() == 1)
        return body(initial);
    Block *before = b.getInsertionBlock();
    SmallVector<Type> types(initial.getTypes());
    SmallVector<Location> locs(types.size(), loc);
    Block *header = b.createBlock(exit, types, locs);
    Value left = header->addArgument(b.getI32Type(), loc);
    Block *after = b.createBlock(exit, types, locs);

    b.setInsertionPointToEnd(before);
    SmallVector<Value> entry(initial);
    entry.push_back(trips);
    LLVM::CondBrOp::create(
        b, loc, compare(arith::CmpIPredicate::sgt, trips, constant(0)), header,
        entry, after, initial);

    b.setInsertionPointToEnd(header);
    SmallVector<Value> carried = body(header->getArguments().drop_back());
    SmallVector<Value> again(carried);
    again.push_back(sub(left, constant(1)));
    auto latch = LLVM::CondBrOp::create(
        b, loc, compare(arith::CmpIPredicate::ne, again.back(), constant(0)),
        header, again, after, carried);
    latch.setLoopAnnotationAttr(annotation());
    b.setInsertionPointToEnd(after);
    return SmallVector<Value>(after->getArguments());
  }

  /// `body` on the values if the condition holds.
  SmallVector<Value> when(Value condition, ValueRange initial,
                          function_ref<SmallVector<Value>(ValueRange)> body,
                          bool rarely = false) {
    SmallVector<Type> types(initial.getTypes());
    Block *before = b.getInsertionBlock();
    Block *yes = b.createBlock(exit);
    Block *after =
        b.createBlock(exit, types, SmallVector<Location>(types.size(), loc));
    b.setInsertionPointToEnd(before);
    std::optional<std::pair<uint32_t, uint32_t>> weights;
    if (rarely)
      weights = std::make_pair(1u, 1000u);
    LLVM::CondBrOp::create(b, loc, condition, yes, ValueRange(), after, initial,
                           weights);
    b.setInsertionPointToEnd(yes);
    LLVM::BrOp::create(b, loc, body(initial), after);
    b.setInsertionPointToEnd(after);
    return SmallVector<Value>(after->getArguments());
  }

  /// Unrolling is decided here and the cost model counts on it.
  LLVM::LoopAnnotationAttr annotation() {
    BoolAttr yes = b.getBoolAttr(true);
    auto vectorize = LLVM::LoopVectorizeAttr::get(b.getContext(), yes, {}, {},
                                                  {}, {}, {}, {});
    auto unroll =
        LLVM::LoopUnrollAttr::get(b.getContext(), yes, {}, {}, {}, {}, {}, {});
    return LLVM::LoopAnnotationAttr::get(b.getContext(), {}, vectorize, {},
                                         unroll, {}, {}, {}, {}, {}, {}, {}, {},
                                         {}, {}, {});
  }

  //===--- Positions
  //-------------------------------------------------------===//
  /// The values of a position that a loop changes, and back.
  SmallVector<Value> changing(const Position &position, unsigned loop) {
    SmallVector<Value> values;
    for (auto [operand, addresses] : llvm::zip(operands, position.addresses))
      if (operand.has(loop))
        llvm::append_range(values, addresses);
    if (position.indices[loop])
      values.push_back(position.indices[loop]);
    return values;
  }
  Position replaced(Position position, unsigned loop, ValueRange values) {
    unsigned at = 0;
    for (auto [operand, addresses] : llvm::zip(operands, position.addresses))
      if (operand.has(loop))
        for (Value &address : addresses)
          address = values[at++];
    if (position.indices[loop])
      position.indices[loop] = values[at++];
    return position;
  }
  Position advanced(Position position, unsigned loop, Value steps) {
    for (auto [i, operand] : llvm::enumerate(operands))
      if (operand.has(loop)) {
        Value bytes = mul(strides[i][loop], steps);
        for (Value &address : position.addresses[i])
          address = offset(address, bytes);
      }
    if (Value &index = position.indices[loop])
      index = add(index, steps);
    return position;
  }

  /// A loop over `trips` x `step` iterations of `loop`, carrying the position
  /// and more values.
  std::pair<Position, SmallVector<Value>>
  walk(unsigned loopIndex, Value trips, int64_t step, const Position &from,
       ValueRange more,
       function_ref<SmallVector<Value>(const Position &, ValueRange)> body) {
    // The distance of a step is computed ahead of the loop.
    SmallVector<Value> distances(operands.size());
    for (auto [i, operand] : llvm::enumerate(operands))
      if (operand.has(loopIndex))
        distances[i] = mul(strides[i][loopIndex], constant(step));
    SmallVector<Value> initial = changing(from, loopIndex);
    unsigned positions = initial.size();
    llvm::append_range(initial, more);
    SmallVector<Value> results = loop(trips, initial, [&](ValueRange carried) {
      Position here = replaced(from, loopIndex, carried.take_front(positions));
      SmallVector<Value> rest = body(here, carried.drop_front(positions));
      for (auto [i, operand] : llvm::enumerate(operands))
        if (operand.has(loopIndex))
          for (Value &address : here.addresses[i])
            address = offset(address, distances[i]);
      if (Value &index = here.indices[loopIndex])
        index = add(index, constant(step));
      SmallVector<Value> next = changing(here, loopIndex);
      llvm::append_range(next, rest);
      return next;
    });
    ValueRange range(results);
    return {replaced(from, loopIndex, range.take_front(positions)),
            SmallVector<Value>(range.drop_front(positions))};
  }

  void emitStructures() {
    if (plan.rankOne) {
      Value steps = constant(1);
      for (unsigned loop : plan.main.reductions)
        steps = mul(steps, sizes[loop]);
      auto [single, several] =
          branch(compare(arith::CmpIPredicate::eq, steps, constant(1)));
      b.setInsertionPointToEnd(single);
      emitStructure(*plan.rankOne);
      b.setInsertionPointToEnd(several);
    }
    emitStructure(plan.main);
  }

  //===--- The share of a core
  //---------------------------------------------===//
  void emitStructure(const LoopStructure &structure) {
    operands = plan.operandsOf(structure);
    this->structure = &structure;
    if (!structure.cols) {
      auto [first, others] =
          branch(compare(arith::CmpIPredicate::eq, core, constant(0)));
      b.setInsertionPointToEnd(others);
      LLVM::BrOp::create(b, loc, exit);
      b.setInsertionPointToEnd(first);
      Position here = start;
      if (structure.streamed)
        emitStreamElements(structure, here, {}, 1, 1);
      else
        emitBlock(structure, here, 1, 1);
      LLVM::BrOp::create(b, loc, exit);
      return;
    }
    Value innerSize = sizes[*structure.cols];
    bool sharesOuter = structure.sharesOuter();
    // What cores share besides the columns: rows, a loop, or several as one.
    std::optional<unsigned> shared;
    if (sharesOuter && !structure.linear())
      shared = structure.rows ? *structure.rows : structure.outer.front();
    auto [outerShift, innerShift] = emitGranules(
        structure, structure.rows ? sizes[*structure.rows] : Value(),
        innerSize);
    auto granuleCount = [&](Value size, Value shift) {
      Value one = constant(1);
      return shiftRight(add(size, sub(shiftLeft(one, shift), one)), shift);
    };
    Value innerGranules = granuleCount(innerSize, innerShift);
    Value outerSize, outerGranules;
    if (shared) {
      outerSize = sizes[*shared];
      outerGranules = granuleCount(outerSize, outerShift);
    } else if (sharesOuter) {
      outerSize = constant(1);
      for (Value size : nestSizes(structure))
        outerSize = mul(outerSize, size);
      outerGranules = outerSize;
    }

    // The grid with the least work for the busiest core.
    Value work, outerShare, innerShare, outerCore, innerCore;
    for (CoreGrid grid : coreGrids(structure, cores)) {
      Value inner = ceilDiv(innerGranules, grid.inner);
      Value innerAt =
          b.createOrFold<arith::RemUIOp>(loc, core, constant(grid.inner));
      Value outer, outerAt, total = inner;
      if (sharesOuter) {
        outer = ceilDiv(outerGranules, grid.outer);
        outerAt =
            b.createOrFold<arith::DivUIOp>(loc, core, constant(grid.inner));
        total = mul(outer, inner);
      }
      if (!work) {
        work = total, outerShare = outer, innerShare = inner,
        outerCore = outerAt, innerCore = innerAt;
        continue;
      }
      Value better = compare(arith::CmpIPredicate::ult, total, work);
      work = select(better, total, work);
      outerShare = select(better, outer, outerShare);
      innerShare = select(better, inner, innerShare);
      outerCore = select(better, outerAt, outerCore);
      innerCore = select(better, innerAt, innerCore);
    }

    Position here = start;
    auto take = [&](Value size, Value share, Value at, Value shift) {
      Value step = shiftLeft(share, shift);
      Value begin = mul(step, at);
      Value left = sub(size, begin);
      Value count =
          select(compare(arith::CmpIPredicate::slt, left, step), left, step);
      auto [some, none] =
          branch(compare(arith::CmpIPredicate::sgt, count, constant(0)));
      b.setInsertionPointToEnd(none);
      LLVM::BrOp::create(b, loc, exit);
      b.setInsertionPointToEnd(some);
      return std::make_pair(begin, count);
    };
    counts = sizes;
    auto [column, columns] = take(innerSize, innerShare, innerCore, innerShift);
    here = advanced(here, *structure.cols, column);
    counts[*structure.cols] = columns;
    if (sharesOuter) {
      auto [begin, count] = take(outerSize, outerShare, outerCore, outerShift);
      if (shared) {
        here = advanced(here, *shared, begin);
        counts[*shared] = count;
      } else {
        emitNest(structure, here, begin, count);
        LLVM::BrOp::create(b, loc, exit);
        return;
      }
    }
    if (structure.outer.empty())
      emitRows(structure, here);
    else
      walk(structure.outer.front(), counts[structure.outer.front()], 1, here,
           {}, [&](const Position &inner, ValueRange) {
             emitRow(structure, inner, 1);
             return SmallVector<Value>();
           });
    LLVM::BrOp::create(b, loc, exit);
  }

  std::pair<Value, Value> emitGranules(const LoopStructure &structure,
                                       Value rowsSize, Value innerSize) {
    // Follows td::granules().
    auto granule = [&](Value size, unsigned block) {
      Value enough =
          compare(arith::CmpIPredicate::uge, size, constant(block * cores));
      return select(enough, constant(log2OfBlock(block)), constant(0));
    };
    Value inner = granule(innerSize, structure.streamed ? structure.unroll : 4);
    Value outer = constant(0);
    if (!structure.rows)
      return {outer, inner};
    Value full = compare(arith::CmpIPredicate::uge, rowsSize,
                         constant(structure.rowBlock));
    Value fullRows =
        select(full, constant(log2OfBlock(structure.rowBlock)), outer);
    if (structure.streamed) {
      if (!structure.linear())
        outer = structure.transposes ? fullRows
                                     : granule(rowsSize, structure.rowBlock);
      return {outer, inner};
    }
    if (!structure.linear())
      outer = fullRows;
    inner =
        select(full, constant(log2OfBlock(structure.colBlocks.front())), inner);
    return {outer, inner};
  }

  /// The loops that cores share as one: the outer ones, then blocks of rows.
  SmallVector<Value> nestSizes(const LoopStructure &structure) {
    SmallVector<Value> result;
    for (unsigned loop : structure.outer)
      result.push_back(sizes[loop]);
    if (structure.rows)
      result.push_back(shiftRight(
          add(sizes[*structure.rows], constant(structure.rowBlock - 1)),
          constant(log2OfBlock(structure.rowBlock))));
    return result;
  }

  /// `count` iterations of those loops from iteration `begin` on, as one loop
  /// that steps like an odometer.
  void emitNest(const LoopStructure &structure, Position here, Value begin,
                Value count) {
    SmallVector<unsigned> loops = structure.outer;
    SmallVector<int64_t> steps(loops.size(), 1);
    if (structure.rows) {
      loops.push_back(*structure.rows);
      steps.push_back(structure.rowBlock);
    }
    SmallVector<Value> nest = nestSizes(structure);
    unsigned depth = loops.size();

    // Where this core begins, and how far each loop is from its end.
    SmallVector<Value> left(depth);
    for (unsigned level = depth; level-- > 0;) {
      Value at = begin;
      if (level > 0) {
        begin = b.createOrFold<arith::DivUIOp>(loc, at, nest[level]);
        at = sub(at, mul(begin, nest[level]));
        left[level] = sub(nest[level], at);
      }
      here = advanced(here, loops[level], mul(at, constant(steps[level])));
    }
    // What a step of each loop adds to an address: also back to the start of
    // the next one in.
    SmallVector<SmallVector<Value>> distances(depth);
    for (unsigned level = 0; level < depth; ++level)
      for (auto [i, operand] : llvm::enumerate(operands)) {
        Value distance;
        if (operand.has(loops[level]))
          distance = mul(strides[i][loops[level]], constant(steps[level]));
        distances[level].push_back(distance);
      }
    SmallVector<SmallVector<Value>> carries = distances;
    for (unsigned level = 0; level + 1 < depth; ++level)
      for (auto [i, operand] : llvm::enumerate(operands))
        if (Value inner = distances[level + 1][i]) {
          Value &carry = carries[level][i];
          Value back = mul(inner, nest[level + 1]);
          carry = sub(carry ? carry : constant(0), back);
        }

    auto moves = [&](const KernelOperand &operand) {
      return llvm::any_of(loops,
                          [&](unsigned loop) { return operand.has(loop); });
    };
    auto pack = [&](const Position &position, ArrayRef<Value> counters) {
      SmallVector<Value> values;
      for (auto [operand, addresses] : llvm::zip(operands, position.addresses))
        if (moves(operand))
          values.push_back(addresses.front());
      for (unsigned loop : loops)
        if (position.indices[loop])
          values.push_back(position.indices[loop]);
      llvm::append_range(values, counters.drop_front());
      return values;
    };
    auto unpack = [&](ValueRange values, SmallVector<Value> &counters) {
      Position position = here;
      unsigned at = 0;
      for (auto [operand, addresses] : llvm::zip(operands, position.addresses))
        if (moves(operand))
          addresses.front() = values[at++];
      for (unsigned loop : loops)
        if (position.indices[loop])
          position.indices[loop] = values[at++];
      counters.assign(1, Value());
      llvm::append_range(counters, values.drop_front(at));
      return position;
    };
    loop(count, pack(here, left), [&](ValueRange carried) {
      SmallVector<Value> counters;
      Position position = unpack(carried, counters);
      if (structure.rows)
        emitRowBlock(structure, position, counters.back());
      else
        emitRow(structure, position, 1);
      // The innermost loop steps; one at its end starts again, and the next
      // steps.
      Block *stepped = nullptr;
      for (unsigned level = depth; level-- > 0;) {
        const auto &distance = level + 1 == depth ? distances : carries;
        for (auto [i, operand] : llvm::enumerate(operands))
          if (Value bytes = distance[level][i])
            position.addresses[i].front() =
                offset(position.addresses[i].front(), bytes);
        if (Value &index = position.indices[loops[level]])
          index = add(index, constant(steps[level]));
        if (level > 0)
          counters[level] = sub(counters[level], constant(1));
        SmallVector<Value> values = pack(position, counters);
        if (!stepped) {
          Block *from = b.getInsertionBlock();
          SmallVector<Type> types(ValueRange(values).getTypes());
          stepped = b.createBlock(exit, types,
                                  SmallVector<Location>(types.size(), loc));
          b.setInsertionPointToEnd(from);
        }
        if (level == 0) {
          LLVM::BrOp::create(b, loc, values, stepped);
          break;
        }
        Block *from = b.getInsertionBlock();
        Block *again = b.createBlock(stepped);
        b.setInsertionPointToEnd(from);
        LLVM::CondBrOp::create(
            b, loc,
            compare(arith::CmpIPredicate::ne, counters[level], constant(0)),
            stepped, values, again, ValueRange());
        b.setInsertionPointToEnd(again);
        counters[level] = nest[level];
        if (position.indices[loops[level]])
          position.indices[loops[level]] = constant(0);
      }
      b.setInsertionPointToEnd(stepped);
      return SmallVector<Value>(stepped->getArguments());
    });
  }

  /// A block of rows, or what is left of them in the last block.
  void emitRowBlock(const LoopStructure &structure, const Position &at,
                    Value blocksLeft) {
    unsigned rows = *structure.rows;
    Value rest = bitAnd(sizes[rows], constant(structure.rowBlock - 1));
    Value partial =
        bitAnd(compare(arith::CmpIPredicate::eq, blocksLeft, constant(1)),
               compare(arith::CmpIPredicate::ne, rest, constant(0)));
    auto [some, all] = branch(partial);
    Block *after = b.createBlock(exit);
    b.setInsertionPointToEnd(some);
    walk(rows, rest, 1, at, {}, [&](const Position &row, ValueRange) {
      emitRow(structure, row, 1);
      return SmallVector<Value>();
    });
    LLVM::BrOp::create(b, loc, after);
    b.setInsertionPointToEnd(all);
    emitRow(structure, at, structure.rowBlock);
    LLVM::BrOp::create(b, loc, after);
    b.setInsertionPointToEnd(after);
  }

  void emitRow(const LoopStructure &structure, const Position &at,
               unsigned height) {
    if (structure.streamed)
      emitStream(structure, at, height);
    else
      emitColumns(structure, at, height);
  }

  /// This core's rows, if there are any.
  void emitRows(const LoopStructure &structure, const Position &here) {
    if (!structure.rows)
      return emitRow(structure, here, 1);
    unsigned rows = *structure.rows;
    Position rest = here;
    Value left = counts[rows];
    for (unsigned height : {structure.rowBlock, 1u}) {
      rest = walk(rows, shiftRight(left, constant(log2OfBlock(height))), height,
                  rest, {},
                  [&](const Position &at, ValueRange) {
                    emitRow(structure, at, height);
                    return SmallVector<Value>();
                  })
                 .first;
      left = bitAnd(left, constant(height - 1));
    }
  }

  void emitColumns(const LoopStructure &structure, Position here,
                   unsigned height) {
    Value left = counts[*structure.cols];
    for (unsigned width : structure.widths(height)) {
      here =
          walk(*structure.cols, shiftRight(left, constant(log2OfBlock(width))),
               width, here, {},
               [&](const Position &at, ValueRange) {
                 emitBlock(structure, at, height, width);
                 return SmallVector<Value>();
               })
              .first;
      left = bitAnd(left, constant(width - 1));
    }
  }

  //===--- Streams
  //---------------------------------------------------------===//
  void emitStream(const LoopStructure &structure, Position here,
                  unsigned height) {
    unsigned cols = *structure.cols;
    spread(structure, here, height, 1);
    // What the innermost loop does not walk is read ahead of it.
    SmallVector<SmallVector<Value, 1>> invariant(operands.size());
    for (auto [i, operand] : llvm::enumerate(operands))
      if (operand.isTile() && operand.read && !scalars[i] && !operand.has(cols))
        for (unsigned r = 0; r < height; ++r) {
          Place from = place(structure, i, r, 0, 1);
          invariant[i].push_back(
              load(i, here.addresses[i][from.address], from.bytes));
        }
    Value left = counts[cols];
    for (unsigned width : {structure.unroll, 1u}) {
      SmallVector<Value> results =
          loop(shiftRight(left, constant(log2OfBlock(width))),
               changing(here, cols), [&](ValueRange carried) {
                 return changing(emitStreamElements(
                                     structure, replaced(here, cols, carried),
                                     invariant, height, width),
                                 cols);
               });
      here = replaced(here, cols, results);
      if (width == 1)
        break;
      left = bitAnd(left, constant(width - 1));
    }
  }

  /// `height` x `width` neighbouring elements: for each row all loads, then all
  /// computations, then all stores. Cores that walk neighbouring banks in turn
  /// follow one another without conflicts. A transposition does so for a few
  /// columns of all rows, loaded column by column.
  Position emitStreamElements(const LoopStructure &structure, Position at,
                              ArrayRef<SmallVector<Value, 1>> invariant,
                              unsigned height, unsigned width) {
    unsigned count = operands.size(), total = height * width;
    auto walked = [&](const KernelOperand &operand) {
      return structure.cols && operand.has(*structure.cols);
    };
    auto stridedCols = [&](const KernelOperand &operand) {
      return structure.cols && operand.strided(*structure.cols);
    };
    // Where each element is: addresses move along a strided operand.
    SmallVector<SmallVector<SmallVector<Value, 1>>> addresses(count);
    for (auto [i, operand] : llvm::enumerate(operands)) {
      addresses[i].assign(width, at.addresses[i]);
      for (unsigned u = 1; u < width; ++u)
        if (stridedCols(operand))
          for (auto [next, address] :
               llvm::zip(addresses[i][u], addresses[i][u - 1]))
            next = advance(address, strides[i][*structure.cols]);
    }
    SmallVector<SmallVector<Value>> arguments(total);
    std::map<std::tuple<unsigned, const void *, int64_t>, Value> loaded;
    auto element = [&](unsigned i, unsigned r, unsigned u) {
      Place from = place(structure, i, r, 0, 1);
      if (structure.cols && operands[i].contiguous(*structure.cols))
        from.bytes += operands[i].bytes * u;
      return std::make_pair(addresses[i][u][from.address], from.bytes);
    };
    auto loadOnce = [&](unsigned i, unsigned r, unsigned u) {
      auto [address, bytes] = element(i, r, u);
      Value &value = loaded[{i, address.getAsOpaquePointer(), bytes}];
      if (!value)
        value = load(i, address, bytes);
      return value;
    };
    auto fetch = [&](unsigned r, unsigned u) {
      for (auto [i, operand] : llvm::enumerate(operands)) {
        Value argument;
        if (scalars[i])
          argument = scalars[i];
        else if (operand.isTile() && operand.read && structure.cols &&
                 !walked(operand))
          argument = invariant[i][r];
        else if (operand.isTile() && operand.read)
          argument = loadOnce(i, r, u);
        arguments[r * width + u].push_back(argument);
      }
    };
    auto finish = [&](unsigned firstRow, unsigned rows, unsigned firstCol,
                      unsigned cols) {
      std::map<std::pair<unsigned, unsigned>, SmallVector<Value>> results;
      Block *block = b.getInsertionBlock();
      Operation *before = block->empty() ? nullptr : &block->back();
      for (unsigned r = firstRow; r < firstRow + rows; ++r)
        for (unsigned u = firstCol; u < firstCol + cols; ++u) {
          SmallVector<Value> indices = at.indices;
          auto shift = [&](unsigned loop, unsigned by) {
            if (indices[loop])
              indices[loop] = add(indices[loop], constant(by));
          };
          if (structure.cols)
            shift(*structure.cols, u);
          if (structure.rows)
            shift(*structure.rows, r);
          results[{r, u}] = compute(arguments[r * width + u], indices);
        }
      if (b.getInsertionBlock() == block) {
        IRMapping pinned = alternate(*block, before);
        for (auto &[place, values] : results)
          for (Value &value : values)
            value = pinned.lookupOrDefault(value);
      }
      for (unsigned r = firstRow; r < firstRow + rows; ++r)
        for (unsigned u = firstCol; u < firstCol + cols; ++u) {
          unsigned result = 0;
          for (unsigned i = 0; i < count; ++i)
            if (operands[i].output) {
              auto [address, bytes] = element(i, r, u);
              store(results[{r, u}][result++], address, bytes);
            }
        }
    };
    if (structure.transposes && height > 1) {
      // Only what is strided is loaded for all rows ahead: what else an element
      // needs would not find registers.
      constexpr unsigned group = 2;
      for (unsigned first = 0; first < width; first += group) {
        unsigned cols = std::min(group, width - first);
        for (unsigned u = first; u < first + cols; ++u)
          for (unsigned r = 0; r < height; ++r)
            for (auto [i, operand] : llvm::enumerate(operands))
              if (operand.read && stridedCols(operand) && walked(operand))
                loadOnce(i, r, u);
        for (unsigned r = 0; r < height; ++r) {
          for (unsigned u = first; u < first + cols; ++u)
            fetch(r, u);
          finish(r, 1, first, cols);
        }
      }
    } else {
      for (unsigned r = 0; r < height; ++r) {
        for (unsigned u = 0; u < width; ++u)
          fetch(r, u);
        finish(r, 1, 0, width);
      }
    }
    for (unsigned i = 0; i < count; ++i)
      at.addresses[i] = addresses[i].back();
    if (!structure.cols)
      return at;
    for (auto [i, operand] : llvm::enumerate(operands))
      if (walked(operand))
        for (Value &address : at.addresses[i])
          address = advance(address, stridedCols(operand)
                                         ? strides[i][*structure.cols]
                                         : constant(operand.bytes * width));
    if (Value &index = at.indices[*structure.cols])
      index = add(index, constant(width));
    return at;
  }

  //===--- Blocks
  //----------------------------------------------------------===//
  /// Where element (row, column) of a block is: which of the operand's
  /// addresses, and how many bytes on.
  struct Place {
    unsigned address;
    int64_t bytes;
  };
  Place place(const LoopStructure &structure, unsigned operand, unsigned row,
              unsigned col, unsigned width) {
    const KernelOperand &described = operands[operand];
    Place result{0, 0};
    if (structure.rows && described.contiguous(*structure.rows))
      result.bytes += described.bytes * row;
    if (structure.cols && described.contiguous(*structure.cols))
      result.bytes += described.bytes * col;
    bool manyCols = structure.cols && described.strided(*structure.cols);
    if (structure.rows && described.strided(*structure.rows))
      result.address = row * (manyCols ? width : 1);
    if (manyCols)
      result.address += col;
    return result;
  }

  /// Makes an address of each row and column that is no constant distance away.
  void spread(const LoopStructure &structure, Position &at, unsigned height,
              unsigned width) {
    for (auto [i, operand] : llvm::enumerate(operands)) {
      if (!operand.isTile())
        continue;
      bool manyRows = structure.rows && operand.strided(*structure.rows);
      bool manyCols = !structure.streamed && structure.cols &&
                      operand.strided(*structure.cols);
      Value row = at.addresses[i].front();
      at.addresses[i].clear();
      for (unsigned r = 0; r < (manyRows ? height : 1); ++r) {
        if (r > 0)
          row = offset(row, strides[i][*structure.rows]);
        Value col = row;
        for (unsigned c = 0; c < (manyCols ? width : 1); ++c) {
          if (c > 0)
            col = offset(col, strides[i][*structure.cols]);
          at.addresses[i].push_back(col);
        }
      }
    }
  }

  void emitBlock(const LoopStructure &structure, Position at, unsigned height,
                 unsigned width) {
    spread(structure, at, height, width);
    SmallVector<unsigned> outputs;
    for (auto [i, operand] : llvm::enumerate(operands))
      if (operand.output)
        outputs.push_back(i);
    auto loadStart = [&] {
      SmallVector<Value> start;
      for (unsigned r = 0; r < height; ++r)
        for (unsigned c = 0; c < width; ++c)
          for (unsigned output : outputs) {
            Place from = place(structure, output, r, c, width);
            start.push_back(
                load(output, at.addresses[output][from.address], from.bytes));
          }
      return start;
    };
    SmallVector<Value> sums = loadStart();
    sums = plan.extremum
               ? emitExtrema(structure, at, sums, height, width, loadStart)
               : emitReductions(structure, structure.reductions, at, sums,
                                height, width);
    unsigned sum = 0;
    for (unsigned r = 0; r < height; ++r)
      for (unsigned c = 0; c < width; ++c)
        for (unsigned output : outputs) {
          Place to = place(structure, output, r, c, width);
          store(sums[sum++], at.addresses[output][to.address], to.bytes);
        }
  }

  SmallVector<Value> emitReductions(const LoopStructure &structure,
                                    ArrayRef<unsigned> reductions,
                                    const Position &at, ArrayRef<Value> sums,
                                    unsigned height, unsigned width) {
    unsigned loopIndex = reductions.front();
    if (reductions.size() > 1)
      return walk(loopIndex, sizes[loopIndex], 1, at, sums,
                  [&](const Position &inner, ValueRange carried) {
                    return emitReductions(structure, reductions.drop_front(),
                                          inner, SmallVector<Value>(carried),
                                          height, width);
                  })
          .second;

    Position here = at;
    SmallVector<Value> current(sums);
    if (int64_t steps = plan.straightSteps(structure, height, width)) {
      emitSteps(structure, loopIndex, here, current, steps, height, width);
      return current;
    }
    Value left = sizes[loopIndex];
    // A loop of unrolled steps, then what is left by halves.
    for (unsigned steps = structure.unroll; steps >= 1; steps /= 2) {
      SmallVector<Value> initial = changing(here, loopIndex);
      unsigned positions = initial.size();
      llvm::append_range(initial, current);
      auto body = [&](ValueRange carried) {
        Position inner =
            replaced(here, loopIndex, carried.take_front(positions));
        SmallVector<Value> inFlight(carried.drop_front(positions));
        emitSteps(structure, loopIndex, inner, inFlight, steps, height, width);
        if (Value &index = inner.indices[loopIndex])
          index = add(index, constant(steps));
        SmallVector<Value> next = changing(inner, loopIndex);
        llvm::append_range(next, inFlight);
        return next;
      };
      SmallVector<Value> results =
          steps == structure.unroll
              ? loop(shiftRight(left, constant(log2OfBlock(steps))), initial,
                     body)
              : when(compare(arith::CmpIPredicate::ne,
                             bitAnd(left, constant(steps)), constant(0)),
                     initial, body);
      ValueRange range(results);
      here = replaced(here, loopIndex, range.take_front(positions));
      current = SmallVector<Value>(range.drop_front(positions));
    }
    return current;
  }

  /// `steps` steps of the innermost reduction for all results of the block:
  /// step by step, or, if an operand runs along the reduction in its rows,
  /// result by result, which touches neighbouring banks of L1 in turn. Loads
  /// run a little ahead, so that they alternate with arithmetic: two cores
  /// share a floating-point unit.
  void emitSteps(const LoopStructure &structure, unsigned loopIndex,
                 Position &at, SmallVector<Value> &sums, unsigned steps,
                 unsigned height, unsigned width) {
    unsigned count = operands.size(), elements = height * width;
    // Values per result of the block.
    unsigned state = (sums.size() - passesOverNaN) / elements;
    Value seen = passesOverNaN ? sums.back() : Value();
    // Addresses of each step.
    SmallVector<SmallVector<SmallVector<Value, 1>>> addresses(count);
    for (auto [i, operand] : llvm::enumerate(operands)) {
      addresses[i].push_back(at.addresses[i]);
      for (unsigned u = 1; u < steps; ++u) {
        SmallVector<Value, 1> next = addresses[i].back();
        if (operand.strided(loopIndex))
          for (Value &address : next)
            address = advance(address, strides[i][loopIndex]);
        addresses[i].push_back(next);
      }
    }
    std::map<std::tuple<unsigned, unsigned, unsigned, int64_t>, Value> loaded;
    auto argument = [&](unsigned i, unsigned u, unsigned r,
                        unsigned c) -> Value {
      const KernelOperand &operand = operands[i];
      if (operand.output || !operand.read)
        return {};
      if (scalars[i])
        return scalars[i];
      Place from = place(structure, i, r, c, width);
      if (operand.contiguous(loopIndex))
        from.bytes += operand.bytes * u;
      unsigned step = operand.strided(loopIndex) ? u : 0;
      Value &value = loaded[{i, step, from.address, from.bytes}];
      if (!value)
        value = load(i, addresses[i][step][from.address], from.bytes);
      return value;
    };
    bool byResult = plan.resultByResult(structure, height, width);
    unsigned total = steps * elements, ahead = 0;
    SmallVector<SmallVector<Value>> arguments(total);
    auto stepAndElement = [&](unsigned n) {
      return byResult ? std::make_pair(n % steps, n / steps)
                      : std::make_pair(n / elements, n % elements);
    };
    for (unsigned n = 0; n < total; ++n) {
      for (; ahead < std::min(total, n + 1 + KernelPlan::lookAhead); ++ahead) {
        auto [u, element] = stepAndElement(ahead);
        for (unsigned i = 0; i < count; ++i)
          arguments[ahead].push_back(
              argument(i, u, element / width, element % width));
      }
      auto [u, element] = stepAndElement(n);
      ArrayRef<Value> before = ArrayRef(sums).slice(element * state, state);
      if (!passesOverNaN)
        for (unsigned o = 0; o < state; ++o)
          arguments[n][count - state + o] = before[o];
      SmallVector<Value> indices = at.indices;
      auto shift = [&](unsigned loop, unsigned by) {
        if (indices[loop])
          indices[loop] = add(indices[loop], constant(by));
      };
      shift(loopIndex, u);
      if (structure.rows)
        shift(*structure.rows, element / width);
      if (structure.cols)
        shift(*structure.cols, element % width);
      SmallVector<Value> results;
      if (passesOverNaN) {
        results.emplace_back();
        std::tie(results[0], seen) =
            stepExtremum(arguments[n], indices, before[0], seen);
      } else if (plan.firstMaximum) {
        results = stepFirstMaximum(arguments[n], indices, before);
      } else {
        results = compute(arguments[n], indices);
      }
      for (unsigned o = 0; o < state; ++o)
        sums[element * state + o] = total > 1 ? pin(results[o]) : results[o];
    }
    if (passesOverNaN)
      sums.back() = seen;

    for (auto [i, operand] : llvm::enumerate(operands)) {
      if (!operand.has(loopIndex))
        continue;
      at.addresses[i] = addresses[i].back();
      for (Value &address : at.addresses[i])
        address = advance(address, operand.contiguous(loopIndex)
                                       ? constant(operand.bytes * steps)
                                       : strides[i][loopIndex]);
    }
  }

  //===--- The computation of one element
  //----------------------------------===//
  SmallVector<Value> compute(ArrayRef<Value> arguments,
                             ArrayRef<Value> indices) {
    if (plan.factors)
      return {math::FmaOp::create(b, loc, arguments[plan.factors->first],
                                  arguments[plan.factors->second],
                                  arguments.back())};
    IRMapping mapping = emitBody(arguments, indices);
    SmallVector<Value> results;
    for (Value result : op.getBlock()->getTerminator()->getOperands())
      results.push_back(mapping.lookupOrDefault(result));
    return results;
  }

  /// The body's operations, but not an extremum that steps by itself.
  IRMapping emitBody(ArrayRef<Value> arguments, ArrayRef<Value> indices) {
    Block &body = *op.getBlock();
    IRMapping mapping = constants;
    for (auto [argument, value] : llvm::zip(body.getArguments(), arguments))
      if (value)
        mapping.map(argument, value);
    for (Operation &inner : body.without_terminator()) {
      if (passesOverNaN && (&inner == plan.extremum || &inner == plan.cut))
        continue;
      if (plan.firstMaximum &&
          llvm::is_contained(plan.firstMaximum->chain, &inner))
        continue;
      if (auto select = dyn_cast<arith::SelectOp>(inner);
          select && llvm::is_contained(selections, select)) {
        mapping.map(select.getResult(),
                    mapping.lookupOrDefault(selected ? select.getTrueValue()
                                                     : select.getFalseValue()));
        continue;
      }
      if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
        Value value = indices[loopOfDimension(index.getDim())];
        mapping.map(index.getResult(),
                    arith::IndexCastOp::create(b, loc, b.getIndexType(), value)
                        .getResult());
        continue;
      }
      if (auto quotient = dyn_cast<arith::DivFOp>(inner);
          quotient && quotient.getType().isF32())
        mapping.map(quotient.getResult(), divide(quotient, mapping));
      else if (auto root = dyn_cast<math::SqrtOp>(inner);
               root && root.getType().isF32() &&
               allows(root.getFastmath(), arith::FastMathFlags::afn))
        mapping.map(root.getResult(), squareRoot(root, mapping));
      else if (Value value = branchFree(inner, mapping))
        mapping.map(inner.getResult(0), value);
      else
        b.clone(inner, mapping);
    }
    return mapping;
  }

  //===--- Floating-point units
  //--------------------------------------------===//
  /// Reorders what follows `before` so that floating-point and other
  /// instructions take turns, and pins the order (the values that replace
  /// others are returned): two cores share a unit, and where both have nothing
  /// else to do, each waits for the other.
  IRMapping alternate(Block &block, Operation *before) {
    IRMapping pinned;
    SmallVector<Operation *> waiting;
    DenseSet<Operation *> pending;
    unsigned floating = 0, others = 0;
    auto isFloating = [](Operation *op) {
      return isa<arith::AddFOp, arith::SubFOp, arith::MulFOp, math::FmaOp,
                 arith::CmpFOp, arith::MaxNumFOp, arith::MinNumFOp>(op);
    };
    auto isFree = [](Operation *op) {
      return op->hasTrait<OpTrait::ConstantLike>() ||
             isa<arith::BitcastOp, arith::NegFOp, arith::CmpFOp, arith::CmpIOp,
                 arith::IndexCastOp>(op);
    };
    for (auto it = before ? std::next(before->getIterator()) : block.begin();
         it != block.end(); ++it) {
      waiting.push_back(&*it);
      pending.insert(&*it);
      floating += isFloating(&*it);
      others += !isFloating(&*it) && !isFree(&*it);
    }
    // With few, chance keeps the cores out of each other's way; with many, what
    // is computed early takes too many registers.
    if (floating < 12 || 2 * floating < others || floating + others > 100)
      return pinned;
    bool floatingNext = false;
    while (!waiting.empty()) {
      auto ready = [&](Operation *op) {
        return llvm::none_of(op->getOperands(), [&](Value operand) {
          return pending.contains(operand.getDefiningOp());
        });
      };
      auto chosen = waiting.end();
      for (auto it = waiting.begin(); it != waiting.end(); ++it) {
        if (!ready(*it))
          continue;
        if (isFree(*it) || isFloating(*it) == floatingNext) {
          chosen = it;
          break;
        }
        if (chosen == waiting.end())
          chosen = it;
      }
      Operation *op = *chosen;
      waiting.erase(chosen);
      pending.erase(op);
      op->moveBefore(&block, block.end());
      if (isFree(op))
        continue;
      floatingNext = !isFloating(op);
      Type type = op->getResult(0).getType();
      if (!type.isF32() && !type.isInteger(32))
        continue;
      b.setInsertionPointToEnd(&block);
      Value value = pin(op->getResult(0));
      op->getResult(0).replaceAllUsesExcept(value, value.getDefiningOp());
      pinned.map(op->getResult(0), value);
    }
    b.setInsertionPointToEnd(&block);
    return pinned;
  }

  //===--- Division
  //--------------------------------------------------------===//
  /// All cores share one divider. So a quotient of numbers of usual size, whose
  /// quotient is of usual size, comes from a reciprocal and one correction by
  /// the remainder, which rounds it as the divider would: the reciprocal is
  /// rounded correctly itself, as long as the divisor's mantissa is not all
  /// ones. Everything else is left to the divider. What may be a product with a
  /// reciprocal (`arcp`) needs no correction, and looks at the divisor only.
  Value divide(arith::DivFOp op, const IRMapping &mapping) {
    Value x = mapping.lookupOrDefault(op.getLhs()),
          y = mapping.lookupOrDefault(op.getRhs());
    bool varies = variesInside(op.getRhs());
    if (!varies && !variesInside(op.getLhs()))
      return arith::DivFOp::create(b, loc, x, y);
    // The magnitude is from 2^-60 to 2^60.
    auto usual = [&](Value value) {
      return compare(
          arith::CmpIPredicate::ult,
          sub(shiftLeft(bitsOf(value), constant(1)), constant(67 << 24)),
          constant(120 << 24));
    };
    bool product = allows(op.getFastmath(), arith::FastMathFlags::arcp),
         rounded = !allows(op.getFastmath(), arith::FastMathFlags::afn);
    if (product && !varies)
      return arith::MulFOp::create(
          b, loc, x, arith::DivFOp::create(b, loc, real(1.0f), y));
    Value easy = product ? usual(y) : bitAnd(usual(x), usual(y));
    Value minus = arith::NegFOp::create(b, loc, y), reciprocal;
    if (varies) {
      if (rounded)
        easy = bitAnd(easy, compare(arith::CmpIPredicate::ult,
                                    shiftLeft(bitsOf(y), constant(9)),
                                    constant(-(1 << 9))));
      // A linear guess, two steps of third order, one of second that rounds.
      reciprocal = realOf(sub(constant(0x7EF311C7), bitsOf(y)));
      for (int step = 0; step < 2; ++step) {
        Value error = fma(minus, reciprocal, real(1.0f));
        reciprocal = fma(reciprocal, fma(error, error, error), reciprocal);
      }
      if (rounded)
        reciprocal =
            fma(fma(minus, reciprocal, real(1.0f)), reciprocal, reciprocal);
    } else {
      // Before the loop.
      reciprocal = arith::DivFOp::create(b, loc, real(1.0f), y);
    }
    Value quotient = arith::MulFOp::create(b, loc, x, reciprocal);
    if (!product)
      quotient = fma(fma(minus, quotient, x), reciprocal, quotient);
    return unless(easy, quotient, [&] {
      return arith::DivFOp::create(b, loc, x, y).getResult();
    });
  }

  /// A square root that may be an approximation, of a normal number: that of
  /// the reciprocal by a linear guess and a step of third order, and one of
  /// second for the root. The unit that all cores share is left to the others
  /// but zero.
  Value squareRoot(math::SqrtOp op, const IRMapping &mapping) {
    Value x = mapping.lookupOrDefault(op.getOperand());
    if (!variesInside(op.getOperand()))
      return math::SqrtOp::create(b, loc, x);
    Value bits = bitsOf(x);
    Value normal = compare(arith::CmpIPredicate::ult,
                           sub(bits, constant(1 << 23)), constant(254 << 23));
    auto times = [&](Value p, Value q) -> Value {
      return arith::MulFOp::create(b, loc, p, q);
    };
    Value guess =
        realOf(sub(constant(0x5F375A86), shiftRight(bits, constant(1))));
    Value root = times(x, guess);
    Value error = fma(arith::NegFOp::create(b, loc, root), guess, real(1.0f));
    Value reciprocal =
        fma(times(guess, error), fma(error, real(0.375f), real(0.5f)), guess);
    root = times(x, reciprocal);
    Value rest = fma(arith::NegFOp::create(b, loc, root), root, x);
    // Half of the reciprocal: its exponent less one.
    Value half = realOf(sub(bitsOf(reciprocal), constant(1 << 23)));
    return unless(normal, fma(rest, half, root), [&] {
      Value isZero = compare(arith::CmpIPredicate::eq, bits, constant(0));
      return unless(isZero, x, [&] {
        return math::SqrtOp::create(b, loc, x).getResult();
      });
    });
  }

  static bool allows(arith::FastMathFlags flags, arith::FastMathFlags what) {
    return bitEnumContainsAll(flags, what);
  }
  /// Whether a value of the body is another one in each turn of the innermost
  /// loop.
  bool variesInside(Value value) {
    std::optional<unsigned> innermost =
        structure->streamed
            ? structure->cols
            : std::optional<unsigned>(structure->reductions.back());
    return !innermost || plan.varies(value, *innermost);
  }
  /// `value` if the condition holds, which is likely, or else what `other`
  /// emits.
  Value unless(Value likely, Value value, function_ref<Value()> other) {
    Block *before = b.getInsertionBlock();
    Block *hard = b.createBlock(exit);
    Block *after = b.createBlock(exit, value.getType(), loc);
    b.setInsertionPointToEnd(before);
    LLVM::CondBrOp::create(b, loc, likely, after, ValueRange(value), hard,
                           ValueRange(), std::make_pair(1000u, 1u));
    b.setInsertionPointToEnd(hard);
    Value exact = other();
    LLVM::BrOp::create(b, loc, exact, after);
    b.setInsertionPointToEnd(after);
    return after->getArgument(0);
  }
  Value real(float value) {
    return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value));
  }
  Value realOf(Value bits) {
    return b.createOrFold<arith::BitcastOp>(loc, b.getF32Type(), bits);
  }
  Value fma(Value p, Value q, Value r) {
    return math::FmaOp::create(b, loc, p, q, r);
  }

  //===--- Running extrema
  //-------------------------------------------------===//
  // The cores' fmin and fmax pass over NaN. So a block of running extrema
  // carries one more word, the largest of the bits of all that it has seen: a
  // NaN has more than infinity. If there was one, which is rare, the block is
  // done again as it is written.
  //
  // Numbers that are cut off at zero are ordered as their bits are: as signed
  // numbers those below zero are smaller, and a NaN without a sign is larger
  // than all. One with a sign has the largest bits without regard to it.
  static constexpr uint32_t infinity = 0x7F800000, sign = 0x80000000;

  Value bitsOf(Value x) {
    return b.createOrFold<arith::BitcastOp>(loc, b.getI32Type(), x);
  }
  /// The word `seen`, after `x`.
  Value look(Value seen, Value x) {
    Value bits = bitsOf(x);
    if (!plan.cut)
      bits = shiftLeft(bits, constant(1));
    return seen ? arith::MaxUIOp::create(b, loc, seen, bits).getResult() : bits;
  }
  SmallVector<Value> emitExtrema(const LoopStructure &structure,
                                 const Position &at, ArrayRef<Value> start,
                                 unsigned height, unsigned width,
                                 function_ref<SmallVector<Value>()> loadStart) {
    SmallVector<Value> state;
    Value seen;
    for (Value value : start) {
      seen = look(seen, value);
      if (plan.cut)
        value = arith::BitcastOp::create(
            b, loc, b.getF32Type(),
            arith::MaxSIOp::create(b, loc, bitsOf(value), constant(0)));
      state.push_back(value);
    }
    state.push_back(seen);
    passesOverNaN = true;
    state = emitReductions(structure, structure.reductions, at, state, height,
                           width);
    passesOverNaN = false;
    Value limit = constant(
        static_cast<int32_t>(plan.cut ? sign | infinity : infinity << 1));
    Value sawNaN =
        compare(arith::CmpIPredicate::ult, limit, state.pop_back_val());
    return when(
        sawNaN, state,
        [&](ValueRange) {
          // Loaded again: there are too few registers to keep it.
          return emitReductions(structure, structure.reductions, at,
                                loadStart(), height, width);
        },
        /*rarely=*/true);
  }
  /// The extremum `before` and the word `seen`, after another element.
  std::pair<Value, Value> stepExtremum(ArrayRef<Value> arguments,
                                       ArrayRef<Value> indices, Value before,
                                       Value seen) {
    IRMapping mapping = emitBody(arguments, indices);
    BlockArgument output = op.getBlock()->getArguments().back();
    Value x = plan.extremum->getOperand(plan.extremum->getOperand(0) == output);
    if (plan.cut) {
      x = plan.cut->getOperand(
          matchPattern(plan.cut->getOperand(0), m_PosZeroFloat()));
      x = mapping.lookupOrDefault(x);
      Value larger = arith::MaxSIOp::create(b, loc, bitsOf(before), bitsOf(x));
      return {arith::BitcastOp::create(b, loc, b.getF32Type(), larger),
              look(seen, x)};
    }
    x = mapping.lookupOrDefault(x);
    Value extremum =
        isa<arith::MaximumFOp>(plan.extremum)
            ? arith::MaxNumFOp::create(b, loc, before, x).getResult()
            : arith::MinNumFOp::create(b, loc, before, x).getResult();
    return {extremum, look(seen, x)};
  }

  /// A maximum and its place, after another element. Most elements are not
  /// larger, so a branch is cheaper than two selections.
  SmallVector<Value> stepFirstMaximum(ArrayRef<Value> arguments,
                                      ArrayRef<Value> indices,
                                      ArrayRef<Value> before) {
    IRMapping mapping = emitBody(arguments, indices);
    Value element = mapping.lookupOrDefault(plan.firstMaximum->element),
          place = mapping.lookupOrDefault(plan.firstMaximum->place);
    auto is = [&](arith::CmpFPredicate predicate, Value x, Value y) -> Value {
      return arith::CmpFOp::create(b, loc, predicate, x, y);
    };
    Value larger = is(arith::CmpFPredicate::UGT, element, before[0]);
    return when(larger, before, [&](ValueRange) {
      // Only a NaN takes the place of a NaN.
      Value wasNaN = is(arith::CmpFPredicate::UNO, before[0], before[0]);
      return when(
          wasNaN, {element, place},
          [&](ValueRange) {
            Value isNaN = is(arith::CmpFPredicate::UNO, element, element);
            return SmallVector<Value>{select(isNaN, element, before[0]),
                                      select(isNaN, place, before[1])};
          },
          /*rarely=*/true);
    });
  }

  /// Selections and NaN-propagating extrema without a branch, which would cost
  /// more, vary with the data and stop the scheduler.
  Value branchFree(Operation &inner, const IRMapping &mapping) {
    if (!isa<arith::SelectOp, arith::MaximumFOp, arith::MinimumFOp>(inner))
      return {};
    Type type = inner.getResult(0).getType();
    if (!type.isF32() && !type.isInteger(32))
      return {};
    auto bits = [&](Value value) -> Value {
      return type.isF32()
                 ? b.createOrFold<arith::BitcastOp>(loc, b.getI32Type(), value)
                 : value;
    };
    auto value = [&](Value result) -> Value {
      return type.isF32() ? b.createOrFold<arith::BitcastOp>(loc, type, result)
                          : result;
    };
    auto mask = [&](Value condition, bool unless) -> Value {
      return pulp::MaskOp::create(b, loc, b.getI32Type(), condition, unless);
    };
    if (auto choice = dyn_cast<arith::SelectOp>(inner)) {
      Value condition = mapping.lookupOrDefault(choice.getCondition());
      Value yes = mapping.lookupOrDefault(choice.getTrueValue());
      Value no = mapping.lookupOrDefault(choice.getFalseValue());
      if (matchPattern(no, m_PosZeroFloat()) || matchPattern(no, m_Zero()))
        return value(bitAnd(bits(yes), mask(condition, false)));
      if (matchPattern(yes, m_PosZeroFloat()) || matchPattern(yes, m_Zero()))
        return value(bitAnd(bits(no), mask(condition, true)));
      // Any NaN is as good as another.
      if (matchPattern(yes, m_NaNFloat()))
        return value(b.createOrFold<arith::OrIOp>(loc, bits(no),
                                                  mask(condition, false)));
      if (matchPattern(no, m_NaNFloat()))
        return value(b.createOrFold<arith::OrIOp>(loc, bits(yes),
                                                  mask(condition, true)));
      Value difference =
          b.createOrFold<arith::XOrIOp>(loc, bits(yes), bits(no));
      return value(b.createOrFold<arith::XOrIOp>(
          loc, bits(no), bitAnd(difference, mask(condition, false))));
    }
    Value x = mapping.lookupOrDefault(inner.getOperand(0)),
          y = mapping.lookupOrDefault(inner.getOperand(1));
    bool maximum = isa<arith::MaximumFOp>(inner);
    if (matchPattern(x, m_PosZeroFloat()))
      std::swap(x, y);
    if (maximum && matchPattern(y, m_PosZeroFloat())) {
      Value cut =
          arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLE, x, y);
      return value(bitAnd(bits(x), mask(cut, true)));
    }
    Value extreme = maximum
                        ? arith::MaxNumFOp::create(b, loc, x, y).getResult()
                        : arith::MinNumFOp::create(b, loc, x, y).getResult();
    Value ordered =
        arith::CmpFOp::create(b, loc, arith::CmpFPredicate::ORD, x, y);
    return value(
        b.createOrFold<arith::OrIOp>(loc, bits(extreme), mask(ordered, true)));
  }

  unsigned loopOfDimension(unsigned dim) {
    for (auto [loop, members] : llvm::enumerate(plan.loops))
      if (llvm::is_contained(members, dim))
        return loop;
    llvm_unreachable("every dimension belongs to a loop");
  }

  linalg::LinalgOp op;
  const KernelPlan &plan;
  unsigned cores;
  LLVM::LLVMFuncOp function;
  OpBuilder b;
  Location loc;
  Block *exit = nullptr;
  Value core;
  SmallVector<Value> sizes,
      counts; // per loop: of the tile, of this core's share
  SmallVector<SmallVector<Value>> strides; // per operand and loop, in bytes
  SmallVector<Value> scalars;              // per operand, if it is one
  IRMapping constants; // of the kernel's function, around the op
  Position start;
  SmallVector<arith::SelectOp> selections; // decided ahead of the loops
  bool selected = false;      // which of their operands they take in this code
  bool passesOverNaN = false; // a block of extrema, as if there were no NaN
  // What is being emitted, and the operands as it sees them.
  const LoopStructure *structure = nullptr;
  SmallVector<KernelOperand> operands;
};

/// `pulp.mask` as inline assembly, which LLVM does not turn back into a branch.
struct LowerMask : OpConversionPattern<pulp::MaskOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult
  matchAndRewrite(pulp::MaskOp op, OpAdaptor adaptor,
                  ConversionPatternRewriter &rewriter) const override {
    Value bit = LLVM::ZExtOp::create(
        rewriter, op.getLoc(), rewriter.getI32Type(), adaptor.getCondition());
    StringRef text = op.getUnless() ? "addi $0, $1, -1" : "neg $0, $1";
    rewriter.replaceOpWithNewOp<LLVM::InlineAsmOp>(
        op, rewriter.getI32Type(), ValueRange{bit}, text, "=r,r",
        /*has_side_effects=*/false,
        /*is_align_stack=*/false, LLVM::TailCallKind::None,
        /*asm_dialect=*/LLVM::AsmDialectAttr(),
        /*operand_attrs=*/ArrayAttr());
    return success();
  }
};

/// Extrema of integers, which the cores have instructions for and LLVM's
/// RISC-V does not.
template <typename Op> struct LowerIntegerExtremum : OpConversionPattern<Op> {
  LowerIntegerExtremum(const TypeConverter &converter, MLIRContext *context,
                       unsigned function)
      : OpConversionPattern<Op>(converter, context, /*benefit=*/2),
        function(function) {}
  LogicalResult
  matchAndRewrite(Op op, typename Op::Adaptor adaptor,
                  ConversionPatternRewriter &rewriter) const override {
    if (!op.getType().isInteger(32))
      return failure();
    std::string text =
        ".insn r 0x33, " + std::to_string(function) + ", 2, $0, $1, $2";
    rewriter.replaceOpWithNewOp<LLVM::InlineAsmOp>(
        op, op.getType(), ValueRange{adaptor.getLhs(), adaptor.getRhs()}, text,
        "=r,r,r", /*has_side_effects=*/false, /*is_align_stack=*/false,
        LLVM::TailCallKind::None, /*asm_dialect=*/LLVM::AsmDialectAttr(),
        /*operand_attrs=*/ArrayAttr());
    return success();
  }
  unsigned function;
};

/// `pulp.advance` as inline assembly: see the op.
struct LowerAdvance : OpConversionPattern<pulp::AdvanceOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult
  matchAndRewrite(pulp::AdvanceOp op, OpAdaptor adaptor,
                  ConversionPatternRewriter &rewriter) const override {
    APInt known;
    bool immediate = matchPattern(op.getBytes(), m_ConstantInt(&known)) &&
                     llvm::isInt<12>(known.getSExtValue());
    std::string text =
        immediate ? "addi $0, $1, " + std::to_string(known.getSExtValue())
                  : "add $0, $1, $2";
    SmallVector<Value> operands{adaptor.getAddress()};
    if (!immediate)
      operands.push_back(adaptor.getBytes());
    rewriter.replaceOpWithNewOp<LLVM::InlineAsmOp>(
        op, op.getType(), operands, text, immediate ? "=r,r" : "=r,r,r",
        /*has_side_effects=*/false, /*is_align_stack=*/false,
        LLVM::TailCallKind::None, /*asm_dialect=*/LLVM::AsmDialectAttr(),
        /*operand_attrs=*/ArrayAttr());
    return success();
  }
};

struct LowerKernels : td::impl::LowerKernelsBase<LowerKernels> {
  using LowerKernelsBase::LowerKernelsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<func::FuncOp> kernels;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr("tile.kernel"))
        kernels.push_back(function);
    if (kernels.empty())
      return;
    FailureOr<Target> target = Target::get(module);
    if (failed(target))
      return signalPassFailure();
    unsigned cores = target->integer("cores", "count");
    if (cores == 0)
      return signalPassFailure();
    for (func::FuncOp kernel : kernels)
      if (failed(lower(kernel, cores)))
        return signalPassFailure();
    numKernels += kernels.size();
  }

  LogicalResult lower(func::FuncOp kernel, unsigned cores) {
    linalg::LinalgOp op;
    if (!kernel.getBody().hasOneBlock())
      return kernel.emitOpError("is a kernel and needs a body of one block");
    for (Operation &inner : kernel.getBody().front().without_terminator()) {
      if (inner.hasTrait<OpTrait::ConstantLike>())
        continue;
      auto linalgOp = dyn_cast<linalg::LinalgOp>(inner);
      if (!linalgOp || op)
        return inner.emitOpError("kernels hold one linalg op after constants");
      op = linalgOp;
    }
    if (!op)
      return kernel.emitOpError("is a kernel and holds no linalg op");
    for (Value operand : op->getOperands())
      if (auto type = dyn_cast<MemRefType>(operand.getType())) {
        auto argument = dyn_cast<BlockArgument>(operand);
        auto memory = dyn_cast_or_null<tile::MemoryAttr>(type.getMemorySpace());
        if (!argument || !type.getLayout().isIdentity() || !memory ||
            memory.getLevel() != tile::Level::L1)
          return op->emitOpError("kernels work on arguments that are packed "
                                 "row-major tiles in L1");
      } else if (isa<ShapedType>(operand.getType())) {
        return op->emitOpError("kernels work on memrefs");
      }
    for (Operation &inner : op.getBlock()->without_terminator())
      if (isa<math::MathDialect>(inner.getDialect()) &&
          !isMathInstruction(&inner))
        return inner.emitOpError(
            "is no instruction of the cores: td-expand-math has to run before");
    FailureOr<KernelPlan> plan = KernelPlan::get(op);
    if (failed(plan))
      return failure();

    OpBuilder b(kernel);
    MLIRContext *context = b.getContext();
    auto type = LLVM::LLVMFunctionType::get(
        LLVM::LLVMVoidType::get(context),
        {LLVM::LLVMPointerType::get(context), b.getI32Type()});
    auto function =
        LLVM::LLVMFuncOp::create(b, kernel.getLoc(), kernel.getName(), type);
    function->setAttr("tile.kernel", b.getUnitAttr());
    // No loop of a kernel may become a call to memset or memcpy, and operations
    // on bits stay with the integer unit.
    function.setPassthroughAttr(
        b.getStrArrayAttr({"no-builtins", "noimplicitfloat", "nounwind"}));
    KernelEmitter(op, *plan, cores, function).emit();
    kernel.erase();

    LowerToLLVMOptions options(context);
    options.overrideIndexBitwidth(32);
    LLVMTypeConverter converter(context, options);
    RewritePatternSet patterns(context);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    populateMathToLLVMConversionPatterns(converter, patterns);
    patterns.add<LowerMask, LowerAdvance>(converter, context);
    patterns.add<LowerIntegerExtremum<arith::MinSIOp>>(converter, context, 4);
    patterns.add<LowerIntegerExtremum<arith::MinUIOp>>(converter, context, 5);
    patterns.add<LowerIntegerExtremum<arith::MaxSIOp>>(converter, context, 6);
    patterns.add<LowerIntegerExtremum<arith::MaxUIOp>>(converter, context, 7);
    ConversionTarget conversion(*context);
    conversion.addLegalDialect<LLVM::LLVMDialect>();
    return applyFullConversion(function, conversion, std::move(patterns));
  }
};

} // namespace
