//===- Check.cpp - Checked execution --------------------------------------===//
#include "Check.h"
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

namespace tdsim {

namespace {

constexpr uint32_t Nowhere = ~0u;

const char *levelName(unsigned level) {
  static const char *const names[] = {"", "L1", "L2", "L3"};
  return names[level];
}

template <class... Arguments>
std::string format(const char *pattern, Arguments... arguments) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, arguments...);
  return text;
}

} // namespace

Checker::Checker(const Config &config, CheckPlan given, Locate locate,
                 ReadWord readWord)
    : config(config), plan(std::move(given)), locate(std::move(locate)),
      readWord(std::move(readWord)), l1(config.l1.size), l2(config.l2.size),
      l3(static_cast<uint8_t *>(std::calloc(std::max(1u, config.l3Size), 1)),
         &std::free),
      cores(config.clusterCores + 1) {
  if (!l3)
    throw std::bad_alloc();
  for (uint32_t i = 0; i < plan.kinds.size(); ++i)
    positions[plan.kinds[i]].push_back(i);
  for (uint32_t i = 0; i < plan.arrays.size(); ++i)
    (plan.arrays[i].host ? permanent : births).push_back(i);
  std::stable_sort(births.begin(), births.end(), [&](uint32_t a, uint32_t b) {
    return plan.arrays[a].first < plan.arrays[b].first;
  });
  plan.stacks.resize(config.clusterCores + 1);
}

uint8_t *Checker::shadow(unsigned level, uint32_t address) {
  return level == 1   ? l1.data() + (address - config.l1.base)
         : level == 2 ? l2.data() + (address - config.l2.base)
                      : l3.get() + address;
}

void Checker::define(unsigned level, uint32_t address, uint32_t size) {
  uint8_t *bytes = shadow(level, address);
  for (uint32_t i = 0; i < size; ++i)
    bytes[i] |= Defined;
}

// --- What lies where --------------------------------------------------------

const CheckPlan::Array *Checker::find(unsigned level, uint32_t address,
                                      uint32_t size, uint32_t position) const {
  auto holds = [&](const CheckPlan::Array &array) {
    uint32_t offset = address - array.begin;
    return array.level == level && offset < array.bytes &&
           size <= array.bytes - offset;
  };
  for (uint32_t i : permanent)
    if (holds(plan.arrays[i]))
      return &plan.arrays[i];
  if (position != Nowhere)
    for (uint32_t i : live)
      if (holds(plan.arrays[i]) && plan.arrays[i].first <= position &&
          position <= plan.arrays[i].last)
        return &plan.arrays[i];
  return nullptr;
}

/// A job of the stream begins: arrays that begin to live with it have no value
/// yet. Cores may be ahead of the job, and of each other.
void Checker::advance(uint32_t position) {
  if (begun[position])
    return;
  begun[position] = true;
  auto from = std::lower_bound(
      births.begin(), births.end(), position,
      [&](uint32_t i, uint32_t at) { return plan.arrays[i].first < at; });
  for (; from != births.end() && plan.arrays[*from].first == position; ++from) {
    const CheckPlan::Array &array = plan.arrays[*from];
    uint8_t *bytes = shadow(array.level, array.begin);
    for (uint32_t i = 0; i < array.bytes; ++i)
      bytes[i] &= uint8_t(~Defined);
    live.push_back(*from);
  }
  uint32_t oldest = position;
  for (unsigned i = 0; i < config.clusterCores; ++i)
    oldest = std::min(oldest, cores[i].position);
  live.erase(
      std::remove_if(live.begin(), live.end(),
                     [&](uint32_t i) { return plan.arrays[i].last < oldest; }),
      live.end());
}

void Checker::beginStep() {
  inStep = true;
  issued.clear();
  live.clear();
  begun.assign(plan.kinds.size(), false);
  for (CoreState &core : cores) {
    core.calls = 0;
    core.position = 0;
  }
  for (uint32_t i : permanent)
    if (plan.arrays[i].output) {
      uint8_t *bytes = shadow(plan.arrays[i].level, plan.arrays[i].begin);
      for (uint32_t b = 0; b < plan.arrays[i].bytes; ++b)
        bytes[b] &= uint8_t(~Defined);
    }
}

std::string Checker::operatorAt(uint32_t position) const {
  if (position >= plan.operatorOf.size() ||
      plan.operatorOf[position] >= plan.operators.size())
    return "";
  return ", operator '" + plan.operators[plan.operatorOf[position]] + "'";
}

/// "4 bytes at 0x10000000 in L1, buffer 'x', operator 'y'"
std::string Checker::describe(unsigned level, uint32_t address, uint32_t size,
                              uint32_t position) const {
  std::string text = format("%u byte%s at 0x%08x in %s", size,
                            size == 1 ? "" : "s", address, levelName(level));
  if (const CheckPlan::Array *array = find(level, address, 1, position)) {
    text += ", buffer '" + array->name + "'";
  } else {
    bool known = false;
    for (size_t i = 0; i < plan.stacks.size() && !known; ++i)
      if (level < 3 && address >= plan.stacks[i].low &&
          address < plan.stacks[i].high) {
        text += i == config.clusterCores
                    ? std::string(", the host's stack")
                    : ", the stack of core " + std::to_string(i);
        known = true;
      }
    std::string symbol = level == 2 && !known ? locate(address) : "";
    if (!symbol.empty())
      text += ", " + symbol;
  }
  return text + operatorAt(position);
}

// --- Cores ------------------------------------------------------------------

bool Checker::mayAccess(unsigned core, unsigned level, uint32_t address,
                        uint32_t size) {
  if (core == config.clusterCores || !plan.kernels.size())
    return find(level, address, size, Nowhere) != nullptr;
  std::vector<Range> &ranges = cores[core].ranges;
  for (size_t i = 0; i < ranges.size(); ++i) {
    uint32_t offset = address - ranges[i].begin;
    if (offset < ranges[i].bytes && size <= ranges[i].bytes - offset) {
      if (i) // the next access is likely to be near
        std::swap(ranges[i], ranges[i - 1]);
      return true;
    }
  }
  return false;
}

std::string Checker::outside(unsigned core, unsigned level, uint32_t address,
                             uint32_t size, bool write) const {
  bool host = core == config.clusterCores;
  uint32_t position = host || !inStep ? Nowhere : cores[core].position;
  return format("%s %s ", host ? "the host core" : "a core",
                write ? "writes" : "reads") +
         describe(level, address, size, position) +
         (host                   ? ", which is no buffer of the host's"
          : cores[core].inKernel ? ", outside of the buffers of its kernel"
          : plan.kernels.empty() ? ", outside of every buffer"
                                 : ", outside of a kernel");
}

std::string Checker::broken(unsigned core, unsigned level, uint32_t address,
                            uint32_t size, bool write) {
  bool host = core == config.clusterCores;
  uint32_t position = cores[core].inKernel ? cores[core].position : Nowhere;
  std::string text = format("%s %s ", host ? "the host core" : "a core",
                            write ? "writes" : "reads") +
                     describe(level, address, size, position);
  for (uint32_t i = 0; i < size; ++i)
    if (const Job *job = jobAt(level, address + i, !write))
      return text + ", which " + name(*job) +
             (*shadow(level, address + i) & Writer ? " writes" : " reads");
  return text + ", which nothing wrote";
}

std::string Checker::stack(unsigned core, uint32_t before,
                           uint32_t after) const {
  const CheckPlan::Stack &own = plan.stacks[core];
  // A trap handler may run on another stack.
  if (own.high == 0 || before < own.low || before > own.high ||
      (after >= own.low && after <= own.high))
    return "";
  std::string who = core == config.clusterCores
                        ? std::string("the host")
                        : "core " + std::to_string(core);
  if (after > own.high)
    return format("the stack of %s is popped beyond its start: sp is 0x%08x, "
                  "and the stack begins at 0x%08x",
                  who.c_str(), after, own.high);
  uint32_t position = cores[core].inKernel ? cores[core].position : Nowhere;
  return format("the stack of %s runs out: sp is 0x%08x, %u bytes below the "
                "stack's end at 0x%08x",
                who.c_str(), after, own.low - after, own.low) +
         operatorAt(position);
}

std::string Checker::jump(unsigned core, uint32_t target, uint32_t link,
                          uint32_t arguments) {
  CoreState &state = cores[core];
  if (state.inKernel) {
    if (target == state.returnTo) {
      state.inKernel = false;
      state.ranges.clear();
    }
    return "";
  }
  auto kernel = plan.kernels.find(target);
  if (kernel == plan.kernels.end() || core == config.clusterCores)
    return "";
  const std::vector<uint32_t> &calls = positions['C'];
  if (state.calls >= calls.size())
    return format("core %u calls a kernel, and the plan has %zu calls", core,
                  calls.size());
  state.inKernel = true;
  state.returnTo = link;
  state.position = calls[state.calls++];
  advance(state.position);
  state.ranges.clear();
  for (uint32_t i = 0; i < kernel->second; ++i) {
    uint32_t value = readWord(arguments + 4 * i);
    for (unsigned level = 1; level <= 2; ++level)
      if (value - plan.planned[level].base < plan.planned[level].size)
        if (const CheckPlan::Array *array =
                find(level, value, 1, state.position))
          state.ranges.push_back({array->begin, array->bytes});
  }
  return "";
}

// --- Jobs of the engines ----------------------------------------------------

std::string Checker::name(const Job &job) const {
  const char *what = job.engine == Engine::Redmule    ? "RedMulE"
                     : job.engine == Engine::HyperRam ? "a uDMA transfer"
                                                      : "a DMA transfer";
  return format("%s in flight since cycle %llu", what,
                (unsigned long long)job.cycle) +
         operatorAt(job.position);
}

const Checker::Job *Checker::jobAt(unsigned level, uint32_t address,
                                   bool writesOnly) const {
  for (const Job &job : inFlight)
    for (const Region &region : job.regions) {
      if (region.level != level || (writesOnly && !region.write))
        continue;
      uint32_t offset = address - region.address;
      if (offset < region.extent() && offset % region.stride < region.line)
        return &job;
    }
  return nullptr;
}

std::string Checker::start(Engine engine, unsigned key, char kind,
                           std::vector<Region> regions, uint64_t cycle) {
  const char *who = engine == Engine::Redmule    ? "RedMulE"
                    : engine == Engine::HyperRam ? "a uDMA transfer"
                                                 : "a DMA transfer";
  auto say = [&](const Region &region, uint32_t address, uint32_t size,
                 uint32_t position) {
    return format("%s %s its %s, ", who,
                  region.read && region.write ? "reads and writes"
                  : region.write              ? "writes"
                                              : "reads",
                  region.what) +
           describe(region.level, address, size, position);
  };
  // Only jobs that touch what the plan places are of the plan.
  bool planned = false;
  for (const Region &region : regions) {
    const MemoryRange &range = plan.planned[region.level];
    planned |= region.address - range.base < range.size;
  }
  uint32_t position = Nowhere;
  // The runtime's own copies to its part of L1 read what is not the plan's.
  if (planned && inStep && !plan.kinds.empty()) {
    const std::vector<uint32_t> &all = positions[kind];
    uint32_t count = issued[kind]++;
    if (count >= all.size())
      return format("%s starts, and the plan has %zu of its kind", who,
                    all.size());
    position = all[count];
    advance(position);
  }
  for (Region &region : regions) {
    // Lines that overlap or touch are one.
    if (region.lines == 1 || region.stride <= region.line)
      region = {
          region.level, region.address, region.extent(), region.extent(), 1,
          region.write, region.what,    region.read};
    const MemoryRange &range = plan.planned[region.level];
    if (region.address - range.base < range.size &&
        !find(region.level, region.address, region.extent(), position))
      return say(region, region.address, region.extent(), position) +
             ", outside of the buffer that it has there";
    for (uint32_t i = 0; i < region.lines; ++i) {
      uint32_t address = region.address + i * region.stride;
      const uint8_t *bytes = shadow(region.level, address);
      uint8_t all = 0xFF, any = 0;
      for (uint32_t b = 0; b < region.line; ++b) {
        all &= bytes[b];
        any |= bytes[b];
      }
      bool free = !(any & (region.write ? Writer | Reader : Writer));
      if (free && (!region.read || (all & Defined)))
        continue;
      for (uint32_t b = 0; b < region.line; ++b) {
        if (const Job *job = jobAt(region.level, address + b, !region.write))
          return say(region, address + b, 1, position) + ", which " +
                 name(*job) + (bytes[b] & Writer ? " writes" : " reads");
        if (region.read && !(bytes[b] & Defined)) {
          uint32_t count = 1;
          while (b + count < region.line && !(bytes[b + count] & Defined))
            ++count;
          return say(region, address + b, count, position) +
                 ", which nothing wrote";
        }
      }
    }
  }
  // What a job writes it may read, but not as another operand.
  for (const Region &write : regions)
    for (const Region &read : regions)
      if (&write != &read && write.write && write.overlaps(read))
        return say(write, write.address, write.extent(), position) +
               format(", which it reads as its %s", read.what);
  inFlight.push_back({engine, key, std::move(regions), cycle, position});
  for (const Region &region : inFlight.back().regions)
    mark(region);
  return "";
}

void Checker::mark(const Region &region) {
  const uint8_t flags = region.write ? Writer | Defined : Reader;
  for (uint32_t i = 0; i < region.lines; ++i) {
    uint8_t *bytes = shadow(region.level, region.address + i * region.stride);
    for (uint32_t b = 0; b < region.line; ++b)
      bytes[b] |= flags;
  }
}

bool Checker::unseen(Engine engine, unsigned key) const {
  return std::any_of(inFlight.begin(), inFlight.end(), [&](const Job &job) {
    return job.engine == engine && job.key == key;
  });
}

void Checker::retire(Engine engine, unsigned key) {
  std::vector<Region> gone;
  for (size_t i = 0; i < inFlight.size();)
    if (inFlight[i].engine == engine && inFlight[i].key == key) {
      gone.insert(gone.end(), inFlight[i].regions.begin(),
                  inFlight[i].regions.end());
      inFlight.erase(inFlight.begin() + long(i));
    } else {
      ++i;
    }
  for (const Region &region : gone)
    for (uint32_t i = 0; i < region.lines; ++i) {
      uint8_t *bytes = shadow(region.level, region.address + i * region.stride);
      for (uint32_t b = 0; b < region.line; ++b)
        bytes[b] &= uint8_t(~(Writer | Reader));
    }
  // Several jobs may read the same bytes.
  for (const Job &job : inFlight)
    for (const Region &region : job.regions)
      if (std::any_of(gone.begin(), gone.end(), [&](const Region &other) {
            return region.overlaps(other);
          }))
        mark(region);
}

} // namespace tdsim
