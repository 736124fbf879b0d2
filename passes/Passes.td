// Every pass of the compiler: what it requires, what it guarantees.
#ifndef TRAINDEEPLOY_PASSES
#define TRAINDEEPLOY_PASSES

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// td-graph: a forward model becomes a training step
//===----------------------------------------------------------------------===//

def AttachLoss : Pass<"td-attach-loss", "::mlir::ModuleOp"> {
  let summary = "Turn @forward into a training step that returns the loss";
  let description = [{
    Requires: a function @forward of one block with one result, a tensor of
    floats (of rank 2 or more for cross entropy). Guarantees: @forward is gone; @step has
    its arguments, then the target (`train.name` "target", the prediction's type,
    for mse, l1 and bce-with-logits; "labels", whole numbers, for cross entropy), and returns
    the loss, a tensor of rank 0: the mean, or the sum, over elements or rows of classes.
    Labels have the shape `labels`, by default the prediction's without the axis `class-axis` (negative ones count from the
    last); those that are `ignored` do not count. With `weighted` the parameter @loss.weight [classes] weighs them.
    For the loss "model" the result of @forward, of one element, is the loss already.
  }];
  let options = [Option<"loss", "loss", "std::string", "\"mse\"", "mse, l1, bce-with-logits or cross-entropy">,
                 Option<"reduction", "reduction", "std::string", "\"mean\"", "mean or sum">,
                 Option<"smoothing", "smoothing", "double", "0.0", "Label smoothing of cross entropy">,
                 Option<"classAxis", "class-axis", "int64_t", "1", "Axis of the prediction that holds the classes">,
                 ListOption<"labels", "labels", "int64_t", "Shape of the labels">,
                 Option<"ignored", "ignored", "int64_t", "::td::noLabel", "Label that does not count">,
                 Option<"weighted", "weighted", "bool", "false", "Whether classes have weights">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def ApplyRecipe : Pass<"td-apply-recipe", "::mlir::ModuleOp"> {
  let summary = "Mark the parameters that a recipe trains";
  let description = [{
    Requires: `train.parameter`s. Guarantees: exactly the
    parameters whose symbol is listed in `trainable` are marked trainable, or,
    without a list, those that are marked already; there is at least one. A name
    that is no parameter is an error.
  }];
  let options = [ListOption<"trainable", "trainable", "std::string", "Symbols of the parameters to train">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def RecognizeComposites : Pass<"td-recognize-composites", "::mlir::func::FuncOp"> {
  let summary = "Find layer norm, softmax and GELU that are written out in primitives";
  let description = [{
    As ONNX files of older opsets have them: (x - mean) / sqrt(mean((x - mean)^2) + epsilon) with any
    axes, and RMS norm; times a scale; exp(x - max) / sum; GELU by erf or tanh, its factors in any
    order. Requires nothing. Guarantees the same function up to rounding.
  }];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def MovePermutes : Pass<"td-move-permutes", "::mlir::func::FuncOp"> {
  let summary = "Move permutes of dimensions together, where they cancel";
  let description = [{
    A model computes with channels first, convolution and pooling here with
    channels last: the frontend puts a `train.permute` on either side. These move
    down through element-wise ops (small operands are permuted instead), reshapes that merge
    neighbours, and into products, until they meet their inverse; what is left
    pays at the input and at a flatten. Requires nothing. Guarantees the same values.
  }];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def MoveActivations : Pass<"td-move-activations", "::mlir::func::FuncOp"> {
  let summary = "Move activations behind max pooling, where fewer elements are left";
  let description = [{
    max_pool(relu(x)) = relu(max_pool(x)), if nothing else uses relu(x) and every window has a tap inside
    of the input: NaN, zeros and infinities included. The gradients are equal as well, since the slope of ReLU
    at 0 is 0: where the maximum is not positive both are zero, where it is positive the same element is the
    first to attain it, and the last NaN of a window is one on either way. Of a clamp only the values are equal (elements beyond a bound tie on
    it), so it moves only once the step is `differentiated` and no gradient needs the winning taps.
    Requires nothing. Guarantees the same values and gradients.
  }];
  let options = [Option<"differentiated", "differentiated", "bool", "false",
                        "Gradients are in the graph: only values matter">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def AssignLayouts : Pass<"td-assign-layouts", "::mlir::ModuleOp"> {
  let summary = "Choose the order of axes in which each parameter is stored";
  let description = [{
    A parameter that is read through permutes of one kind only (a convolution's
    filter) is stored so; a weight [out, in] that only the forward's products of several
    rows read, as [in, out]. `layout` on the parameter says how, and what loads
    and saves parameters transposes. Optimizer states that are made later lie as their parameter.
    Requires: gradients as marks (before td-insert-updates). Guarantees: types of reads, gradients
    and parameters agree; the rest computes the same.
  }];
  let statistics = [Statistic<"permutedParameters", "permuted", "Parameters that are stored permuted">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def Differentiate : Pass<"td-differentiate", "::mlir::ModuleOp"> {
  let summary = "Add the gradients of the loss with respect to the trainable parameters";
  let description = [{
    One reverse sweep over @step with activity analysis: an op is differentiated
    if it depends on a trainable parameter and the loss depends on it.
    Requires: @step returns the loss only; parameters are marked; every active op implements
    DifferentiableOpInterface (another one is an error at its location).
    Guarantees: one `train.gradient` for each parameter that is marked
    trainable, directly after the op that makes its value. A marked parameter that
    does not reach the loss is warned about and loses its mark. Nothing is added for
    frozen parameters, or for values that reach no trainable one. With a loss scale,
    every gradient is that of the loss times the scale.
  }];
  let options = [Option<"lossScale", "loss-scale", "double", "1.0",
      "What the loss is multiplied by as gradients see it: a power of two">];
  let statistics = [Statistic<"differentiated", "differentiated", "Ops whose vector-Jacobian product was built">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def InsertUpdates : Pass<"td-insert-updates", "::mlir::ModuleOp"> {
  let summary = "Replace every gradient by the optimizer's update of its parameter";
  let description = [{
    Requires: `train.gradient`s from td-differentiate, and a `train.optimizer`; if there are several, parameters
    name theirs. Guarantees: none of these is left; @step has a last argument, the learning rate
    (`train.name` "lr", rank 0). What an optimizer computes once a step is one operator at its start.
    Each gradient's place is taken by the update, an operator on weight, gradient and states and an assignment to
    each, as early as the gradient exists and the last op that uses the parameter's old value is done (checked by
    `verifySnapshots`). Each trained parameter p has a parameter p.s behind it for each state s; what all share is
    a parameter of rank 0, called after the optimizer's symbol. What gradients were scaled by is divided out,
    exactly: of the learning rate if the optimizer is `linear`, or of each gradient.
    With `clip-norm` gradients are multiplied by min(1, clip-norm / (norm + 1e-6)), all of them are kept
    until then, and @step returns their norm behind the loss. With `accumulate` these gradients are sums over
    runs (`mean-of-steps`: their means), states of which every so many runs make an update.
    With `zeroth-order` there are no gradients: several runs of @step make up an update from differences of the
    loss (passes/ZerothOrder.h), between which trainable parameters move by so much along a direction.
    Of a parameter with `train.last_channels` = k the last k indices of the model's first axis are updated, and the
    rest, with its states, stays.
  }];
  let options = [Option<"lossScale", "loss-scale", "double", "1.0",
                        "What gradients are multiplied by: a power of two">,
                 Option<"clipNorm", "clip-norm", "double", "0.0",
                        "Largest norm of all gradients together; 0 is none">,
                 Option<"accumulate", "accumulate", "int64_t", "1",
                        "Runs whose gradients make an update, as the norm or a scale that is a state see them">,
                 Option<"meanOfSteps", "mean-of-steps", "bool", "false",
                        "The mean of these gradients instead of the sum">,
                 Option<"zerothOrder", "zeroth-order", "double", "0.0",
                        "How far parameters are moved for differences of the loss; 0: there are gradients">,
                 Option<"directions", "directions", "int64_t", "1", "Directions of an update">,
                 Option<"oneSided", "one-sided", "bool", "false",
                        "Differences with the loss at the parameters themselves">,
                 Option<"signs", "signs", "bool", "false", "Directions of -1 and 1">,
                 Option<"seed", "seed", "uint64_t", "0", "Of the directions">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def Decompose : Pass<"td-decompose", "::mlir::func::FuncOp"> {
  let summary = "Decompose the train dialect's operators to linalg";
  let description = [{
    Requires: updates in place of gradients. Guarantees (checked by
    `verifyDecomposed`): of the train dialect only read and assign are left;
    the rest is linalg.matmul (transposed operands are indexing maps), linalg.generic
    whose operands' maps are sums of loops times non-negative integers (windows) and whose results'
    maps are projected permutations, linalg.fill, tensor.collapse_shape,
    expand_shape, empty, extract_slice and insert_slice with constant offsets and strides, and
    constants. Snapshots still allow updates in place.
  }];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def FuseElementwise : Pass<"td-fuse-elementwise", "::mlir::func::FuncOp"> {
  let summary = "Fuse element-wise ops into their only consumer of the same domain";
  let description = [{
    Upstream's element-wise fusion, where it is free: the producer has no other
    use, the consumer is element-wise over the same domain (so nothing is computed
    twice, and parallel work stays out of sequential sums), and no use of a
    parameter's old value moves behind its update. A matmul that sums one product
    from zero becomes an outer product first, which fuses, too. A copy that only
    permutes dimensions disappears into the maps of what reads it, or of what makes it.
    Requires: what td-decompose guarantees. Guarantees: the same, and the function's
    attribute `train.flop`, 2 a multiply-accumulate of every GEMM and convolution.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
}

def NarrowProducts : Pass<"td-narrow-products", "::mlir::func::FuncOp"> {
  let summary = "Compute products of matrices in half precision";
  let description = [{
    Every product of matrices and every convolution from f32 to f32 takes f16 operands and
    gives an f16 result, as an accelerator does that reads nothing else. Those with one row,
    one column or one step of the sum stay in f32. Operands are rounded where they are made, as a
    further result of what makes them; a parameter where it is read, so that the array
    stays f32 (an operand wider than the result is rounded to the result's type). What
    reads a product widens it. Everything else, updates and parameters too, stays f32.
    Requires: what td-decompose guarantees. Guarantees: the same.
  }];
  let statistics = [Statistic<"narrowed", "narrowed", "Products that are computed in f16">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::tensor::TensorDialect"];
}

def ParametersToArguments : Pass<"td-parameters-to-arguments", "::mlir::ModuleOp"> {
  let summary = "Pass parameters to @step and return their next values";
  let description = [{
    For the host. Guarantees: no parameter, read or assign is left; @step has, after its
    own arguments, one per parameter in the module's order, and, after its own
    results, the next value of each parameter that it assigns, in that order. It is marked for
    the C interface.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
}

def LowerCopies : Pass<"td-lower-copies", "::mlir::func::FuncOp"> {
  let summary = "Lower memref.copy to linalg.copy";
  let description = [{
    For the host: upstream lowers a copy between strided buffers to a call of a library that is
    not there. Guarantees: no memref.copy is left.
  }];
  let dependentDialects = ["::mlir::linalg::LinalgDialect"];
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
    every tile size is tried (for tests on small graphs). What follows a
    contraction (activation, residual, a norm or softmax of its rows, a pooling)
    shares its tiles unless both apart are predicted to take less, or what is
    between them has no room; with `fuse-always` it does
    wherever the tiles fit.
    An operator whose smallest tiles do not fit is an error with the bytes.
  }];
  let options = [Option<"exhaustive", "exhaustive", "bool", "false", "Try every tile size">,
                 Option<"fuseAlways", "fuse-always", "bool", "false",
                        "Fuse what fits, whatever it is predicted to cost">,
                 Option<"estimates", "estimates", "bool", "false",
                        "Choose by the search's estimates, without simulation">];
  let statistics = [Statistic<"tilings", "tilings", "Tilings evaluated">];
  let dependentDialects = ["::td::tile::TileDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::memref::MemRefDialect", "::mlir::arith::ArithDialect",
                           "::td::redmule::RedMulEDialect"];
}

def LowerJobs : Pass<"td-lower-jobs", "::mlir::ModuleOp"> {
  let summary = "Lower the stream of asynchronous jobs to job records";
  let description = [{
    Requires: `tile.program`s of jobs (level 4) whose buffers have addresses, and
    `tile.target`. Guarantees: the program holds `tile.buffer`, `tile.operator`
    and, for its jobs, `pulp` and `redmule` ops with absolute addresses, in the
    order of the stream; slots of DMA and uDMA are free when taken; one RedMulE
    job at a time; every job is waited for before the end; a barrier stands
    exactly where a job depends on another core's work since the last one;
    `tile.arrays` of the program says where arrays and tiles lie and between
    which records they live.
    A job that touches bytes of one in flight, and a buffer outside of what the
    runtime leaves free, are errors.
  }];
  let dependentDialects = ["::td::pulp::PulpDialect", "::td::redmule::RedMulEDialect"];
  let statistics = [Statistic<"numDma", "dma", "DMA commands">,
                    Statistic<"numHyper", "hyper", "transfers between L2 and L3">,
                    Statistic<"numGemm", "gemm", "GEMM jobs">,
                    Statistic<"numCall", "call", "kernel calls">,
                    Statistic<"numBarrier", "barrier", "barriers">];
}

def LowerTable : Pass<"td-lower-table", "::mlir::ModuleOp"> {
  let summary = "Make job records a constant table";
  let description = [{
    Requires: one `tile.program` of `pulp` and `redmule` job ops (level 5), and
    kernels as LLVM functions. Guarantees: no `tile.program` is left; the records
    are constant globals `td_jobs_*`, rolled into loops where they repeat with
    constant increments, and `td_program` describes the program to the runtime
    (docs/runtime.md). The section `.traindeeploy` holds the same for tools, as
    JSON.
  }];
  let options = [Option<"roll", "roll", "std::string", "\"auto\"",
      "Roll records into loops: never, always, or auto: if they would fill half of what L2 reserves for code">];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
  let statistics = [Statistic<"numRecords", "records", "records of the table">,
                    Statistic<"numBytes", "bytes", "bytes of the table">,
                    Statistic<"numLoops", "loops", "loops in the table">];
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
    tiles and operators as far as L1 has room, stores drain behind. Tiles in L1 get
    their addresses on the way. If tiles then find no place, or addresses elsewhere do
    not fit, it tries again with less memory, at last in the plan's own order; a program that does not fit even so is an error. Every job gets its place in the
    plan's order (`tile.sequence`), the program its predicted cycles
    (`tile.predicted_cycles`).
  }];
  let dependentDialects = ["::td::tile::TileDialect"];
  let statistics = [
    Statistic<"jobs", "jobs", "Jobs scheduled">,
    Statistic<"makespan", "cycles", "Predicted cycles of the stream">,
    Statistic<"sequential", "sequential-cycles", "Predicted cycles of one job after the other">,
    Statistic<"cores", "cycles-cores", "Predicted cycles of kernels">,
    Statistic<"redmule", "cycles-redmule", "Predicted cycles of GEMM jobs">,
    Statistic<"dmaIn", "cycles-dma-in", "Predicted cycles of loads to L1">,
    Statistic<"dmaOut", "cycles-dma-out", "Predicted cycles of stores from L1">,
    Statistic<"hyperram", "cycles-hyperram", "Predicted cycles of copies between L2 and L3">,
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
    Requires: programs of jobs, with or without addresses, and kernels that are
    not lowered yet (they say what they read and write). Guarantees: no job
    starts while one in flight conflicts with it on any byte; an engine without a
    queue has one job at a time; every asynchronous job is waited for
    exactly once; what a job reads was written, by its own tile's or array's last
    writer, and not overwritten; jobs that conflict come in the plan's order
    (`tile.sequence`); what outlives the step is written as a whole and not
    shared. Changes nothing.
  }];
  let dependentDialects = ["::td::tile::TileDialect", "::td::redmule::RedMulEDialect"];
}

def ExpandMath : Pass<"td-expand-math", "::mlir::ModuleOp"> {
  let summary = "Replace functions of `math` by arithmetic that the cores have";
  let description = [{
    Requires: functions of `math` on scalars of f32, or of f16, which are computed
    in f32. Guarantees: those left are instructions (fma, sqrt, absf, copysign);
    a function without an expansion is an error. docs/math.md states the errors.
    GELU by erf and its derivative, which a block writes out, are looked up: their
    tables are constants of the module, in section `.tables`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::LLVM::LLVMDialect"];
  let statistics = [Statistic<"numExpanded", "expanded", "Number of functions expanded">,
                    Statistic<"numTabulated", "tabulated", "Number of functions by table">];
}

def LowerKernels : Pass<"td-lower-kernels", "::mlir::ModuleOp"> {
  let summary = "Turn kernels into SPMD loops for the cluster's cores";
  let description = [{
    Requires: functions marked `tile.kernel` whose body is one linalg op on its
    arguments (packed row-major tiles in L1, sizes mostly dynamic; inputs indexed
    by sums of multiples of dimensions, outputs by projected permutations) after constants; no
    function of `math` but those that are instructions (td-expand-math); a
    target description.

    Guarantees: each is an `llvm.func @name(!llvm.ptr, i32)` in the LLVM dialect
    that takes a table of words (per tile its address and sizes, then the
    function's index arguments: where a tile starts in its array) and the number of the core, and does that core's share. All results are
    written when all cores have returned. Reductions run in ascending order into
    the outputs; a contraction is a fused multiply-add per step.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::mlir::LLVM::LLVMDialect", "::td::pulp::PulpDialect"];
  let statistics = [Statistic<"numKernels", "kernels", "Number of kernels lowered">];
}

//===----------------------------------------------------------------------===//
// td-entry: a forward model becomes a step that evaluates or infers
//===----------------------------------------------------------------------===//

def TakePrediction : Pass<"td-take-prediction", "::mlir::ModuleOp"> {
  let summary = "Turn @forward into a step that returns the prediction";
  let description = [{
    Requires: a function @forward of one block with one result, a tensor. Guarantees: @forward is gone; @step has
    its arguments and its result, which has the `train.name` "prediction".
  }];
}

def AttachMetrics : Pass<"td-attach-metrics", "::mlir::ModuleOp"> {
  let summary = "Make a step that returns the loss one that returns sums over some of its samples";
  let description = [{
    Requires: what td-attach-loss guarantees. Guarantees: @step has a last argument (`train.name` "samples", a whole
    number of rank 0): how many of the samples, the first ones of axis 0 of labels or target, count. It returns
    the sum of the loss over those ("loss"), and behind it, for each k of `top`, how many rows of classes have
    their label among the k largest logits ("top<k>"), and with `absolute-error` the sum of the absolute errors
    ("absolute_error"); the names are results' `train.name`s. Of equal logits the one of the lower class is the
    larger one, as an argmax takes the first; a row of the ignored label is never counted.
    A loss that the model computes itself stays as it is: nothing tells its samples apart.
  }];
  let options = [ListOption<"top", "top", "int64_t", "Numbers of largest logits to look for the label in">,
                 Option<"absoluteError", "absolute-error", "bool", "false", "Sum up absolute errors as well">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::tensor::TensorDialect", "::td::train::TrainDialect"];
}

//===----------------------------------------------------------------------===//
// td-host
//===----------------------------------------------------------------------===//

def LowerRecurrences : Pass<"td-lower-recurrences", "::mlir::func::FuncOp"> {
  let summary = "Lower recurrences to loops over slices of tensors";
  let description = [{
    For the host. Requires: what td-decompose guarantees. Guarantees: each train.recurrence is an
    scf.for that carries its results.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect"];
}

#endif
