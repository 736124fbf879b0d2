// RUN: td-opt %s --td-attach-loss=loss=cross-entropy --td-attach-metrics=top=1,2 | FileCheck %s --check-prefix=CE
// RUN: td-opt %s --td-attach-loss=loss=l1 --td-attach-metrics=absolute-error | FileCheck %s --check-prefix=L1
// RUN: td-opt %s --td-take-prediction | FileCheck %s --check-prefix=PREDICTION
// RUN: td-opt %s --td-entry | FileCheck %s --check-prefix=INFER
// RUN: not td-opt %s --td-attach-loss --td-attach-metrics=top=1 2>&1 | FileCheck %s --check-prefix=NO-LABELS
// RUN: not td-opt %s --td-attach-loss=loss=cross-entropy --td-attach-metrics=absolute-error 2>&1 | FileCheck %s --check-prefix=NO-TARGET
// RUN: not td-opt %s --td-attach-metrics 2>&1 | FileCheck %s --check-prefix=NO-STEP

// CE: func.func @step(%{{.*}}: tensor<3x5xf32> {train.name = "x"}, %[[T:.*]]: tensor<3xi32> {train.name = "labels"}, %[[N:.*]]: tensor<i32> {train.name = "samples"})
// CE-SAME: -> (tensor<f32> {train.name = "loss"}, tensor<f32> {train.name = "top1"}, tensor<f32> {train.name = "top2"})
// The labels of samples that do not count are ignored.
// CE: %[[LABELS:.*]] = linalg.generic {{.*}} ins(%[[T]], %[[N]] : tensor<3xi32>, tensor<i32>)
// CE: linalg.index 0
// CE: %[[NONE:.*]] = arith.constant -100 : i32
// CE-NEXT: arith.select %{{.*}}, %{{.*}}, %[[NONE]]
// CE: %[[LOSS:.*]] = train.cross_entropy %{{.*}}, %[[LABELS]] {ignored = -100 : i64, sum}
// CE: return %[[LOSS]],
// L1: func.func @step({{.*}}"samples"}) -> (tensor<f32> {train.name = "loss"}, tensor<f32> {train.name = "absolute_error"})
// L1: %[[Y:.*]] = train.relu
// L1: %[[OWN:.*]] = linalg.generic {{.*}} ins(%{{.*}}, %[[Y]], %{{.*}} :
// L1: train.l1_loss %[[Y]], %[[OWN]] {sum}
// PREDICTION: func.func @step(%{{.*}}: tensor<3x5xf32> {train.name = "x"}) -> (tensor<3x5xf32> {train.name = "prediction"})
// INFER: func.func @step
// INFER-NOT: train.relu
// INFER: arith.maximumf
// NO-LABELS: error: the label's place among logits is a metric of cross entropy
// NO-TARGET: error: absolute errors are those of a target, and cross entropy has labels
// NO-STEP: error: there is no function @step of one block that returns a loss
func.func @forward(%x: tensor<3x5xf32> {train.name = "x"}) -> tensor<3x5xf32> {
  %y = train.relu %x : tensor<3x5xf32>
  return %y : tensor<3x5xf32>
}
