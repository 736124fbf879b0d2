// RUN: td-opt %s --td-attach-loss=loss=model --split-input-file --verify-diagnostics | FileCheck %s

// CHECK: func.func @step(%[[X:.*]]: tensor<1x1xf32> {train.name = "x"}) -> tensor<f32>
// CHECK: %[[Y:.*]] = train.relu %[[X]]
// CHECK: %[[L:.*]] = train.reshape %[[Y]] : tensor<1x1xf32> -> tensor<f32>
// CHECK: return %[[L]] : tensor<f32>
func.func @forward(%x: tensor<1x1xf32> {train.name = "x"}) -> tensor<1x1xf32> {
  %y = train.relu %x : tensor<1x1xf32>
  return %y : tensor<1x1xf32>
}

// -----

// expected-error@+1 {{the model's result is no loss: a tensor of one float}}
func.func @forward(%x: tensor<3xf32>) -> tensor<3xf32> {
  return %x : tensor<3xf32>
}
