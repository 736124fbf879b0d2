// Named pipelines, one per border of IR, and registration of everything.
#include "passes/Passes.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

namespace td {
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

static void registerPlanPipeline() {
  PassPipelineRegistration<>(
      "td-plan",
      "A decomposed training step to a plan: tile.buffer and tile.group",
      [](OpPassManager &manager) { manager.addPass(td::createPlanStep()); });
}

void td::buildGraphPipeline(OpPassManager &pm, const GraphOptions &options) {
  pm.addPass(createAttachLoss({options.loss}));
  // Without the option, the parameters carry their marks already.
  ApplyRecipeOptions recipe;
  recipe.trainable.assign(options.trainable.begin(), options.trainable.end());
  if (!recipe.trainable.empty())
    pm.addPass(createApplyRecipe(recipe));
  pm.addPass(createDifferentiate());
  pm.addPass(createInsertUpdates({options.optimizer, options.momentum}));
  OpPassManager &function = pm.nest<func::FuncOp>();
  function.addPass(createDecompose());
  // Before anything else changes them: what a loss and its gradient share are
  // equal ops now.
  function.addPass(createCSEPass());
  function.addPass(createCanonicalizerPass());
  function.addPass(createFuseElementwise());
  function.addPass(createCanonicalizerPass());
  function.addPass(createCSEPass());
}

void td::buildHostPipeline(OpPassManager &pm) {
  pm.addPass(createParametersToArguments());
  // The rest is upstream's, by name: in td-opt and in the mlir package all of
  // it is registered.
  LogicalResult parsed = parsePassPipeline(
      "one-shot-bufferize{bufferize-function-boundaries "
      "function-boundary-type-conversion=identity-layout-map},"
      "buffer-results-to-out-params{hoist-static-allocs "
      "modify-public-functions},buffer-deallocation-pipeline,convert-"
      "bufferization-to-memref,"
      "func.func(convert-linalg-to-loops,convert-scf-to-cf),expand-strided-"
      "metadata,lower-affine,convert-math-to-llvm,"
      "convert-math-to-libm,convert-index-to-llvm,convert-arith-to-llvm,"
      "finalize-memref-to-llvm,convert-func-to-llvm,"
      "convert-cf-to-llvm,reconcile-unrealized-casts",
      pm);
  assert(succeeded(parsed) && "upstream passes are registered");
  (void)parsed;
}

static void registerTilePipeline() {
  PassPipelineRegistration<>(
      "td-tile", "A plan to a stream of jobs with addresses, verified",
      [](OpPassManager &manager) {
        manager.addPass(td::createExpandGroups());
        manager.addPass(td::createScheduleJobs());
        manager.addPass(td::createAssignAddresses());
        manager.addPass(td::createVerifyJobs());
      });
}

static void registerClusterPipeline() {
  PassPipelineRegistration<>("td-cluster",
                             "Jobs to records, kernels to SPMD loops",
                             [](OpPassManager &manager) {
                               // First, while kernels still say what they read
                               // and write.
                               manager.addPass(td::createLowerJobs());
                               manager.addPass(td::createExpandMath());
                               manager.addPass(td::createLowerKernels());
                             });
}

static void registerLLVMPipeline() {
  PassPipelineRegistration<>(
      "td-llvm",
      "Job records and kernels to the LLVM dialect: tables as constants",
      [](OpPassManager &manager) { manager.addPass(td::createLowerTable()); });
}

void td::registerAllPasses() {
  registerTrainDeeployPasses();
  registerPlanPipeline();
  registerTilePipeline();
  registerClusterPipeline();
  registerLLVMPipeline();
  PassPipelineRegistration<GraphOptions>(
      "td-graph", "A forward model to a decomposed training step",
      buildGraphPipeline);
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
