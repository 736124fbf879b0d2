// Reorders jobs so that cores, RedMulE and DMA work at the same time.
#include "dialects/Tile/Windows.h"
#include "lib/CostModel/CostModel.h"
#include "lib/Planner/ScheduleAddresses.h"
#include "lib/Planner/ScheduleSimulation.h"
#include "lib/Runtime/jobs.h"
#include "passes/Passes.h"

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
        graph(program), problem{program, graph, {}} {}

  LogicalResult run() {
    td::setAlignments(program, target);
    // Beside RedMulE, which takes most banks, cores and DMA wait for theirs:
    // for the share of an operator's time that RedMulE has work.
    struct Work {
      int64_t gemm = 0, call = 0, dma = 0;
    };
    std::vector<Work> work(program.operators.size());
    for (td::Job &job : program.jobs) {
      int64_t cycles = cyclesOf(job);
      if (job.kind == td::JobKind::Call)
        cycles += target.integer("runtime", "call_cycles");
      problem.cycles.push_back(cycles);
      Work &sum = work[job.opIndex];
      if (job.kind == td::JobKind::Gemm)
        sum.gemm += cycles;
      else if (job.kind == td::JobKind::Call)
        sum.call += cycles;
      else if (td::usesDma(job.kind))
        sum.dma += cycles;
    }
    for (auto [job, cycles] : llvm::zip(program.jobs, problem.cycles)) {
      Work &sum = work[job.opIndex];
      if (!sum.gemm ||
          (job.kind != td::JobKind::Call && !td::usesDma(job.kind)))
        continue;
      int64_t most = std::max({sum.gemm, sum.call, sum.dma});
      int64_t slower = target.integer("redmule", "beside_percent") - 100;
      cycles += cycles * slower * sum.gemm / (100 * most);
    }
    problem.issueCycles = target.integer("runtime", "issue_cycles");
    problem.waitCycles = target.integer("runtime", "wait_cycles");
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
    for (auto [job, time] : llvm::zip(program.jobs, problem.cycles))
      if (job.kind == kind)
        cycles += time;
    return cycles;
  }

private:
  /// The best schedule whose tiles have addresses; false if there is none.
  bool findOverlapping(td::Schedule &best) {
    int64_t capacity[2] = {};
    for (Level level : {Level::L1, Level::L2}) {
      int64_t &bytes = capacity[(size_t)level - 1];
      bytes = td::memoryArea(target, level, program.operators.size()).size();
      for (const td::Storage &storage : program.storages)
        if (storage.level == level && storage.persistent)
          bytes -= llvm::alignTo(storage.bytes, storage.alignment);
    }
    SmallVector<td::SchedulePolicy> policies;
    for (bool criticalWork : {true, false})
      for (bool criticalCopies : {false, true})
        for (bool patient : {false, true})
          policies.push_back({criticalWork, criticalCopies, patient});
    // Gaps between tiles cost some of the memory: each level where a schedule
    // did not fit has less to spend in the next round.
    int64_t percent[2] = {100, 100};
    constexpr int64_t step = 6, least = 16;
    while (percent[0] > least && percent[1] > least) {
      for (size_t level : {0, 1})
        problem.budget[level] = capacity[level] * percent[level] / 100;
      std::optional<td::Schedule> chosen;
      for (const td::SchedulePolicy &policy : policies) {
        std::optional<td::Schedule> schedule = td::simulate(problem, policy);
        if (schedule && (!chosen || schedule->makespan < chosen->makespan))
          chosen = std::move(schedule);
      }
      if (!chosen)
        return false;
      td::AddressPlan plan = td::planAddresses(program, chosen->stream, target);
      if (plan.fits()) {
        best = std::move(*chosen);
        return true;
      }
      ++retries;
      if (!plan.levels[2].fits())
        return false;
      for (size_t level : {0, 1})
        if (!plan.levels[level].fits())
          percent[level] -= step;
    }
    return false;
  }

  int64_t cyclesOf(const td::Job &job) {
    if (auto copy = dyn_cast<CopyOp>(job.op)) {
      WindowNest window = windowOf(copy);
      return td::usesDma(job.kind)
                 ? td::dmaCycles(target, window.commands(), window.runs(),
                                 window.run)
                 : td::hyperCycles(target, window.runs(), window.run,
                                   job.kind == td::JobKind::StoreL2);
    }
    if (auto gemm = dyn_cast<td::redmule::GemmOp>(job.op)) {
      SmallVector<int64_t, 3> sizes = gemm.getJobSizes();
      auto x = cast<MemRefType>(gemm.getX().getType());
      return td::redmuleCycles(target, sizes[0], sizes[1], sizes[2],
                               x.getElementType());
    }
    auto call = cast<CallOp>(job.op);
    auto kernel = symbols.lookup<func::FuncOp>(call.getKernel());
    int64_t cycles = 0;
    if (kernel.isExternal())
      return cycles;
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
      cycles += td::kernelCycles(target, op, shapes);
    }
    return cycles;
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
    for (auto [job, cycles] : llvm::zip(program.jobs, problem.cycles)) {
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
  td::DependenceGraph graph;
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
