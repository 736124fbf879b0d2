// Training by differences of the loss: parameters that are moved along noise.
#ifndef TD_PASSES_ZEROTHORDER_H
#define TD_PASSES_ZEROTHORDER_H

#include "dialects/Train/Train.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace td {

/// Several runs of a step that computes no gradient, at other parameters but
/// with the same samples, make up an update. After each run parameters move to
/// where the next one reads them, along a direction that is drawn anew each
/// time: it is a function of its number and of an element's position, so that
/// nothing is stored for it. docs/zeroth-order.md has the formulas.
struct ZerothOrder {
  /// How far parameters are moved along a direction; 0: there are gradients.
  double distance = 0.0;
  /// Directions that make up an update, each on both sides of the parameters or
  /// on one.
  int64_t directions = 1;
  bool oneSided = false;
  /// Directions of -1 and 1, or else of numbers that are about normal.
  bool signs = false;
  uint64_t seed = 0;

  /// What the operator of `insert` computes.
  struct Numbers {
    /// The learning rate in a run that ends an update, or else 0.
    mlir::Value rate;
    /// Whether a run ends an update: 1 or 0.
    mlir::Value last;
    /// What moving an element needs.
    llvm::SmallVector<mlir::Value> ofElement;
  };

  /// Adds states, and an operator that computes the numbers of a run from the
  /// loss, which `step` returns. Two-sided, `step` gets the argument `perturb`:
  /// 1 if another run comes behind this one, or 0.
  mlir::FailureOr<Numbers> insert(mlir::OpBuilder &builder,
                                  mlir::func::FuncOp step,
                                  mlir::Value rate) const;

  /// An element in the body of an operator whose loops are those of a stored
  /// parameter.
  struct Element {
    mlir::Value restored;  ///< what it is without a perturbation
    mlir::Value gradient;  ///< its part of the estimated gradient
    mlir::Value direction; ///< the next run's
    mlir::Value distance;  ///< and how far it goes
    /// `value` where the next run reads it.
    mlir::Value perturbed(mlir::OpBuilder &builder, mlir::Location location,
                          mlir::Value value) const;
  };
  /// numbers: those of `Numbers::ofElement`. first: the number of the
  /// parameter's first element among those of all that are trained.
  Element element(mlir::OpBuilder &builder, mlir::Location location,
                  mlir::ValueRange numbers, mlir::Value value,
                  train::ParameterOp parameter, uint64_t first) const;

private:
  mlir::Value drawn(mlir::OpBuilder &builder, mlir::Location location,
                    mlir::Value direction, mlir::Value position,
                    mlir::Type type) const;
};

} // namespace td

#endif
