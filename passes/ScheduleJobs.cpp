// Reorders jobs so that cores, RedMulE and DMA work at the same time.
#include "lib/Planner/JobScheduler.h"
#include "passes/Passes.h"
#include "llvm/ADT/SetVector.h"

namespace td {
#define GEN_PASS_DEF_SCHEDULEJOBS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::tile;

namespace {

/// What an operator takes is known better now than when it was planned alone.
void predictOperators(const td::JobProgram &program,
                      const td::JobScheduler &scheduler,
                      const td::Schedule &schedule) {
  std::vector<SmallVector<int64_t>> predicted(program.operators.size(),
                                              {0, 0, 0, 0});
  for (auto [index, cycles] : llvm::enumerate(schedule.cyclesOf))
    if (index < predicted.size())
      predicted[index][0] = cycles;
  for (auto [job, cost] : llvm::zip(program.jobs, scheduler.jobCosts())) {
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

/// Puts the jobs of the program in the order of the schedule, with new waits.
void rewrite(td::JobProgram &program, const td::JobScheduler &scheduler,
             const td::Schedule &schedule) {
  for (const td::StreamEntry &entry : program.stream)
    if (entry.isWait)
      entry.op->erase();
  Block *block = &program.op.getBody().front();
  OpBuilder builder = OpBuilder::atBlockEnd(block);
  llvm::DenseSet<Operation *> placed;
  auto place = [&](Operation *op) {
    // A view may be used before the tile that it is of.
    if (auto view = dyn_cast<ViewOp>(op))
      if (auto alloc = view.getSource().getDefiningOp<AllocOp>();
          alloc && placed.insert(alloc).second)
        alloc->moveBefore(block, block->end());
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
  predictOperators(program, scheduler, schedule);
}

struct ScheduleJobs : td::impl::ScheduleJobsBase<ScheduleJobs> {
  void runOnOperation() override {
    FailureOr<td::Target> target = td::Target::get(getOperation());
    if (failed(target))
      return signalPassFailure();
    for (auto op : getOperation().getOps<ProgramOp>()) {
      FailureOr<td::JobProgram> program = td::JobProgram::read(op);
      if (failed(program))
        return signalPassFailure();
      td::JobScheduler scheduler(*program, *target);
      FailureOr<td::Schedule> schedule = scheduler.run();
      if (failed(schedule))
        return signalPassFailure();
      rewrite(*program, scheduler, *schedule);
      jobs += program->jobs.size();
      makespan += schedule->makespan;
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
