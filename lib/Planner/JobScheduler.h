// What the jobs of a program cost, and the best order that a policy finds.
#ifndef TD_LIB_PLANNER_JOBSCHEDULER_H
#define TD_LIB_PLANNER_JOBSCHEDULER_H

#include "lib/CostModel/CostModel.h"
#include "lib/Planner/ScheduleSimulation.h"
#include "mlir/IR/SymbolTable.h"
#include <map>

namespace td {

class JobScheduler {
public:
  /// Prices the jobs of `program`, whose storages get alignments.
  JobScheduler(JobProgram &program, const Target &target);

  /// The best schedule whose tiles and arrays have addresses; those of tiles in
  /// l1 are set in the program's storages. An error on the program if it does
  /// not fit even one job after the other.
  mlir::FailureOr<Schedule> run();

  /// The shortest schedule of all policies within a share of l1 and l2, in
  /// percent; none if tiles do not fit. `inPlace`: tiles get addresses as they
  /// get bytes.
  std::optional<Schedule> shortest(llvm::ArrayRef<int64_t> percent,
                                   bool inPlace);

  /// Of the program's jobs, in their order.
  llvm::ArrayRef<JobCost> jobCosts() const { return problem.costs; }
  /// Predicted cycles of all jobs of one kind.
  int64_t busy(JobKind kind) const;

  int64_t sequential = 0; // cycles of one job after the other
  unsigned retries = 0;   // schedules whose addresses did not fit

private:
  bool findOverlapping(Schedule &best);
  /// What a policy gives; where tiles find no place in l1 beside what is loaded
  /// ahead, nothing is.
  std::optional<Schedule> simulateWithDrains(const SchedulePolicy &policy);
  std::pair<int64_t, int64_t> l1Area() const;
  /// Of tiles in l1; none if they have to be planned.
  void setAddresses(llvm::ArrayRef<int64_t> addresses);
  JobCost costOf(const Job &job);
  JobCost costOf(tile::CallOp call);

  JobProgram &program;
  const Target &target;
  mlir::SymbolTable symbols;
  CostModel costs;
  Contention contention;
  DependenceGraph graph;
  /// What calls of a kernel on tiles of the same shapes cost.
  std::map<llvm::SmallVector<const void *>, JobCost> calls;
  llvm::DenseMap<mlir::Attribute, unsigned> kernels;
  int64_t capacity[2] = {}; // bytes of l1 and l2 beside what persists
  ScheduleProblem problem;
  std::optional<unsigned> stuck; // the job whose tiles found no place
};

} // namespace td

#endif
