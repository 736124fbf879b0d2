#include "lib/CostModel/Contention.h"

namespace td {

Contention::Contention(const Target &target)
    : dmaWords(target.integer("dma", "bytes_per_cycle") / 4.0),
      portWords(target.has("redmule")
                    ? target.integer("redmule", "port_bytes") / 4.0
                    : 0),
      banks(target.integer("memory.l1", "banks")),
      cores(target.integer("cores", "count")) {
  constexpr size_t in = (size_t)Engine::DmaIn, out = (size_t)Engine::DmaOut,
                   cluster = (size_t)Engine::Cores,
                   redmule = (size_t)Engine::RedMulE;
  auto share = [&](llvm::StringRef section, llvm::StringRef key) {
    return target.integer(section, key) / 100.0;
  };
  // The DMA's directions walk through the banks in step.
  for (size_t dma : {in, out}) {
    meets[dma][cluster] = share("dma", "meets_cores_percent");
    meets[cluster][dma] = share("dma", "cores_meet_percent");
  }
  if (!target.has("redmule"))
    return;
  for (size_t dma : {in, out}) {
    meets[dma][redmule] = share("redmule", "dma_meets_percent");
    meets[redmule][dma] = share("redmule", "meets_dma_percent");
  }
  meets[cluster][redmule] = share("redmule", "cores_meet_percent");
  meets[redmule][cluster] = share("redmule", "meets_cores_percent");
}

double Contention::beatCycles(double taken) const {
  // It waits for the last of its banks.
  double cycles = 1;
  for (double late = taken; late > 1e-3; late *= taken) {
    double all = 1;
    for (int word = 0; word < portWords; ++word)
      all *= 1 - late;
    cycles += 1 - all;
  }
  return cycles;
}

std::array<double, engineCount> Contention::cyclesTogether(
    const std::array<Activity, engineCount> &activities) const {
  return cycles(activities, true);
}
std::array<double, engineCount> Contention::busyCycles(
    const std::array<Activity, engineCount> &activities) const {
  return cycles(activities, false);
}

std::array<double, engineCount>
Contention::cycles(const std::array<Activity, engineCount> &activities,
                   bool together) const {
  std::array<double, engineCount> cycles{};
  for (size_t i = 0; i < engineCount; ++i)
    cycles[i] = activities[i].cycles;
  for (int round = 0; round < 4; ++round) {
    double longest = *std::max_element(cycles.begin(), cycles.end());
    std::array<double, engineCount> next{};
    for (size_t i = 0; i < engineCount; ++i) {
      const Activity &activity = activities[i];
      if (activity.cycles <= 0)
        continue;
      double taken = 0; // chance that a bank is
      for (size_t j = 0; j < engineCount; ++j)
        if (activities[j].cycles > 0)
          taken += meets[i][j] * activities[j].accesses /
                   (together ? cycles[j] : longest) / banks;
      taken = std::min(taken, 0.9);
      double wait = taken / (1 - taken);
      switch (Engine(i)) {
      case Engine::DmaIn:
      case Engine::DmaOut:
        next[i] = activity.cycles * (1 + wait);
        break;
      case Engine::Cores:
        next[i] = activity.cycles + activity.accesses / cores * wait;
        break;
      case Engine::RedMulE:
        for (auto &[count, job] : activity.jobs)
          next[i] += count * job.cycles(beatCycles(taken));
        break;
      }
    }
    cycles = next;
  }
  return cycles;
}

} // namespace td
