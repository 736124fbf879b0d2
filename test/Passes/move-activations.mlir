// RUN: td-opt %s --split-input-file --td-move-activations | FileCheck %s
// RUN: td-opt %s --split-input-file --td-move-activations=differentiated | FileCheck %s --check-prefix=VALUES

// CHECK-LABEL: func.func @relu
// CHECK-SAME: %[[X:.*]]: tensor<1x7x5x3xf32>
// CHECK: %[[P:.*]], %{{.*}} = train.max_pool2d %[[X]]
// CHECK-NEXT: %[[Y:.*]] = train.relu %[[P]] : tensor<1x4x3x3xf32>
// CHECK-NEXT: return %[[Y]]
func.func @relu(%x: tensor<1x7x5x3xf32>) -> tensor<1x4x3x3xf32> {
  %0 = train.relu %x : tensor<1x7x5x3xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 1, 1, 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x4x3x3xf32>, tensor<1x4x3x3xi32>)
  return %1#0 : tensor<1x4x3x3xf32>
}

// -----

// Through the reshape that makes an image of a sequence.
// CHECK-LABEL: func.func @sequence
// CHECK-SAME: %[[X:.*]]: tensor<2x11x3xf32>
// CHECK: %[[I:.*]] = train.reshape %[[X]]
// CHECK-NEXT: %[[P:.*]], %{{.*}} = train.max_pool2d %[[I]]
// CHECK-NEXT: train.relu %[[P]] : tensor<2x1x5x3xf32>
func.func @sequence(%x: tensor<2x11x3xf32>) -> tensor<2x1x5x3xf32> {
  %0 = train.relu %x : tensor<2x11x3xf32>
  %1 = train.reshape %0 : tensor<2x11x3xf32> -> tensor<2x1x11x3xf32>
  %2:2 = train.max_pool2d %1 {kernel = array<i64: 1, 3>, strides = array<i64: 1, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<2x1x11x3xf32>) -> (tensor<2x1x5x3xf32>, tensor<2x1x5x3xi32>)
  return %2#0 : tensor<2x1x5x3xf32>
}

// -----

// Elements beyond the bounds tie on them, so the first to attain the maximum may be another one: the values are
// equal, the gradients are not.
// CHECK-LABEL: func.func @clamp
// CHECK: train.clamp
// CHECK-NEXT: train.max_pool2d
// VALUES-LABEL: func.func @clamp
// VALUES: train.max_pool2d
// VALUES-NEXT: train.clamp {{.*}} tensor<1x3x2x3xf32>
func.func @clamp(%x: tensor<1x7x5x3xf32>) -> tensor<1x3x2x3xf32> {
  %0 = train.clamp %x {low = 0.0, high = 6.0} : tensor<1x7x5x3xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xi32>)
  return %1#0 : tensor<1x3x2x3xf32>
}

// -----

// What else the activation is used for needs all of it.
// CHECK-LABEL: func.func @used_twice
// CHECK: train.relu %{{.*}} : tensor<1x7x5x3xf32>
// CHECK-NEXT: train.max_pool2d
func.func @used_twice(%x: tensor<1x7x5x3xf32>) -> (tensor<1x7x5x3xf32>, tensor<1x3x2x3xf32>) {
  %0 = train.relu %x : tensor<1x7x5x3xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xi32>)
  return %0, %1#0 : tensor<1x7x5x3xf32>, tensor<1x3x2x3xf32>
}

// -----

// The winning taps of what is not positive would be others.
// CHECK-LABEL: func.func @taps
// CHECK: train.relu %{{.*}} : tensor<1x7x5x3xf32>
// CHECK-NEXT: train.max_pool2d
func.func @taps(%x: tensor<1x7x5x3xf32>) -> tensor<1x3x2x3xi32> {
  %0 = train.relu %x : tensor<1x7x5x3xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xi32>)
  return %1#1 : tensor<1x3x2x3xi32>
}

// -----

// The only window's taps are at -1 and 3, outside of three rows: it is -inf, and stays so.
// CHECK-LABEL: func.func @outside
// CHECK: train.relu %{{.*}} : tensor<1x3x7x2xf32>
// CHECK-NEXT: train.max_pool2d
func.func @outside(%x: tensor<1x3x7x2xf32>) -> tensor<1x1x3x2xf32> {
  %0 = train.relu %x : tensor<1x3x7x2xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, padding = array<i64: 1, 1, 0, 0>, dilations = array<i64: 4, 1>} : (tensor<1x3x7x2xf32>) -> (tensor<1x1x3x2xf32>, tensor<1x1x3x2xi32>)
  return %1#0 : tensor<1x1x3x2xf32>
}

// -----

// With stride 1 there is nothing to win.
// CHECK-LABEL: func.func @as_many
// CHECK: train.relu
// CHECK-NEXT: train.max_pool2d
func.func @as_many(%x: tensor<1x7x5x3xf32>) -> tensor<1x7x5x3xf32> {
  %0 = train.relu %x : tensor<1x7x5x3xf32>
  %1:2 = train.max_pool2d %0 {kernel = array<i64: 3, 3>, strides = array<i64: 1, 1>, padding = array<i64: 1, 1, 1, 1>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x7x5x3xf32>, tensor<1x7x5x3xi32>)
  return %1#0 : tensor<1x7x5x3xf32>
}
