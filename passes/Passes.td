// Every pass of the compiler: what it requires, what it guarantees.
#ifndef TRAINDEEPLOY_PASSES
#define TRAINDEEPLOY_PASSES

include "mlir/Pass/PassBase.td"

def ApplyRecipe : Pass<"td-apply-recipe", "::mlir::ModuleOp"> {
  let summary = "Mark the parameters that a recipe trains";
  let description = [{
    Requires: `train.parameter`s without marks. Guarantees: exactly the
    parameters whose symbol is listed in `trainable` are marked trainable; a name
    that is no parameter is an error.
  }];
  let options = [ListOption<"trainable", "trainable", "std::string", "Symbols of the parameters to train">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def SetTarget : Pass<"td-set-target", "::mlir::ModuleOp"> {
  let summary = "Put a built-in target description on the module";
  let description = [{
    Guarantees: the module attribute `tile.target` mirrors
    python/traindeeploy/targets/<name>.toml. The driver sets the attribute itself
    when the target is a file.
  }];
  let options = [Option<"name", "name", "std::string", "\"pulp-redmule\"", "Name of a built-in target">];
  let dependentDialects = ["::td::tile::TileDialect"];
}

def PlanStep : Pass<"td-plan-step", "::mlir::ModuleOp"> {
  let summary = "Choose placement, groups, engines and tiles for a training step";
  let description = [{
    Requires: `@step` in the closed set that td-decompose leaves, and a target.
    Guarantees: one `tile.program` in its place, with a buffer per array at the
    level where it lives, and a `tile.group` per operator in execution order,
    whose tiles fit L1. Parameters are updated in place. Chooses by the cycle
    model among engines, layouts, tile sizes and loop orders; with `exhaustive`
    every tile size is tried (for tests on small graphs).
    An operator whose smallest tiles do not fit is an error with the bytes.
  }];
  let options = [Option<"exhaustive", "exhaustive", "bool", "false", "Try every tile size">];
  let statistics = [Statistic<"tilings", "tilings", "Tilings evaluated">];
  let dependentDialects = ["::td::tile::TileDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::arith::ArithDialect"];
}

def ExpandGroups : Pass<"td-expand-groups", "::mlir::ModuleOp"> {
  let summary = "Unroll the tile loops of each group into jobs";
  let description = [{
    Requires: `tile.program`s of `tile.buffer`s and `tile.group`s. Guarantees: no
    group is left; each program lists its operators (`tile.operator`, one per group) and then
    jobs in an order that is right when run one after the other, every
    asynchronous job waited for at once. Stages on cores are outlined into
    functions with the attribute `tile.kernel`; equal ones share a function.
    Stages on RedMulE become `redmule.gemm`. Arrays in L3 pass through staging
    tiles in L2.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
                           "::mlir::linalg::LinalgDialect", "::td::redmule::RedMulEDialect",
                           "::td::tile::TileDialect"];
}

def ScheduleJobs : Pass<"td-schedule-jobs", "::mlir::ModuleOp"> {
  let summary = "Reorder jobs so that cores, RedMulE and DMA work at the same time";
  let description = [{
    Requires: programs of jobs in an order that is right when run one after the
    other, as td-expand-groups leaves them, and a target. Guarantees: the same jobs in
    an order that respects every dependence, with waits as late as possible
    (before the first use, before the reuse of a tile's bytes, at the end); tiles
    that are live together fit their memories, so that td-assign-addresses succeeds.
    Chooses by simulating the engines with predicted cycles: loads run ahead across
    tiles and operators as far as L1 has room, stores drain behind. When addresses
    do not fit, it tries again with less memory, at last in the plan's own
    order; a program that does not fit even so is an error. Every job gets its place in the
    plan's order (`tile.sequence`), the program its predicted cycles
    (`tile.predicted_cycles`).
  }];
  let dependentDialects = ["::td::tile::TileDialect"];
  let statistics = [
    Statistic<"jobs", "jobs", "Jobs scheduled">,
    Statistic<"makespan", "cycles", "Predicted cycles of the stream">,
    Statistic<"sequential", "sequential-cycles", "Predicted cycles of one job after the other">,
    Statistic<"retries", "retries", "Schedules given up because their addresses did not fit">];
}

def AssignAddresses : Pass<"td-assign-addresses", "::mlir::ModuleOp"> {
  let summary = "Give every array and tile its static address";
  let description = [{
    Requires: programs of jobs and a target. Guarantees: every `tile.buffer` and
    `tile.alloc` that is used has an address within the part of its memory that the
    runtime leaves free; those that are live at the same position of the stream do
    not overlap. A tile lives from the issue of its first job to the completion
    of its last, a temporary likewise; parameters, optimizer state, inputs,
    outputs and constants live throughout. Unused temporaries are removed. What
    does not fit is an error that names the operator, the bytes needed and
    available.
  }];
  let dependentDialects = ["::td::tile::TileDialect"];
  let statistics = [
    Statistic<"l1Peak", "l1-bytes", "Bytes of L1 that tiles occupy">,
    Statistic<"l1LowerBound", "l1-live-bytes", "Most bytes of L1 that are live at once">,
    Statistic<"l2Peak", "l2-bytes", "Bytes of L2 that arrays occupy">,
    Statistic<"l2LowerBound", "l2-live-bytes", "Most bytes of L2 that are live at once">,
    Statistic<"l3Peak", "l3-bytes", "Bytes of L3 that arrays occupy">];
}

def VerifyJobs : Pass<"td-verify-jobs", "::mlir::ModuleOp"> {
  let summary = "Check that a stream of jobs is free of races";
  let description = [{
    Requires: programs of jobs, with or without addresses. Guarantees: no job
    starts while one in flight conflicts with it on any byte; an engine without a
    queue has one job at a time; every asynchronous job is waited for
    exactly once; what a job reads was written, by its own tile's or array's last
    writer, and not overwritten; jobs that conflict come in the plan's order
    (`tile.sequence`); what outlives the step is written as a whole and not
    shared. Changes nothing.
  }];
  let dependentDialects = ["::td::tile::TileDialect", "::td::redmule::RedMulEDialect"];
}

def ExpandMath : Pass<"td-expand-math"> {
  let summary = "Replace functions of `math` by arithmetic that the cores have";
  let description = [{
    Requires: functions of `math` on scalars of f32, or of f16, which are computed
    in f32. Guarantees: those left are instructions (fma, sqrt, absf, copysign);
    a function without an expansion is an error. docs/math.md states the errors.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect"];
  let statistics = [Statistic<"numExpanded", "expanded", "Number of functions expanded">];
}

def LowerKernels : Pass<"td-lower-kernels", "::mlir::ModuleOp"> {
  let summary = "Turn kernels into SPMD loops for the cluster's cores";
  let description = [{
    Requires: functions marked `tile.kernel` whose body is one linalg op on its
    arguments (packed row-major tiles in L1, sizes dynamic) after constants; no
    function of `math` but those that are instructions (td-expand-math); a
    target description.

    Guarantees: each is an `llvm.func @name(!llvm.ptr, i32)` in the LLVM dialect
    that takes a table of words (per tile its address and sizes, then the index
    of the tile's first element along each dimension that `linalg.index` uses)
    and the number of the core, and does that core's share. All results are
    written when all cores have returned. Reductions run in ascending order into
    the outputs; a matmul is a fused multiply-add per step.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::LLVM::LLVMDialect", "::td::pulp::PulpDialect"];
  let statistics = [Statistic<"numKernels", "kernels", "Number of kernels lowered">];
}

#endif
