// RUN: td-opt %s --td-assign-layouts --td-move-permutes | FileCheck %s

// A filter is stored as the convolution reads it, and its gradient has that type.
// CHECK: train.parameter @filter trainable {layout = array<i64: 2, 3, 1, 0>} : tensor<1x1x3x5xf32>
train.parameter @filter trainable : tensor<5x3x1x1xf32>
// Products of one row do not care.
// CHECK: train.parameter @weight : tensor<7x5xf32>
train.parameter @weight : tensor<7x5xf32>
// CHECK-LABEL: func.func @step
// CHECK: %[[W:.*]] = train.read @filter : tensor<1x1x3x5xf32>
// CHECK: train.conv2d %{{.*}}, %[[W]]
// CHECK: %[[G:.*]] = train.conv2d_filter_vjp
// CHECK: train.gradient %[[G]] of @filter : tensor<1x1x3x5xf32>
func.func @step(%x: tensor<1x4x4x3xf32>, %dy: tensor<1x4x4x5xf32>, %v: tensor<1x5xf32>) -> (tensor<1x4x4x5xf32>, tensor<1x7xf32>) {
  %w = train.read @filter : tensor<5x3x1x1xf32>
  %u = train.read @weight : tensor<7x5xf32>
  %0 = train.permute %w [2, 3, 1, 0] : tensor<5x3x1x1xf32> -> tensor<1x1x3x5xf32>
  %1 = train.conv2d %x, %0 {strides = array<i64: 1, 1>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x4x4x3xf32>, tensor<1x1x3x5xf32>) -> tensor<1x4x4x5xf32>
  %2 = train.conv2d_filter_vjp %x, %dy {strides = array<i64: 1, 1>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x4x4x3xf32>, tensor<1x4x4x5xf32>) -> tensor<1x1x3x5xf32>
  %3 = train.permute %2 [3, 2, 0, 1] : tensor<1x1x3x5xf32> -> tensor<5x3x1x1xf32>
  train.gradient %3 of @filter : tensor<5x3x1x1xf32>
  %4 = train.linear %v, %u : tensor<1x5xf32>, tensor<7x5xf32> -> tensor<1x7xf32>
  return %1, %4 : tensor<1x4x4x5xf32>, tensor<1x7xf32>
}
