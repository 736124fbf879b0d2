#include "lib/CostModel/CostModel.h"

#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;

namespace td {

int64_t dmaCycles(const Target &target, int64_t commands, int64_t lines,
                  int64_t lineBytes, bool toL1) {
  int64_t width = target.integer("dma", "bytes_per_cycle");
  // Each line starts a beat of its own.
  int64_t cycles = commands * target.integer("dma", "start_cycles") +
                   lines * llvm::divideCeil(lineBytes, width);
  // To L2, a burst waits for the one before.
  if (!toL1)
    cycles +=
        lines *
        llvm::divideCeil(lineBytes, target.integer("dma", "burst_bytes")) *
        target.integer("dma", "latency_cycles");
  return cycles;
}

int64_t issueCycles(const Target &target, int64_t commands) {
  return target.integer("runtime", "issue_cycles") +
         (commands - 1) * target.integer("runtime", "command_cycles");
}

int64_t hyperCycles(const Target &target, int64_t lines, int64_t lineBytes,
                    bool toL3) {
  double perByte = target.number("hyperram", toL3 ? "write_cycles_per_byte"
                                                  : "read_cycles_per_byte");
  return lines * target.integer("hyperram", "transfer_cycles") +
         static_cast<int64_t>(std::ceil(perByte * lines * lineBytes));
}

GemmCost gemmCost(const Target &target, int64_t m, int64_t n, int64_t k,
                  Type element) {
  int64_t rows = target.integer("redmule", "rows"),
          columns = target.integer("redmule", "columns"),
          pipeline = target.integer("redmule", "pipeline"),
          port = target.integer("redmule", "port_bytes");
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  // One tile of Z has `rows` rows and as many columns as keep the array's
  // pipelines full; it takes that many cycles for each `columns` steps of N.
  int64_t width = columns * (pipeline + 1);
  int64_t tileColumns = llvm::divideCeil(k, width);
  auto tiles = [&](int64_t count, int64_t validRows) {
    GemmCost::Tiles tiles;
    tiles.count = count * tileColumns;
    tiles.array = width * llvm::divideCeil(n, columns) +
                  target.integer("redmule", "tile_cycles");
    // Beats of the port, which serves valid rows only: W a row a step, X a
    // port's width of steps at once, Y in and Z out.
    int64_t lineBeats = llvm::divideCeil(width * bytes, port);
    tiles.beats = lineBeats * n +
                  validRows * llvm::divideCeil(n * bytes, port) +
                  2 * validRows * lineBeats;
    return tiles;
  };
  GemmCost cost;
  cost.full = tiles(m / rows, rows);
  if (m % rows)
    cost.partial = tiles(1, m % rows);
  cost.fixed = target.integer("redmule", "job_cycles");
  return cost;
}

} // namespace td
