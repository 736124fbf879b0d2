#include "lib/Planner/ScheduleSimulation.h"

#include <queue>

using namespace mlir;
using namespace td::tile;

namespace td {
namespace {

constexpr size_t kinds = 6;

class Simulation {
public:
  Simulation(const ScheduleProblem &problem, const SchedulePolicy &policy)
      : problem(problem), program(problem.program), policy(policy),
        jobs(program.jobs.size()),
        budget{problem.budget[0], problem.budget[1]} {
    collectTiles();
    findPriorities();
  }

  std::optional<Schedule> run() {
    for (size_t i = 0; i < jobs.size(); ++i) {
      jobs[i].missing = problem.graph.predecessors[i].size();
      if (jobs[i].missing == 0)
        becomeEligible(i);
    }
    while (issued < jobs.size()) {
      openTiles();
      promote();
      if (!issueSome() && !advance())
        return std::nullopt;
    }
    while (!outstanding.empty())
      waitFor(outstanding.front());
    schedule.makespan = now;
    return std::move(schedule);
  }

private:
  struct JobState {
    unsigned missing = 0;    // predecessors that are not issued
    unsigned opensAfter = 0; // tiles that must have bytes before it
    int64_t available = 0;   // when its predecessors end
    int64_t finish = 0;
    int64_t chain = 0;    // cycles of the longest chain of jobs from it on
    int64_t priority = 0; // higher goes first
    bool issued = false, known = false;
  };
  struct TileState {
    unsigned storage;
    int64_t bytes;
    size_t level;
    unsigned users; // jobs that are not known to be complete
  };

  /// Tiles and temporaries that share memory, in order of first use.
  void collectTiles() {
    tileOf.assign(program.storages.size(), -1);
    for (auto [i, job] : llvm::enumerate(program.jobs))
      for (const Access &access : job.accesses) {
        const Storage &storage = program.storages[access.storage];
        if (storage.persistent || storage.level == Level::L3)
          continue;
        int64_t &tile = tileOf[access.storage];
        if (tile < 0) {
          tile = tiles.size();
          tiles.push_back(
              {access.storage,
               (int64_t)llvm::alignTo(storage.bytes, storage.alignment),
               (size_t)storage.level - 1, 0});
        }
      }
    for (auto [i, job] : llvm::enumerate(program.jobs)) {
      forEachTile(i, [&, self = i](unsigned tile) {
        ++tiles[tile].users;
        jobs[self].opensAfter = std::max(jobs[self].opensAfter, tile + 1);
      });
    }
    waitingForTile.resize(tiles.size() + 1);
  }

  template <typename Visit> void forEachTile(unsigned job, Visit visit) {
    SmallVector<int64_t, 4> seen;
    for (const Access &access : program.jobs[job].accesses)
      if (int64_t tile = tileOf[access.storage];
          tile >= 0 && !llvm::is_contained(seen, tile)) {
        seen.push_back(tile);
        visit((unsigned)tile);
      }
  }

  void findPriorities() {
    for (size_t i = jobs.size(); i-- > 0;) {
      for (unsigned next : problem.graph.successors[i])
        jobs[i].chain = std::max(jobs[i].chain, jobs[next].chain);
      jobs[i].chain += problem.cycles[i];
      if (isAsynchronous(program.jobs[i].kind))
        jobs[i].chain += problem.issueCycles + problem.waitCycles;
    }
    for (size_t i = 0; i < jobs.size(); ++i) {
      JobKind kind = program.jobs[i].kind;
      bool isWork = kind == JobKind::Call || kind == JobKind::Gemm;
      jobs[i].priority = (isWork ? policy.criticalWork : policy.criticalCopies)
                             ? jobs[i].chain
                             : -(int64_t)i;
    }
  }

  size_t kindOf(unsigned job) const { return (size_t)program.jobs[job].kind; }

  /// All predecessors are issued: it is ready once they have ended and its
  /// tiles have bytes.
  void becomeEligible(unsigned job) {
    if (jobs[job].opensAfter > opened)
      waitingForTile[jobs[job].opensAfter].push_back(job);
    else
      pending.push({jobs[job].available, job});
  }

  /// Gives bytes to the next tiles while there are any.
  void openTiles() {
    while (opened < tiles.size()) {
      const TileState &tile = tiles[opened];
      if (budget[tile.level] < tile.bytes && !reclaim(tile.level, tile.bytes))
        return;
      budget[tile.level] -= tile.bytes;
      ++opened;
      for (unsigned job : waitingForTile[opened])
        pending.push({jobs[job].available, job});
      waitingForTile[opened].clear();
    }
  }

  /// Waits for jobs that have ended, oldest first, until there are enough
  /// bytes: those that were the last to use a tile, or else any that use one.
  bool reclaim(size_t level, int64_t bytes) {
    for (bool lastUserOnly : {true, false})
      for (size_t i = 0; i < outstanding.size() && budget[level] < bytes;) {
        unsigned job = outstanding[i];
        bool helps = false;
        if (jobs[job].finish <= now)
          forEachTile(job, [&](unsigned tile) {
            helps |= tiles[tile].level == level &&
                     (!lastUserOnly || tiles[tile].users == 1);
          });
        if (helps)
          waitFor(job);
        else
          ++i;
      }
    return budget[level] >= bytes;
  }

  void waitFor(unsigned job) {
    if (schedule.stream.empty() || !schedule.stream.back().isWait) {
      StreamEntry entry;
      entry.isWait = true;
      schedule.stream.push_back(entry);
    }
    schedule.stream.back().jobs.push_back(job);
    outstanding.erase(llvm::find(outstanding, job));
    --issuedTo(program.jobs[job].kind);
    now = std::max(now, jobs[job].finish) + problem.waitCycles;
    account(job);
    complete(job);
  }

  /// Counts what has passed since the last entry of the stream, idle time
  /// included, to the operator of the entry that it led to.
  void account(unsigned job) {
    size_t index = program.jobs[job].opIndex;
    if (schedule.cyclesOf.size() <= index)
      schedule.cyclesOf.resize(index + 1);
    schedule.cyclesOf[index] += now - accounted;
    accounted = now;
  }

  void complete(unsigned job) {
    jobs[job].known = true;
    forEachTile(job, [&](unsigned tile) {
      if (--tiles[tile].users == 0)
        budget[tiles[tile].level] += tiles[tile].bytes;
    });
  }

  /// Moves what has become ready to the ready lists.
  void promote() {
    while (!pending.empty() && pending.top().first <= now) {
      unsigned job = pending.top().second;
      pending.pop();
      ready[kindOf(job)].push_back(job);
    }
  }

  /// The place of the ready job of a kind that goes first.
  size_t first(size_t kind) const {
    const auto &list = ready[kind];
    return std::max_element(
               list.begin(), list.end(),
               [&](unsigned a, unsigned b) { return goesLater(a, b); }) -
           list.begin();
  }
  bool goesLater(unsigned a, unsigned b) const {
    if (jobs[a].priority != jobs[b].priority)
      return jobs[a].priority < jobs[b].priority;
    return a > b;
  }

  void take(size_t kind, size_t place) {
    unsigned job = ready[kind][place];
    ready[kind][place] = ready[kind].back();
    ready[kind].pop_back();
    issue(job);
  }

  void issue(unsigned job) {
    JobKind kind = program.jobs[job].kind;
    for (unsigned before : problem.graph.predecessors[job])
      if (!jobs[before].known)
        waitFor(before);
    if (kind == JobKind::Gemm)
      if (auto running = runningGemm(); running >= 0)
        waitFor(running);
    StreamEntry entry;
    entry.jobs.push_back(job);
    schedule.stream.push_back(std::move(entry));
    ++issued;
    JobState &state = jobs[job];
    state.issued = true;
    if (kind == JobKind::Call) {
      now += problem.cycles[job];
      account(job);
      state.finish = now;
      complete(job);
    } else {
      now += problem.issueCycles;
      account(job);
      int64_t &free = freeAt(kind);
      free = std::max(free, now) + problem.cycles[job];
      state.finish = free;
      events.push(free);
      outstanding.push_back(job);
      ++issuedTo(kind);
    }
    for (unsigned next : problem.graph.successors[job]) {
      JobState &other = jobs[next];
      other.available = std::max(other.available, state.finish);
      if (--other.missing == 0)
        becomeEligible(next);
    }
  }

  int64_t runningGemm() const {
    for (unsigned job : outstanding)
      if (program.jobs[job].kind == JobKind::Gemm)
        return job;
    return -1;
  }

  /// When the engine of a kind has done what it was given. Both directions of
  /// the HyperRAM share its bus.
  int64_t &freeAt(JobKind kind) {
    return engineFree[(size_t)(kind == JobKind::StoreL2 ? JobKind::LoadL2
                                                        : kind)];
  }

  /// Transfers that are issued and not waited for, of the DMA or the uDMA.
  unsigned &issuedTo(JobKind kind) {
    return notWaitedFor[usesDma(kind) ? 0 : usesHyperRam(kind) ? 1 : 2];
  }

  /// Whether the engine of a kind can take a job without holding up the stream.
  bool accepts(JobKind kind) {
    if (kind == JobKind::Gemm)
      return freeAt(kind) <= now;
    if (usesDma(kind)) {
      unsigned queued = llvm::count_if(outstanding, [&](unsigned job) {
        return program.jobs[job].kind == kind && jobs[job].finish > now;
      });
      if (queued > problem.dmaQueue)
        return false;
    }
    bool dma = usesDma(kind);
    if (issuedTo(kind) < (dma ? problem.dmaSlots : problem.hyperSlots))
      return true;
    for (unsigned job : outstanding)
      if (JobKind other = program.jobs[job].kind;
          (dma ? usesDma(other) : usesHyperRam(other)) &&
          jobs[job].finish <= now) {
        waitFor(job);
        return true;
      }
    return false;
  }

  /// Issues what can be issued now: engines first, then one call.
  bool issueSome() {
    bool any = false;
    auto issueAll = [&](JobKind kind) {
      while (!ready[(size_t)kind].empty() && accepts(kind) &&
             !hasEnough(kind)) {
        take((size_t)kind, first((size_t)kind));
        any = true;
      }
    };
    for (JobKind kind : {JobKind::Gemm, JobKind::StoreL1, JobKind::LoadL1,
                         JobKind::StoreL2, JobKind::LoadL2})
      issueAll(kind);
    return any || issueCall();
  }

  /// Whether a DMA queue lasts for the longest call that may come next:
  /// filling it more would only keep the cores from that call.
  bool hasEnough(JobKind kind) {
    auto &calls = ready[(size_t)JobKind::Call];
    if (!usesDma(kind) || calls.empty())
      return false;
    int64_t longest = 0;
    for (unsigned call : calls)
      longest = std::max(longest, problem.cycles[call]);
    return freeAt(kind) > now + longest + problem.issueCycles;
  }

  bool issueCall() {
    auto &list = ready[(size_t)JobKind::Call];
    if (list.empty())
      return false;
    size_t best = first((size_t)JobKind::Call);
    auto &gemms = ready[(size_t)JobKind::Gemm];
    int64_t slack = freeAt(JobKind::Gemm) - now;
    if (!gemms.empty() && slack > 0 && problem.cycles[list[best]] > slack) {
      // RedMulE has more to do and would stand still after its job: rather a
      // call that ends in time.
      std::optional<size_t> fitting;
      for (size_t i = 0; i < list.size(); ++i)
        if (problem.cycles[list[i]] <= slack &&
            (!fitting || goesLater(list[*fitting], list[i])))
          fitting = i;
      unsigned gemm = gemms[first((size_t)JobKind::Gemm)];
      if (fitting)
        best = *fitting;
      else if (policy.patient && jobs[list[best]].chain < jobs[gemm].chain)
        return false;
    }
    take((size_t)JobKind::Call, best);
    return true;
  }

  /// To the next time at which an engine ends a job.
  bool advance() {
    while (!events.empty() && events.top() <= now)
      events.pop();
    if (events.empty())
      return false;
    now = events.top();
    return true;
  }

  const ScheduleProblem &problem;
  const JobProgram &program;
  SchedulePolicy policy;
  std::vector<JobState> jobs;
  std::vector<TileState> tiles;
  std::vector<int64_t> tileOf; // by storage
  int64_t budget[2];
  unsigned opened = 0;
  std::vector<SmallVector<unsigned, 2>> waitingForTile;

  using Timed = std::pair<int64_t, unsigned>;
  std::priority_queue<Timed, std::vector<Timed>, std::greater<Timed>> pending;
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<int64_t>>
      events;
  std::vector<unsigned> ready[kinds];
  int64_t engineFree[kinds] = {};
  SmallVector<unsigned> outstanding; // issued, not waited for, oldest first
  unsigned notWaitedFor[3] = {};     // DMA, uDMA, RedMulE
  int64_t now = 0, accounted = 0;
  size_t issued = 0;
  Schedule schedule;
};

} // namespace

std::optional<Schedule> simulate(const ScheduleProblem &problem,
                                 const SchedulePolicy &policy) {
  return Simulation(problem, policy).run();
}

Schedule sequentialSchedule(const ScheduleProblem &problem) {
  Schedule schedule;
  schedule.cyclesOf.resize(problem.program.operators.size());
  for (auto [i, job] : llvm::enumerate(problem.program.jobs)) {
    int64_t cycles = problem.cycles[i];
    if (isAsynchronous(job.kind))
      cycles += problem.issueCycles + problem.waitCycles;
    schedule.makespan += cycles;
    if ((size_t)job.opIndex < schedule.cyclesOf.size())
      schedule.cyclesOf[job.opIndex] += cycles;
    StreamEntry entry;
    entry.jobs.push_back(i);
    schedule.stream.push_back(entry);
    if (!isAsynchronous(job.kind))
      continue;
    entry.isWait = true;
    schedule.stream.push_back(entry);
  }
  return schedule;
}

} // namespace td
