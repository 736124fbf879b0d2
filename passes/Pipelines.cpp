// Named pipelines, one per border of IR, and registration of everything.
#include "passes/Passes.h"
#include "passes/Registration.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

namespace td {
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

static void addAttachLoss(OpPassManager &pm, const td::GraphOptions &options) {
  td::AttachLossOptions loss;
  loss.loss = options.loss;
  loss.reduction = options.reduction;
  loss.smoothing = options.smoothing;
  loss.classAxis = options.classAxis;
  loss.labels.assign(options.labels.begin(), options.labels.end());
  loss.ignored = options.ignored;
  loss.weighted = options.weighted;
  pm.addPass(td::createAttachLoss(loss));
}

/// From a step of the train dialect's operators to the closed set.
static void addDecomposition(OpPassManager &pm,
                             const td::GraphOptions &options) {
  OpPassManager &function = pm.nest<func::FuncOp>();
  function.addPass(td::createDecompose());
  // Before anything else changes them: what a loss and its gradient share are
  // equal ops now.
  function.addPass(createCSEPass());
  function.addPass(createCanonicalizerPass());
  function.addPass(td::createFuseElementwise());
  function.addPass(createCanonicalizerPass());
  function.addPass(createCSEPass());
  if (options.precision == td::Precision::Mixed)
    function.addPass(td::createNarrowProducts());
}

void td::buildGraphPipeline(OpPassManager &pm, const GraphOptions &options) {
  addAttachLoss(pm, options);
  ApplyRecipeOptions recipe;
  recipe.trainable.assign(options.trainable.begin(), options.trainable.end());
  pm.addPass(createApplyRecipe(recipe));
  pm.addNestedPass<func::FuncOp>(createRecognizeComposites());
  pm.addNestedPass<func::FuncOp>(createMovePermutes());
  pm.addNestedPass<func::FuncOp>(createMoveActivations());
  bool differences = options.zerothOrder != 0.0;
  if (!differences)
    pm.addPass(createDifferentiate({options.lossScale}));
  pm.addNestedPass<func::FuncOp>(
      createMoveActivations({/*differentiated=*/true}));
  pm.addPass(createAssignLayouts());
  pm.addNestedPass<func::FuncOp>(createMovePermutes());
  pm.addPass(createInsertUpdates(
      {differences ? 1.0 : options.lossScale, options.clipNorm,
       options.accumulate, options.meanOfSteps, options.zerothOrder,
       options.directions, options.oneSided, options.signs, options.seed}));
  addDecomposition(pm, options);
}

static void buildEntryPipeline(OpPassManager &pm,
                               const td::EntryOptions &options) {
  if (options.entry == td::Entry::Evaluate) {
    addAttachLoss(pm, options);
    td::AttachMetricsOptions metrics;
    metrics.top.assign(options.top.begin(), options.top.end());
    metrics.absoluteError = options.absoluteError;
    pm.addPass(td::createAttachMetrics(metrics));
  } else {
    pm.addPass(td::createTakePrediction());
  }
  pm.addNestedPass<func::FuncOp>(td::createRecognizeComposites());
  pm.addNestedPass<func::FuncOp>(td::createMovePermutes());
  // No gradient needs what an activation hides.
  pm.addNestedPass<func::FuncOp>(
      td::createMoveActivations({/*differentiated=*/true}));
  pm.addPass(td::createAssignLayouts());
  pm.addNestedPass<func::FuncOp>(td::createMovePermutes());
  addDecomposition(pm, options);
}

void td::buildHostPipeline(OpPassManager &pm) {
  pm.addNestedPass<func::FuncOp>(createLowerRecurrences());
  pm.addPass(createParametersToArguments());
  // The rest is upstream's, by name: in td-opt and in the mlir package all of
  // it is registered.
  LogicalResult parsed = parsePassPipeline(
      "one-shot-bufferize{bufferize-function-boundaries "
      "function-boundary-type-conversion=identity-layout-map},"
      "buffer-results-to-out-params{hoist-static-allocs "
      "modify-public-functions},buffer-deallocation-pipeline,convert-"
      "bufferization-to-memref,"
      "func.func(td-lower-copies,convert-linalg-to-loops,convert-scf-to-cf),"
      "expand-strided-"
      "metadata,lower-affine,convert-math-to-llvm,"
      "convert-math-to-libm,convert-index-to-llvm,convert-arith-to-llvm,"
      "finalize-memref-to-llvm,convert-func-to-llvm,"
      "convert-cf-to-llvm,reconcile-unrealized-casts",
      pm);
  assert(succeeded(parsed) && "upstream passes are registered");
  (void)parsed;
}

static void buildPlanPipeline(OpPassManager &pm) {
  pm.addPass(td::createPlanStep());
}

static void buildTilePipeline(OpPassManager &pm) {
  pm.addPass(td::createExpandGroups());
  pm.addPass(td::createScheduleJobs());
  pm.addPass(td::createAssignAddresses());
  pm.addPass(td::createVerifyJobs());
}

static void buildClusterPipeline(OpPassManager &pm) {
  // First, while kernels still say what they read and write.
  pm.addPass(td::createLowerJobs());
  pm.addPass(td::createExpandMath());
  pm.addPass(td::createLowerKernels());
}

static void buildLLVMPipeline(OpPassManager &pm) {
  pm.addPass(td::createLowerTable());
}

void td::registerAllPasses() {
  registerTrainDeeployPasses();
  PassPipelineRegistration<GraphOptions>(
      "td-graph", "A forward model to a decomposed training step",
      buildGraphPipeline);
  PassPipelineRegistration<EntryOptions>(
      "td-entry",
      "A forward model to a decomposed step that infers or evaluates",
      buildEntryPipeline);
  PassPipelineRegistration<>(
      "td-plan",
      "A decomposed training step to a plan: tile.buffer and tile.group",
      buildPlanPipeline);
  PassPipelineRegistration<>(
      "td-tile", "A plan to a stream of jobs with addresses, verified",
      buildTilePipeline);
  PassPipelineRegistration<>("td-cluster",
                             "Jobs to records, kernels to SPMD loops",
                             buildClusterPipeline);
  PassPipelineRegistration<>(
      "td-llvm",
      "Job records and kernels to the LLVM dialect: tables as constants",
      buildLLVMPipeline);
  PassPipelineRegistration<GraphOptions>(
      "td-compile",
      "All borders: a forward model with a target to the LLVM dialect",
      [](OpPassManager &pm, const GraphOptions &options) {
        buildGraphPipeline(pm, options);
        buildPlanPipeline(pm);
        buildTilePipeline(pm);
        buildClusterPipeline(pm);
        buildLLVMPipeline(pm);
      });
  PassPipelineRegistration<>(
      "td-host",
      "A decomposed training step to the LLVM dialect, for the host's JIT",
      buildHostPipeline);
}

void td::registerAllDialects(DialectRegistry &registry) {
  registry.insert<train::TrainDialect, tile::TileDialect,
                  redmule::RedMulEDialect, pulp::PulpDialect>();
  train::registerDifferentiableExternalModels(registry);
}
