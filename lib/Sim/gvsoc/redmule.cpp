//===- redmule.cpp - RedMulE in FP32, as a component of GVSoC -------------===//
//
// Z = Y + X * W in tiles of `rows` rows and columns * (pipeline + 1) columns,
// with the numerics and the timing of the embedded simulator (Redmule.cpp): a
// tile takes the longer of the array's time and of its beats, plus a constant.
// Its beats are its W, the X of the next block of N, the Y of the next tile and
// the Z of the one before. One beat issues a cycle; its words go to the banks
// at once, and one that waits for a bank holds up the next.
//
// Compiled by traindeeploy.gvsoc against the headers of the user's GVSoC. All
// numbers come from the target description, as properties.
//
//===----------------------------------------------------------------------===//
#include "log.h"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>
#include <vp/itf/io.hpp>
#include <vp/itf/wire.hpp>
#include <vp/vp.hpp>

#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_HOST __attribute__((target_clones("default", "avx2,fma")))
#else
#define FOR_EACH_HOST
#endif

namespace {

// Registers: Trigger to Arithmetic as in Registers.h.
enum : uint32_t {
  Trigger = 0x00,
  Status = 0x0C,
  XAddress = 0x40,
  WAddress = 0x44,
  YAddress = 0x48,
  SizeKM = 0x4C,
  SizeN = 0x50,
  Arithmetic = 0x54
};
constexpr uint32_t Bytes = 4; // of an element, and of a bank's word

/// sum[i] += a * w[i], fused, one rounding.
FOR_EACH_HOST void accumulate(float *sum, float a, const float *w,
                              uint32_t count) {
  for (uint32_t i = 0; i < count; ++i)
    sum[i] = __builtin_fmaf(a, w[i], sum[i]);
}

class Redmule : public vp::Component {
public:
  explicit Redmule(vp::ComponentConf &conf);

  void stop() override { log.close(); }

private:
  enum class Phase { Preload, Compute, Store, FirstEvent, SecondEvent };
  enum class Operand { X, W, Y, Z };
  struct Beat {
    uint32_t address, bytes;
    Operand operand;
    uint32_t at; // first element of the operand's buffer
  };

  static vp::IoReqStatus access(vp::Block *block, vp::IoReq *request);
  static void step(vp::Block *block, vp::ClockEvent *event);
  void trigger();
  void beats(Operand operand, uint32_t base, uint32_t row, uint32_t count,
             uint32_t stride, uint32_t column, uint32_t width, bool wholePort,
             uint32_t pitch, uint32_t first = 0);
  void preload();
  void window();
  void store();
  void endWindow();
  int64_t transfer(const Beat &beat);
  int64_t cycles() { return clock.get_cycles(); }
  uint32_t tile() const { return columns * (pipeline + 1); }
  uint32_t portElements() const { return portBytes / Bytes; }

  vp::Trace trace;
  vp::IoSlave input;
  vp::WireMaster<bool> done;
  std::vector<vp::IoMaster> banks;
  vp::ClockEvent *event;
  Log log;

  uint32_t rows, columns, pipeline, portBytes, tileCycles, arithmeticCode;
  uint32_t l1Base, l1Size;

  bool busy = false;
  uint32_t x = 0, w = 0, y = 0, m = 0, n = 0, k = 0, arithmetic = 0;
  uint32_t tileRow = 0, tileColumn = 0;
  Phase phase = Phase::Preload;
  int64_t triggered = 0, started = 0, windowStart = 0, array = 0;
  std::vector<Beat> queue;
  size_t next = 0;
  // X holds a block of the current rows, W a block of N, Z the tile at work.
  std::vector<float> xBlock, wBlock, sum, nextY, lastZ;
};

Redmule::Redmule(vp::ComponentConf &conf) : vp::Component(conf) {
  auto number = [&](const char *name) {
    return uint32_t(get_js_config()->get(name)->get_double());
  };
  rows = number("rows");
  columns = number("columns");
  pipeline = number("pipeline");
  portBytes = number("port_bytes");
  tileCycles = number("tile_cycles");
  arithmeticCode = number("arithmetic");
  l1Base = number("l1_base");
  l1Size = number("l1_size");
  banks = std::vector<vp::IoMaster>(number("banks"));
  for (size_t i = 0; i < banks.size(); ++i)
    new_master_port("bank_" + std::to_string(i), &banks[i]);
  traces.new_trace("trace", &trace, vp::DEBUG);
  input.set_req_meth(&Redmule::access);
  new_slave_port("input", &input);
  new_master_port("done", &done);
  event = event_new(&Redmule::step);
  std::string path = get_js_config()->get_child_str("log");
  if (!log.open(path))
    trace.fatal("cannot write %s\n", path.c_str());
  xBlock.resize(rows * portElements());
  wBlock.resize(portElements() * tile());
  sum.resize(rows * tile());
  nextY = lastZ = sum;
}

vp::IoReqStatus Redmule::access(vp::Block *block, vp::IoReq *request) {
  auto *self = static_cast<Redmule *>(block);
  uint32_t offset = uint32_t(request->get_addr());
  if (request->get_size() != 4)
    return vp::IO_REQ_INVALID;
  uint32_t value = 0;
  if (!request->get_is_write()) {
    if (offset == Status)
      value = self->busy;
    std::memcpy(request->get_data(), &value, 4);
    return vp::IO_REQ_OK;
  }
  std::memcpy(&value, request->get_data(), 4);
  if (self->busy) {
    self->trace.fatal("RedMulE's register 0x%x written while it is busy\n",
                      offset);
    return vp::IO_REQ_INVALID;
  }
  switch (offset) {
  case Trigger:
    self->trigger();
    return vp::IO_REQ_OK;
  case XAddress:
    self->x = value;
    return vp::IO_REQ_OK;
  case WAddress:
    self->w = value;
    return vp::IO_REQ_OK;
  case YAddress:
    self->y = value;
    return vp::IO_REQ_OK;
  case SizeKM:
    self->m = value & 0xFFFF;
    self->k = value >> 16;
    return vp::IO_REQ_OK;
  case SizeN:
    self->n = value & 0xFFFF;
    return vp::IO_REQ_OK;
  case Arithmetic:
    self->arithmetic = value;
    return vp::IO_REQ_OK;
  default:
    return vp::IO_REQ_INVALID;
  }
}

void Redmule::trigger() {
  if (arithmetic != arithmeticCode || !m || !n || !k ||
      (x | w | y) % Bytes != 0) {
    trace.fatal("RedMulE job that it cannot do: arithmetic 0x%x, M = %u, N = "
                "%u, K = %u, X at 0x%x, W at 0x%x, Y at 0x%x\n",
                arithmetic, m, n, k, x, w, y);
    return;
  }
  busy = true;
  triggered = cycles();
  tileRow = tileColumn = 0;
  phase = Phase::Preload;
  preload();
  windowStart = triggered + 1;
  event_enqueue(event, 1);
}

/// Adds the beats of rows [row, row + count) of a matrix, columns [column,
/// column + width). In the operand's buffer, rows are `pitch` elements apart.
void Redmule::beats(Operand operand, uint32_t base, uint32_t row,
                    uint32_t count, uint32_t stride, uint32_t column,
                    uint32_t width, bool wholePort, uint32_t pitch,
                    uint32_t first) {
  for (uint32_t r = 0; r < count; ++r) {
    uint32_t address = base + ((row + r) * stride + column) * Bytes;
    for (uint32_t at = 0; at < width * Bytes; at += portBytes) {
      uint32_t bytes =
          wholePort ? portBytes : std::min(portBytes, width * Bytes - at);
      queue.push_back(
          {address + at, bytes, operand, (first + r) * pitch + at / Bytes});
    }
  }
}

void Redmule::preload() {
  uint32_t count = std::min(rows, m);
  queue.clear();
  next = 0;
  array = 0;
  beats(Operand::X, x, 0, count, n, 0, portElements(), true, portElements());
  beats(Operand::Y, y, 0, count, k, 0, tile(), true, tile());
}

/// Lists the beats of the current tile, and of its neighbours what overlaps.
void Redmule::window() {
  uint32_t block = portElements(), blocks = (n + block - 1) / block;
  uint32_t here = std::min(rows, m - tileRow);
  uint32_t nextRow = tileRow, nextColumn = tileColumn + tile();
  if (nextColumn >= k) {
    nextColumn = 0;
    nextRow += rows;
  }
  uint32_t ahead = nextRow >= m ? 0 : std::min(rows, m - nextRow);
  queue.clear();
  next = 0;
  for (uint32_t b = 0; b < blocks; ++b) {
    uint32_t at = b * block;
    beats(Operand::W, w, at, std::min(block, n - at), k, tileColumn, tile(),
          true, tile());
    if (b + 1 < blocks)
      beats(Operand::X, x, tileRow, here, n, at + block, block, true, block);
    else
      beats(Operand::X, x, nextRow, ahead, n, 0, block, true, block);
  }
  beats(Operand::Y, y, nextRow, ahead, k, nextColumn, tile(), true, tile());
  if (tileRow || tileColumn) {
    uint32_t row = tileRow, column = tileColumn;
    if (column) {
      column -= tile();
    } else {
      row -= rows;
      column = (k - 1) / tile() * tile();
    }
    beats(Operand::Z, y, row, std::min(rows, m - row), k, column,
          std::min(tile(), k - column), false, tile());
  }
  array = int64_t(tile()) * ((n + columns - 1) / columns) + tileCycles;
}

void Redmule::store() {
  queue.clear();
  next = 0;
  array = 0;
  beats(Operand::Z, y, tileRow, std::min(rows, m - tileRow), k, tileColumn,
        std::min(tile(), k - tileColumn), false, tile());
}

/// Moves a beat now and returns the cycles that its banks make it wait.
int64_t Redmule::transfer(const Beat &beat) {
  std::vector<float> &buffer = beat.operand == Operand::X   ? xBlock
                               : beat.operand == Operand::W ? wBlock
                               : beat.operand == Operand::Y ? nextY
                                                            : lastZ;
  uint8_t *data = reinterpret_cast<uint8_t *>(&buffer[beat.at]);
  uint32_t offset = beat.address - l1Base;
  if (offset >= l1Size || beat.bytes > l1Size - offset) {
    trace.fatal("RedMulE reaches outside of L1 at 0x%x (rows are read at full "
                "port width)\n",
                beat.address);
    return 0;
  }
  uint64_t latency = 0;
  for (uint32_t i = 0; i < beat.bytes; i += Bytes) {
    uint32_t word = (offset + i) / Bytes;
    vp::IoReq request((word / banks.size()) * Bytes, data + i, Bytes,
                      beat.operand == Operand::Z);
    if (banks[word % banks.size()].req(&request) != vp::IO_REQ_OK)
      trace.fatal("L1 refused RedMulE at 0x%x\n", beat.address + i);
    latency = std::max(latency, request.get_latency());
  }
  return int64_t(latency);
}

void Redmule::step(vp::Block *block, vp::ClockEvent *) {
  auto *self = static_cast<Redmule *>(block);
  if (self->phase == Phase::FirstEvent) {
    // As the public model does for FP16, completion fires in two cycles.
    self->phase = Phase::SecondEvent;
    self->busy = false;
    self->log.put(RedmuleJob{uint64_t(self->triggered), uint64_t(self->started),
                             uint64_t(self->cycles()), self->m, self->n,
                             self->k, 8 * Bytes});
    self->event_enqueue(self->event, 1);
    self->done.sync(true);
    return;
  }
  if (self->phase == Phase::SecondEvent) {
    self->done.sync(true);
    return;
  }
  if (self->next == self->queue.size()) {
    self->endWindow();
    if (self->phase == Phase::FirstEvent) {
      self->event_enqueue(self->event, 1);
      return;
    }
    self->windowStart = self->cycles();
  }
  const Beat &beat = self->queue[self->next];
  int64_t wait = self->transfer(beat) + 1;
  ++self->next;
  // The last element of W that a block needs makes the block ready.
  if (beat.operand == Operand::W &&
      (self->next == self->queue.size() ||
       self->queue[self->next].operand != Operand::W ||
       self->queue[self->next].at == 0)) {
    uint32_t steps = beat.at / self->tile() + 1, width = self->tile();
    for (uint32_t r = 0; r < self->rows; ++r)
      for (uint32_t i = 0; i < steps; ++i)
        accumulate(&self->sum[r * width],
                   self->xBlock[r * self->portElements() + i],
                   &self->wBlock[i * width], width);
  }
  if (self->next == self->queue.size())
    wait = std::max(wait, self->windowStart + self->array - self->cycles());
  self->event_enqueue(self->event, wait);
}

/// Completes the window that ends now and sets up the next one.
void Redmule::endWindow() {
  switch (phase) {
  case Phase::Preload:
    started = cycles();
    phase = Phase::Compute;
    sum = nextY;
    window();
    return;
  case Phase::Compute:
    for (float &value : sum)
      if (value != value) {
        const uint32_t nan = 0x7FC00000;
        std::memcpy(&value, &nan, sizeof value);
      }
    lastZ.swap(sum);
    if (tileColumn + tile() < k) {
      tileColumn += tile();
    } else if (tileRow + rows < m) {
      tileColumn = 0;
      tileRow += rows;
    } else {
      phase = Phase::Store;
      store();
      return;
    }
    sum = nextY;
    window();
    return;
  default:
    phase = Phase::FirstEvent;
  }
}

} // namespace

extern "C" vp::Component *gv_new(vp::ComponentConf &conf) {
  return new Redmule(conf);
}
