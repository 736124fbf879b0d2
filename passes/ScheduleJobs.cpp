// Reorders jobs so that cores, RedMulE and DMA work at the same time.
#include "dialects/Tile/Windows.h"
#include "lib/CostModel/CostModel.h"
#include "lib/Planner/ScheduleAddresses.h"
#include "lib/Planner/ScheduleSimulation.h"
#include "lib/Runtime/jobs.h"
#include "passes/Passes.h"
#include <map>

namespace td {
#define GEN_PASS_DEF_SCHEDULEJOBS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::tile;

namespace {

/// The window that a copy moves.
WindowNest windowOf(CopyOp copy) {
  auto array = cast<MemRefType>(copy.getArray().getType());
  return {array.getShape(), copy.getOffsets(), copy.getSizes(),
          copy.getWindowSteps(),
          llvm::divideCeil(array.getElementTypeBitWidth(), 8)};
}

class Scheduler {
public:
  Scheduler(td::JobProgram &program, const td::Target &target)
      : program(program), target(target), symbols(program.op->getParentOp()),
        costs(target), contention(target), graph(program),
        problem{program, graph, contention} {}

  LogicalResult run() {
    td::setAlignments(program, target);
    for (const td::Job &job : program.jobs)
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
    td::Schedule best = td::sequentialSchedule(problem);
    sequential = best.makespan;
    if (!findOverlapping(best)) {
      // One job after the other needs the least memory.
      td::AddressPlan plan = td::planAddresses(program, best.stream, target);
      if (!plan.fits())
        return td::reportOverflow(program, best.stream, plan);
    }
    makespan = best.makespan;
    rewrite(best);
    return success();
  }

  int64_t sequential = 0, makespan = 0;
  unsigned retries = 0;

  /// Predicted cycles of all jobs of one kind.
  int64_t busy(td::JobKind kind) const {
    int64_t cycles = 0;
    for (auto [job, cost] : llvm::zip(program.jobs, problem.costs))
      if (job.kind == kind)
        cycles += cost.cycles;
    return cycles;
  }

private:
  /// The best schedule whose tiles have addresses; false if there is none.
  bool findOverlapping(td::Schedule &best) {
    int64_t capacity[2] = {};
    for (Level level : {Level::L1, Level::L2}) {
      int64_t &bytes = capacity[(size_t)level - 1];
      bytes = td::memoryArea(target, level, program).size();
      for (const td::Storage &storage : program.storages)
        if (storage.level == level && storage.persistent)
          bytes -= llvm::alignTo(storage.bytes, storage.alignment);
    }
    SmallVector<td::SchedulePolicy> policies;
    for (bool criticalWork : {true, false})
      for (bool criticalCopies : {false, true})
        for (bool patient : {false, true})
          policies.push_back({criticalWork, criticalCopies, patient});
    // Tiles get addresses in l1 with their bytes, or, if they then find no
    // place, afterwards. Gaps between arrays cost some of the memory: each
    // level where a schedule did not fit has less to spend in the next round.
    int64_t percent[2] = {100, 100};
    constexpr int64_t step = 6, least = 16;
    bool inPlace =
        llvm::none_of(program.storages, [](const td::Storage &storage) {
          return storage.level == Level::L1 && storage.persistent;
        });
    while (percent[0] > least && percent[1] > least) {
      for (size_t level : {0, 1})
        problem.budget[level] = capacity[level] * percent[level] / 100;
      problem.area.reset();
      if (inPlace)
        problem.area = l1Area();
      std::optional<td::Schedule> chosen;
      for (const td::SchedulePolicy &policy : policies) {
        std::optional<td::Schedule> schedule = td::simulate(problem, policy);
        if (schedule && (!chosen || schedule->makespan < chosen->makespan))
          chosen = std::move(schedule);
      }
      if (!chosen && !inPlace)
        return false;
      inPlace = chosen && inPlace;
      if (!chosen)
        continue;
      setAddresses(chosen->addresses);
      td::AddressPlan plan = td::planAddresses(program, chosen->stream, target);
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

  std::pair<int64_t, int64_t> l1Area() {
    int64_t alignment = 1;
    for (const td::Storage &storage : program.storages)
      if (storage.level == Level::L1)
        alignment = std::max(alignment, storage.alignment);
    td::MemoryArea area = td::memoryArea(target, Level::L1, program);
    return {llvm::alignTo(area.begin, alignment), area.end};
  }

  /// Of tiles; none if they have to be planned.
  void setAddresses(ArrayRef<int64_t> addresses) {
    for (auto [i, storage] : llvm::enumerate(program.storages))
      if (storage.level == Level::L1)
        storage.address = addresses.empty() ? -1 : addresses[i];
  }

  td::JobCost costOf(const td::Job &job) {
    td::JobCost cost;
    cost.issueCycles = costs.issueCycles();
    if (auto copy = dyn_cast<CopyOp>(job.op)) {
      WindowNest window = windowOf(copy);
      if (td::usesDma(job.kind)) {
        cost.issueCycles = costs.issueCycles(window.commands());
        cost.cycles =
            costs.dmaCycles(window.commands(), window.runs(), window.run,
                            job.kind == td::JobKind::LoadL1);
        cost.accesses = contention.dmaWords * cost.cycles;
      } else {
        cost.cycles =
            costs.hyperCycles(window.commands(), window.runs(), window.run,
                              job.kind == td::JobKind::StoreL2);
      }
      return cost;
    }
    if (auto gemm = dyn_cast<td::redmule::GemmOp>(job.op)) {
      SmallVector<int64_t, 3> sizes = gemm.getJobSizes();
      auto x = cast<MemRefType>(gemm.getX().getType());
      cost.gemm = costs.gemm(sizes[0], sizes[1], sizes[2], x.getElementType());
      cost.cycles = cost.gemm.cycles(1);
      cost.accesses = contention.portWords * cost.gemm.beats();
      return cost;
    }
    return costOf(cast<CallOp>(job.op));
  }

  td::JobCost costOf(CallOp call) {
    SmallVector<const void *> key{call.getKernelAttr().getAsOpaquePointer()};
    for (Type type : call.getOperands_().getTypes())
      key.push_back(type.getAsOpaquePointer());
    auto [entry, isNew] = calls.try_emplace(key);
    td::JobCost &cost = entry->second;
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
      td::KernelCost part = costs.kernel(op, shapes);
      cost.cycles += part.cycles;
      cost.codeBytes += part.codeBytes;
      cost.accesses += part.accesses;
    }
    cost.cycles += costs.callCycles;
    return cost;
  }

  /// Puts the jobs of the program in the order of the schedule, with new waits.
  void rewrite(const td::Schedule &schedule) {
    for (const td::StreamEntry &entry : program.stream)
      if (entry.isWait)
        entry.op->erase();
    Block *block = &program.op.getBody().front();
    OpBuilder builder = OpBuilder::atBlockEnd(block);
    llvm::DenseSet<Operation *> placed;
    auto place = [&](Operation *op) {
      if (placed.insert(op).second)
        op->moveBefore(block, block->end());
    };
    for (const td::StreamEntry &entry : schedule.stream) {
      if (entry.isWait) {
        SmallVector<Value> tokens;
        llvm::SetVector<Value> buffers;
        for (unsigned index : entry.jobs) {
          Operation *op = program.jobs[index].op;
          tokens.push_back(op->getResult(0));
          // A load's array was only read and is not listed.
          for (Value operand : op->getOperands())
            if (auto copy = dyn_cast<CopyOp>(op);
                !copy || !copy.getLoad() || operand == copy.getTile())
              buffers.insert(operand);
        }
        WaitOp::create(builder, program.jobs[entry.jobs.front()].op->getLoc(),
                       tokens, buffers.getArrayRef());
        continue;
      }
      unsigned index = entry.jobs.front();
      Operation *op = program.jobs[index].op;
      op->setAttr(td::sequenceAttrName, builder.getI32IntegerAttr(index));
      for (Value operand : op->getOperands())
        if (Operation *definition = operand.getDefiningOp();
            isa<AllocOp, ViewOp>(definition))
          place(definition);
      place(op);
    }
    for (const td::Storage &storage : program.storages)
      if (storage.level == Level::L1 && storage.address >= 0)
        storage.assign(storage.address);
    program.op->setAttr("tile.predicted_cycles",
                        builder.getI64IntegerAttr(schedule.makespan));
    predictOperators(schedule);
  }

  /// What an operator takes is known better now than when it was planned alone.
  void predictOperators(const td::Schedule &schedule) {
    std::vector<SmallVector<int64_t>> predicted(program.operators.size(),
                                                {0, 0, 0, 0});
    for (auto [index, cycles] : llvm::enumerate(schedule.cyclesOf))
      if (index < predicted.size())
        predicted[index][0] = cycles;
    for (auto [job, cost] : llvm::zip(program.jobs, problem.costs)) {
      int64_t cycles = cost.cycles;
      if ((size_t)job.opIndex >= predicted.size())
        continue;
      SmallVector<int64_t> &engines = predicted[job.opIndex];
      if (td::usesDma(job.kind))
        engines[1] += cycles;
      else if (job.kind == td::JobKind::Call)
        engines[2] += cycles;
      else if (job.kind == td::JobKind::Gemm)
        engines[3] += cycles;
    }
    for (auto [op, cycles] : llvm::zip(program.operators, predicted))
      op.setPredicted(cycles);
  }

  td::JobProgram &program;
  const td::Target &target;
  SymbolTable symbols;
  td::CostModel costs;
  td::Contention contention;
  td::DependenceGraph graph;
  /// What calls of a kernel on tiles of the same shapes cost.
  std::map<SmallVector<const void *>, td::JobCost> calls;
  DenseMap<Attribute, unsigned> kernels;
  td::ScheduleProblem problem;
};

struct ScheduleJobs : td::impl::ScheduleJobsBase<ScheduleJobs> {
  void runOnOperation() override {
    FailureOr<td::Target> target = td::Target::get(getOperation());
    if (failed(target))
      return signalPassFailure();
    for (auto op : getOperation().getOps<ProgramOp>()) {
      FailureOr<td::JobProgram> program = td::JobProgram::read(op);
      if (failed(program))
        return signalPassFailure();
      Scheduler scheduler(*program, *target);
      if (failed(scheduler.run()))
        return signalPassFailure();
      jobs += program->jobs.size();
      makespan += scheduler.makespan;
      sequential += scheduler.sequential;
      retries += scheduler.retries;
      cores += scheduler.busy(td::JobKind::Call);
      redmule += scheduler.busy(td::JobKind::Gemm);
      dmaIn += scheduler.busy(td::JobKind::LoadL1);
      dmaOut += scheduler.busy(td::JobKind::StoreL1);
      hyperram += scheduler.busy(td::JobKind::LoadL2) +
                  scheduler.busy(td::JobKind::StoreL2);
    }
  }
};

} // namespace
