// RUN: td-opt %s --td-decompose --td-fuse-elementwise --split-input-file | FileCheck %s

// Bias and activation become one op; the matmul stays.
// CHECK-LABEL: @fused
func.func @fused(%x: tensor<7x5xf32>, %w: tensor<3x5xf32>, %b: tensor<3xf32>) -> tensor<7x3xf32> {
  // CHECK: linalg.matmul
  // CHECK: linalg.generic
  // CHECK: arith.addf
  // CHECK-NEXT: arith.maximumf
  // CHECK-NOT: linalg.generic
  %0 = train.linear %x, %w, %b : tensor<7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<7x3xf32>
  %1 = train.relu %0 : tensor<7x3xf32>
  return %1 : tensor<7x3xf32>
}

// A second use keeps the value.
// CHECK-LABEL: @used_twice
func.func @used_twice(%x: tensor<7xf32>) -> (tensor<7xf32>, tensor<7xf32>) {
  // CHECK-COUNT-2: linalg.generic
  %0 = train.relu %x : tensor<7xf32>
  %1 = train.tanh %0 : tensor<7xf32>
  return %0, %1 : tensor<7xf32>, tensor<7xf32>
}

// A consumer over a larger domain would compute the producer again and again.
// CHECK-LABEL: @broadcast
func.func @broadcast(%x: tensor<5xf32>, %y: tensor<7x5xf32>) -> tensor<7x5xf32> {
  // CHECK-COUNT-2: linalg.generic
  %0 = train.tanh %x : tensor<5xf32>
  %1 = train.add %0, %y : tensor<5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  return %1 : tensor<7x5xf32>
}

// A sum would do the producer's parallel work one after the other.
// CHECK-LABEL: @sum
func.func @sum(%x: tensor<7x5xf32>) -> tensor<5xf32> {
  // CHECK-COUNT-2: linalg.generic
  %0 = train.tanh %x : tensor<7x5xf32>
  %1 = train.sum_to %0 : tensor<7x5xf32> -> tensor<5xf32>
  return %1 : tensor<5xf32>
}

// Constants go into the body.
// CHECK-LABEL: @constant
func.func @constant(%x: tensor<7x5xf32>) -> tensor<7x5xf32> {
  // CHECK: %[[C:.*]] = arith.constant 2.000000e+00 : f32
  // CHECK: linalg.generic {{.*}} ins(%{{[a-z0-9]*}} : tensor<7x5xf32>)
  // CHECK: arith.mulf %{{.*}}, %[[C]]
  %c = arith.constant dense<2.0> : tensor<f32>
  %0 = train.mul %x, %c : tensor<7x5xf32>, tensor<f32> -> tensor<7x5xf32>
  return %0 : tensor<7x5xf32>
}

// -----

// The producer reads the old @w: it must not move behind the update.
train.parameter @w : tensor<7x5xf32>
// CHECK-LABEL: @step
func.func @step(%x: tensor<7x5xf32>, %g: tensor<7x5xf32>) -> tensor<7x5xf32> {
  // CHECK: arith.mulf
  // CHECK: train.assign
  // CHECK: math.tanh
  %w = train.read @w : tensor<7x5xf32>
  %0 = train.mul %x, %w : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  train.assign %g to @w : tensor<7x5xf32>
  %1 = train.tanh %0 : tensor<7x5xf32>
  return %1 : tensor<7x5xf32>
}

// -----

// ReLU goes into the maximum: its elements are cut off at zero.
// CHECK-LABEL: @max_pool_relu
func.func @max_pool_relu(%x: tensor<1x7x5x3xf32>) -> tensor<1x3x2x3xf32> {
  // CHECK: linalg.generic
  // CHECK: ^bb0(%[[X:.*]]: f32, %{{.*}}: f32, %[[Y:.*]]: f32):
  // CHECK: %[[CUT:.*]] = arith.maximumf %[[X]], %{{.*}}
  // CHECK: %[[MAX:.*]] = arith.maximumf %[[Y]], %[[CUT]]
  // CHECK: linalg.yield %[[MAX]]
  // CHECK-NOT: arith.maximumf
  %0:2 = train.max_pool2d %x {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xi32>)
  %1 = train.relu %0#0 : tensor<1x3x2x3xf32>
  return %1 : tensor<1x3x2x3xf32>
}

// The maximum itself is used as well.
// CHECK-LABEL: @max_pool_used_twice
func.func @max_pool_used_twice(%x: tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xf32>) {
  // CHECK-COUNT-2: linalg.generic
  %0:2 = train.max_pool2d %x {kernel = array<i64: 3, 3>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x7x5x3xf32>) -> (tensor<1x3x2x3xf32>, tensor<1x3x2x3xi32>)
  %1 = train.relu %0#0 : tensor<1x3x2x3xf32>
  return %0#0, %1 : tensor<1x3x2x3xf32>, tensor<1x3x2x3xf32>
}

// -----

// What follows a product in the model's shape walks the product's own, also
// what normalises its rows: it can then run on the product's tiles.
// CHECK-LABEL: @expanded
func.func @expanded(%x: tensor<2x7x5xf32>, %w: tensor<3x5xf32>, %r: tensor<2x7x3xf32>) -> tensor<2x7x3xf32> {
  // CHECK: linalg.matmul
  // CHECK-NOT: tensor.expand_shape
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<14x3xf32>)
  // CHECK: math.erf
  // CHECK-NOT: linalg.generic
  // CHECK: %[[Y:.*]] = tensor.expand_shape
  // CHECK: return %[[Y]]
  %b = arith.constant dense<0.0> : tensor<3xf32>
  %0 = train.linear %x, %w, %b : tensor<2x7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<2x7x3xf32>
  %1 = train.gelu %0 : tensor<2x7x3xf32>
  %2 = train.add %1, %r : tensor<2x7x3xf32>, tensor<2x7x3xf32> -> tensor<2x7x3xf32>
  return %2 : tensor<2x7x3xf32>
}

// -----

// A product that only a sum or a difference uses is one operation with it.
// CHECK-LABEL: @multiply_add
func.func @multiply_add(%x: tensor<7x5xf32>, %s: tensor<7x5xf32>, %c: tensor<5xf32>) -> (tensor<7x5xf32>, tensor<7x5xf32>) {
  // CHECK: ^bb0(%[[X:.*]]: f32, %[[S:.*]]: f32, %[[C:.*]]: f32, %{{.*}}: f32):
  // CHECK-NEXT: %[[SUM:.*]] = math.fma %[[X]], %[[S]], %[[C]]
  // CHECK-NEXT: linalg.yield %[[SUM]]
  // CHECK: ^bb0(%[[C:.*]]: f32, %[[X:.*]]: f32, %[[S:.*]]: f32, %{{.*}}: f32):
  // CHECK-NEXT: %[[MINUS:.*]] = arith.negf %[[X]]
  // CHECK-NEXT: %[[REST:.*]] = math.fma %[[MINUS]], %[[S]], %[[C]]
  // CHECK-NEXT: linalg.yield %[[REST]]
  %0 = train.mul %x, %s : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  %1 = train.add %0, %c : tensor<7x5xf32>, tensor<5xf32> -> tensor<7x5xf32>
  %2 = train.mul %x, %s : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  %3 = train.sub %c, %2 : tensor<5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  return %1, %3 : tensor<7x5xf32>, tensor<7x5xf32>
}

// -----

// But not what td-expand-math finds.
// CHECK-LABEL: @gelu
func.func @gelu(%x: tensor<7x5xf32>) -> tensor<7x5xf32> {
  // CHECK: math.erf
  // CHECK: %[[PHI:.*]] = math.fma
  // CHECK-NEXT: %[[Y:.*]] = arith.mulf %{{.*}}, %[[PHI]]
  // CHECK-NEXT: arith.addf %[[Y]]
  %0 = train.gelu %x : tensor<7x5xf32>
  %1 = train.add %0, %x : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  return %1 : tensor<7x5xf32>
}
