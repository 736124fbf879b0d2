// RUN: td-opt %s --td-differentiate --split-input-file | FileCheck %s

// Linear, bias, ReLU, mean squared error. The gradient of the weight is directly
// followed by its mark; nothing is computed for the input.
train.parameter @w trainable : tensor<3x5xf32>
train.parameter @b trainable : tensor<3xf32>
// CHECK-LABEL: @step
// CHECK-SAME: %[[X:[a-z0-9]*]]: tensor<7x5xf32>, %[[T:[a-z0-9]*]]: tensor<7x3xf32>
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x3xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<3x5xf32>
  %b = train.read @b : tensor<3xf32>
  %y = train.linear %x, %w, %b : tensor<7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<7x3xf32>
  %z = train.relu %y : tensor<7x3xf32>
  %loss = train.mse_loss %z, %t : tensor<7x3xf32> -> tensor<f32>
  // CHECK: %[[Z:.*]] = train.relu
  // CHECK: %[[L:.*]] = train.mse_loss
  // CHECK: arith.constant dense<1.000000e+00> : tensor<f32>
  // CHECK: arith.constant dense<0.095238{{.*}}> : tensor<f32>
  // CHECK: %[[FACTOR:.*]] = arith.constant dense<0.095238{{.*}}> : tensor<f32>
  // CHECK: %[[D:.*]] = train.sub %[[Z]], %[[T]]
  // CHECK: %[[DZ:.*]] = train.mul %[[D]], %[[FACTOR]]
  // CHECK: %[[DY:.*]] = train.relu_vjp %[[Z]], %[[DZ]]
  // CHECK: %[[DW:.*]] = linalg.matmul indexing_maps = [#{{.*}}, #{{.*}}, #{{.*}}] ins(%[[DY]], %[[X]] : tensor<7x3xf32>, tensor<7x5xf32>)
  // CHECK-NEXT: train.gradient %[[DW]] of @w
  // CHECK-NEXT: %[[DB:.*]] = train.sum_to %[[DY]] : tensor<7x3xf32> -> tensor<3xf32>
  // CHECK-NEXT: train.gradient %[[DB]] of @b
  // CHECK-NEXT: return %[[L]]
  return %loss : tensor<f32>
}

// -----

// Only the first layer trains: the second has an input's cotangent and nothing else.
train.parameter @w1 trainable : tensor<5x5xf32>
train.parameter @w2 : tensor<5x5xf32>
train.parameter @b2 : tensor<5xf32>
// CHECK-LABEL: @step
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
  %w1 = train.read @w1 : tensor<5x5xf32>
  // CHECK: %[[W2:.*]] = train.read @w2
  %w2 = train.read @w2 : tensor<5x5xf32>
  %b2 = train.read @b2 : tensor<5xf32>
  %y = train.linear %x, %w1 : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %z = train.linear %y, %w2, %b2 : tensor<7x5xf32>, tensor<5x5xf32>, tensor<5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %z, %t : tensor<7x5xf32> -> tensor<f32>
  // CHECK: train.mse_loss
  // CHECK: linalg.matmul ins(%{{.*}}, %[[W2]] :
  // CHECK: linalg.matmul indexing_maps
  // CHECK-NEXT: train.gradient %{{.*}} of @w1
  // CHECK-NOT: linalg.matmul
  // CHECK-NOT: train.sum_to
  // CHECK: return
  return %loss : tensor<f32>
}

// -----

// Only the last layer trains: the reverse sweep stops there.
train.parameter @w1 : tensor<5x5xf32>
train.parameter @w2 trainable : tensor<5x5xf32>
// CHECK-LABEL: @step
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
  %w1 = train.read @w1 : tensor<5x5xf32>
  %w2 = train.read @w2 : tensor<5x5xf32>
  %y = train.linear %x, %w1 : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %z = train.tanh %y : tensor<7x5xf32>
  %u = train.linear %z, %w2 : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %u, %t : tensor<7x5xf32> -> tensor<f32>
  // CHECK: train.mse_loss
  // CHECK: linalg.matmul
  // CHECK-NEXT: train.gradient %{{.*}} of @w2
  // CHECK-NOT: linalg.matmul
  // CHECK-NOT: train.tanh_vjp
  return %loss : tensor<f32>
}

// -----

// One weight, read once and used twice, then read again: one gradient.
train.parameter @w trainable : tensor<5x5xf32>
// CHECK-LABEL: @step
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<5x5xf32>
  %y = train.linear %x, %w : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %z = train.linear %y, %w : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %again = train.read @w : tensor<5x5xf32>
  %u = train.linear %z, %again : tensor<7x5xf32>, tensor<5x5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %u, %t : tensor<7x5xf32> -> tensor<f32>
  // CHECK-NOT: train.gradient
  // CHECK: %[[A:.*]] = train.add %{{.*}}, %{{.*}} : tensor<5x5xf32>, tensor<5x5xf32>
  // CHECK-NOT: train.gradient
  // CHECK: %[[B:.*]] = train.add %{{.*}}, %{{.*}} : tensor<5x5xf32>, tensor<5x5xf32>
  // CHECK-NEXT: train.gradient %[[B]] of @w
  // CHECK-NOT: train.gradient
  return %loss : tensor<f32>
}

// -----

// A value used twice, once as both operands of one op; broadcasting sums back.
train.parameter @s trainable : tensor<1x5xf32>
// CHECK-LABEL: @step
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
  // CHECK: %[[S:.*]] = train.read
  %s = train.read @s : tensor<1x5xf32>
  %q = train.mul %s, %s : tensor<1x5xf32>, tensor<1x5xf32> -> tensor<1x5xf32>
  %y = train.add %x, %q : tensor<7x5xf32>, tensor<1x5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %y, %t : tensor<7x5xf32> -> tensor<f32>
  // CHECK: %[[DQ:.*]] = train.sum_to %{{.*}} : tensor<7x5xf32> -> tensor<1x5xf32>
  // CHECK: %[[A:.*]] = train.mul %[[DQ]], %[[S]]
  // CHECK: %[[B:.*]] = train.mul %[[DQ]], %[[S]]
  // CHECK: %[[G:.*]] = train.add %[[A]], %[[B]]
  // CHECK: train.gradient %[[G]] of @s
  return %loss : tensor<f32>
}

// -----

// The gradient of a split is the concatenation of its parts' gradients.
train.parameter @w trainable : tensor<2x5xf32>
// CHECK-LABEL: @step
func.func @step(%t: tensor<2x2xf32>, %u: tensor<2x3xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<2x5xf32>
  %a = train.slice %w {offsets = array<i64: 0, 0>, strides = array<i64: 1, 1>} : (tensor<2x5xf32>) -> tensor<2x2xf32>
  %b = train.slice %w {offsets = array<i64: 0, 2>, strides = array<i64: 1, 1>} : (tensor<2x5xf32>) -> tensor<2x3xf32>
  %l = train.mse_loss %a, %t : tensor<2x2xf32> -> tensor<f32>
  %m = train.mse_loss %b, %u : tensor<2x3xf32> -> tensor<f32>
  %loss = train.add %l, %m : tensor<f32>, tensor<f32> -> tensor<f32>
  // CHECK-NOT: train.embed
  // CHECK: %[[DW:.*]] = train.concat %{{.*}}, %{{.*}} {axis = 1 : i64} : (tensor<2x2xf32>, tensor<2x3xf32>) -> tensor<2x5xf32>
  // CHECK-NEXT: train.gradient %[[DW]] of @w
  return %loss : tensor<f32>
}
