// The jobs of a tile.program as plain data: what each touches, and the stream
// in which they are issued and waited for.
#ifndef TD_LIB_PLANNER_SCHEDULEPROGRAM_H
#define TD_LIB_PLANNER_SCHEDULEPROGRAM_H

#include "dialects/RedMulE/RedMulE.h"
#include "dialects/Tile/Tile.h"
#include "lib/Target/Target.h"
#include <vector>

namespace td {

/// Attribute of a job: its place in the order of the expanded plan, in which
/// jobs are right when run one after the other. td-schedule-jobs sets it,
/// td-verify-jobs checks against it.
inline constexpr llvm::StringLiteral sequenceAttrName = "tile.sequence";

enum class JobKind { LoadL1, StoreL1, LoadL2, StoreL2, Gemm, Call };

inline bool isAsynchronous(JobKind kind) { return kind != JobKind::Call; }
inline bool usesDma(JobKind kind) {
  return kind == JobKind::LoadL1 || kind == JobKind::StoreL1;
}
inline bool usesHyperRam(JobKind kind) {
  return kind == JobKind::LoadL2 || kind == JobKind::StoreL2;
}

/// An array or tile that holds bytes of its own.
struct Storage {
  mlir::Value value;
  tile::Level level;
  /// Keeps its bytes from before the step to after it.
  bool persistent = false;
  /// Holds values when the step begins.
  bool initialized = false;
  int64_t elementBytes = 0, bytes = 0, alignment = 1;
  /// Absolute in l1 and l2, from the device's start in l3; -1 if not assigned.
  int64_t address = -1;

  llvm::StringRef name() const;
  void assign(int64_t address) const;
};

/// A window of a storage that a job reads or writes. One that is written is
/// written as a whole.
struct Access {
  unsigned storage;
  /// What the window is counted in: the shape under which the job sees the
  /// storage. Others may see it under another one.
  llvm::SmallVector<int64_t, 4> shape;
  llvm::SmallVector<int64_t, 4> offsets, sizes, steps;
  bool reads = false, writes = false;

  /// Whether the two may have an element in common. Exact for windows of one
  /// shape with one step; otherwise what lies between a window's elements may
  /// count as its own.
  bool overlaps(const Access &other) const;
  /// Whether this has certainly all elements of the other.
  bool contains(const Access &other) const;
  /// Its first element in the row-major storage, and the one behind its last.
  std::pair<int64_t, int64_t> range() const;
  /// Whether it has every element of its range.
  bool isContiguous() const;
};

/// What `memref.collapse_shape` and `memref.expand_shape` start from.
mlir::Value reshapeSource(mlir::Value value);

struct Job {
  mlir::Operation *op;
  JobKind kind;
  int32_t opIndex;
  llvm::SmallVector<Access, 3> accesses;
};

/// The issue of one job, or the wait for some.
struct StreamEntry {
  bool isWait = false;
  llvm::SmallVector<unsigned, 1> jobs;
  mlir::Operation *op = nullptr;
};

struct JobProgram {
  mutable tile::ProgramOp op;
  mutable std::vector<tile::OperatorOp> operators;
  std::vector<Storage> storages; // in order of definition
  std::vector<Job> jobs;         // in order of issue
  std::vector<StreamEntry> stream;
  int64_t tableBytes = 0; // of L1, for functions of its kernels

  /// Reads a program of jobs; an error on the op that is none.
  static mlir::FailureOr<JobProgram> read(tile::ProgramOp program);

  /// "operator 'name'" of a job, for messages.
  std::string describe(const Job &job) const;
};

/// Positions [first, second) of a stream at which each storage is live: from
/// the issue of its first job to the completion of its last. Empty if unused.
std::vector<std::pair<int64_t, int64_t>>
liveRanges(const JobProgram &program, llvm::ArrayRef<StreamEntry> stream);

} // namespace td

#endif
