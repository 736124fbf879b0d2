// Turns kernels (one linalg op on packed tiles in L1) into SPMD loops in the
// LLVM dialect. The loop structure is lib/Kernels/KernelPlan.h's.
#include "lib/Kernels/KernelPlan.h"
#include "lib/Kernels/MathExpansion.h"
#include "lib/Target/Target.h"
#include "passes/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
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

  /// The table holds, per tile, its address and its sizes; then the index of
  /// the tile's first element along each dimension that linalg.index uses.
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
      if (auto type = dyn_cast<MemRefType>(argument.getType()))
        words += 1 + type.getRank(); // indices come after all tiles
    }
    SmallVector<Value> dimensionSizes(op.getNumLoops());
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    start.indices.resize(plan.loops.size());
    for (auto [i, operand] : llvm::enumerate(plan.operands)) {
      start.addresses.emplace_back();
      if (!operand.isTile())
        continue;
      unsigned word =
          firstWord[cast<BlockArgument>(op->getOperand(i)).getArgNumber()];
      start.addresses.back().push_back(LLVM::IntToPtrOp::create(
          b, loc, LLVM::LLVMPointerType::get(b.getContext()), wordAt(word)));
      for (unsigned r = 0; r < maps[i].getNumResults(); ++r) {
        unsigned dim = maps[i].getDimPosition(r);
        if (!dimensionSizes[dim])
          dimensionSizes[dim] = wordAt(word + 1 + r);
      }
    }
    for (ArrayRef<unsigned> members : plan.loops) {
      Value size = dimensionSizes[members.front()];
      for (unsigned member : members.drop_front())
        size = mul(size, dimensionSizes[member]);
      sizes.push_back(size);
    }
    for (auto [loop, indexed] : llvm::enumerate(plan.indexed))
      if (indexed)
        start.indices[loop] = wordAt(words++);
    // Distances in bytes, from the innermost dimension out.
    for (const KernelOperand &operand : plan.operands) {
      strides.emplace_back(plan.loops.size());
      if (!operand.isTile())
        continue;
      Value distance = constant(operand.bytes);
      for (unsigned loop : llvm::reverse(operand.loops)) {
        strides.back()[loop] = distance;
        distance = mul(distance, sizes[loop]);
      }
    }
    // Scalars are read once: no kernel writes an operand that it broadcasts.
    for (auto [i, operand] : llvm::enumerate(plan.operands)) {
      scalars.push_back({});
      if (!operand.isTile())
        scalars.back() = constants.lookup(op->getOperand(i));
      else if (operand.loops.empty() && operand.read && !operand.output)
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

  //===--- The share of a core
  //---------------------------------------------===//
  void emitStructure(const LoopStructure &structure) {
    operands = plan.operandsOf(structure);
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
    std::optional<unsigned> shared = structure.sharedOuter();
    Value outerSize = shared ? sizes[*shared] : Value();
    auto [outerShift, innerShift] =
        emitGranules(structure, outerSize, innerSize);
    auto granuleCount = [&](Value size, Value shift) {
      Value one = constant(1);
      return shiftRight(add(size, sub(shiftLeft(one, shift), one)), shift);
    };
    Value innerGranules = granuleCount(innerSize, innerShift);
    Value outerGranules =
        shared ? granuleCount(outerSize, outerShift) : Value();

    // The grid with the least work for the busiest core.
    Value work, outerShare, innerShare, outerCore, innerCore;
    for (CoreGrid grid : coreGrids(structure, cores)) {
      Value inner = ceilDiv(innerGranules, grid.inner);
      Value innerAt =
          b.createOrFold<arith::RemUIOp>(loc, core, constant(grid.inner));
      Value outer, outerAt, total = inner;
      if (shared) {
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
    auto take = [&](unsigned loop, Value size, Value share, Value at,
                    Value shift) {
      Value step = shiftLeft(share, shift);
      Value begin = mul(step, at);
      here = advanced(here, loop, begin);
      Value left = sub(size, begin);
      Value count =
          select(compare(arith::CmpIPredicate::slt, left, step), left, step);
      auto [some, none] =
          branch(compare(arith::CmpIPredicate::sgt, count, constant(0)));
      b.setInsertionPointToEnd(none);
      LLVM::BrOp::create(b, loc, exit);
      b.setInsertionPointToEnd(some);
      return count;
    };
    counts = sizes;
    counts[*structure.cols] =
        take(*structure.cols, innerSize, innerShare, innerCore, innerShift);
    if (shared)
      counts[*shared] =
          take(*shared, outerSize, outerShare, outerCore, outerShift);
    emitOuter(structure, here, structure.outer);
    LLVM::BrOp::create(b, loc, exit);
  }

  std::pair<Value, Value> emitGranules(const LoopStructure &structure,
                                       Value outerSize, Value innerSize) {
    // Follows td::granules().
    auto granule = [&](Value size, unsigned block) {
      Value enough =
          compare(arith::CmpIPredicate::uge, size, constant(block * cores));
      return select(enough, constant(log2OfBlock(block)), constant(0));
    };
    Value inner = granule(innerSize, structure.streamed ? structure.unroll : 4);
    Value outer = constant(0);
    if (structure.rows && structure.outer.empty()) {
      if (structure.streamed)
        return {granule(outerSize, structure.rowBlock), inner};
      Value full = compare(arith::CmpIPredicate::uge, outerSize,
                           constant(structure.rowBlock));
      outer = select(full, constant(log2OfBlock(structure.rowBlock)), outer);
      inner = select(full, constant(log2OfBlock(structure.colBlocks.front())),
                     inner);
    }
    return {outer, inner};
  }

  void emitOuter(const LoopStructure &structure, const Position &here,
                 ArrayRef<unsigned> outer) {
    if (!outer.empty()) {
      walk(outer.front(), counts[outer.front()], 1, here, {},
           [&](const Position &inner, ValueRange) {
             emitOuter(structure, inner, outer.drop_front());
             return SmallVector<Value>();
           });
      return;
    }
    auto emitRows = [&](const Position &at, unsigned height) {
      if (structure.streamed)
        emitStream(structure, at, height);
      else
        emitColumns(structure, at, height);
    };
    if (!structure.rows) {
      emitRows(here, 1);
      return;
    }
    unsigned rows = *structure.rows;
    Position rest = here;
    Value left = counts[rows];
    for (unsigned height : {structure.rowBlock, 1u}) {
      rest = walk(rows, shiftRight(left, constant(log2OfBlock(height))), height,
                  rest, {},
                  [&](const Position &at, ValueRange) {
                    emitRows(at, height);
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
  /// follow one another without conflicts.
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
    SmallVector<SmallVector<std::pair<Value, int64_t>>> places(total);
    SmallVector<SmallVector<Value>> arguments(total);
    std::map<std::tuple<unsigned, unsigned, unsigned, int64_t>, Value> loaded;
    auto fetch = [&](unsigned n) {
      unsigned u = n % width, r = n / width;
      for (auto [i, operand] : llvm::enumerate(operands)) {
        if (!operand.isTile()) {
          places[n].emplace_back();
          arguments[n].push_back(scalars[i]);
          continue;
        }
        Place from = place(structure, i, r, 0, 1);
        Value &address = at.addresses[i][from.address];
        if (stridedCols(operand) && u > 0 && (from.address > 0 || r == 0))
          address = advance(address, strides[i][*structure.cols]);
        int64_t bytes = from.bytes;
        if (structure.cols && operand.contiguous(*structure.cols))
          bytes += operand.bytes * u;
        places[n].push_back({address, bytes});
        Value argument;
        if (scalars[i])
          argument = scalars[i];
        else if (operand.read && structure.cols && !walked(operand))
          argument = invariant[i][r];
        else if (operand.read) {
          Value &value =
              loaded[{i, stridedCols(operand) ? u : 0, from.address, bytes}];
          if (!value)
            value = load(i, address, bytes);
          argument = value;
        }
        arguments[n].push_back(argument);
      }
    };
    for (unsigned r = 0; r < height; ++r) {
      for (unsigned u = 0; u < width; ++u)
        fetch(r * width + u);
      SmallVector<SmallVector<Value>> results;
      for (unsigned u = 0; u < width; ++u) {
        SmallVector<Value> indices = at.indices;
        auto shift = [&](unsigned loop, unsigned by) {
          if (indices[loop])
            indices[loop] = add(indices[loop], constant(by));
        };
        if (structure.cols)
          shift(*structure.cols, u);
        if (structure.rows)
          shift(*structure.rows, r);
        results.push_back(compute(arguments[r * width + u], indices));
      }
      for (unsigned u = 0; u < width; ++u) {
        unsigned result = 0;
        for (unsigned i = 0; i < count; ++i)
          if (operands[i].output) {
            auto [address, bytes] = places[r * width + u][i];
            store(results[u][result++], address, bytes);
          }
      }
    }
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
    SmallVector<Value> sums;
    for (unsigned r = 0; r < height; ++r)
      for (unsigned c = 0; c < width; ++c)
        for (unsigned output : outputs) {
          Place from = place(structure, output, r, c, width);
          sums.push_back(
              load(output, at.addresses[output][from.address], from.bytes));
        }
    sums = emitReductions(structure, structure.reductions, at, sums, height,
                          width);
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
    Value left = sizes[loopIndex];
    for (unsigned steps : {structure.unroll, 1u}) {
      SmallVector<Value> initial = changing(here, loopIndex);
      unsigned positions = initial.size();
      llvm::append_range(initial, current);
      SmallVector<Value> results =
          loop(shiftRight(left, constant(log2OfBlock(steps))), initial,
               [&](ValueRange carried) {
                 Position inner =
                     replaced(here, loopIndex, carried.take_front(positions));
                 SmallVector<Value> inFlight(carried.drop_front(positions));
                 emitSteps(structure, loopIndex, inner, inFlight, steps, height,
                           width);
                 if (Value &index = inner.indices[loopIndex])
                   index = add(index, constant(steps));
                 SmallVector<Value> next = changing(inner, loopIndex);
                 llvm::append_range(next, inFlight);
                 return next;
               });
      ValueRange range(results);
      here = replaced(here, loopIndex, range.take_front(positions));
      current = SmallVector<Value>(range.drop_front(positions));
      if (steps == 1)
        break;
      left = bitAnd(left, constant(steps - 1));
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
    unsigned outputs = sums.size() / elements;
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
      for (unsigned o = 0; o < outputs; ++o)
        arguments[n][count - outputs + o] = sums[element * outputs + o];
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
      SmallVector<Value> results = compute(arguments[n], indices);
      for (unsigned o = 0; o < outputs; ++o)
        sums[element * outputs + o] = total > 1 ? pin(results[o]) : results[o];
    }

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
    if (plan.fused)
      return {math::FmaOp::create(b, loc, arguments[0], arguments[1],
                                  arguments[2])};
    Block &body = *op.getBlock();
    IRMapping mapping = constants;
    for (auto [argument, value] : llvm::zip(body.getArguments(), arguments))
      if (value)
        mapping.map(argument, value);
    for (Operation &inner : body.without_terminator()) {
      if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
        Value value = indices[loopOfDimension(index.getDim())];
        mapping.map(index.getResult(),
                    arith::IndexCastOp::create(b, loc, b.getIndexType(), value)
                        .getResult());
        continue;
      }
      if (Value value = branchFree(inner, mapping))
        mapping.map(inner.getResult(0), value);
      else
        b.clone(inner, mapping);
    }
    SmallVector<Value> results;
    for (Value result : body.getTerminator()->getOperands())
      results.push_back(mapping.lookupOrDefault(result));
    return results;
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
  SmallVector<KernelOperand>
      operands; // as the structure being emitted sees them
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
    // No loop of a kernel may become a call to memset or memcpy.
    function.setPassthroughAttr(b.getStrArrayAttr({"no-builtins", "nounwind"}));
    KernelEmitter(op, *plan, cores, function).emit();
    kernel.erase();

    LowerToLLVMOptions options(context);
    options.overrideIndexBitwidth(32);
    LLVMTypeConverter converter(context, options);
    RewritePatternSet patterns(context);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    populateMathToLLVMConversionPatterns(converter, patterns);
    patterns.add<LowerMask, LowerAdvance>(converter, context);
    ConversionTarget conversion(*context);
    conversion.addLegalDialect<LLVM::LLVMDialect>();
    return applyFullConversion(function, conversion, std::move(patterns));
  }
};

} // namespace
