//===- Devices.cpp - What loads and stores reach --------------------------===//
#include "HostFloat.h"
#include "Machine.h"
#include "Registers.h"
#include <cstdio>
#include <cstring>

namespace tdsim {

bool Machine::isMemory(uint32_t address, uint32_t size) const {
  auto in = [&](const MemoryRange &range) {
    uint32_t offset = address - range.base;
    return offset < range.size && size <= range.size - offset;
  };
  return in(config.l1) || in(config.l2);
}

uint8_t *Machine::memoryAt(uint32_t address, uint32_t size) {
  (void)size;
  uint32_t offset = address - config.l1.base;
  if (offset < config.l1.size)
    return l1.data() + offset;
  return l2.data() + (address - config.l2.base);
}

uint64_t Machine::queueAtBank(const Core &core, uint32_t bank, uint64_t time) {
  return banks.queueCore(time, bank, core.index);
}

uint64_t Machine::queueAtBanks(uint32_t which, uint64_t time) {
  auto delay = [this](unsigned core, uint64_t cycles) {
    cores[core].counters.bankStalls += cycles;
    if (times[core] != Never)
      times[core] += cycles;
  };
  return banks.queueEngine(time, which, delay);
}

Machine::Outcome Machine::access(Core &core, uint32_t address, unsigned size,
                                 bool write, uint32_t &value, uint64_t &time,
                                 bool mayRun) {
  if (isMemory(address, size)) {
    // Misaligned, or the host in L1. The core splits what crosses a word.
    bool split = (address & 3) + size > 4;
    bool inL1 = address - config.l1.base < config.l1.size;
    uint64_t before = time;
    for (unsigned part = 0; part <= unsigned(split); ++part) {
      if (inL1 && !core.host) {
        uint32_t bank = ((address >> 2) + part) & (config.l1Banks - 1);
        time = queueAtBank(core, bank, time) + (part < unsigned(split));
      } else {
        time += config.l2Access - (part == unsigned(split));
      }
    }
    (inL1 && !core.host ? core.counters.bankStalls : core.counters.l2Stalls) +=
        time - before;
    uint8_t *p = memoryAt(address, size);
    if (write) {
      std::memcpy(p, &value, size);
    } else {
      value = 0;
      std::memcpy(&value, p, size);
    }
    return Outcome::Done;
  }
  if (!mayRun)
    return Outcome::Blocked;
  if (address - config.standardOutput < 0x1000) {
    if (write)
      putCharacter(address - config.standardOutput, char(value));
    value = 0;
    time += config.socAccess - 1;
    core.counters.deviceStalls += config.socAccess - 1;
    return Outcome::Done;
  }
  if (size != 4 || (address & 3)) {
    char text[128];
    std::snprintf(text, sizeof text, "%s of %u bytes at 0x%08x: %s",
                  write ? "store" : "load", size, address,
                  size == 4 ? "a misaligned device register"
                            : "device registers take words only, and this is "
                              "no memory");
    stopAt(core, text);
  }
  return device(core, address, write, value, time);
}

void Machine::badRegister(const Core &core, uint32_t address, bool write,
                          const char *device) {
  char text[96];
  std::snprintf(text, sizeof text, "%s 0x%08x, which is no %s register",
                write ? "store to" : "load from", address, device);
  stopAt(core, text);
}

Machine::Outcome Machine::device(Core &core, uint32_t address, bool write,
                                 uint32_t &value, uint64_t &time) {
  uint64_t at = time;
  auto spend = [&](uint32_t cycles) {
    time += cycles - 1;
    core.counters.deviceStalls += cycles - 1;
  };
  auto in = [&](uint32_t base, uint32_t size) {
    return base && address - base < size;
  };
  if (!core.host) {
    if (in(config.eventUnitLocal, event_unit::LocalSize))
      return eventUnitLocal(core, address - config.eventUnitLocal, write, value,
                            time);
    if (in(config.dmaLocal, 8)) {
      Outcome outcome =
          mchan(core, core.index, address - config.dmaLocal, write, value, at);
      if (outcome == Outcome::Done)
        spend(config.localAccess);
      return outcome;
    }
  }
  if (in(config.dmaHost, 8)) {
    Outcome outcome = mchan(core, config.clusterCores, address - config.dmaHost,
                            write, value, at);
    if (outcome == Outcome::Done)
      spend(core.host ? config.l2Access : config.peripheralAccess);
    return outcome;
  }
  // The host crosses the SoC's bus to reach the cluster.
  uint32_t cluster = core.host ? config.l2Access : config.peripheralAccess;
  if (in(config.redmule, 0x100)) {
    spend(cluster);
    // A store takes effect when it arrives.
    redmuleRegister(core, address - config.redmule, write, value, time);
  } else if (in(config.eventUnit, event_unit::GlobalSize)) {
    spend(cluster);
    eventUnitGlobal(core, address - config.eventUnit, write, value, at);
  } else if (in(config.clusterControl, cluster_control::Size)) {
    spend(cluster);
    clusterControl(core, address - config.clusterControl, write, value, at);
  } else if (in(config.clusterIcache, icache::Size) ||
             in(config.hostIcache, icache::Size)) {
    bool forHost = in(config.hostIcache, icache::Size);
    spend(forHost ? config.socAccess : cluster);
    uint32_t offset =
        address - (forHost ? config.hostIcache : config.clusterIcache);
    bool &on = forHost ? hostIcacheOn : clusterIcacheOn;
    if (offset == icache::Enable) {
      if (write)
        on = value != 0;
      else
        value = on;
    } else if (offset == icache::Flush && write) {
      flushDecoded();
    } else {
      badRegister(core, address, write, "instruction cache");
    }
  } else if (in(config.hostInterrupts, interrupts::Size)) {
    spend(config.socAccess);
    hostInterruptController(core, address - config.hostInterrupts, write, value,
                            at);
  } else if (in(config.udma, hyper::Size)) {
    spend(config.socAccess);
    hyperRegister(core, address - config.udma, write, value, at);
  } else if (in(config.socControl, soc_control::Size)) {
    spend(config.socAccess);
    if (address - config.socControl != soc_control::CoreStatus)
      badRegister(core, address, write, "SoC control");
    if (write && (value & soc_control::EndOfComputation)) {
      exited = true;
      exitCode = int(value & ~soc_control::EndOfComputation);
    }
    if (!write)
      value = 0;
  } else {
    char text[96];
    std::snprintf(text, sizeof text, "%s 0x%08x, where nothing is mapped",
                  write ? "store to" : "load from", address);
    stopAt(core, text);
  }
  return Outcome::Done;
}

void Machine::clusterControl(Core &core, uint32_t offset, bool write,
                             uint32_t &value, uint64_t time) {
  using namespace cluster_control;
  if (offset == FetchEnable) {
    if (!write) {
      value = fetchEnabled;
      return;
    }
    for (unsigned i = 0; i < config.clusterCores; ++i) {
      bool was = (fetchEnabled >> i) & 1, is = (value >> i) & 1;
      if (is && !was)
        startCore(cores[i], cores[i].bootAddress, time + config.wakeUp);
      if (was && !is) {
        cores[i].state = Core::State::Off;
        times[i] = Never;
      }
    }
    fetchEnabled = value;
  } else if (offset >= BootAddress &&
             offset < BootAddress + 4 * config.clusterCores) {
    uint32_t &boot = cores[(offset - BootAddress) / 4].bootAddress;
    if (write)
      boot = value;
    else
      value = boot;
  } else if (offset == EndOfComputation || offset == ClockGate) {
    if (!write)
      value = 0;
  } else {
    badRegister(core, config.clusterControl + offset, write, "cluster control");
  }
}

// --- The host's interrupt controller: enough of it to wake from wfi. ---------

void Machine::hostInterruptController(Core &core, uint32_t offset, bool write,
                                      uint32_t &value, uint64_t time) {
  using namespace interrupts;
  switch (offset) {
  case Mask:
    (write ? interruptMask : value) = write ? value : interruptMask;
    break;
  case Status:
    (write ? interruptStatus : value) = write ? value : interruptStatus;
    break;
  case MaskSet:
    interruptMask |= write ? value : 0;
    break;
  case MaskClear:
    interruptMask &= write ? ~value : ~0u;
    break;
  case StatusSet:
    interruptStatus |= write ? value : 0;
    break;
  case StatusClear:
    interruptStatus &= write ? ~value : ~0u;
    break;
  default:
    badRegister(core, config.hostInterrupts + offset, write,
                "interrupt controller");
  }
  checkHostInterrupts(time);
}

void Machine::raiseHostInterrupt(unsigned line, uint64_t time) {
  interruptStatus |= 1u << line;
  checkHostInterrupts(time);
}

void Machine::checkHostInterrupts(uint64_t time) {
  Core &host = cores[hostIndex];
  if ((interruptMask & interruptStatus) && host.waitsForInterrupt)
    wake(host, 0, time);
}

// --- Standard output --------------------------------------------------------

void Machine::putCharacter(uint32_t offset, char c) {
  // A channel for each core of each cluster, so that lines do not mix.
  uint32_t channel = offset >> 3;
  if (outputLines.size() <= channel)
    outputLines.resize(channel + 1);
  std::string &line = outputLines[channel];
  line += c;
  if (c == '\n' || line.size() >= 1024) {
    // Cleared first: the receiver may throw, and must not get it again.
    std::string text;
    text.swap(line);
    emit(text);
  }
}

void Machine::flushOutput() {
  for (std::string &line : outputLines)
    if (!line.empty()) {
      emit(line);
      line.clear();
    }
}

void Machine::emit(const std::string &text) {
  if (!standardOutput)
    return;
  fp::FloatEnvironment foreign;
  standardOutput(text);
}

} // namespace tdsim
