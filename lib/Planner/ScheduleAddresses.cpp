#include "lib/Planner/ScheduleAddresses.h"

#include "lib/Planner/Allocator.h"
#include "lib/Runtime/Layout.h"

using namespace mlir;
using namespace td::tile;

namespace td {

static constexpr Level allLevels[] = {Level::L1, Level::L2, Level::L3};

static size_t indexOf(Level level) { return (size_t)level - 1; }

MemoryArea memoryArea(const Target &target, Level level,
                      const JobProgram &program) {
  RuntimeLayout layout(target, program.operators.size(), program.tableBytes);
  switch (level) {
  case Level::L1:
    return {layout.l1Begin(), layout.l1End()};
  case Level::L2:
    return {layout.l2Begin(), layout.l2End()};
  case Level::L3:
    return {0,
            target.has("memory.l3") ? target.integer("memory.l3", "size") : 0};
  }
  llvm_unreachable("unknown level");
}

void setAlignments(JobProgram &program, const Target &target) {
  constexpr int64_t word = 4;
  for (Storage &storage : program.storages)
    storage.alignment = word;
  auto atLeast = [&](const Access &access, int64_t alignment) {
    Storage &storage = program.storages[access.storage];
    storage.alignment = std::max(storage.alignment, alignment);
  };
  // A beat of the DMA or of RedMulE's port that straddles two costs one more.
  int64_t dma = target.integer("dma", "bytes_per_cycle");
  int64_t port =
      target.has("redmule") ? target.integer("redmule", "port_bytes") : word;
  for (const Job &job : program.jobs)
    for (const Access &access : job.accesses) {
      if (job.kind == JobKind::Gemm)
        atLeast(access, port);
      else if (job.kind != JobKind::Call)
        atLeast(access, dma);
    }
}

AddressPlan planAddresses(const JobProgram &program,
                          ArrayRef<StreamEntry> stream, const Target &target) {
  AddressPlan plan;
  plan.addresses.assign(program.storages.size(), -1);
  auto ranges = liveRanges(program, stream);
  for (Level level : allLevels) {
    AddressPlan::LevelUse &use = plan.levels[indexOf(level)];
    SmallVector<LiveRange> live;
    SmallVector<unsigned> which;
    int64_t alignment = 1;
    for (auto [i, storage] : llvm::enumerate(program.storages)) {
      auto [begin, end] = ranges[i];
      if (storage.level != level || begin == end)
        continue;
      live.push_back({storage.bytes, storage.alignment, begin, end});
      which.push_back(i);
      alignment = std::max(alignment, storage.alignment);
    }
    if (live.empty())
      continue;
    use.area = memoryArea(target, level, program);
    use.area.begin = llvm::alignTo(use.area.begin, alignment);
    if (llvm::all_of(which, [&](unsigned storage) {
          return program.storages[storage].address >= 0;
        })) {
      // The schedule depends on them.
      use.lowerBound = peakOfLiveBytes(live);
      for (unsigned storage : which) {
        const Storage &placed = program.storages[storage];
        plan.addresses[storage] = placed.address;
        use.peak =
            std::max(use.peak, placed.address + placed.bytes - use.area.begin);
      }
      continue;
    }
    Placement placement = placeRanges(live, use.area.size());
    use.peak = placement.peak;
    use.lowerBound = placement.lowerBound;
    // In L2 at the end: what stays free lies behind code and job tables, whose
    // size is known only when the program is linked.
    int64_t begin = use.area.begin;
    if (level == Level::L2 && use.fits())
      begin = (use.area.end - use.peak) / alignment * alignment;
    for (auto [storage, offset] : llvm::zip(which, placement.offsets))
      plan.addresses[storage] = begin + offset;
  }
  return plan;
}

InFlightDiagnostic reportOverflow(const JobProgram &program,
                                  ArrayRef<StreamEntry> stream,
                                  const AddressPlan &plan) {
  size_t index = 0;
  while (plan.levels[index].fits())
    ++index;
  Level level = allLevels[index];
  const AddressPlan::LevelUse &use = plan.levels[index];

  // The position with the most live bytes, and who needs them.
  auto ranges = liveRanges(program, stream);
  std::vector<int64_t> change(stream.size() + 2, 0);
  int64_t persistent = 0;
  for (auto [i, storage] : llvm::enumerate(program.storages)) {
    if (storage.level != level || ranges[i].first == ranges[i].second)
      continue;
    change[ranges[i].first] += storage.bytes;
    change[ranges[i].second] -= storage.bytes;
    if (storage.persistent)
      persistent += storage.bytes;
  }
  int64_t live = 0, most = -1;
  size_t position = 0;
  for (size_t i = 0; i < stream.size(); ++i)
    if ((live += change[i]) > most) {
      most = live;
      position = i;
    }
  Location loc = program.op.getLoc();
  std::string where = "the program";
  if (!stream.empty()) {
    const Job &job = program.jobs[stream[position].jobs.front()];
    where = program.describe(job);
    loc = job.opIndex >= 0 && job.opIndex < (int64_t)program.operators.size()
              ? program.operators[job.opIndex]->getLoc()
              : job.op->getLoc();
  }
  int64_t shortage = use.peak - use.area.size();
  InFlightDiagnostic diagnostic = emitError(loc);
  diagnostic << where << " does not fit in " << stringifyLevel(level)
             << ": needs " << use.peak << " bytes, available "
             << use.area.size() << " bytes; " << shortage << " more would do";
  if (level == Level::L1)
    diagnostic << " (a larger 'size' of [memory.l1], or smaller tiles)";
  else
    diagnostic << " (" << persistent
               << " bytes are parameters, optimizer state, inputs and outputs; "
               << "a larger 'size' of [memory." << stringifyLevel(level)
               << "], a smaller batch, or fewer trained parameters)";
  return diagnostic;
}

} // namespace td
