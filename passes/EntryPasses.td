// Passes that make entries of a program which do not train.
#ifndef TD_PASSES_ENTRIES
#define TD_PASSES_ENTRIES

include "mlir/Pass/PassBase.td"

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

#endif
