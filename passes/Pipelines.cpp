// Named pipelines, one per border of IR, and registration of everything.
#include "passes/Passes.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

namespace td {
#define GEN_PASS_REGISTRATION
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;

static void registerPlanPipeline() {
  PassPipelineRegistration<>("td-plan", "A decomposed training step to a plan: tile.buffer and tile.group",
                             [](OpPassManager &manager) { manager.addPass(td::createPlanStep()); });
}

static void registerTilePipeline() {
  PassPipelineRegistration<>("td-tile", "A plan to a stream of jobs with addresses, verified",
                             [](OpPassManager &manager) {
                               manager.addPass(td::createExpandGroups());
                               manager.addPass(td::createScheduleJobs());
                               manager.addPass(td::createAssignAddresses());
                               manager.addPass(td::createVerifyJobs());
                             });
}

void td::registerAllPasses() {
  registerTrainDeeployPasses();
  registerPlanPipeline();
  registerTilePipeline();
}

void td::registerAllDialects(DialectRegistry &registry) {
  registry.insert<train::TrainDialect, tile::TileDialect, redmule::RedMulEDialect, pulp::PulpDialect>();
  train::registerDifferentiableExternalModels(registry);
}
