// What the runtime occupies of L1 and L2: the part that the planner and
// td-assign-addresses leave free.
#ifndef TD_LIB_RUNTIME_LAYOUT_H
#define TD_LIB_RUNTIME_LAYOUT_H

#include "dialects/Tile/Tile.h"
#include "lib/Kernels/MathExpansion.h"
#include "lib/Runtime/jobs.h"
#include "lib/Target/Target.h"

namespace td {

/// Operators that a program's jobs are accounted to.
inline int64_t countOperators(tile::ProgramOp program) {
  auto operators = program.getBody().getOps<tile::OperatorOp>();
  return std::distance(operators.begin(), operators.end());
}

/// The runtime's memory, from the target description, the number of operators
/// of the program and the bytes of its functions' tables. Buffers of the plan
/// lie in [l1Begin, l1End) and [l2Begin, l2End).
///
/// L1, from its base: the cores' stacks, two table chunks, the executor's
/// state, functions' tables, the operators' cycle counters. At its end,
/// RedMulE's read-ahead. L2, from the base of the shared part: code, constants
/// and job tables. The host's stack and its window for L3 lie in the private
/// part.
class RuntimeLayout {
public:
  RuntimeLayout(const Target &target, int64_t operators, int64_t tables) {
    l1Base = target.integer("memory.l1", "base");
    l1Top = l1Base + target.integer("memory.l1", "size");
    stacks = target.integer("cores", "count") *
             target.integer("runtime", "core_stack");
    l1Reserved = stacks + 2 * TD_CHUNK_BYTES + 4 * TD_STATE_WORDS + tables +
                 4 * TD_COUNTERS * operators;
    l1Reserved = (l1Reserved + 63) / 64 * 64;
    l1Padding =
        target.has("redmule") ? target.integer("redmule", "read_ahead") : 0;
    l2Base = target.integer("memory.l2", "base");
    l2Top = l2Base + target.integer("memory.l2", "size");
    l2Reserved = target.integer("runtime", "l2_reserved");
  }

  int64_t l1Begin() const { return l1Base + l1Reserved; }
  int64_t l1End() const { return l1Top - l1Padding; }
  int64_t l2Start() const { return l2Base; }
  int64_t l2Begin() const { return l2Base + l2Reserved; }
  int64_t l2End() const { return l2Top; }

private:
  int64_t l1Base, l1Top, l1Reserved, l1Padding, stacks;
  int64_t l2Base, l2Top, l2Reserved;
};

} // namespace td

#endif
