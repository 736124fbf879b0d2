// Checks that a stream of jobs is free of races and computes what the plan
// says.
#include "dialects/Tile/Windows.h"
#include "lib/Planner/ScheduleAddresses.h"
#include "lib/Runtime/jobs.h"
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_VERIFYJOBS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::tile;

namespace {

/// What the smallest addressable piece of a memory holds at a point of the
/// stream.
struct Granule {
  int32_t owner = -1;  // storage whose value it holds
  int32_t writer = -1; // sequence numbers of the last job that wrote it
  int32_t reader = -1; // and of the latest that read it
};

class StreamVerifier {
public:
  explicit StreamVerifier(td::JobProgram &program) : program(program) {}

  LogicalResult run() {
    if (failed(checkSequence()) || failed(checkAddresses()) ||
        failed(initialize()))
      return failure();
    for (auto [position, entry] : llvm::enumerate(program.stream)) {
      if (failed(entry.isWait ? wait(entry) : issue(entry.jobs.front())))
        return failure();
      for (unsigned storage : lastUses[position])
        own.erase(storage);
    }
    if (!inFlight.empty())
      return program.jobs[inFlight.front()].op->emitError(
          "is never waited for");
    return checkEnd();
  }

private:
  /// Whether jobs carry their place in the plan's order: all or none.
  LogicalResult checkSequence() {
    for (auto [i, job] : llvm::enumerate(program.jobs)) {
      auto attr = job.op->getAttrOfType<IntegerAttr>(td::sequenceAttrName);
      if (i > 0 && (bool)attr != sequenced)
        return job.op->emitError("either all jobs or none have '")
               << td::sequenceAttrName << "'";
      sequenced = (bool)attr;
      sequence.push_back(attr ? attr.getInt() : (int64_t)i);
    }
    return success();
  }

  /// Addresses lie in the part of the memory that is the plan's, aligned: those
  /// of all arrays of a level, or of none.
  LogicalResult checkAddresses() {
    for (const td::Storage &storage : program.storages)
      granuleBytes = std::min(granuleBytes, storage.elementBytes);
    auto used = td::liveRanges(program, program.stream);
    lastUses.resize(program.stream.size() + 2);
    bool any = false;
    for (auto [storage, range] : llvm::zip(program.storages, used)) {
      if (range.first == range.second)
        continue;
      lastUses[range.second - 1].push_back(&storage - program.storages.data());
      if (storage.address >= 0)
        any = addressed[(size_t)storage.level - 1] = true;
    }
    if (!any)
      return success();
    FailureOr<td::Target> target = td::Target::get(program.op);
    if (failed(target))
      return failure();
    td::setAlignments(program, *target);
    for (auto [storage, range] : llvm::zip(program.storages, used)) {
      if (range.first == range.second)
        continue;
      Operation *op = storage.value.getDefiningOp();
      if (!addressed[(size_t)storage.level - 1])
        continue;
      if (storage.address < 0)
        return op->emitError("has no address, but others have");
      td::MemoryArea area = td::memoryArea(*target, storage.level, program);
      if (storage.address < area.begin ||
          storage.address + storage.bytes > area.end)
        return op->emitError("lies outside of the bytes ")
               << area.begin << " to " << area.end << " of "
               << stringifyLevel(storage.level);
      if (storage.address % storage.alignment)
        return op->emitError("address is no multiple of ") << storage.alignment;
      auto &[first, memory] = levels[(size_t)storage.level - 1];
      first = area.begin;
      size_t end = (storage.address + storage.bytes - first) / granuleBytes + 1;
      if (memory.size() < end)
        memory.resize(end);
    }
    return success();
  }

  /// The granules from the start of a storage.
  MutableArrayRef<Granule> granules(unsigned index) {
    const td::Storage &storage = program.storages[index];
    size_t count = storage.bytes / granuleBytes;
    if (addressed[(size_t)storage.level - 1]) {
      auto &[first, memory] = levels[(size_t)storage.level - 1];
      return MutableArrayRef<Granule>(memory).slice(
          (storage.address - first) / granuleBytes, count);
    }
    std::vector<Granule> &memory = own[index];
    if (memory.empty())
      memory.resize(count);
    return memory;
  }

  LogicalResult initialize() {
    for (auto [i, storage] : llvm::enumerate(program.storages)) {
      if (!storage.initialized)
        continue;
      for (Granule &granule : granules(i)) {
        if (granule.owner >= 0)
          return storage.value.getDefiningOp()->emitError("shares bytes with '")
                 << program.storages[granule.owner].name()
                 << "', which also holds values before the step";
        granule.owner = i;
      }
    }
    return success();
  }

  /// Applies `visit` to each granule of a window, row by row; the first
  /// failure ends it.
  template <typename Visit>
  LogicalResult forEach(const td::Access &access, Visit visit) {
    MutableArrayRef<Granule> all = granules(access.storage);
    const td::Storage &storage = program.storages[access.storage];
    int64_t scale = storage.elementBytes / granuleBytes;
    WindowNest window(access.shape, access.offsets, access.sizes, access.steps,
                      scale);
    SmallVector<int64_t> place(window.nest.size(), 0);
    while (true) {
      int64_t start = window.begin;
      for (auto [at, level] : llvm::zip(place, window.nest))
        start += at * level.second;
      for (Granule &granule : all.slice(start, window.run))
        if (failed(visit(granule)))
          return failure();
      size_t dim = place.size();
      while (dim > 0 && ++place[dim - 1] == window.nest[dim - 1].first)
        place[--dim] = 0;
      if (dim == 0)
        return success();
    }
  }

  /// Whether two accesses touch a common byte, one of them writing.
  bool conflict(const td::Access &a, const td::Access &b) const {
    if (!a.writes && !b.writes)
      return false;
    if (a.storage == b.storage)
      return a.overlaps(b);
    const td::Storage &first = program.storages[a.storage],
                      &second = program.storages[b.storage];
    return first.level == second.level && addressed[(size_t)first.level - 1] &&
           first.address < second.address + second.bytes &&
           second.address < first.address + first.bytes;
  }

  LogicalResult issue(unsigned index) {
    td::Job &job = program.jobs[index];
    unsigned dma = 0, hyper = 0;
    for (unsigned other : inFlight) {
      td::Job &running = program.jobs[other];
      dma += td::usesDma(running.kind);
      hyper += td::usesHyperRam(running.kind);
      if ((td::usesDma(job.kind) && dma >= TD_DMA_SLOTS) ||
          (td::usesHyperRam(job.kind) && hyper >= TD_L3_SLOTS))
        return fail(job, running)
               << "exceeds the "
               << (td::usesDma(job.kind) ? TD_DMA_SLOTS : TD_L3_SLOTS)
               << " transfers of its kind that may be in flight";
      if (job.kind == td::JobKind::Gemm && running.kind == job.kind)
        return fail(job, running)
               << "starts before RedMulE's last job was waited for";
      for (const td::Access &a : job.accesses)
        for (const td::Access &b : running.accesses)
          if (conflict(a, b))
            return fail(job, running)
                   << "touches '" << program.storages[a.storage].name()
                   << "' while a job in flight uses its bytes";
    }
    int32_t now = sequence[index];
    // All reads come before all writes of a job.
    for (const td::Access &access : job.accesses)
      if (access.reads && failed(forEach(access, [&](Granule &granule) {
            return read(job, access, granule, now);
          })))
        return failure();
    for (const td::Access &access : job.accesses)
      if (access.writes && failed(forEach(access, [&](Granule &granule) {
            return write(job, access, granule, now);
          })))
        return failure();
    if (td::isAsynchronous(job.kind))
      inFlight.push_back(index);
    return success();
  }

  LogicalResult read(td::Job &job, const td::Access &access, Granule &granule,
                     int32_t now) {
    StringRef name = program.storages[access.storage].name();
    if (granule.owner < 0)
      return job.op->emitError("reads bytes of '")
             << name << "' that nothing wrote";
    if (granule.owner != (int32_t)access.storage)
      return job.op->emitError("reads bytes of '")
             << name << "' that hold '"
             << program.storages[granule.owner].name() << "'";
    if (granule.writer >= now)
      return job.op->emitError("reads '")
             << name << "' after a job that comes later in the plan wrote it";
    granule.reader = std::max(granule.reader, now);
    return success();
  }

  LogicalResult write(td::Job &job, const td::Access &access, Granule &granule,
                      int32_t now) {
    const td::Storage &storage = program.storages[access.storage];
    if (auto buffer = storage.value.getDefiningOp<BufferOp>())
      if (buffer.getRole() == Role::Constant)
        return job.op->emitError("writes the constant '")
               << storage.name() << "'";
    if (granule.owner == (int32_t)access.storage &&
        (granule.writer >= now || granule.reader > now))
      return job.op->emitError("writes '")
             << storage.name()
             << "' after a job that comes later in the plan used it";
    granule.owner = access.storage;
    granule.writer = now;
    granule.reader = -1;
    return success();
  }

  LogicalResult wait(const td::StreamEntry &entry) {
    auto op = cast<WaitOp>(entry.op);
    for (unsigned index : entry.jobs) {
      auto place = llvm::find(inFlight, index);
      if (place == inFlight.end())
        return op.emitError("waits for a job that was waited for before");
      inFlight.erase(place);
      for (const td::Access &access : program.jobs[index].accesses)
        if (access.writes && !lists(op, program.storages[access.storage].value))
          return op.emitError("does not list '")
                 << program.storages[access.storage].name()
                 << "', which it makes valid";
    }
    return success();
  }

  /// Whether a wait lists a storage or a view of it.
  static bool lists(WaitOp op, Value storage) {
    return llvm::any_of(op.getBuffers(), [&](Value buffer) {
      while (auto view = td::reshapeSource(buffer).getDefiningOp<ViewOp>())
        buffer = view.getSource();
      return td::reshapeSource(buffer) == storage;
    });
  }

  /// What outlives the step holds its own values.
  LogicalResult checkEnd() {
    for (auto [i, storage] : llvm::enumerate(program.storages)) {
      if (!storage.persistent)
        continue;
      for (const Granule &granule : granules(i))
        if (granule.owner != (int32_t)i)
          return storage.value.getDefiningOp()->emitError(
              granule.owner < 0 ? "is not written as a whole by the step"
                                : "is overwritten by another array");
    }
    return success();
  }

  InFlightDiagnostic fail(td::Job &job, td::Job &other) {
    InFlightDiagnostic diagnostic = job.op->emitError();
    diagnostic.attachNote(other.op->getLoc()) << "the job in flight";
    return diagnostic;
  }

  td::JobProgram &program;
  bool sequenced = false;
  bool addressed[3] = {}; // by level
  std::vector<int32_t> sequence;
  int64_t granuleBytes = 4;
  std::vector<SmallVector<unsigned, 2>> lastUses;
  std::pair<int64_t, std::vector<Granule>> levels[3]; // from the first address
  DenseMap<unsigned, std::vector<Granule>> own;       // without addresses
  SmallVector<unsigned> inFlight;
};

struct VerifyJobs : td::impl::VerifyJobsBase<VerifyJobs> {
  void runOnOperation() override {
    for (auto op : getOperation().getOps<ProgramOp>()) {
      FailureOr<td::JobProgram> program = td::JobProgram::read(op);
      if (failed(program) || failed(StreamVerifier(*program).run()))
        return signalPassFailure();
    }
    markAllAnalysesPreserved();
  }
};

} // namespace
