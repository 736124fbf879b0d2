// All passes and named pipelines of the compiler.
#ifndef TD_PASSES_PASSES_H
#define TD_PASSES_PASSES_H

#include "dialects/Pulp/Pulp.h"
#include "dialects/RedMulE/RedMulE.h"
#include "dialects/Tile/Tile.h"
#include "dialects/Train/Train.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassOptions.h"

namespace td {
/// The value of the option `ignored` of td-attach-loss if every label counts.
inline constexpr int64_t noLabel = std::numeric_limits<int64_t>::min();

#define GEN_PASS_DECL
#include "passes/Passes.h.inc"

/// What products of matrices are computed in.
enum class Precision { Fp32, Mixed };

/// Options of the pipeline td-graph.
struct GraphOptions : mlir::PassPipelineOptions<GraphOptions> {
  Option<std::string> loss{
      *this, "loss",
      llvm::cl::desc("mse, l1, bce-with-logits or cross-entropy"),
      llvm::cl::init("mse")};
  Option<std::string> reduction{*this, "reduction",
                                llvm::cl::desc("mean or sum"),
                                llvm::cl::init("mean")};
  Option<double> smoothing{*this, "smoothing",
                           llvm::cl::desc("Label smoothing of cross entropy"),
                           llvm::cl::init(0.0)};
  Option<int64_t> classAxis{
      *this, "class-axis",
      llvm::cl::desc("Axis of the prediction that holds the classes"),
      llvm::cl::init(1)};
  ListOption<int64_t> labels{*this, "labels",
                             llvm::cl::desc("Shape of the labels")};
  Option<int64_t> ignored{*this, "ignored",
                          llvm::cl::desc("Label that does not count"),
                          llvm::cl::init(noLabel)};
  Option<bool> weighted{*this, "weighted",
                        llvm::cl::desc("Whether classes have weights"),
                        llvm::cl::init(false)};
  ListOption<std::string> trainable{
      *this, "trainable",
      llvm::cl::desc(
          "Symbols of the parameters to train; none if they are marked")};
  Option<Precision> precision{
      *this, "precision", llvm::cl::desc("Of products of matrices"),
      llvm::cl::init(Precision::Fp32),
      llvm::cl::values(
          clEnumValN(Precision::Fp32, "fp32", "as everything else"),
          clEnumValN(Precision::Mixed, "mixed", "fp16, the rest in fp32"))};
  Option<double> lossScale{
      *this, "loss-scale",
      llvm::cl::desc("What gradients are multiplied by until the update"),
      llvm::cl::init(1.0)};
  Option<double> clipNorm{
      *this, "clip-norm",
      llvm::cl::desc("Largest norm of all gradients together; 0 is none"),
      llvm::cl::init(0.0)};
  Option<int64_t> accumulate{
      *this, "accumulate",
      llvm::cl::desc("Runs whose gradients make an update, as the norm or a "
                     "scale that is a state see them"),
      llvm::cl::init(1)};
  Option<bool> meanOfSteps{
      *this, "mean-of-steps",
      llvm::cl::desc("The mean of these gradients instead of the sum"),
      llvm::cl::init(false)};
  Option<double> zerothOrder{
      *this, "zeroth-order",
      llvm::cl::desc("How far parameters are moved for differences of the "
                     "loss; 0: there are gradients"),
      llvm::cl::init(0.0)};
  Option<int64_t> directions{*this, "directions",
                             llvm::cl::desc("Directions of an update"),
                             llvm::cl::init(1)};
  Option<bool> oneSided{
      *this, "one-sided",
      llvm::cl::desc("Differences with the loss at the parameters themselves"),
      llvm::cl::init(false)};
  Option<bool> signs{*this, "signs", llvm::cl::desc("Directions of -1 and 1"),
                     llvm::cl::init(false)};
  Option<uint64_t> seed{*this, "seed", llvm::cl::desc("Of the directions"),
                        llvm::cl::init(0)};
};
/// What a step without updates returns: the prediction, or loss and metrics.
enum class Entry { Infer, Evaluate };

/// Options of the pipeline td-entry; those of losses are for `evaluate`.
struct EntryOptions : GraphOptions {
  Option<Entry> entry{
      *this, "entry", llvm::cl::desc("What the step is for"),
      llvm::cl::init(Entry::Infer),
      llvm::cl::values(clEnumValN(Entry::Infer, "infer", "the prediction"),
                       clEnumValN(Entry::Evaluate, "evaluate",
                                  "loss and metrics, as sums"))};
  ListOption<int64_t> top{
      *this, "top",
      llvm::cl::desc("Numbers of largest logits to look for the label in")};
  Option<bool> absoluteError{*this, "absolute-error",
                             llvm::cl::desc("Sum up absolute errors as well"),
                             llvm::cl::init(false)};
};

/// td-graph: a forward model to a decomposed training step.
void buildGraphPipeline(mlir::OpPassManager &pm, const GraphOptions &options);
/// td-host: a decomposed training step to the LLVM dialect, for MLIR's JIT.
void buildHostPipeline(mlir::OpPassManager &pm);
} // namespace td

#endif
