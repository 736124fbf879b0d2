//===- probe.cpp - Logs of the engines' work, as a component of GVSoC -----===//
//
// Sits between two components of GVSoC, passes on what comes and writes down
// what the embedded simulator logs, too (log.h). It takes no simulated time.
// The property `kind` says what is observed:
//
//   marks     core 0's event unit: writes to a software event that nobody waits
//             for (lib/Runtime/device.h); this one also says on
//             standard error how far time is, and ends the run at `max_cycles`
//   dma       core 0's DMA channel and the DMA's ports to L1
//   redmule   RedMulE's registers and its event
//   hyperram  starts of uDMA transfers
//   bus       the HyperRAM's bus: bursts
//
//===----------------------------------------------------------------------===//
#include "log.h"
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>
#include <vp/itf/hyper.hpp>
#include <vp/itf/io.hpp>
#include <vp/itf/wire.hpp>
#include <vp/vp.hpp>

namespace {

constexpr unsigned DmaPorts = 4; // of MCHAN to L1
constexpr uint32_t MarkRegister = 0x11C;
constexpr uint32_t CommandBytes = 6;   // that begin a burst on the bus
constexpr int64_t Heartbeat = 1 << 18; // cycles

class Probe : public vp::Component {
public:
  explicit Probe(vp::ComponentConf &conf);

  void reset(bool active) override {
    if (!active && kind == Kind::Marks && !heart->is_enqueued())
      event_enqueue(heart, std::min(Heartbeat, int64_t(maxCycles)));
  }

  void stop() override { log.close(); }

private:
  enum class Kind { Marks, Dma, Redmule, HyperRam, Bus };

  static vp::IoReqStatus access(vp::Block *block, vp::IoReq *request);
  static vp::IoReqStatus port(vp::Block *block, vp::IoReq *request, int index);
  static void finished(vp::Block *block, bool value);
  static void command(vp::Block *block, int data);
  static void answer(vp::Block *block, int data);
  static void select(vp::Block *block, int chip, int active);
  static void beat(vp::Block *block, vp::ClockEvent *event);
  void write(uint32_t address, uint32_t value);
  void dmaWord(uint32_t value);
  uint64_t now() { return uint64_t(clock.get_cycles()); }
  uint64_t picoseconds() { return uint64_t(time.get_time()); }

  vp::Trace trace;
  Kind kind;
  Log log;
  uint32_t base;
  uint64_t maxCycles = 0;
  vp::ClockEvent *heart = nullptr;

  vp::IoSlave registers;
  vp::IoMaster registersOut;
  vp::IoSlave ports[DmaPorts];
  vp::IoMaster portsOut[DmaPorts];
  vp::WireSlave<bool> done;
  vp::WireMaster<bool> doneOut;
  vp::HyperSlave bus;
  vp::HyperMaster busOut;

  std::vector<uint32_t> words;
  std::deque<DmaJob> waiting[2]; // by direction, the DMA's jobs in order
  uint32_t moved[2] = {};
  uint64_t ended[2] = {};
  RedmuleJob job{};
  bool running = false;
  uint32_t channel[16] = {};
  Burst burst{};
  uint64_t commandWord = 0;
};

Probe::Probe(vp::ComponentConf &conf) : vp::Component(conf) {
  std::string name = get_js_config()->get_child_str("kind");
  kind = name == "marks"      ? Kind::Marks
         : name == "dma"      ? Kind::Dma
         : name == "redmule"  ? Kind::Redmule
         : name == "hyperram" ? Kind::HyperRam
                              : Kind::Bus;
  auto number = [&](const char *key) {
    js::Config *value = get_js_config()->get(key);
    return value ? uint64_t(value->get_double()) : 0u;
  };
  base = uint32_t(number("base"));
  maxCycles = number("max_cycles");
  heart = event_new(&Probe::beat);
  traces.new_trace("trace", &trace, vp::DEBUG);
  if (kind == Kind::Bus) {
    bus.set_sync_cycle_meth(&Probe::command);
    bus.set_cs_sync_meth(&Probe::select);
    new_slave_port("bus", &bus);
    busOut.set_sync_cycle_meth(&Probe::answer);
    new_master_port("bus_out", &busOut);
  } else {
    registers.set_req_meth(&Probe::access);
    new_slave_port("registers", &registers);
    new_master_port("registers_out", &registersOut);
  }
  if (kind == Kind::Dma)
    for (unsigned i = 0; i < DmaPorts; ++i) {
      ports[i].set_req_meth_muxed(&Probe::port, int(i));
      new_slave_port("loc_itf_" + std::to_string(i), &ports[i]);
      new_master_port("loc_itf_" + std::to_string(i) + "_out", &portsOut[i]);
    }
  if (kind == Kind::Redmule) {
    done.set_sync_meth(&Probe::finished);
    new_slave_port("done", &done);
    new_master_port("done_out", &doneOut);
  }
  std::string path = get_js_config()->get_child_str("log");
  if (!log.open(path))
    trace.fatal("cannot write %s\n", path.c_str());
}

void Probe::beat(vp::Block *block, vp::ClockEvent *) {
  auto *self = static_cast<Probe *>(block);
  uint64_t cycles = self->now();
  bool last = cycles >= self->maxCycles;
  std::fprintf(stderr, "@traindeeploy %s %llu\n", last ? "limit" : "cycles",
               static_cast<unsigned long long>(cycles));
  std::fflush(stderr);
  if (last)
    self->time.get_engine()->quit(1);
  else
    self->event_enqueue(self->heart,
                        std::min(Heartbeat, int64_t(self->maxCycles - cycles)));
}

vp::IoReqStatus Probe::access(vp::Block *block, vp::IoReq *request) {
  auto *self = static_cast<Probe *>(block);
  if (request->get_is_write() && request->get_size() == 4 &&
      !request->is_debug()) {
    uint32_t value;
    std::memcpy(&value, request->get_data(), 4);
    self->write(uint32_t(request->get_addr()), value);
  }
  return self->registersOut.req_forward(request);
}

void Probe::write(uint32_t address, uint32_t value) {
  switch (kind) {
  case Kind::Marks:
    if (address == MarkRegister)
      log.put(Marker{now(), 0, value >> 24, value & 0xFFFFFF, 0});
    return;
  case Kind::Dma:
    if (address == 0)
      dmaWord(value);
    return;
  case Kind::Redmule:
    if (address == 0x00) {
      job.trigger = job.start = now();
      running = true;
    } else if (address == 0x4C) {
      job.m = value & 0xFFFF;
      job.k = value >> 16;
    } else if (address == 0x50) {
      job.n = value & 0xFFFF;
    }
    return;
  case Kind::HyperRam: {
    uint32_t offset = address - base;
    if (offset >= 8 * 0x80)
      return;
    // Registers of one channel are programmed at a time.
    uint32_t index = offset % 0x80 / 4;
    if (index >= 16)
      return;
    channel[index] = value;
    bool transmit = index == 5;
    if ((transmit || index == 2) && (value & 0x10))
      log.put(HyperJob{now(), picoseconds(), uint64_t(clock.get_period()),
                       channel[transmit ? 4 : 1], transmit,
                       channel[transmit ? 3 : 0], channel[7]});
    return;
  }
  case Kind::Bus:
    return;
  }
}

void Probe::dmaWord(uint32_t value) {
  words.push_back(value);
  bool twoD = words[0] >> 19 & 1, toL1 = words[0] >> 17 & 1;
  if (words.size() < (twoD ? 5u : 3u))
    return;
  waiting[toL1].push_back(
      {now(), 0, words[0] & 0x1FFFF, toL1, words[1], words[2]});
  words.clear();
}

vp::IoReqStatus Probe::port(vp::Block *block, vp::IoReq *request, int index) {
  auto *self = static_cast<Probe *>(block);
  bool toL1 = request->get_is_write();
  uint32_t size = uint32_t(request->get_size());
  vp::IoReqStatus status = self->portsOut[index].req_forward(request);
  // Each direction moves its commands in order.
  auto &jobs = self->waiting[toL1];
  if (jobs.empty())
    return status;
  self->moved[toL1] += size;
  if (self->moved[toL1] < jobs.front().bytes)
    return status;
  DmaJob job = jobs.front();
  jobs.pop_front();
  self->moved[toL1] = 0;
  job.start = std::max(job.start, self->ended[toL1]);
  job.end = self->ended[toL1] = self->now() + request->get_latency() + 1;
  self->log.put(job);
  return status;
}

void Probe::finished(vp::Block *block, bool value) {
  auto *self = static_cast<Probe *>(block);
  if (self->running) {
    self->running = false;
    self->job.end = self->now();
    self->job.format = 16;
    self->log.put(self->job);
  }
  self->doneOut.sync(value);
}

void Probe::command(vp::Block *block, int data) {
  auto *self = static_cast<Probe *>(block);
  self->burst.end = self->picoseconds();
  if (self->burst.bytes++ < CommandBytes)
    self->commandWord = self->commandWord << 8 | uint8_t(data);
  self->busOut.sync_cycle(data);
}

void Probe::answer(vp::Block *block, int data) {
  static_cast<Probe *>(block)->bus.sync_cycle(data);
}

void Probe::select(vp::Block *block, int chip, int active) {
  auto *self = static_cast<Probe *>(block);
  if (self->burst.bytes > CommandBytes) {
    // HyperBus: bit 47 is set in a read; 3 bits of the address are the lowest,
    // the others begin at bit 16.
    uint64_t word = self->commandWord;
    self->burst.write = !(word >> 47 & 1);
    self->burst.address = uint32_t((word >> 16 & 0x1FFFFFFF) << 3 | (word & 7));
    self->log.put(self->burst);
  }
  self->burst = {self->picoseconds(), self->picoseconds(), 0, 0, 0, 0};
  self->commandWord = 0;
  self->busOut.cs_sync(chip, active);
}

} // namespace

extern "C" vp::Component *gv_new(vp::ComponentConf &conf) {
  return new Probe(conf);
}
