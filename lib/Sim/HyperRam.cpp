//===- HyperRam.cpp - L3 behind the uDMA ----------------------------------===//
#include "Machine.h"
#include "Registers.h"
#include <algorithm>
#include <cstdio>
#include <cstring>

namespace tdsim {

using namespace hyper;

void Machine::hyperRegister(Core &core, uint32_t offset, bool write,
                            uint32_t &value, uint64_t time) {
  if (offset == ClockGate) {
    (write ? udmaClockGate : value) = write ? value : udmaClockGate;
    return;
  }
  if (offset < Channels || offset >= Common + CommonSize)
    badRegister(core, config.udma + offset, write, "uDMA HyperRAM");
  if (!((udmaClockGate >> PeripheralBit) & 1))
    stopAt(core, "the uDMA's clock gate for HyperRAM is closed");
  if (offset >= Common) {
    uint32_t &reg = hyperCommon[(offset - Common) / 4];
    (write ? reg : value) = write ? value : reg;
    return;
  }
  unsigned index = (offset - Channels) / ChannelStride;
  uint32_t reg = (offset - Channels) % ChannelStride;
  HyperChannel &channel = hyper[index];
  if (reg / 4 >= RegisterCount)
    badRegister(core, config.udma + offset, write, "uDMA HyperRAM");
  if (!write) {
    if (checker && reg == Status && !channel.busy)
      checker->retire(Checker::Engine::HyperRam, index);
    value = reg == Status ? uint32_t(channel.busy) : channel.registers[reg / 4];
    return;
  }
  bool trigger = (reg == RxConfig || reg == TxConfig) && (value & Enable);
  if (trigger && channel.busy)
    stopAt(core, "uDMA HyperRAM channel " + std::to_string(index) +
                     " triggered while it is busy");
  channel.registers[reg / 4] = value;
  if (trigger)
    hyperTrigger(core, index, reg == TxConfig, time);
}

/// The shape of a transfer: lines of L2 and of L3, either of them strided.
struct HyperLines {
  uint32_t size, line, l2Stride, l3Stride;
  explicit HyperLines(const uint32_t *r, bool toL3) {
    size = r[(toL3 ? TxSize : RxSize) / 4];
    line = l2Stride = l3Stride = size;
    if (r[TwoDActive / 4] == 1) {
      line = l2Stride = r[TwoDCount / 4];
      l3Stride = r[TwoDStride / 4];
    } else if (r[TwoDActiveL2 / 4] == 1) {
      line = l3Stride = r[TwoDCountL2 / 4];
      l2Stride = r[TwoDStrideL2 / 4];
    }
  }
  uint32_t count() const { return (size + line - 1) / line; }
  uint64_t extent(uint32_t stride) const {
    return uint64_t(count() - 1) * stride + (size - (count() - 1) * line);
  }
};

void Machine::hyperTrigger(Core &core, unsigned index, bool toL3,
                           uint64_t time) {
  HyperChannel &channel = hyper[index];
  const uint32_t *r = channel.registers;
  HyperLines lines(r, toL3);
  uint32_t l2Address = r[(toL3 ? TxAddress : RxAddress) / 4];
  uint32_t l3Address = r[ExternalAddress / 4];
  if (bool(r[Command / 4] & CommandRead) == toL3)
    stopAt(core, toL3 ? "uDMA HyperRAM transmits with a read command"
                      : "uDMA HyperRAM receives with a write command");
  if (lines.size == 0 || lines.line == 0)
    stopAt(core, "uDMA HyperRAM transfer of 0 bytes");
  uint32_t l2Offset = l2Address - config.l2.base;
  bool l2Fits = l2Offset < config.l2.size &&
                lines.extent(lines.l2Stride) <= config.l2.size - l2Offset;
  bool l3Fits = l3Address < config.l3Size &&
                lines.extent(lines.l3Stride) <= config.l3Size - l3Address;
  if (!l2Fits || !l3Fits) {
    char text[128];
    std::snprintf(text, sizeof text,
                  "uDMA HyperRAM transfer of %u bytes between L2 0x%08x and L3 "
                  "0x%08x leaves %s",
                  lines.size, l2Address, l3Address, l2Fits ? "L3" : "L2");
    stopAt(core, text);
  }
  if (checker) {
    if (checker->unseen(Checker::Engine::HyperRam, index))
      stopAt(core, "uDMA HyperRAM channel " + std::to_string(index) +
                       " is triggered, and nobody has waited for the transfer "
                       "before");
    uint32_t rest = lines.size - (lines.count() - 1) * lines.line;
    std::vector<Checker::Region> regions;
    auto add = [&](unsigned level, uint32_t address, uint32_t stride,
                   bool writes, const char *what) {
      uint32_t whole = rest < lines.line ? lines.count() - 1 : lines.count();
      if (whole)
        regions.push_back(
            {level, address, lines.line, stride, whole, writes, what});
      if (whole < lines.count())
        regions.push_back(
            {level, address + whole * stride, rest, rest, 1, writes, what});
    };
    add(2, l2Address, lines.l2Stride, !toL3, "L2 side");
    add(3, l3Address, lines.l3Stride, toL3, "L3 side");
    requireRight(core, checker->start(Checker::Engine::HyperRam, index, 'H',
                                      std::move(regions), time));
  }
  channel.busy = true;
  channel.toL3 = toL3;
  channel.triggered = time;
  if (times[hyperActor] == Never)
    hyperStartNext(time);
}

uint64_t Machine::hyperDuration(const HyperChannel &channel) const {
  HyperLines lines(channel.registers, channel.toL3);
  uint64_t rate = channel.toL3 ? hyperWriteRate : hyperReadRate;
  uint64_t line = channel.toL3 ? config.hyperWriteLine : config.hyperReadLine;
  return config.hyperTransfer + ((lines.size * rate) >> 16) +
         uint64_t(lines.count() - 1) * line;
}

/// The bus works for one channel at a time, for those that wait in turn.
void Machine::hyperStartNext(uint64_t time) {
  for (size_t i = 0; i < hyper.size(); ++i) {
    hyperServed = (hyperServed + 1) % hyper.size();
    if (hyper[hyperServed].busy) {
      hyperStarted = time;
      times[hyperActor] = time + hyperDuration(hyper[hyperServed]);
      return;
    }
  }
  times[hyperActor] = Never;
}

void Machine::runHyper() {
  HyperChannel &channel = hyper[hyperServed];
  HyperLines lines(channel.registers, channel.toL3);
  const uint32_t *r = channel.registers;
  uint32_t l2Address = r[(channel.toL3 ? TxAddress : RxAddress) / 4];
  uint32_t l3Address = r[ExternalAddress / 4];
  uint8_t *near = l2.data() + (l2Address - config.l2.base);
  uint8_t *far = l3.get() + l3Address;
  for (uint32_t i = 0; i < lines.count(); ++i) {
    uint32_t bytes = std::min(lines.line, lines.size - i * lines.line);
    uint8_t *a = near + size_t(i) * lines.l2Stride;
    uint8_t *b = far + size_t(i) * lines.l3Stride;
    std::memcpy(channel.toL3 ? b : a, channel.toL3 ? a : b, bytes);
  }
  logJob(hyperJobs, HyperJob{channel.triggered, hyperStarted, now, lines.size,
                             channel.toL3, l2Address, l3Address});
  channel.busy = false;
  hyperStartNext(now);
}

} // namespace tdsim
