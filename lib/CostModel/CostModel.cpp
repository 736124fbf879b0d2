#include "lib/CostModel/CostModel.h"

#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;

namespace td {

int64_t dmaCycles(const Target &target, int64_t commands, int64_t lines,
                  int64_t lineBytes) {
  int64_t width = target.integer("dma", "bytes_per_cycle");
  // Each line starts a beat of its own.
  return commands * target.integer("dma", "transfer_cycles") +
         lines * llvm::divideCeil(lineBytes, width);
}

int64_t hyperCycles(const Target &target, int64_t lines, int64_t lineBytes,
                    bool toL3) {
  double perByte = target.number("hyperram", toL3 ? "write_cycles_per_byte"
                                                  : "read_cycles_per_byte");
  return lines * target.integer("hyperram", "transfer_cycles") +
         static_cast<int64_t>(std::ceil(perByte * lines * lineBytes));
}

int64_t redmuleCycles(const Target &target, int64_t m, int64_t n, int64_t k,
                      Type element) {
  int64_t rows = target.integer("redmule", "rows"),
          columns = target.integer("redmule", "columns"),
          pipeline = target.integer("redmule", "pipeline"),
          port = target.integer("redmule", "port_bytes");
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  // One tile of Z has `rows` rows and as many columns as keep the array's
  // pipelines full; it takes that many cycles for each `columns` steps of N.
  int64_t width = columns * (pipeline + 1);
  int64_t array = width * llvm::divideCeil(n, columns) +
                  target.integer("redmule", "tile_cycles");
  int64_t percent = target.integer("redmule", "port_percent");
  auto tileCycles = [&](int64_t validRows) {
    // Beats of the port, which serves valid rows only: W a row a step, X a
    // port's width of steps at once, Y in and Z out.
    int64_t lineBeats = llvm::divideCeil(width * bytes, port);
    int64_t beats = lineBeats * n +
                    validRows * llvm::divideCeil(n * bytes, port) +
                    2 * validRows * lineBeats;
    return std::max(array, percent * beats / 100);
  };
  int64_t perColumn =
      m / rows * tileCycles(rows) + (m % rows ? tileCycles(m % rows) : 0);
  return llvm::divideCeil(k, width) * perColumn +
         target.integer("redmule", "job_cycles");
}

} // namespace td
