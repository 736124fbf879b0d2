//===- EventUnit.cpp - Events, barriers, sleeping cores -------------------===//
#include "Machine.h"
#include "Registers.h"
#include <string>

namespace tdsim {

using namespace event_unit;

Machine::Outcome Machine::eventUnitLocal(Core &core, uint32_t offset,
                                         bool write, uint32_t &value,
                                         uint64_t &time) {
  if (offset == Wait || offset == WaitClear) {
    if (write)
      badRegister(core, config.eventUnitLocal + offset, write, "event unit");
    return waitForEvents(core, offset == WaitClear, value, time);
  }
  bool known;
  if (offset >= LocalBarriers) {
    uint32_t index = (offset - LocalBarriers) / BarrierStride;
    uint32_t reg = offset % BarrierStride;
    if (index < Barriers && (reg == BarrierWait || reg == BarrierWaitClear)) {
      barriers[index].status |= 1u << core.index;
      checkBarrier(index, time);
      return waitForEvents(core, reg == BarrierWaitClear, value, time);
    }
    if (index < Barriers && reg == BarrierTriggerSelf) {
      barriers[index].status |= 1u << core.index;
      checkBarrier(index, time);
      value = 0;
      known = true;
    } else {
      known = barrierRegister(offset - LocalBarriers, write, value, time);
    }
  } else if (offset >= LocalSoftware) {
    known = softwareEvent(offset - LocalSoftware, write, value, time);
  } else {
    known = coreRegister(core.index, offset, write, value, time);
  }
  if (!known)
    badRegister(core, config.eventUnitLocal + offset, write, "event unit");
  time += config.localAccess - 1;
  core.counters.deviceStalls += config.localAccess - 1;
  return Outcome::Done;
}

void Machine::eventUnitGlobal(Core &core, uint32_t offset, bool write,
                              uint32_t &value, uint64_t time) {
  bool known = false;
  if (offset < config.clusterCores * CoreStride)
    known = coreRegister(offset / CoreStride, offset % CoreStride, write, value,
                         time);
  else if (offset >= GlobalBarriers && offset < GlobalSoftware)
    known = barrierRegister(offset - GlobalBarriers, write, value, time);
  else if (offset >= GlobalSoftware)
    known = softwareEvent(offset - GlobalSoftware, write, value, time);
  if (!known)
    badRegister(core, config.eventUnit + offset, write, "event unit");
}

bool Machine::coreRegister(unsigned index, uint32_t offset, bool write,
                           uint32_t &value, uint64_t time) {
  CoreEvents &unit = events[index];
  if (!write) {
    switch (offset) {
    case Mask:
      value = unit.mask;
      return true;
    case IrqMask:
      value = unit.irqMask;
      return true;
    case CoreStatus:
      value = cores[index].state == Core::State::Running;
      return true;
    case Buffer:
      value = unit.buffer;
      return true;
    case BufferMasked:
      value = unit.buffer & unit.mask;
      return true;
    case BufferIrqMasked:
      value = unit.buffer & unit.irqMask;
      return true;
    default:
      return false;
    }
  }
  switch (offset) {
  case Mask:
    unit.mask = value;
    break;
  case MaskAnd:
    unit.mask &= ~value;
    break;
  case MaskOr:
    unit.mask |= value;
    break;
  case IrqMask:
    unit.irqMask = value;
    break;
  case IrqMaskAnd:
    unit.irqMask &= ~value;
    break;
  case IrqMaskOr:
    unit.irqMask |= value;
    break;
  case BufferClear:
    unit.buffer &= ~value;
    break;
  default:
    return false;
  }
  checkEvents(index, time);
  return true;
}

bool Machine::barrierRegister(uint32_t offset, bool write, uint32_t &value,
                              uint64_t time) {
  uint32_t index = offset / BarrierStride;
  if (index >= Barriers)
    return false;
  Barrier &barrier = barriers[index];
  switch (offset % BarrierStride) {
  case BarrierTriggerMask:
    (write ? barrier.triggerMask : value) = write ? value : barrier.triggerMask;
    break;
  case BarrierStatus:
    (write ? barrier.status : value) = write ? value : barrier.status;
    break;
  case BarrierTargetMask:
    (write ? barrier.targetMask : value) = write ? value : barrier.targetMask;
    break;
  case BarrierSummary:
    if (write)
      return false;
    value = 0;
    for (const Barrier &b : barriers)
      value |= b.status;
    return true;
  case BarrierTrigger:
    if (!write)
      return false;
    barrier.status |= value;
    break;
  default:
    return false;
  }
  if (write)
    checkBarrier(index, time);
  return true;
}

bool Machine::softwareEvent(uint32_t offset, bool write, uint32_t value,
                            uint64_t time) {
  if (!write || offset / 4 >= SoftwareEvents || offset % 4)
    return false;
  raise(1u << (offset / 4), value, time); // a mask of 0 means every core
  return true;
}

void Machine::checkBarrier(unsigned index, uint64_t time) {
  Barrier &barrier = barriers[index];
  if (barrier.status == 0 || barrier.status != barrier.triggerMask)
    return;
  barrier.status = 0;
  raise(1u << BarrierEvent, barrier.targetMask, time);
}

void Machine::raise(uint32_t mask, uint32_t coreMask, uint64_t time) {
  for (unsigned i = 0; i < config.clusterCores; ++i)
    if (coreMask == 0 || ((coreMask >> i) & 1)) {
      events[i].buffer |= mask;
      checkEvents(i, time);
    }
}

void Machine::checkEvents(unsigned index, uint64_t time) {
  CoreEvents &unit = events[index];
  Core &core = cores[index];
  if (core.state != Core::State::Asleep)
    return;
  if (core.waitsForInterrupt) {
    if (unit.buffer & unit.irqMask)
      wake(core, 0, time);
    return;
  }
  uint32_t arrived = unit.buffer & unit.mask;
  if (!arrived)
    return;
  if (checker)
    seeEvents(core, arrived);
  unit.buffer &= ~unit.clearOnWake;
  unit.clearOnWake = 0;
  wake(core, arrived, time);
}

Machine::Outcome Machine::waitForEvents(Core &core, bool clear, uint32_t &value,
                                        uint64_t &time) {
  CoreEvents &unit = events[core.index];
  uint32_t arrived = unit.buffer & unit.mask;
  if (!arrived) {
    unit.clearOnWake = clear ? unit.mask : 0;
    core.state = Core::State::Asleep;
    core.sleepStart = time;
    if (checker)
      checkWaits();
    return Outcome::Sleeps;
  }
  if (checker)
    seeEvents(core, arrived);
  // The core goes through its sleep even when the event is already there.
  if (clear)
    unit.buffer &= ~unit.mask;
  value = arrived;
  time += config.wakeUp - 1;
  core.counters.asleep += config.wakeUp - 1;
  return Outcome::Done;
}

// --- Checked execution ------------------------------------------------------

/// A wait of a core is over by these events.
void Machine::seeEvents(const Core &core, uint32_t arrived) {
  if (arrived != 1u << RedmuleEvent)
    return;
  uint64_t &seen = redmuleSeen[core.index];
  if (seen == redmuleStarted)
    stopAt(core, "a wait for RedMulE ends by an old event: no job has been "
                 "started since the last wait");
  seen = redmuleEnded;
  if (!rm.busy)
    checker->retire(Checker::Engine::Redmule, 0);
}

void Machine::checkWaits() {
  // Who can still do something: cores that run, and those that they, or an
  // engine at work, can wake.
  const unsigned count = config.clusterCores;
  std::vector<bool> alive(count + 1, false);
  auto canWake = [&](unsigned index) {
    const Core &core = cores[index];
    switch (core.state) {
    case Core::State::Off:
      return false;
    case Core::State::Running:
      return true;
    case Core::State::Blocked:
      if (dma[0].active || dma[1].active)
        return true;
      break;
    case Core::State::Asleep: {
      if (core.host) {
        if (interruptMask >> interrupts::DmaLine & 1)
          for (uint32_t pending : dmaPending)
            if (pending)
              return true;
        if (!interruptMask)
          return false;
        break;
      }
      uint32_t mask =
          core.waitsForInterrupt ? events[index].irqMask : events[index].mask;
      if (mask >> RedmuleEvent & 1 &&
          (rm.busy || (times[redmuleActor] != Never)))
        return true;
      if (mask >> DmaEvent & 1) {
        auto answers = [&](const DmaCommand &command) {
          return (command.channel == index ||
                  command.words[0] & mchan::Broadcast) &&
                 command.words[0] & mchan::Event;
        };
        for (const DmaDirection &direction : dma) {
          if (direction.active && answers(direction.current))
            return true;
          for (const DmaCommand &command : direction.queue)
            if (answers(command))
              return true;
        }
        for (const DmaChannel &channel : dmaChannels)
          for (const DmaCommand &command : channel.queue)
            if (answers(command))
              return true;
      }
      bool others = mask & ((1u << SoftwareEvents) - 1);
      if (mask >> BarrierEvent & 1)
        for (const Barrier &barrier : barriers) {
          if (!(barrier.status >> index & 1))
            continue;
          // One that is not set up yet, another core may set up.
          others |= (barrier.status & ~barrier.triggerMask) != 0;
          uint32_t missing = barrier.triggerMask & ~barrier.status;
          bool comes = !(barrier.status & ~barrier.triggerMask) &&
                       (!barrier.targetMask || barrier.targetMask >> index & 1);
          for (unsigned i = 0; i < count && comes; ++i)
            comes = !(missing >> i & 1) || alive[i];
          if (comes)
            return true;
        }
      if (!others)
        return false;
      break;
    }
    }
    // Any other core can raise a software event or free an identifier.
    for (unsigned i = 0; i <= count; ++i)
      if (i != index && alive[i])
        return true;
    return false;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (unsigned i = 0; i <= count; ++i)
      if (!alive[i] && canWake(i))
        alive[i] = changed = true;
  }
  for (unsigned i = 0; i < count; ++i) {
    const Core &core = cores[i];
    // A core that nothing is left for may sleep in wfi.
    if (alive[i] || core.waitsForInterrupt ||
        (core.state != Core::State::Asleep &&
         core.state != Core::State::Blocked))
      continue;
    uint32_t mask = events[i].mask;
    bool atBarrier = false;
    for (const Barrier &barrier : barriers)
      atBarrier |= barrier.status >> i & 1;
    std::string what = core.state == Core::State::Blocked ? "for the DMA"
                       : atBarrier                        ? "at a barrier"
                       : mask == 1u << DmaEvent           ? "for the DMA"
                       : mask == 1u << RedmuleEvent       ? "for RedMulE"
                                                          : "for an event";
    stopAt(core, "a core waits " + what + ", and nothing will end the wait");
  }
}

} // namespace tdsim
