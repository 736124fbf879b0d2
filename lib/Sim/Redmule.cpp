//===- Redmule.cpp - The GEMM accelerator ---------------------------------===//
//
// Z = Y + X * W in tiles of L rows and H * (P + 1) columns. The array's time
// and the port's beats are those of the published model for FP16, where a
// window is one port width of N, and of the project's contract for FP32, where
// a window is a tile:
//
//   window = max(array, beats), array = T * ceil(steps / H), T = H * (P + 1)
//
// plus, once a tile, the cycles that the target states: T for FP32, 0 for FP16.
//
// A window's beats are its W, the X of the next block, and at a tile's end the
// Y of the next tile and the Z of the one before. One beat issues a cycle; the
// banks of L1 serve it when they are free.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "Registers.h"
#include "SoftFloat.h"
#include <algorithm>
#include <cstdio>
#include <cstring>

namespace tdsim {

void Machine::redmuleRegister(Core &core, uint32_t offset, bool write,
                              uint32_t &value, uint64_t time) {
  using namespace redmule;
  if (!write) {
    value = 0;
    if (offset == Status) {
      value = rm.busy;
      if (checker && !rm.busy) {
        redmuleSeen[core.index] = redmuleEnded;
        checker->retire(Checker::Engine::Redmule, 0);
      }
    } else if (offset != Trigger && (offset < XAddress || offset > Arithmetic))
      badRegister(core, config.redmule + offset, write, "RedMulE");
    return;
  }
  if (rm.busy)
    stopAt(core, offset == Trigger
                     ? "RedMulE triggered while it is busy"
                     : "RedMulE register written while it is busy");
  switch (offset) {
  case Trigger:
    return redmuleTrigger(core, time);
  case XAddress:
    rm.x = value;
    return;
  case WAddress:
    rm.w = value;
    return;
  case YAddress:
    rm.y = value;
    return;
  case SizeKM:
    rm.m = value & 0xFFFF;
    rm.k = value >> 16;
    return;
  case SizeN:
    rm.n = value & 0xFFFF;
    return;
  case Arithmetic:
    rm.arithmetic = value;
    return;
  default:
    badRegister(core, config.redmule + offset, write, "RedMulE");
  }
}

void Machine::redmuleTrigger(Core &core, uint64_t time) {
  char text[160];
  bool half = config.redmuleFp16 && rm.arithmetic == config.redmuleCodeFp16;
  bool single = config.redmuleFp32 && rm.arithmetic == config.redmuleCodeFp32;
  if (!half && !single) {
    std::snprintf(text, sizeof text,
                  "RedMulE arithmetic 0x%x is none that this target has",
                  rm.arithmetic);
    stopAt(core, text);
  }
  if (!rm.m || !rm.n || !rm.k) {
    std::snprintf(text, sizeof text,
                  "RedMulE job of size 0: M = %u, N = %u, K = %u", rm.m, rm.n,
                  rm.k);
    stopAt(core, text);
  }
  uint32_t bytes = half ? 2 : 4;
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  // Rows are read at full port width, also where the matrix has ended.
  auto check = [&](const char *name, uint32_t address, uint32_t rows,
                   uint32_t columns, uint32_t chunk) {
    uint32_t lastChunk = (columns - 1) / chunk * chunk;
    uint64_t extent =
        (uint64_t(rows - 1) * columns + lastChunk + chunk) * bytes;
    uint32_t offset = address - config.l1.base;
    if (address % bytes)
      std::snprintf(text, sizeof text,
                    "RedMulE operand %s at 0x%08x is misaligned", name,
                    address);
    else if (offset >= config.l1.size || extent > config.l1.size - offset)
      std::snprintf(text, sizeof text,
                    "RedMulE operand %s, %u x %u at 0x%08x, reaches outside of "
                    "L1 (rows are read at full port width)",
                    name, rows, columns, address);
    else
      return;
    stopAt(core, text);
  };
  uint32_t portElements = config.redmulePortBytes / bytes;
  check("X", rm.x, rm.m, rm.n, portElements);
  check("W", rm.w, rm.n, rm.k, tile);
  check("Y", rm.y, rm.m, rm.k, tile);
  if (checker) {
    if (checker->unseen(Checker::Engine::Redmule, 0))
      stopAt(core, "RedMulE is triggered, and nobody has waited for the job "
                   "before");
    auto operand = [&](uint32_t address, uint32_t rows, uint32_t columns,
                       bool write, const char *what) {
      uint32_t size = rows * columns * bytes;
      return Checker::Region{1, address, size, size, 1, write, what, true};
    };
    requireRight(core, checker->start(Checker::Engine::Redmule, 0, 'G',
                                      {operand(rm.x, rm.m, rm.n, false, "X"),
                                       operand(rm.w, rm.n, rm.k, false, "W"),
                                       operand(rm.y, rm.m, rm.k, true, "Y")},
                                      time));
  }
  ++redmuleStarted;
  rm.half = half;
  rm.busy = true;
  rm.trigger = rm.start = time;
  rm.phase = RedmuleState::Phase::Preload;
  rm.tileRow = rm.tileColumn = rm.block = 0;
  rm.windowStart = time + 1;
  rm.waited = 0;
  redmulePreload();
  // Cores come first in a cycle: before anything that engines decide in it.
  rm.decided = time - 1;
  times[redmuleActor] = rm.windowStart;
}

/// Adds the beats of rows [row, row + rows) of a matrix, columns [column,
/// column + width).
void Machine::redmuleBeats(uint32_t base, uint32_t row, uint32_t rows,
                           uint32_t stride, uint32_t column, uint32_t width,
                           bool wholePort) {
  uint32_t bytes = rm.half ? 2 : 4, port = config.redmulePortBytes;
  for (uint32_t r = 0; r < rows; ++r) {
    uint32_t address = base + ((row + r) * stride + column) * bytes;
    for (uint32_t at = 0; at < width * bytes; at += port)
      rm.beats.push_back(
          {address + at,
           wholePort ? port : std::min(port, width * bytes - at)});
  }
}

void Machine::redmulePreload() {
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  uint32_t portElements = config.redmulePortBytes / (rm.half ? 2 : 4);
  uint32_t rows = std::min(config.redmuleRows, rm.m);
  rm.beats.clear();
  rm.array = 0;
  redmuleBeats(rm.x, 0, rows, rm.n, 0, portElements, true);
  redmuleBeats(rm.y, 0, rows, rm.k, 0, tile, true);
}

/// Lists the beats of the window that starts at the current tile and block.
void Machine::redmuleWindow() {
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  uint32_t portElements = config.redmulePortBytes / (rm.half ? 2 : 4);
  uint32_t blocks = (rm.n + portElements - 1) / portElements;
  uint32_t rows = std::min(config.redmuleRows, rm.m - rm.tileRow);
  rm.beats.clear();

  uint32_t nextRow = rm.tileRow, nextColumn = rm.tileColumn + tile;
  if (nextColumn >= rm.k) {
    nextColumn = 0;
    nextRow += config.redmuleRows;
  }
  bool last = nextRow >= rm.m;
  uint32_t nextRows = last ? 0 : std::min(config.redmuleRows, rm.m - nextRow);

  uint32_t first = rm.block, end = rm.half ? rm.block + 1 : blocks, steps = 0;
  for (uint32_t b = first; b < end; ++b) {
    uint32_t n = b * portElements, count = std::min(portElements, rm.n - n);
    steps += count;
    redmuleBeats(rm.w, n, count, rm.k, rm.tileColumn, tile, true);
    if (b + 1 < blocks)
      redmuleBeats(rm.x, rm.tileRow, rows, rm.n, n + portElements, portElements,
                   true);
    else
      redmuleBeats(rm.x, nextRow, nextRows, rm.n, 0, portElements, true);
  }
  if (end == blocks)
    redmuleBeats(rm.y, nextRow, nextRows, rm.k, nextColumn, tile, true);
  if (first == 0 && (rm.tileRow || rm.tileColumn)) {
    uint32_t beforeRow = rm.tileRow, beforeColumn = rm.tileColumn;
    if (beforeColumn) {
      beforeColumn -= tile;
    } else {
      beforeRow -= config.redmuleRows;
      beforeColumn = (rm.k - 1) / tile * tile;
    }
    redmuleBeats(rm.y, beforeRow,
                 std::min(config.redmuleRows, rm.m - beforeRow), rm.k,
                 beforeColumn, std::min(tile, rm.k - beforeColumn), false);
  }
  rm.array =
      tile * ((steps + config.redmuleColumns - 1) / config.redmuleColumns);
  if (end == blocks)
    rm.array += config.redmuleTile;
}

void Machine::redmuleStore() {
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  rm.beats.clear();
  rm.array = 0;
  redmuleBeats(rm.y, rm.tileRow,
               std::min(config.redmuleRows, rm.m - rm.tileRow), rm.k,
               rm.tileColumn, std::min(tile, rm.k - rm.tileColumn), false);
}

void Machine::runRedmule(uint64_t limit) {
  using State = RedmuleState::Phase;
  const uint32_t bankMask = config.l1Banks - 1;
  const uint64_t allBanks = (uint64_t(1) << config.l1Banks) - 1;
  uint64_t &actorTime = times[redmuleActor];
  if (rm.phase == State::FirstEvent || rm.phase == State::SecondEvent) {
    // The public model's completion fires in two cycles in a row.
    rm.busy = false;
    bool again = rm.phase == State::FirstEvent;
    actorTime = Never;
    if (again) {
      ++redmuleEnded;
      rm.phase = State::SecondEvent;
      actorTime = now + 1;
      logJob(redmuleJobs, RedmuleJob{rm.trigger, rm.start, now, rm.m, rm.n,
                                     rm.k, rm.half ? 16u : 32u, rm.waited, 0});
    }
    raise(1u << event_unit::RedmuleEvent, 0, now);
    if (checker && !again)
      checkWaits();
    return;
  }
  if (rm.ending) {
    rm.ending = false;
    redmuleWindowEnd();
    if (rm.phase == State::FirstEvent) {
      actorTime = now + 1;
      return;
    }
    rm.windowStart = std::max(now, rm.windowStart);
    rm.beat = 0;
    rm.portTime = rm.lastBeat = rm.windowStart;
  } else if (rm.portTime < rm.windowStart) {
    rm.beat = 0;
    rm.portTime = rm.lastBeat = rm.windowStart;
  }
  while (rm.beat < rm.beats.size()) {
    if (rm.portTime > limit) {
      actorTime = rm.portTime;
      return;
    }
    const auto &beat = rm.beats[rm.beat++];
    uint32_t offset = beat.address - config.l1.base;
    uint32_t first = offset >> 2, last = (offset + beat.bytes - 1) >> 2;
    uint64_t mask = allBanks;
    if (last - first < bankMask) {
      mask = ((uint64_t(2) << (last - first)) - 1) << (first & bankMask);
      mask = (mask | mask >> config.l1Banks) & allBanks;
    }
    // The port is in order: a beat that waits for a bank holds up the next.
    rm.decided = rm.portTime;
    rm.portTime = rm.lastBeat = bookBanks(uint32_t(mask), rm.portTime) + 1;
    // The public model, which is that of FP16, looks at its port each cycle.
    if (rm.half)
      rm.decided = rm.portTime - 1;
  }
  // The window's end changes memory, so it waits for its turn.
  rm.ending = true;
  actorTime = std::max(now, std::max(rm.windowStart + rm.array, rm.lastBeat));
}

/// Completes the window that ends now and sets up the next one.
void Machine::redmuleWindowEnd() {
  using State = RedmuleState::Phase;
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  // Alone in L1, the port has a beat a cycle.
  uint64_t alone = std::max<uint64_t>(rm.array, rm.beats.size());
  rm.waited += uint32_t(now - rm.windowStart - alone);
  rm.windowStart = now;
  switch (rm.phase) {
  case State::Preload:
    rm.start = now;
    rm.phase = State::Compute;
    break;
  case State::Compute: {
    uint32_t blocks = (rm.n + config.redmulePortBytes / 2 - 1) /
                      (config.redmulePortBytes / 2);
    if (rm.half && ++rm.block < blocks)
      break;
    rm.block = 0;
    hostFlags = 31;
    if (rm.half)
      redmuleTile16(rm.tileRow, rm.tileColumn);
    else
      (this->*redmuleTile32Variant)(rm.tileRow, rm.tileColumn);
    if (rm.tileColumn + tile < rm.k) {
      rm.tileColumn += tile;
    } else if (rm.tileRow + config.redmuleRows < rm.m) {
      rm.tileColumn = 0;
      rm.tileRow += config.redmuleRows;
    } else {
      rm.phase = State::Store;
      redmuleStore();
      // FP16 drains the array before the last store; FP32 counts it in a tile.
      if (rm.half)
        rm.windowStart = now + tile;
      return;
    }
    break;
  }
  case State::Store:
    rm.phase = State::FirstEvent;
    return;
  case State::FirstEvent:
  case State::SecondEvent:
    return;
  }
  redmuleWindow();
}

void Machine::redmuleTile16(uint32_t row, uint32_t column) {
  uint32_t tile = config.redmuleColumns * (config.redmulePipeline + 1);
  uint32_t rows = std::min(config.redmuleRows, rm.m - row);
  uint32_t columns = std::min(tile, rm.k - column);
  auto at = [&](uint32_t base, size_t element) {
    return l1.data() + (base - config.l1.base) + 2 * element;
  };
  auto read = [](const uint8_t *p) -> uint32_t { return p[0] | (p[1] << 8); };
  // Halves widen exactly to double, where a product is exact and the sum of a
  // product and a half either is exact too or is so lopsided that its rounding
  // to 53 bits cannot reach the middle between two halves. So one rounding to
  // half after the double addition is the fused one.
  auto widen = [&](const uint8_t *p) { return fp::halfToDouble(read(p)); };
  tileW.resize(size_t(rm.n) * columns);
  for (uint32_t n = 0; n < rm.n; ++n)
    for (uint32_t c = 0; c < columns; ++c)
      tileW[size_t(n) * columns + c] =
          widen(at(rm.w, size_t(n) * rm.k + column + c));
  std::vector<double> sum(columns);
  for (uint32_t r = row; r < row + rows; ++r) {
    for (uint32_t c = 0; c < columns; ++c)
      sum[c] = widen(at(rm.y, size_t(r) * rm.k + column + c));
    for (uint32_t n = 0; n < rm.n; ++n) {
      double a = widen(at(rm.x, size_t(r) * rm.n + n));
      const double *w = &tileW[size_t(n) * columns];
      for (uint32_t c = 0; c < columns; ++c)
        sum[c] = fp::roundToHalf(a * w[c] + sum[c]);
    }
    for (uint32_t c = 0; c < columns; ++c) {
      uint32_t half = fp::doubleToHalf(sum[c]);
      uint8_t *z = at(rm.y, size_t(r) * rm.k + column + c);
      z[0] = uint8_t(half);
      z[1] = uint8_t(half >> 8);
    }
  }
}

} // namespace tdsim
