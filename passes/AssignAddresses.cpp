// Gives every array and tile its static address.
#include "lib/Planner/ScheduleAddresses.h"
#include "passes/Passes.h"

namespace td {
#define GEN_PASS_DEF_ASSIGNADDRESSES
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::tile;

namespace {

struct AssignAddresses : td::impl::AssignAddressesBase<AssignAddresses> {
  void runOnOperation() override {
    FailureOr<td::Target> target = td::Target::get(getOperation());
    if (failed(target))
      return signalPassFailure();
    for (auto program : getOperation().getOps<ProgramOp>())
      if (failed(assign(program, *target)))
        return signalPassFailure();
  }

  LogicalResult assign(ProgramOp op, const td::Target &target) {
    FailureOr<td::JobProgram> program = td::JobProgram::read(op);
    if (failed(program))
      return failure();
    td::setAlignments(*program, target);
    td::AddressPlan plan = td::planAddresses(*program, program->stream, target);
    if (!plan.fits())
      return td::reportOverflow(*program, program->stream, plan);
    for (auto [storage, address] :
         llvm::zip(program->storages, plan.addresses)) {
      if (address >= 0)
        storage.assign(address);
      else if (Operation *unused = storage.value.getDefiningOp();
               unused->use_empty())
        unused->erase();
    }
    l1Peak = std::max<unsigned>(l1Peak, plan.levels[0].peak);
    l1LowerBound = std::max<unsigned>(l1LowerBound, plan.levels[0].lowerBound);
    l2Peak = std::max<unsigned>(l2Peak, plan.levels[1].peak);
    l2LowerBound = std::max<unsigned>(l2LowerBound, plan.levels[1].lowerBound);
    l3Peak = std::max<unsigned>(l3Peak, plan.levels[2].peak);
    return success();
  }
};

} // namespace
