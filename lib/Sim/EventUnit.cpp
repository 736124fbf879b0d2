//===- EventUnit.cpp - Events, barriers, sleeping cores -------------------===//
#include "Machine.h"
#include "Registers.h"

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
    return Outcome::Sleeps;
  }
  // The core goes through its sleep even when the event is already there.
  if (clear)
    unit.buffer &= ~unit.mask;
  value = arrived;
  time += config.wakeUp - 1;
  core.counters.asleep += config.wakeUp - 1;
  return Outcome::Done;
}

} // namespace tdsim
