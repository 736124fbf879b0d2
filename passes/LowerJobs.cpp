// Lowers the stream of asynchronous jobs on memrefs to job records: absolute
// addresses, DMA commands, slots, and a barrier wherever one core's work meets
// another's.
#include "dialects/Tile/Windows.h"
#include "lib/Planner/ScheduleProgram.h"
#include "lib/Runtime/Layout.h"
#include "passes/Passes.h"

#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/ViewLikeInterface.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SmallBitVector.h"
#include "llvm/ADT/StringExtras.h"

namespace td {
#define GEN_PASS_DEF_LOWERJOBS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using td::tile::Level;
using td::tile::Role;

namespace {

/// Lines of bytes, `count` of `line` bytes that start `stride` bytes apart.
struct Lines {
  int64_t begin, line, stride, count;
  int64_t end() const { return begin + (count - 1) * stride + line; }
};

/// Bytes of one level of memory that a job or a kernel reads or writes.
struct Access {
  Level level;
  Lines lines;
  bool write;
  Value buffer; // for diagnostics
};

/// Whether two sets of lines have a byte in common.
bool overlap(const Lines &a, const Lines &b) {
  if (a.end() <= b.begin || b.end() <= a.begin)
    return false;
  if (a.count == 1 && b.count == 1)
    return true;
  if (a.count > 1 && b.count > 1 && a.stride == b.stride) {
    // Two column ranges of the same array.
    int64_t shift = (b.begin - a.begin) % a.stride;
    if (shift < 0)
      shift += a.stride;
    if (shift >= a.line && a.stride - shift >= b.line)
      return false;
  }
  const Lines &few = a.count <= b.count ? a : b,
              &many = a.count <= b.count ? b : a;
  for (int64_t i = 0; i < few.count; ++i) {
    int64_t begin = few.begin + i * few.stride, end = begin + few.line;
    // The first line of `many` that ends behind `begin`.
    int64_t past = begin - many.begin - many.line;
    int64_t first = past < 0 ? 0 : past / many.stride + 1;
    if (first < many.count && many.begin + first * many.stride < end)
      return true;
  }
  return false;
}

bool conflict(const Access &a, const Access &b) {
  return (a.write || b.write) && a.level == b.level &&
         overlap(a.lines, b.lines);
}

const Access *findConflict(ArrayRef<Access> old, ArrayRef<Access> now) {
  for (const Access &a : old)
    for (const Access &b : now)
      if (conflict(a, b))
        return &a;
  return nullptr;
}

/// One command of a copy: `bytes` in lines on the array's side, contiguous on
/// the tile's. Offsets are in bytes, from the array and from the tile.
struct Command {
  int64_t arrayOffset, tileOffset, bytes, line, stride;
};

/// Splits a window into commands of at most `maxBytes`.
SmallVector<Command> splitWindow(td::tile::WindowNest window,
                                 int64_t maxBytes) {
  auto &nest = window.nest;
  int64_t begin = window.begin, line = window.run;
  SmallVector<Command> commands;
  int64_t done = 0; // bytes of the tile
  // Keeps pieces of a long run aligned as the run is.
  int64_t piece = maxBytes / 64 * 64;
  auto run = [&](int64_t at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += piece) {
      int64_t n = std::min(piece, bytes - i);
      commands.push_back({at + i, done, n, n, n});
      done += n;
    }
  };
  auto lines = [&](int64_t at, int64_t count, int64_t stride) {
    int64_t most = maxBytes / line;
    for (int64_t i = 0; i < count;) {
      int64_t n = std::min(std::max<int64_t>(most, 1), count - i);
      if (n == 1) {
        run(at + i * stride, line);
      } else {
        commands.push_back({at + i * stride, done, n * line, line, stride});
        done += n * line;
      }
      i += n;
    }
  };
  if (nest.empty()) {
    run(begin, line);
    return commands;
  }
  auto [count, lineStride] = nest.pop_back_val();
  SmallVector<int64_t> index(nest.size(), 0);
  while (true) {
    int64_t at = begin;
    for (auto [i, dim] : llvm::zip(index, nest))
      at += i * dim.second;
    lines(at, count, lineStride);
    int64_t d = (int64_t)nest.size() - 1;
    while (d >= 0 && ++index[d] == nest[d].first)
      index[d--] = 0;
    if (d < 0)
      return commands;
  }
}

/// Whether a kernel only reads the memory behind `value`.
bool onlyReads(Value value) {
  for (OpOperand &use : value.getUses()) {
    Operation *user = use.getOwner();
    if (isa<memref::LoadOp, memref::DimOp>(user))
      continue;
    if (auto dps = dyn_cast<DestinationStyleOpInterface>(user);
        dps && dps.isDpsInput(&use))
      continue;
    if (isa<ViewLikeOpInterface, memref::CastOp>(user) &&
        llvm::all_of(user->getResults(),
                     [](Value result) { return onlyReads(result); }))
      continue;
    return false;
  }
  return true;
}

class Lowering {
public:
  Lowering(td::tile::ProgramOp program, const td::Target &target,
           int64_t operators)
      : program(program),
        layout(target, operators,
               td::tableBytes(program->getParentOfType<ModuleOp>())),
        symbols(program->getParentOfType<ModuleOp>()), builder(program),
        l3Size(target.has("memory.l3") ? target.integer("memory.l3", "size")
                                       : 0) {}

  LogicalResult run();

  int64_t dmaCommands = 0, hyperTransfers = 0, gemms = 0, calls = 0,
          barriers = 0;

private:
  enum class Engine { Dma, Hyper, RedMulE };
  struct Job {
    Engine engine;
    SmallVector<int64_t> slots; // still to be waited for
    SmallVector<Access> accesses;
    uint32_t opIndex;
    bool done = false;
  };

  FailureOr<int64_t> addressOf(Value buffer, Operation *user);
  LogicalResult access(SmallVectorImpl<Access> &accesses, Operation *user,
                       Value buffer, bool write);
  /// The array or tile that a buffer is a view of, or is itself.
  static Value arrayOf(Value buffer);
  LogicalResult checkInFlight(Operation *op, ArrayRef<Access> accesses);
  void barrierIf(bool needed, Location loc, uint32_t opIndex);

  Job &newJob(Value token, Engine engine, SmallVector<Access> accesses,
              uint32_t opIndex);
  int64_t takeSlot(Location loc, Engine engine);
  void waitSlot(Location loc, Job &job, int64_t slot);
  void wait(Location loc, Job &job);

  /// Notes that a record is the first, or the latest, of those that a job
  /// needs its arrays for.
  void use(ArrayRef<Access> accesses, Operation *record);
  ArrayAttr describeArrays();

  LogicalResult lower(td::tile::CopyOp op);
  LogicalResult lower(td::redmule::GemmOp op);
  LogicalResult lower(td::tile::WaitOp op);
  LogicalResult lower(td::tile::CallOp op);

  td::tile::ProgramOp program;
  td::RuntimeLayout layout;
  SymbolTable symbols;
  OpBuilder builder;
  int64_t l3Size;
  DenseMap<Value, int64_t> addresses;
  DenseMap<Value, size_t> jobOf;
  std::vector<Job> jobs;
  SmallVector<size_t> inFlight; // indices of jobs, in the order of their start
  llvm::SmallBitVector dmaSlots{TD_DMA_SLOTS}, hyperSlots{TD_L3_SLOTS};
  llvm::StringMap<SmallVector<bool>> writes; // per kernel and argument
  // Per array or tile, the first and the last record that needs it.
  llvm::MapVector<Value, std::pair<Operation *, Operation *>> lives;
  // Since the last barrier: what kernels touched, and what core 0 waited for.
  SmallVector<Access> called, waited;
};

FailureOr<int64_t> Lowering::addressOf(Value buffer, Operation *user) {
  auto known = addresses.find(buffer);
  if (known != addresses.end())
    return known->second;
  Operation *def = td::reshapeSource(buffer).getDefiningOp();
  std::optional<int64_t> address;
  if (auto op = dyn_cast_or_null<td::tile::BufferOp>(def))
    address = op.getAddress();
  else if (auto op = dyn_cast_or_null<td::tile::AllocOp>(def))
    address = op.getAddress();
  else if (auto op = dyn_cast_or_null<td::tile::ViewOp>(def)) {
    FailureOr<int64_t> source = addressOf(op.getSource(), user);
    if (failed(source))
      return failure();
    auto type = cast<MemRefType>(op.getResult().getType());
    address =
        *source + op.getElementOffset() * (type.getElementTypeBitWidth() / 8);
  } else {
    return user->emitOpError(
        "uses a buffer that is no tile.buffer, tile.alloc or tile.view");
  }
  if (!address)
    return def->emitOpError("has no address; td-assign-addresses gives it one");

  auto type = cast<MemRefType>(buffer.getType());
  Level level = cast<td::tile::MemoryAttr>(type.getMemorySpace()).getLevel();
  int64_t begin = level == Level::L1   ? layout.l1Begin()
                  : level == Level::L2 ? layout.l2Begin()
                                       : 0;
  int64_t end = level == Level::L1   ? layout.l1End()
                : level == Level::L2 ? layout.l2End()
                                     : l3Size;
  int64_t bytes = type.getNumElements() * type.getElementTypeBitWidth() / 8;
  if (*address < begin || *address + bytes > end)
    return def->emitOpError("lies at ")
           << *address << " to " << *address + bytes
           << ", outside of what a program may use of "
           << td::tile::stringifyLevel(level) << ", " << begin << " to " << end;
  addresses[buffer] = *address;
  return *address;
}

LogicalResult Lowering::access(SmallVectorImpl<Access> &accesses,
                               Operation *user, Value buffer, bool write) {
  FailureOr<int64_t> address = addressOf(buffer, user);
  if (failed(address))
    return failure();
  auto type = cast<MemRefType>(buffer.getType());
  int64_t bytes = type.getNumElements() * type.getElementTypeBitWidth() / 8;
  Level level = cast<td::tile::MemoryAttr>(type.getMemorySpace()).getLevel();
  accesses.push_back({level, {*address, bytes, bytes, 1}, write, buffer});
  // A tile begins to live as a whole, where a core may still read another one.
  Value array = arrayOf(buffer);
  if (array != buffer && array.getDefiningOp<td::tile::AllocOp>() &&
      !lives.contains(array))
    return access(accesses, user, array, /*write=*/true);
  return success();
}

Value Lowering::arrayOf(Value buffer) {
  Value array = td::reshapeSource(buffer);
  while (auto view = array.getDefiningOp<td::tile::ViewOp>())
    array = td::reshapeSource(view.getSource());
  return array;
}

LogicalResult Lowering::checkInFlight(Operation *op,
                                      ArrayRef<Access> accesses) {
  for (size_t index : inFlight)
    if (const Access *old = findConflict(jobs[index].accesses, accesses)) {
      InFlightDiagnostic error =
          op->emitOpError("touches bytes of a job that is still in flight");
      error.attachNote(old->buffer.getLoc())
          << "the job " << (old->write ? "writes" : "reads") << " this buffer";
      return error;
    }
  return success();
}

void Lowering::barrierIf(bool needed, Location loc, uint32_t opIndex) {
  if (!needed)
    return;
  td::pulp::BarrierOp::create(builder, loc, opIndex);
  ++barriers;
  called.clear();
  waited.clear();
}

Lowering::Job &Lowering::newJob(Value token, Engine engine,
                                SmallVector<Access> accesses,
                                uint32_t opIndex) {
  jobOf[token] = jobs.size();
  inFlight.push_back(jobs.size());
  jobs.push_back({engine, {}, std::move(accesses), opIndex});
  return jobs.back();
}

/// A free slot; if there is none, the oldest one once it is waited for.
int64_t Lowering::takeSlot(Location loc, Engine engine) {
  llvm::SmallBitVector &taken = engine == Engine::Dma ? dmaSlots : hyperSlots;
  if (taken.all())
    for (size_t index : inFlight)
      if (jobs[index].engine == engine && !jobs[index].slots.empty()) {
        waitSlot(loc, jobs[index], jobs[index].slots.front());
        break;
      }
  int64_t slot = taken.find_first_unset();
  taken.set(slot);
  return slot;
}

void Lowering::waitSlot(Location loc, Job &job, int64_t slot) {
  Operation *record = nullptr;
  switch (job.engine) {
  case Engine::Dma:
    record = td::pulp::DmaWaitOp::create(builder, loc, slot, job.opIndex);
    dmaSlots.reset(slot);
    break;
  case Engine::Hyper:
    record = td::pulp::HyperWaitOp::create(builder, loc, slot, job.opIndex);
    hyperSlots.reset(slot);
    break;
  case Engine::RedMulE:
    record = td::redmule::WaitOp::create(builder, loc, job.opIndex);
    break;
  }
  use(job.accesses, record);
  llvm::erase(job.slots, slot);
}

void Lowering::wait(Location loc, Job &job) {
  if (job.done)
    return;
  while (!job.slots.empty())
    waitSlot(loc, job, job.slots.front());
  job.done = true;
  llvm::append_range(waited, job.accesses);
  llvm::erase(inFlight, &job - jobs.data());
}

LogicalResult Lowering::lower(td::tile::CopyOp op) {
  FailureOr<int64_t> array = addressOf(op.getArray(), op),
                     tile = addressOf(op.getTile(), op);
  if (failed(array) || failed(tile))
    return failure();
  auto arrayType = cast<MemRefType>(op.getArray().getType());
  Level near = cast<td::tile::MemoryAttr>(
                   cast<MemRefType>(op.getTile().getType()).getMemorySpace())
                   .getLevel();
  Level far = cast<td::tile::MemoryAttr>(arrayType.getMemorySpace()).getLevel();
  bool hyper = near == Level::L2;
  int64_t elementBytes = arrayType.getElementTypeBitWidth() / 8;
  SmallVector<Command> commands =
      splitWindow({arrayType.getShape(), op.getOffsets(), op.getSizes(),
                   op.getWindowSteps(), elementBytes},
                  hyper ? TD_L3_MAX_BYTES : TD_DMA_MAX_BYTES);
  SmallVector<Access> accesses;
  if (failed(access(accesses, op, op.getTile(), op.getLoad())))
    return failure();
  for (const Command &c : commands) {
    accesses.push_back(
        {far,
         {*array + c.arrayOffset, c.line, c.stride, c.bytes / c.line},
         !op.getLoad(),
         op.getArray()});
    if (hyper && (c.bytes % 4 || c.line % 4 || c.stride % 4 ||
                  (*array + c.arrayOffset) % 4 || (*tile + c.tileOffset) % 4))
      return op.emitOpError("moves a window between l2 and l3 that is no whole "
                            "number of 32-bit words");
  }
  if (failed(checkInFlight(op, accesses)))
    return failure();
  uint32_t opIndex = op.getOpIndex();
  barrierIf(findConflict(called, accesses), op.getLoc(), opIndex);

  Engine engine = hyper ? Engine::Hyper : Engine::Dma;
  size_t self = jobs.size();
  newJob(op.getToken(), engine, std::move(accesses), opIndex);
  int64_t slot = -1, inSlot = 0;
  for (const Command &c : commands) {
    bool continued = !hyper && slot >= 0 && inSlot < TD_DMA_MAX_COMMANDS;
    if (!continued) {
      slot = takeSlot(op.getLoc(), engine);
      jobs[self].slots.push_back(slot);
      inSlot = 0;
    }
    ++inSlot;
    IntegerAttr line, stride;
    if (c.line != c.bytes) {
      line = builder.getI64IntegerAttr(c.line);
      stride = builder.getI64IntegerAttr(c.stride);
    }
    if (hyper) {
      use(jobs[self].accesses,
          td::pulp::HyperStartOp::create(
              builder, op.getLoc(), slot, op.getLoad(), *array + c.arrayOffset,
              *tile + c.tileOffset, c.bytes, line, stride, opIndex));
      ++hyperTransfers;
    } else {
      use(jobs[self].accesses,
          td::pulp::DmaStartOp::create(builder, op.getLoc(), slot, continued,
                                       op.getLoad(), *tile + c.tileOffset,
                                       *array + c.arrayOffset, c.bytes, line,
                                       stride, opIndex));
      ++dmaCommands;
    }
  }
  return success();
}

LogicalResult Lowering::lower(td::redmule::GemmOp op) {
  FailureOr<int64_t> x = addressOf(op.getX(), op), w = addressOf(op.getW(), op),
                     z = addressOf(op.getZ(), op);
  SmallVector<Access> accesses;
  if (failed(x) || failed(w) || failed(z) ||
      failed(access(accesses, op, op.getX(), false)) ||
      failed(access(accesses, op, op.getW(), false)) ||
      failed(access(accesses, op, op.getZ(), true)))
    return failure();
  if (conflict(accesses[0], accesses[2]) || conflict(accesses[1], accesses[2]))
    return op.emitOpError("writes bytes that it reads as X or W");
  // The accelerator has no queue.
  for (size_t index : inFlight)
    if (jobs[index].engine == Engine::RedMulE) {
      wait(op.getLoc(), jobs[index]);
      break;
    }
  if (failed(checkInFlight(op, accesses)))
    return failure();
  uint32_t opIndex = op.getOpIndex();
  barrierIf(findConflict(called, accesses), op.getLoc(), opIndex);
  auto zType = cast<MemRefType>(op.getZ().getType());
  SmallVector<int64_t, 3> sizes = op.getJobSizes();
  use(accesses, td::redmule::StartOp::create(builder, op.getLoc(), *x, *w, *z,
                                             sizes[0], sizes[1], sizes[2],
                                             zType.getElementType(), opIndex));
  newJob(op.getToken(), Engine::RedMulE, std::move(accesses), opIndex)
      .slots.push_back(0);
  ++gemms;
  return success();
}

LogicalResult Lowering::lower(td::tile::WaitOp op) {
  for (Value token : op.getTokens()) {
    auto job = jobOf.find(token);
    if (job == jobOf.end())
      return op.emitOpError(
          "waits for a token of no copy or GEMM of this program");
    wait(op.getLoc(), jobs[job->second]);
  }
  return success();
}

LogicalResult Lowering::lower(td::tile::CallOp op) {
  auto kernel = symbols.lookup<FunctionOpInterface>(op.getKernel());
  if (!kernel)
    return op.emitOpError("calls ")
           << op.getKernelAttr() << ", which is no function of the module";
  auto [known, isNew] = writes.try_emplace(op.getKernel());
  if (isNew) {
    if (auto func = dyn_cast<func::FuncOp>(kernel.getOperation());
        func && !func.isExternal())
      for (Value argument : func.getArguments())
        known->second.push_back(!onlyReads(argument));
    else // lowered or external: it may write all
      known->second.assign(op.getOperands_().size(), true);
  }
  if (known->second.size() < op.getOperands_().size())
    return op.emitOpError("passes more operands than ")
           << op.getKernelAttr() << " has";

  SmallVector<Access> accesses;
  SmallVector<int64_t> words;
  for (auto [i, operand] : llvm::enumerate(op.getOperands_())) {
    if (failed(access(accesses, op, operand, known->second[i])))
      return failure();
    words.push_back(addresses[operand]);
    llvm::append_range(words, cast<MemRefType>(operand.getType()).getShape());
  }
  llvm::append_range(words, op.getIndices());
  if (failed(checkInFlight(op, accesses)))
    return failure();
  uint32_t opIndex = op.getOpIndex();
  barrierIf(findConflict(called, accesses) || findConflict(waited, accesses),
            op.getLoc(), opIndex);
  use(accesses, td::pulp::CallOp::create(builder, op.getLoc(), op.getKernel(),
                                         words, opIndex));
  ++calls;
  llvm::append_range(called, accesses);
  return success();
}

void Lowering::use(ArrayRef<Access> accesses, Operation *record) {
  for (const Access &access : accesses) {
    lives.try_emplace(arrayOf(access.buffer), record, record)
        .first->second.second = record;
  }
}

/// Where arrays and tiles lie, and the records between which they live, counted
/// from the program's start.
ArrayAttr Lowering::describeArrays() {
  DenseMap<Operation *, int64_t> positions;
  for (Operation &op : program.getBody().front())
    if (isa<td::pulp::CallOp, td::pulp::BarrierOp, td::pulp::DmaStartOp,
            td::pulp::DmaWaitOp, td::pulp::HyperStartOp, td::pulp::HyperWaitOp,
            td::redmule::StartOp, td::redmule::WaitOp>(op))
      positions.insert({&op, positions.size()});
  SmallVector<Attribute> arrays;
  for (auto [array, life] : lives) {
    auto alloc = array.getDefiningOp<td::tile::AllocOp>();
    auto buffer = array.getDefiningOp<td::tile::BufferOp>();
    auto type = cast<MemRefType>(array.getType());
    auto level = cast<td::tile::MemoryAttr>(type.getMemorySpace()).getLevel();
    auto number = [&](int64_t value) {
      return builder.getI64IntegerAttr(value);
    };
    arrays.push_back(builder.getDictionaryAttr({
        builder.getNamedAttr("name", alloc ? alloc.getSymbolAttr()
                                           : buffer.getSymbolAttr()),
        builder.getNamedAttr("role",
                             builder.getStringAttr(td::tile::stringifyRole(
                                 alloc ? Role::Temporary : buffer.getRole()))),
        builder.getNamedAttr("level", number(int64_t(level))),
        builder.getNamedAttr("address", number(alloc ? *alloc.getAddress()
                                                     : *buffer.getAddress())),
        builder.getNamedAttr(
            "bytes",
            number(type.getNumElements() * type.getElementTypeBitWidth() / 8)),
        builder.getNamedAttr("first", number(positions.lookup(life.first))),
        builder.getNamedAttr("last", number(positions.lookup(life.second))),
    }));
  }
  return builder.getArrayAttr(arrays);
}

LogicalResult Lowering::run() {
  SmallVector<Operation *> lowered;
  for (Operation &op : llvm::make_early_inc_range(program.getBody().front())) {
    builder.setInsertionPoint(&op);
    LogicalResult result = success();
    if (auto copy = dyn_cast<td::tile::CopyOp>(op))
      result = lower(copy);
    else if (auto gemm = dyn_cast<td::redmule::GemmOp>(op))
      result = lower(gemm);
    else if (auto wait = dyn_cast<td::tile::WaitOp>(op))
      result = lower(wait);
    else if (auto call = dyn_cast<td::tile::CallOp>(op))
      result = lower(call);
    else if (isa<td::tile::BufferOp, td::tile::OperatorOp>(op))
      continue;
    else if (!isa<td::tile::AllocOp, td::tile::ViewOp, memref::CollapseShapeOp,
                  memref::ExpandShapeOp>(op))
      return op.emitOpError("is no job; td-expand-groups leaves only jobs");
    if (failed(result))
      return failure();
    lowered.push_back(&op);
  }
  builder.setInsertionPointToEnd(&program.getBody().front());
  while (!inFlight.empty())
    wait(program.getLoc(), jobs[inFlight.front()]);
  program->setAttr("tile.arrays", describeArrays());
  for (Operation *op : llvm::reverse(lowered))
    op->erase();
  return success();
}

struct LowerJobs : td::impl::LowerJobsBase<LowerJobs> {
  using LowerJobsBase::LowerJobsBase;
  void runOnOperation() override {
    FailureOr<td::Target> target = td::Target::get(getOperation());
    if (failed(target))
      return signalPassFailure();
    for (auto program : getOperation().getOps<td::tile::ProgramOp>()) {
      Lowering lowering(program, *target, td::countOperators(program));
      if (failed(lowering.run()))
        return signalPassFailure();
      numDma += lowering.dmaCommands;
      numHyper += lowering.hyperTransfers;
      numGemm += lowering.gemms;
      numCall += lowering.calls;
      numBarrier += lowering.barriers;
    }
  }
};
} // namespace
