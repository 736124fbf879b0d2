// RUN: td-opt %s --td-attach-loss --split-input-file | FileCheck %s --check-prefix=MSE
// RUN: td-opt %s --td-attach-loss=loss=cross-entropy --split-input-file | FileCheck %s --check-prefix=CE

// MSE-NOT: @forward
// MSE: func.func @step(%[[X:.*]]: tensor<3x5xf32> {train.name = "x"}, %[[T:.*]]: tensor<3x5xf32> {train.name = "target"}) -> tensor<f32>
// MSE: %[[Y:.*]] = train.relu %[[X]]
// MSE: %[[L:.*]] = train.mse_loss %[[Y]], %[[T]] : tensor<3x5xf32> -> tensor<f32>
// MSE: return %[[L]] : tensor<f32>
// CE: func.func @step(%[[X:.*]]: tensor<3x5xf32> {train.name = "x"}, %[[T:.*]]: tensor<3xi32> {train.name = "labels"}) -> tensor<f32>
// CE: %[[Y:.*]] = train.relu %[[X]]
// CE: %[[L:.*]] = train.cross_entropy %[[Y]], %[[T]] : tensor<3x5xf32>, tensor<3xi32> -> tensor<f32>
// CE: return %[[L]] : tensor<f32>
func.func @forward(%x: tensor<3x5xf32> {train.name = "x"}) -> tensor<3x5xf32> {
  %y = train.relu %x : tensor<3x5xf32>
  return %y : tensor<3x5xf32>
}
