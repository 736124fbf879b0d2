#include "lib/Planner/ScheduleProgram.h"

#include "dialects/Tile/Windows.h"
#include "lib/Kernels/MathExpansion.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/SymbolTable.h"
#include <numeric>

using namespace mlir;
using namespace td::tile;

namespace td {

StringRef Storage::name() const {
  if (auto alloc = value.getDefiningOp<AllocOp>())
    return alloc.getSymbol();
  return value.getDefiningOp<BufferOp>().getSymbol();
}

void Storage::assign(int64_t address) const {
  if (auto alloc = value.getDefiningOp<AllocOp>())
    alloc.setAddress(address);
  else
    value.getDefiningOp<BufferOp>().setAddress(address);
}

Value reshapeSource(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (!isa<memref::CollapseShapeOp, memref::ExpandShapeOp>(op))
      break;
    value = op->getOperand(0);
  }
  return value;
}

std::pair<int64_t, int64_t> Access::range() const {
  int64_t first = 0, last = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    first = first * shape[i] + offsets[i];
    last = last * shape[i] + offsets[i] + (sizes[i] - 1) * steps[i];
  }
  return {first, last + 1};
}

bool Access::isContiguous() const {
  WindowNest window(shape, offsets, sizes, steps, 1);
  return window.nest.empty();
}

bool Access::overlaps(const Access &other) const {
  if (storage != other.storage)
    return false;
  if (shape != other.shape) {
    auto [first, end] = range();
    auto [otherFirst, otherEnd] = other.range();
    return first < otherEnd && otherFirst < end;
  }
  for (size_t i = 0; i < offsets.size(); ++i) {
    int64_t last = offsets[i] + (sizes[i] - 1) * steps[i],
            otherLast =
                other.offsets[i] + (other.sizes[i] - 1) * other.steps[i];
    if (last < other.offsets[i] || otherLast < offsets[i])
      return false;
    int64_t common = std::gcd(sizes[i] > 1 ? steps[i] : 0,
                              other.sizes[i] > 1 ? other.steps[i] : 0);
    if (common > 1 && (offsets[i] - other.offsets[i]) % common != 0)
      return false;
  }
  return true;
}

bool Access::contains(const Access &other) const {
  if (storage != other.storage)
    return false;
  if (shape != other.shape) {
    auto [first, end] = range();
    auto [otherFirst, otherEnd] = other.range();
    return isContiguous() && first <= otherFirst && otherEnd <= end;
  }
  for (size_t i = 0; i < offsets.size(); ++i) {
    int64_t last = offsets[i] + (sizes[i] - 1) * steps[i],
            otherLast =
                other.offsets[i] + (other.sizes[i] - 1) * other.steps[i];
    if (other.offsets[i] < offsets[i] || otherLast > last ||
        (other.offsets[i] - offsets[i]) % steps[i] != 0 ||
        (other.sizes[i] > 1 && other.steps[i] % steps[i] != 0))
      return false;
  }
  return true;
}

std::string JobProgram::describe(const Job &job) const {
  if (job.opIndex < 0 || job.opIndex >= (int64_t)operators.size())
    return "operator " + std::to_string(job.opIndex);
  return "operator '" + operators[job.opIndex].getName().str() + "'";
}

namespace {

struct Effect {
  bool reads = false, writes = false;
};

class Reader {
public:
  explicit Reader(ProgramOp program)
      : symbols(program->getParentOfType<ModuleOp>()) {
    result.op = program;
    result.tableBytes = tableBytes(program->getParentOfType<ModuleOp>());
  }

  FailureOr<JobProgram> run() {
    for (Operation &op : result.op.getBody().front())
      if (failed(read(op)))
        return failure();
    return std::move(result);
  }

private:
  LogicalResult read(Operation &op) {
    if (auto buffer = dyn_cast<BufferOp>(op)) {
      Role role = buffer.getRole();
      addStorage(buffer.getMemref(), buffer.getAddress(),
                 role != Role::Temporary,
                 role != Role::Temporary && role != Role::Output);
    } else if (auto alloc = dyn_cast<AllocOp>(op)) {
      addStorage(alloc.getMemref(), alloc.getAddress(), false, false);
    } else if (auto view = dyn_cast<ViewOp>(op)) {
      views[view.getResult()] =
          windowOf(view.getSource(), view.getOffsets(), view.getSizes(),
                   SmallVector<int64_t>(view.getOffsets().size(), 1));
    } else if (isa<memref::CollapseShapeOp, memref::ExpandShapeOp>(op)) {
      // Its uses are read as uses of the source.
    } else if (auto entry = dyn_cast<OperatorOp>(op)) {
      result.operators.push_back(entry);
    } else if (auto copy = dyn_cast<CopyOp>(op)) {
      readCopy(copy);
    } else if (auto gemm = dyn_cast<redmule::GemmOp>(op)) {
      Access x = accessOf(gemm.getX()), w = accessOf(gemm.getW()),
             z = accessOf(gemm.getZ());
      x.reads = w.reads = z.reads = z.writes = true;
      addJob(gemm, JobKind::Gemm, gemm.getOpIndex(), {x, w, z},
             gemm.getToken());
    } else if (auto call = dyn_cast<CallOp>(op)) {
      SmallVector<Access> accesses;
      ArrayRef<Effect> effects = effectsOf(call);
      for (auto [i, operand] : llvm::enumerate(call.getOperands_())) {
        Access access = accessOf(operand);
        access.reads = effects[i].reads;
        access.writes = effects[i].writes;
        accesses.push_back(access);
      }
      addJob(call, JobKind::Call, call.getOpIndex(), accesses, Value());
    } else if (auto wait = dyn_cast<WaitOp>(op)) {
      StreamEntry entry;
      entry.isWait = true;
      entry.op = wait;
      for (Value token : wait.getTokens()) {
        auto job = jobOf.find(token);
        if (job == jobOf.end())
          return op.emitOpError("waits for no job of the program");
        entry.jobs.push_back(job->second);
      }
      result.stream.push_back(std::move(entry));
    } else {
      return op.emitOpError(
          "is no job: td-expand-groups must run before this pass");
    }
    return success();
  }

  void addStorage(Value value, std::optional<int64_t> address, bool persistent,
                  bool initialized) {
    auto type = cast<MemRefType>(value.getType());
    Storage storage;
    storage.value = value;
    storage.level = cast<MemoryAttr>(type.getMemorySpace()).getLevel();
    storage.persistent = persistent;
    storage.initialized = initialized;
    storage.elementBytes = llvm::divideCeil(type.getElementTypeBitWidth(), 8);
    storage.bytes = storage.elementBytes * type.getNumElements();
    storage.address = address.value_or(-1);
    storageOf[value] = result.storages.size();
    result.storages.push_back(storage);
  }

  /// All of a storage, or the window of one that a view is.
  Access accessOf(Value value) {
    if (auto view = views.find(value); view != views.end())
      return view->second;
    Access access;
    access.storage = storageOf.lookup(reshapeSource(value));
    ArrayRef<int64_t> shape = cast<MemRefType>(value.getType()).getShape();
    access.shape.assign(shape.begin(), shape.end());
    access.offsets.assign(shape.size(), 0);
    access.sizes.assign(shape.begin(), shape.end());
    access.steps.assign(shape.size(), 1);
    return access;
  }

  /// The window that a copy or view takes of `value`.
  Access windowOf(Value value, ArrayRef<int64_t> offsets,
                  ArrayRef<int64_t> sizes, ArrayRef<int64_t> steps) {
    Access access = accessOf(value);
    for (size_t i = 0; i < access.offsets.size(); ++i) {
      access.offsets[i] += offsets[i];
      access.sizes[i] = sizes[i];
      access.steps[i] = sizes[i] == 1 ? 1 : steps[i];
    }
    return access;
  }

  void readCopy(CopyOp copy) {
    Access array = windowOf(copy.getArray(), copy.getOffsets(), copy.getSizes(),
                            copy.getWindowSteps());
    Access tile = accessOf(copy.getTile());
    bool load = copy.getLoad();
    (load ? array : tile).reads = true;
    (load ? tile : array).writes = true;
    bool nearL1 = result.storages[tile.storage].level == Level::L1;
    JobKind kind = nearL1 ? (load ? JobKind::LoadL1 : JobKind::StoreL1)
                          : (load ? JobKind::LoadL2 : JobKind::StoreL2);
    addJob(copy, kind, copy.getOpIndex(), {array, tile}, copy.getToken());
  }

  void addJob(Operation *op, JobKind kind, int32_t opIndex,
              ArrayRef<Access> accesses, Value token) {
    Job job{op, kind, opIndex, {}};
    // One access per window: an operand may be passed twice.
    for (const Access &access : accesses) {
      auto same = llvm::find_if(job.accesses, [&](const Access &other) {
        return other.contains(access) && access.contains(other);
      });
      if (same == job.accesses.end()) {
        job.accesses.push_back(access);
      } else {
        same->reads |= access.reads;
        same->writes |= access.writes;
      }
    }
    StreamEntry entry;
    entry.op = op;
    entry.jobs.push_back(result.jobs.size());
    if (token)
      jobOf[token] = result.jobs.size();
    result.stream.push_back(std::move(entry));
    result.jobs.push_back(std::move(job));
  }

  /// What a kernel does with its arguments: as its structured op says, or
  /// anything once it is lowered.
  ArrayRef<Effect> effectsOf(CallOp call) {
    SmallVector<Effect> &effects = kernels[call.getKernelAttr().getAttr()];
    if (!effects.empty())
      return effects;
    auto kernel = symbols.lookup<func::FuncOp>(call.getKernel());
    bool structured =
        kernel && !kernel.isExternal() &&
        !kernel.getBody().front().getOps<linalg::LinalgOp>().empty();
    effects.resize(call.getOperands_().size(),
                   structured ? Effect() : Effect{true, true});
    if (!structured)
      return effects;
    for (auto op : kernel.getBody().front().getOps<linalg::LinalgOp>())
      for (OpOperand &operand : op->getOpOperands()) {
        auto argument = dyn_cast<BlockArgument>(operand.get());
        if (!argument || argument.getArgNumber() >= effects.size())
          continue;
        Effect &effect = effects[argument.getArgNumber()];
        effect.writes |= op.isDpsInit(&operand);
        effect.reads |= op.payloadUsesValueFromOperand(&operand);
      }
    return effects;
  }

  SymbolTable symbols;
  JobProgram result;
  DenseMap<Value, unsigned> storageOf, jobOf;
  DenseMap<Value, Access> views;
  DenseMap<StringAttr, SmallVector<Effect>> kernels;
};

} // namespace

FailureOr<JobProgram> JobProgram::read(ProgramOp program) {
  return Reader(program).run();
}

std::vector<std::pair<int64_t, int64_t>>
liveRanges(const JobProgram &program, ArrayRef<StreamEntry> stream) {
  int64_t end = stream.size();
  std::vector<std::pair<int64_t, int64_t>> ranges(program.storages.size(),
                                                  {end, 0});
  for (auto [position, entry] : llvm::enumerate(stream))
    for (unsigned job : entry.jobs)
      for (const Access &access : program.jobs[job].accesses) {
        auto &[first, last] = ranges[access.storage];
        first = std::min(first, (int64_t)position);
        last = std::max(last, (int64_t)position + 1);
      }
  for (auto [i, storage] : llvm::enumerate(program.storages))
    if (storage.persistent)
      ranges[i] = {0, end + 1};
    else if (ranges[i].first > ranges[i].second)
      ranges[i] = {0, 0};
  return ranges;
}

} // namespace td
