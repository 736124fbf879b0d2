//===- InstructionCache.h - The cluster's instruction caches ----*- C++ -*-===//
//
// Each core has a small cache of its own; what it lacks comes from banks that
// all share, and what those lack from L2. A bank refills one line at a time.
// Ways are replaced in the order of a shift register, as in the cluster's.
//
// The core's loop asks `absent`, a word a line with a bit a core, and only at
// instructions where execution can enter a line that some core lacks.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_INSTRUCTIONCACHE_H
#define TDSIM_INSTRUCTIONCACHE_H

#include "Config.h"
#include <algorithm>
#include <cstdint>
#include <vector>

namespace tdsim {

class InstructionCache {
public:
  static constexpr unsigned LineBytes = 16;

  explicit InstructionCache(const Config &config)
      : config(config), lines(config.l2.size / LineBytes + 1) {
    flush();
  }

  void flush() {
    const Config &c = config;
    absent.assign(lines, uint16_t(~0u));
    cores.assign(c.clusterCores, Cache(c.icacheOwnSets, c.icacheOwnWays));
    banks.assign(c.icacheBanks, Cache(c.icacheSets, c.icacheWays));
  }

  static constexpr uint32_t None = ~0u;

  /// Whether all cores have a line.
  bool everywhere(uint32_t line) const {
    return !(absent[line] & ((1u << config.clusterCores) - 1));
  }

  struct Refill {
    uint64_t wait;     // cycles that the core waits
    uint32_t replaced; // a line that all cores had until now, or None
  };
  /// Brings a line into a core's cache.
  Refill refill(unsigned core, uint32_t line, uint64_t time) {
    uint32_t index = line / config.icacheBanks;
    Cache &bank = banks[line % config.icacheBanks];
    uint64_t ready;
    if (const Line *found = bank.find(index)) {
      ready = std::max(time, found->ready);
    } else {
      ready = std::max(time, bank.free) + (config.l2Access - 1) +
              config.icacheRefill;
      bank.free = ready;
      *bank.replace(index) = {index, ready};
    }
    Line *own = cores[core].replace(line);
    uint16_t bit = uint16_t(1u << core);
    uint32_t replaced = None;
    if (own->line != None) {
      if (everywhere(own->line))
        replaced = own->line;
      absent[own->line] |= bit;
    }
    *own = {line, 0};
    absent[line] &= uint16_t(~bit);
    return {ready + config.icacheRefill - time, replaced};
  }

  std::vector<uint16_t> absent;

private:
  struct Line {
    uint32_t line = None;
    uint64_t ready = 0;
  };
  struct Cache {
    Cache(uint32_t sets, uint32_t ways)
        : sets(sets), ways(ways), entries(size_t(sets) * ways) {}
    Line *set(uint32_t line) { return &entries[size_t(line % sets) * ways]; }
    const Line *find(uint32_t line) {
      Line *first = set(line);
      for (uint32_t way = 0; way < ways; ++way)
        if (first[way].line == line)
          return &first[way];
      return nullptr;
    }
    Line *replace(uint32_t line) {
      // Eight bits with feedback from bits 7, 3, 2 and 1.
      uint8_t taps = shift & 0x8E;
      shift = uint8_t(shift << 1 | !__builtin_parity(taps));
      return &set(line)[(shift >> 1) % ways];
    }
    uint32_t sets, ways;
    std::vector<Line> entries;
    uint64_t free = 0;
    uint8_t shift = 0;
  };

  const Config &config;
  size_t lines;
  std::vector<Cache> cores, banks;
};

} // namespace tdsim

#endif // TDSIM_INSTRUCTIONCACHE_H
