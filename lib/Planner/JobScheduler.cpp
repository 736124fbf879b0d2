#include "lib/Planner/JobScheduler.h"

#include "dialects/Tile/Windows.h"
#include "lib/Planner/ScheduleAddresses.h"
#include "lib/Runtime/jobs.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"

using namespace mlir;
using namespace td::tile;

namespace td {

namespace {

/// The window that a copy moves.
WindowNest windowOf(CopyOp copy) {
  auto array = cast<MemRefType>(copy.getArray().getType());
  return {array.getShape(), copy.getOffsets(), copy.getSizes(),
          copy.getWindowSteps(),
          llvm::divideCeil(array.getElementTypeBitWidth(), 8)};
}

} // namespace

JobScheduler::JobScheduler(JobProgram &program, const Target &target)
    : program(program), target(target), symbols(program.op->getParentOp()),
      costs(target), contention(target), graph(program),
      problem{program, graph, contention} {
  setAlignments(program, target);
  for (const Job &job : program.jobs)
    problem.costs.push_back(costOf(job));
  problem.waitCycles = costs.waitCycles;
  constexpr double lineBytes = 16;
  problem.codeBytes = lineBytes * target.integer("icache", "banks") *
                      target.integer("icache", "sets") *
                      target.integer("icache", "ways");
  int64_t refill = target.integer("icache", "refill");
  problem.codeFromShared = refill / lineBytes;
  problem.codeFromL2 =
      (target.integer("cores", "l2_access") - 1 + refill) / lineBytes;
  problem.dmaSlots = TD_DMA_SLOTS;
  problem.hyperSlots = TD_L3_SLOTS;
  problem.dmaQueue = target.integer("dma", "global_queue");
  for (Level level : {Level::L1, Level::L2}) {
    int64_t &bytes = capacity[(size_t)level - 1];
    bytes = memoryArea(target, level, program).size();
    for (const Storage &storage : program.storages)
      if (storage.level == level && storage.persistent)
        bytes -= llvm::alignTo(storage.bytes, storage.alignment);
  }
}

FailureOr<Schedule> JobScheduler::run() {
  Schedule best = sequentialSchedule(problem);
  sequential = best.makespan;
  if (findOverlapping(best))
    return best;
  // One job after the other needs the least memory.
  AddressPlan plan = planAddresses(program, best.stream, target);
  if (!plan.fits())
    return reportOverflow(program, best.stream, plan);
  return best;
}

int64_t JobScheduler::busy(JobKind kind) const {
  int64_t cycles = 0;
  for (auto [job, cost] : llvm::zip(program.jobs, problem.costs))
    if (job.kind == kind)
      cycles += cost.cycles;
  return cycles;
}

std::optional<Schedule> JobScheduler::shortest(ArrayRef<int64_t> percent,
                                               bool inPlace) {
  for (size_t level : {0, 1})
    problem.budget[level] = capacity[level] * percent[level] / 100;
  problem.area.reset();
  if (inPlace)
    problem.area = l1Area();
  std::optional<Schedule> chosen;
  for (bool criticalWork : {true, false})
    for (bool criticalCopies : {false, true})
      for (bool patient : {false, true}) {
        std::optional<Schedule> schedule =
            simulateWithDrains({criticalWork, criticalCopies, patient});
        if (schedule && (!chosen || schedule->makespan < chosen->makespan))
          chosen = std::move(schedule);
      }
  return chosen;
}

std::optional<Schedule>
JobScheduler::simulateWithDrains(const SchedulePolicy &policy) {
  // Ahead of the operator whose tile found no hole; if that is not enough,
  // ahead of the job itself.
  constexpr int most = 64;
  problem.drains.clear();
  for (int attempt = 0; attempt <= most; ++attempt) {
    std::optional<unsigned> stuckAt;
    if (std::optional<Schedule> schedule = simulate(problem, policy, stuckAt))
      return schedule;
    if (!stuckAt)
      return std::nullopt;
    unsigned first = *stuckAt;
    while (first > 0 &&
           program.jobs[first - 1].opIndex == program.jobs[*stuckAt].opIndex)
      --first;
    if (!problem.drains.insert(first).second &&
        !problem.drains.insert(*stuckAt).second) {
      stuck = stuckAt;
      return std::nullopt;
    }
  }
  return std::nullopt;
}

bool JobScheduler::findOverlapping(Schedule &best) {
  // Tiles get addresses in l1 with their bytes, or, if they then find no
  // place, afterwards. Gaps between arrays cost some of the memory: each
  // level where a schedule did not fit has less to spend in the next round.
  int64_t percent[2] = {100, 100};
  constexpr int64_t step = 6, least = 16;
  bool inPlace = llvm::none_of(program.storages, [](const Storage &storage) {
    return storage.level == Level::L1 && storage.persistent;
  });
  while (percent[0] > least && percent[1] > least) {
    std::optional<Schedule> chosen = shortest(percent, inPlace);
    if (!chosen && !inPlace)
      return false;
    inPlace = chosen && inPlace;
    if (!chosen)
      continue;
    setAddresses(chosen->addresses);
    AddressPlan plan = planAddresses(program, chosen->stream, target);
    if (plan.fits()) {
      best = std::move(*chosen);
      return true;
    }
    setAddresses({});
    ++retries;
    if (!plan.levels[2].fits())
      return false;
    for (size_t level : {0, 1})
      if (!plan.levels[level].fits())
        percent[level] -= step;
  }
  return false;
}

std::pair<int64_t, int64_t> JobScheduler::l1Area() const {
  int64_t alignment = 1;
  for (const Storage &storage : program.storages)
    if (storage.level == Level::L1)
      alignment = std::max(alignment, storage.alignment);
  MemoryArea area = memoryArea(target, Level::L1, program);
  return {llvm::alignTo(area.begin, alignment), area.end};
}

void JobScheduler::setAddresses(ArrayRef<int64_t> addresses) {
  for (auto [i, storage] : llvm::enumerate(program.storages))
    if (storage.level == Level::L1)
      storage.address = addresses.empty() ? -1 : addresses[i];
}

JobCost JobScheduler::costOf(const Job &job) {
  JobCost cost;
  cost.issueCycles = costs.issueCycles();
  if (auto copy = dyn_cast<CopyOp>(job.op)) {
    WindowNest window = windowOf(copy);
    if (usesDma(job.kind)) {
      cost.issueCycles = costs.issueCycles(window.commands());
      cost.cycles = costs.dmaCycles(window.commands(), window.runs(),
                                    window.run, job.kind == JobKind::LoadL1);
      cost.accesses = contention.dmaWords * cost.cycles;
    } else {
      cost.cycles = costs.hyperCycles(window.commands(), window.runs(),
                                      window.run, job.kind == JobKind::StoreL2);
    }
    return cost;
  }
  if (auto gemm = dyn_cast<redmule::GemmOp>(job.op)) {
    SmallVector<int64_t, 3> sizes = gemm.getJobSizes();
    auto x = cast<MemRefType>(gemm.getX().getType());
    cost.gemm = costs.gemm(sizes[0], sizes[1], sizes[2], x.getElementType());
    cost.cycles = cost.gemm.cycles(1);
    cost.accesses = contention.portWords * cost.gemm.beats();
    return cost;
  }
  return costOf(cast<CallOp>(job.op));
}

JobCost JobScheduler::costOf(CallOp call) {
  SmallVector<const void *> key{call.getKernelAttr().getAsOpaquePointer()};
  for (Type type : call.getOperands_().getTypes())
    key.push_back(type.getAsOpaquePointer());
  auto [entry, isNew] = calls.try_emplace(key);
  JobCost &cost = entry->second;
  if (!isNew)
    return cost;
  cost.kernel =
      kernels.try_emplace(call.getKernelAttr(), kernels.size()).first->second;
  auto kernel = symbols.lookup<func::FuncOp>(call.getKernel());
  if (kernel.isExternal())
    return cost;
  for (auto op : kernel.getBody().front().getOps<linalg::LinalgOp>()) {
    SmallVector<SmallVector<int64_t>> shapes;
    for (Value operand : op->getOperands()) {
      auto argument = dyn_cast<BlockArgument>(operand);
      shapes.emplace_back();
      if (!argument)
        continue;
      Value tile = call.getOperands_()[argument.getArgNumber()];
      llvm::append_range(shapes.back(),
                         cast<MemRefType>(tile.getType()).getShape());
    }
    KernelCost part = costs.kernel(op, shapes);
    cost.cycles += part.cycles;
    cost.codeBytes += part.codeBytes;
    cost.accesses += part.accesses;
  }
  cost.cycles += costs.callCycles;
  return cost;
}

} // namespace td
