#include "lib/CostModel/CostModel.h"

#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;

namespace td {

CostModel::CostModel(const Target &target) {
  // A section that a target lacks is a part that it lacks.
  auto number = [&](llvm::StringRef section, llvm::StringRef key) {
    return target.has(section) ? target.number(section, key) : 0;
  };
  dmaBytes = number("dma", "bytes_per_cycle");
  dmaStart = number("dma", "start_cycles");
  burstBytes = number("dma", "burst_bytes");
  burstLatency = number("dma", "latency_cycles");
  issue = number("runtime", "issue_cycles");
  command = number("runtime", "command_cycles");
  waitCycles = number("runtime", "wait_cycles");
  callCycles = number("runtime", "call_cycles");
  readByte = number("hyperram", "read_cycles_per_byte");
  writeByte = number("hyperram", "write_cycles_per_byte");
  hyperTransfer = number("hyperram", "transfer_cycles");
  readLine = number("hyperram", "read_line_cycles");
  writeLine = number("hyperram", "write_line_cycles");
  rows = number("redmule", "rows");
  columns = number("redmule", "columns");
  pipeline = number("redmule", "pipeline");
  portBytes = number("redmule", "port_bytes");
  tileCycles = number("redmule", "tile_cycles");
  jobCycles = number("redmule", "job_cycles");
  cluster.units = number("fpu", "count");
  cluster.divide = number("fpu", "fdiv32");
  cluster.banks = number("memory.l1", "banks");
  if (!target.has("cores.taken_branch"))
    return;
  cluster.cores = number("cores", "count");
  cluster.takenBranch = number("cores", "taken_branch");
  cluster.loadUse = number("cores", "load_use");
  cluster.barrier = number("cores", "barrier");
  cluster.multiply = number("cores", "mul");
  cluster.divideInteger = number("cores", "div");
}

int64_t CostModel::dmaCycles(int64_t commands, int64_t lines, int64_t lineBytes,
                             bool toL1) const {
  // Each line starts a beat of its own.
  int64_t cycles =
      commands * dmaStart + lines * llvm::divideCeil(lineBytes, dmaBytes);
  // To L2, a burst waits for the one before.
  if (!toL1)
    cycles += lines * llvm::divideCeil(lineBytes, burstBytes) * burstLatency;
  return cycles;
}

int64_t CostModel::hyperCycles(int64_t commands, int64_t lines,
                               int64_t lineBytes, bool toL3) const {
  double perByte = toL3 ? writeByte : readByte;
  int64_t perLine = toL3 ? writeLine : readLine;
  return commands * hyperTransfer + (lines - commands) * perLine +
         static_cast<int64_t>(std::ceil(perByte * lines * lineBytes));
}

GemmCost CostModel::gemm(int64_t m, int64_t n, int64_t k, Type element) const {
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  // One tile of Z has `rows` rows and as many columns as keep the array's
  // pipelines full; it takes that many cycles for each `columns` steps of N.
  int64_t width = columns * (pipeline + 1);
  int64_t tileColumns = llvm::divideCeil(k, width);
  auto tiles = [&](int64_t count, int64_t validRows) {
    GemmCost::Tiles tiles;
    tiles.count = count * tileColumns;
    tiles.array = width * llvm::divideCeil(n, columns) + tileCycles;
    // Beats of the port, which serves valid rows only: W a row a step, X a
    // port's width of steps at once, Y in and Z out.
    int64_t lineBeats = llvm::divideCeil(width * bytes, portBytes);
    tiles.beats = lineBeats * n +
                  validRows * llvm::divideCeil(n * bytes, portBytes) +
                  2 * validRows * lineBeats;
    return tiles;
  };
  GemmCost cost;
  cost.full = tiles(m / rows, rows);
  if (m % rows)
    cost.partial = tiles(1, m % rows);
  cost.fixed = jobCycles;
  return cost;
}

} // namespace td
