#include "lib/Planner/ScheduleGraph.h"

#include <map>

using namespace mlir;

namespace td {
namespace {

/// The distinct windows of one storage, and what last touched them.
class WindowHistory {
public:
  /// First pass: announces a window; the answer is its index.
  unsigned add(const Access &access) {
    auto [entry, isNew] =
        indices.try_emplace(std::make_tuple(access.shape, access.offsets,
                                            access.sizes, access.steps),
                            windows.size());
    if (isNew)
      windows.push_back({access, {}, -1, {}});
    return entry->second;
  }

  /// After the first pass: finds which windows overlap, looking only at those
  /// close along the dimension with the most distinct offsets.
  void close() {
    if (windows.empty())
      return;
    // If all are windows of one shape, along the dimension with the most
    // distinct offsets; otherwise along the row-major storage.
    const Access &front = windows.front().access;
    bool sameShape = llvm::all_of(windows, [&](const Window &window) {
      return window.access.shape == front.shape;
    });
    size_t axis = 0, most = 0;
    for (size_t dim = 0; sameShape && dim < front.shape.size(); ++dim) {
      llvm::DenseSet<int64_t> starts;
      for (const Window &window : windows)
        starts.insert(window.access.offsets[dim]);
      if (starts.size() > most) {
        most = starts.size();
        axis = dim;
      }
    }
    auto rangeOf = [&](const Access &access) {
      if (most == 0)
        return access.range();
      int64_t begin = access.offsets[axis];
      return std::make_pair(
          begin, begin + (access.sizes[axis] - 1) * access.steps[axis] + 1);
    };
    std::multimap<int64_t, unsigned> byStart;
    int64_t longest = 0;
    for (auto [i, window] : llvm::enumerate(windows)) {
      auto [begin, end] = rangeOf(window.access);
      byStart.insert({begin, i});
      longest = std::max(longest, end - begin);
    }
    for (Window &window : windows) {
      auto [begin, end] = rangeOf(window.access);
      for (auto it = byStart.upper_bound(begin - longest);
           it != byStart.end() && it->first < end; ++it)
        if (window.access.overlaps(windows[it->second].access))
          window.overlapping.push_back(it->second);
      llvm::sort(window.overlapping);
    }
  }

  /// Second pass: calls `depend` with every job that `job` must come after.
  template <typename Depend>
  void touch(unsigned index, bool writes, unsigned job, Depend depend) {
    Window &window = windows[index];
    for (unsigned other : window.overlapping) {
      Window &past = windows[other];
      if (past.writer >= 0)
        depend(past.writer);
      if (!writes)
        continue;
      for (unsigned reader : past.readers)
        depend(reader);
      // Whoever touches these bytes later is ordered through this job.
      if (window.access.contains(past.access)) {
        past.readers.clear();
        past.writer = -1;
      }
    }
    if (writes)
      window.writer = job;
    else
      window.readers.push_back(job);
  }

private:
  struct Window {
    Access access;
    SmallVector<unsigned, 4> overlapping;
    int64_t writer;
    SmallVector<unsigned, 2> readers;
  };
  std::vector<Window> windows;
  using Sizes = SmallVector<int64_t, 4>;
  std::map<std::tuple<Sizes, Sizes, Sizes, Sizes>, unsigned> indices;
};

} // namespace

DependenceGraph::DependenceGraph(const JobProgram &program)
    : predecessors(program.jobs.size()), successors(program.jobs.size()) {
  std::vector<WindowHistory> histories(program.storages.size());
  std::vector<SmallVector<unsigned, 3>> windowOf(program.jobs.size());
  for (auto [i, job] : llvm::enumerate(program.jobs))
    for (const Access &access : job.accesses)
      windowOf[i].push_back(histories[access.storage].add(access));
  for (WindowHistory &history : histories)
    history.close();
  for (auto [i, job] : llvm::enumerate(program.jobs)) {
    auto &before = predecessors[i];
    for (auto [access, window] : llvm::zip(job.accesses, windowOf[i]))
      histories[access.storage].touch(window, access.writes, i,
                                      [&, self = i](unsigned other) {
                                        if (other != self)
                                          before.push_back(other);
                                      });
    llvm::sort(before);
    before.erase(llvm::unique(before), before.end());
    for (unsigned other : before)
      successors[other].push_back(i);
  }
}

} // namespace td
