#include "lib/Planner/ScheduleSimulation.h"

#include <cmath>
#include <deque>
#include <map>

using namespace mlir;
using namespace td::tile;

namespace td {
namespace {

constexpr size_t kinds = 6;

/// What is free of an area of memory.
class Holes {
public:
  void add(int64_t begin, int64_t end) {
    auto after = holes.lower_bound(begin);
    if (after != holes.end() && after->first == end) {
      end = after->second;
      after = holes.erase(after);
    }
    if (after != holes.begin())
      if (auto before = std::prev(after); before->second == begin) {
        before->second = end;
        return;
      }
    holes.emplace(begin, end);
  }

  /// Takes bytes out of the smallest hole that has them, at its begin or at its
  /// end; none if there is no such hole.
  std::optional<int64_t> take(int64_t bytes, int64_t alignment, bool atEnd) {
    auto best = holes.end();
    int64_t address = 0, least = 0;
    for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
      auto [begin, end] = *hole;
      int64_t at = atEnd ? (int64_t)llvm::alignDown(end - bytes, alignment)
                         : (int64_t)llvm::alignTo(begin, alignment);
      if (at < begin || at + bytes > end ||
          (best != holes.end() && end - begin >= least))
        continue;
      best = hole;
      address = at;
      least = end - begin;
    }
    if (best == holes.end())
      return std::nullopt;
    auto [begin, end] = *best;
    holes.erase(best);
    if (begin < address)
      holes.emplace(begin, address);
    if (address + bytes < end)
      holes.emplace(address + bytes, end);
    return address;
  }

private:
  std::map<int64_t, int64_t> holes; // begin, end
};

class Simulation {
public:
  Simulation(const ScheduleProblem &problem, const SchedulePolicy &policy)
      : problem(problem), program(problem.program), policy(policy),
        jobs(program.jobs.size()),
        budget{problem.budget[0], problem.budget[1]} {
    collectTiles();
    findPriorities();
    if (problem.area) {
      holes.add(problem.area->first, problem.area->second);
      schedule.addresses.assign(program.storages.size(), -1);
    }
  }

  std::optional<Schedule> run(std::optional<unsigned> &stuckAt) {
    for (size_t i = 0; i < jobs.size(); ++i) {
      jobs[i].missing = problem.graph.predecessors[i].size();
      if (jobs[i].missing == 0)
        becomeEligible(i);
    }
    while (issued < jobs.size()) {
      openTiles();
      if (!issueSome() && !passTillEnd()) {
        if (opened < tiles.size())
          stuckAt = tiles[opened].firstJob;
        return std::nullopt;
      }
    }
    while (!outstanding.empty())
      waitFor(outstanding.front());
    schedule.makespan = std::llround(now);
    return std::move(schedule);
  }

private:
  struct JobState {
    unsigned missing = 0;           // predecessors that have not ended
    int64_t lastTile[2] = {-1, -1}; // in l1 and l2: these must have bytes
    int64_t chain = 0;    // cycles of the longest chain of jobs from it on
    int64_t priority = 0; // higher goes first
    bool ended = false, known = false;
  };
  /// What an engine was given, in its order.
  struct Queue {
    std::deque<unsigned> jobs;
    double left = 0;    // of the first one, as a share
    int64_t behind = 0; // cycles of the others
  };
  struct TileState {
    unsigned storage, firstJob;
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
              {access.storage, (unsigned)i,
               (int64_t)llvm::alignTo(storage.bytes, storage.alignment),
               (size_t)storage.level - 1, 0});
        }
      }
    for (auto [i, job] : llvm::enumerate(program.jobs)) {
      forEachTile(i, [&, self = i](unsigned tile) {
        ++tiles[tile].users;
        int64_t &last = jobs[self].lastTile[tiles[tile].level];
        last = std::max<int64_t>(last, tile);
      });
    }
    waitingForTile.resize(tiles.size());
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
      jobs[i].chain += problem.costs[i].cycles;
      if (isAsynchronous(program.jobs[i].kind))
        jobs[i].chain += problem.costs[i].issueCycles + problem.waitCycles;
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

  /// Its predecessors have ended: it is ready once its tiles have bytes.
  void becomeEligible(unsigned job) {
    for (int64_t last : jobs[job].lastTile)
      if (last >= 0 && !isOpen(last))
        return waitingForTile[last].push_back(job);
    ready[kindOf(job)].push_back(job);
  }

  bool isOpen(unsigned tile) const {
    return tile < opened || (tiles[tile].level == l2 && tile < openedL2);
  }

  /// Gives bytes to the next tiles while there are any. Those in l2 do not wait
  /// for room in l1: what comes from L3 is loaded as far ahead as l2 has room.
  void openTiles() {
    for (; opened < tiles.size(); open(opened++)) {
      if (!isDrained(tiles[opened].firstJob))
        break;
      if (!isOpen(opened) && !takeBytes(tiles[opened]) &&
          !reclaim(tiles[opened]))
        break;
    }
    openedL2 = std::max(openedL2, opened);
    if (opened < tiles.size() && tiles[opened].level == l2)
      return;
    while (openedL2 < tiles.size()) {
      unsigned next = openedL2;
      if (tiles[next].level == l2 && !takeBytes(tiles[next]))
        return;
      ++openedL2;
      if (tiles[next].level == l2)
        open(next);
    }
  }

  /// Whether the jobs ahead of the last drain up to `job` are complete. Waits
  /// for those that have ended.
  bool isDrained(unsigned job) {
    auto drain = problem.drains.upper_bound(job);
    if (drain == problem.drains.begin())
      return true;
    unsigned before = *std::prev(drain);
    auto isComplete = [&] {
      while (complete < before && jobs[complete].known)
        ++complete;
      return complete >= before;
    };
    for (size_t i = 0; i < outstanding.size() && !isComplete();)
      if (unsigned other = outstanding[i]; other < before && jobs[other].ended)
        waitFor(other);
      else
        ++i;
    return isComplete();
  }

  /// A tile has its bytes: who waits for it goes on.
  void open(unsigned tile) {
    for (unsigned job : std::exchange(waitingForTile[tile], {}))
      becomeEligible(job);
  }

  bool takeBytes(const TileState &tile) {
    if (budget[tile.level] < tile.bytes)
      return false;
    if (hasAddress(tile)) {
      // Small tiles keep apart from large ones, which would else find no place
      // between them.
      constexpr int64_t small = 16;
      int64_t whole = problem.area->second - problem.area->first;
      std::optional<int64_t> address =
          holes.take(tile.bytes, program.storages[tile.storage].alignment,
                     tile.bytes <= whole / small);
      if (!address)
        return false;
      schedule.addresses[tile.storage] = *address;
    }
    budget[tile.level] -= tile.bytes;
    return true;
  }

  void giveBackBytes(const TileState &tile) {
    budget[tile.level] += tile.bytes;
    if (!hasAddress(tile))
      return;
    int64_t address = schedule.addresses[tile.storage];
    holes.add(address, address + tile.bytes);
  }

  bool hasAddress(const TileState &tile) const {
    return problem.area && program.storages[tile.storage].level == Level::L1;
  }

  /// Waits for jobs that have ended, oldest first, until a tile finds its
  /// bytes: for those that were the last to use a tile, or else any that use
  /// one.
  bool reclaim(const TileState &wanted) {
    for (bool lastUserOnly : {true, false})
      for (size_t i = 0; i < outstanding.size();) {
        unsigned job = outstanding[i];
        bool helps = false;
        if (jobs[job].ended)
          forEachTile(job, [&](unsigned tile) {
            helps |= tiles[tile].level == wanted.level &&
                     (!lastUserOnly || tiles[tile].users == 1);
          });
        if (!helps) {
          ++i;
          continue;
        }
        waitFor(job);
        if (takeBytes(wanted))
          return true;
      }
    return false;
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
    while (!jobs[job].ended)
      passTillEnd();
    pass(problem.waitCycles);
    account(job);
    close(job);
  }

  /// Counts what has passed since the last entry of the stream, idle time
  /// included, to the operator of the entry that it led to.
  void account(unsigned job) {
    size_t index = program.jobs[job].opIndex;
    if (schedule.cyclesOf.size() <= index)
      schedule.cyclesOf.resize(index + 1);
    schedule.cyclesOf[index] += std::llround(now) - accounted;
    accounted = std::llround(now);
  }

  void close(unsigned job) {
    jobs[job].known = true;
    forEachTile(job, [&](unsigned tile) {
      if (--tiles[tile].users == 0)
        giveBackBytes(tiles[tile]);
    });
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
    if (kind == JobKind::Call) {
      pass(waitForCode(job));
      start(Cores, job);
      while (!jobs[job].ended)
        passTillEnd();
      account(job);
      close(job);
    } else {
      pass(problem.costs[job].issueCycles);
      account(job);
      outstanding.push_back(job);
      ++issuedTo(kind);
      start(engineOf(kind), job);
    }
  }

  void start(size_t engine, unsigned job) {
    Queue &queue = queues[engine];
    if (queue.jobs.empty())
      begin(engine, job);
    else
      queue.behind += problem.costs[job].cycles;
    queue.jobs.push_back(job);
  }

  void begin(size_t engine, unsigned job) {
    queues[engine].left = 1;
    rates.reset();
  }

  /// The first job of an engine has ended.
  void end(size_t engine) {
    Queue &queue = queues[engine];
    unsigned job = queue.jobs.front();
    queue.jobs.pop_front();
    rates.reset();
    if (!queue.jobs.empty()) {
      queue.behind -= problem.costs[queue.jobs.front()].cycles;
      begin(engine, queue.jobs.front());
    }
    jobs[job].ended = true;
    for (unsigned next : problem.graph.successors[job])
      if (--jobs[next].missing == 0)
        becomeEligible(next);
  }

  /// Cycles that the first job of each engine takes if all go on as now.
  void findRates() {
    std::array<Activity, engineCount> activities;
    std::pair<double, GemmCost> job{1, {}};
    for (size_t engine = 0; engine < engineCount; ++engine) {
      if (queues[engine].jobs.empty())
        continue;
      const JobCost &cost = problem.costs[queues[engine].jobs.front()];
      // A job takes time, if little.
      activities[engine].cycles = std::max<double>(cost.cycles, 1);
      activities[engine].accesses = cost.accesses;
      if (engine == (size_t)Engine::RedMulE) {
        job.second = cost.gemm;
        activities[engine].jobs = job;
      }
    }
    std::array<double, engineCount> cycles =
        problem.contention.cyclesTogether(activities);
    rates.emplace();
    llvm::copy(cycles, rates->begin());
    if (!queues[Hyper].jobs.empty())
      (*rates)[Hyper] =
          std::max<double>(problem.costs[queues[Hyper].jobs.front()].cycles, 1);
  }

  /// Lets cycles pass in which the stream does nothing else.
  void pass(double cycles) {
    double until = now + cycles;
    while (passTillEnd(until) && now < until)
      ;
    now = until;
  }

  /// To the next time at which an engine ends a job, but not past `until`;
  /// false if there is none.
  bool passTillEnd(double until = std::numeric_limits<double>::max()) {
    if (!rates)
      findRates();
    std::optional<size_t> first;
    double least = 0;
    for (size_t engine = 0; engine < engines; ++engine) {
      if (queues[engine].jobs.empty())
        continue;
      double cycles = queues[engine].left * (*rates)[engine];
      if (!first || cycles < least) {
        first = engine;
        least = cycles;
      }
    }
    if (!first)
      return false;
    double cycles = std::min(least, until - now);
    for (size_t engine = 0; engine < engines; ++engine)
      if (!queues[engine].jobs.empty())
        queues[engine].left -= cycles / (*rates)[engine];
    now += cycles;
    if (cycles < least)
      return false;
    end(*first);
    return true;
  }

  /// Cycles until an engine has done what it was given, if nothing hindered it.
  int64_t cyclesLeft(size_t engine) {
    if (queues[engine].jobs.empty())
      return 0;
    if (!rates)
      findRates();
    return queues[engine].left * (*rates)[engine] + queues[engine].behind;
  }

  /// Cycles that a call waits for its code: a core's own cache has lost it, and
  /// the shared ones the more of it the more code was called since.
  double waitForCode(unsigned job) {
    const JobCost &cost = problem.costs[job];
    double since = 0, lost = 1;
    size_t place = 0;
    for (; place < recent.size(); ++place) {
      since += recent[place].second;
      if (recent[place].first == cost.kernel)
        break;
    }
    if (place < recent.size()) {
      // Half of that was in the caches itself, and put nothing else out.
      lost = std::min(1.0, since / (2 * problem.codeBytes));
      recent.erase(recent.begin() + place);
    }
    recent.insert(recent.begin(), {cost.kernel, cost.codeBytes});
    // The rest is for tiles of other sizes.
    constexpr double executed = 0.7;
    return executed * cost.codeBytes *
           (problem.codeFromShared + lost * problem.codeFromL2);
  }

  int64_t runningGemm() const {
    for (unsigned job : outstanding)
      if (program.jobs[job].kind == JobKind::Gemm)
        return job;
    return -1;
  }

  /// Both directions of the HyperRAM share its bus.
  static size_t engineOf(JobKind kind) {
    switch (kind) {
    case JobKind::LoadL1:
      return (size_t)Engine::DmaIn;
    case JobKind::StoreL1:
      return (size_t)Engine::DmaOut;
    case JobKind::Gemm:
      return (size_t)Engine::RedMulE;
    case JobKind::Call:
      return Cores;
    case JobKind::LoadL2:
    case JobKind::StoreL2:
      return Hyper;
    }
    llvm_unreachable("unknown kind");
  }

  /// Transfers that are issued and not waited for, of the DMA or the uDMA.
  unsigned &issuedTo(JobKind kind) {
    return notWaitedFor[usesDma(kind) ? 0 : usesHyperRam(kind) ? 1 : 2];
  }

  /// Whether the engine of a kind can take a job without holding up the stream.
  bool accepts(JobKind kind) {
    if (kind == JobKind::Gemm)
      return queues[engineOf(kind)].jobs.empty();
    if (usesDma(kind) && queues[engineOf(kind)].jobs.size() > problem.dmaQueue)
      return false;
    bool dma = usesDma(kind);
    if (issuedTo(kind) < (dma ? problem.dmaSlots : problem.hyperSlots))
      return true;
    for (unsigned job : outstanding)
      if (JobKind other = program.jobs[job].kind;
          (dma ? usesDma(other) : usesHyperRam(other)) && jobs[job].ended) {
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
      longest = std::max(longest, problem.costs[call].cycles);
    return cyclesLeft(engineOf(kind)) > longest;
  }

  bool issueCall() {
    auto &list = ready[(size_t)JobKind::Call];
    if (list.empty())
      return false;
    size_t best = first((size_t)JobKind::Call);
    auto &gemms = ready[(size_t)JobKind::Gemm];
    int64_t slack = cyclesLeft((size_t)Engine::RedMulE);
    if (!gemms.empty() && slack > 0 &&
        problem.costs[list[best]].cycles > slack) {
      // RedMulE has more to do and would stand still after its job: rather a
      // call that ends in time.
      std::optional<size_t> fitting;
      for (size_t i = 0; i < list.size(); ++i)
        if (problem.costs[list[i]].cycles <= slack &&
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

  const ScheduleProblem &problem;
  const JobProgram &program;
  SchedulePolicy policy;
  std::vector<JobState> jobs;
  std::vector<TileState> tiles;
  std::vector<int64_t> tileOf; // by storage
  int64_t budget[2];
  Holes holes; // in l1
  /// Tiles that have bytes: the first so many, and those in l2 of so many.
  unsigned opened = 0, openedL2 = 0;
  static constexpr size_t l2 = 1;
  unsigned complete = 0; // so many jobs in the plan's order
  std::vector<SmallVector<unsigned, 2>> waitingForTile;

  static constexpr size_t Cores = (size_t)Engine::Cores, Hyper = engineCount,
                          engines = engineCount + 1;
  Queue queues[engines];
  /// Cycles of each engine's first job, until one of them ends or starts.
  std::optional<std::array<double, engines>> rates;
  std::vector<unsigned> ready[kinds];
  /// Kernels and bytes of their code, the last one that was called first.
  std::vector<std::pair<unsigned, int64_t>> recent;
  SmallVector<unsigned> outstanding; // issued, not waited for, oldest first
  unsigned notWaitedFor[3] = {};     // DMA, uDMA, RedMulE
  double now = 0;
  int64_t accounted = 0;
  size_t issued = 0;
  Schedule schedule;
};

} // namespace

std::optional<Schedule> simulate(const ScheduleProblem &problem,
                                 const SchedulePolicy &policy,
                                 std::optional<unsigned> &stuckAt) {
  return Simulation(problem, policy).run(stuckAt);
}

Schedule sequentialSchedule(const ScheduleProblem &problem) {
  Schedule schedule;
  schedule.cyclesOf.resize(problem.program.operators.size());
  for (auto [i, job] : llvm::enumerate(problem.program.jobs)) {
    int64_t cycles = problem.costs[i].cycles;
    if (isAsynchronous(job.kind))
      cycles += problem.costs[i].issueCycles + problem.waitCycles;
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
