// RUN: td-opt %s --td-graph="trainable=fc1.weight,fc1.bias,fc2.weight" | FileCheck %s
// RUN: td-opt %s --td-graph="loss=cross-entropy trainable=fc2.weight" | FileCheck %s --check-prefix=PROBE
// RUN: td-opt %s --td-graph="trainable=fc1.weight,fc1.bias,fc2.weight" | td-opt --td-host | FileCheck %s --check-prefix=HOST
// RUN: not td-opt %s --td-graph 2>&1 | FileCheck %s --check-prefix=NOTHING

// NOTHING: error: the recipe trains nothing

train.parameter @fc1.weight : tensor<7x5xf32>
train.parameter @fc1.bias : tensor<7xf32>
train.parameter @fc2.weight : tensor<3x7xf32>
train.optimizer @optimizer states ["momentum"] once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %momentum: f32, %rate: f32):
  %share = arith.constant 0.9 : f32
  %velocity = math.fma %share, %momentum, %gradient : f32
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %velocity, %weight : f32
  train.yield %moved, %velocity : f32, f32
}
// CHECK-DAG: #[[ROWS:.*]] = affine_map<(d0, d1, d2) -> (d2, d0)>
// CHECK-DAG: #[[COLUMNS:.*]] = affine_map<(d0, d1, d2) -> (d2, d1)>
// CHECK: train.parameter @fc1.weight trainable
// CHECK-NEXT: train.parameter @fc1.weight.momentum state_of @fc1.weight
// CHECK-LABEL: func.func @step
// CHECK-SAME: {train.name = "x"}, %{{.*}}: tensor<13x3xf32> {train.name = "target"}, %[[LR:.*]]: tensor<f32> {train.name = "lr"}) -> tensor<f32>
// The forward: linear, bias and ReLU, linear. Nothing but the forward's product reads the
// first weight, so it is stored as [in, out].
// CHECK: %[[W1:.*]] = train.read @fc1.weight : tensor<5x7xf32>
// CHECK: linalg.matmul ins(
// CHECK: arith.addf
// CHECK-NEXT: arith.maximumf
// CHECK: %[[W2:.*]] = train.read @fc2.weight
// CHECK: linalg.matmul indexing_maps
// The loss, and the cotangent of the prediction in one op.
// CHECK: iterator_types = ["reduction"]
// CHECK: %[[DY:.*]] = linalg.generic {{.*}}["parallel", "parallel"]} ins(%{{.*}}, %arg1 :
// CHECK: arith.subf
// CHECK-NEXT: arith.mulf
// CHECK-NEXT: linalg.yield
// The old weight is read before its gradient and update, which are neighbours.
// CHECK: linalg.matmul ins(%[[DY]], %[[W2]] :
// CHECK: %[[DW2:.*]] = linalg.matmul indexing_maps = [#[[ROWS]], #[[COLUMNS]], #{{.*}}] ins(%[[DY]],
// CHECK-NEXT: %[[V2:.*]] = train.read @fc2.weight.momentum
// CHECK: %[[N2:.*]]:2 = linalg.generic {{.*}} ins(%[[DW2]], %[[LR]], %[[W2]], %[[V2]] :
// CHECK: train.assign %[[N2]]#0 to @fc2.weight :
// CHECK-NEXT: train.assign %[[N2]]#1 to @fc2.weight.momentum :
// CHECK: arith.cmpf ole
// CHECK: %[[DW1:.*]] = linalg.matmul indexing_maps = [#[[ROWS]], #[[COLUMNS]], #{{.*}}] ins(%arg0,
// CHECK: linalg.generic {{.*}} ins(%[[DW1]], %[[LR]],
// CHECK: train.assign %{{.*}} to @fc1.weight
// CHECK: train.assign %{{.*}} to @fc1.bias
// CHECK-NOT: linalg
// CHECK: return

// Only the last layer: three matmuls, two forward and one backward.
// PROBE: train.parameter @fc1.weight {layout = array<i64: 1, 0>} : tensor<5x7xf32>
// PROBE: train.parameter @fc2.weight trainable {layout = array<i64: 1, 0>} :
// PROBE-COUNT-3: = linalg.matmul
// PROBE-NOT: linalg.matmul
// PROBE: train.assign %{{.*}} to @fc2.weight :
// PROBE-NEXT: train.assign %{{.*}} to @fc2.weight.momentum :
// PROBE-NOT: train.assign

// HOST: llvm.func @_mlir_ciface_step
// HOST-NOT: unrealized_conversion_cast
func.func @forward(%x: tensor<13x5xf32> {train.name = "x"}) -> tensor<13x3xf32> {
  %w1 = train.read @fc1.weight : tensor<7x5xf32>
  %b1 = train.read @fc1.bias : tensor<7xf32>
  %0 = train.linear %x, %w1, %b1 : tensor<13x5xf32>, tensor<7x5xf32>, tensor<7xf32> -> tensor<13x7xf32>
  %1 = train.relu %0 : tensor<13x7xf32>
  %w2 = train.read @fc2.weight : tensor<3x7xf32>
  %2 = train.linear %1, %w2 : tensor<13x7xf32>, tensor<3x7xf32> -> tensor<13x3xf32>
  return %2 : tensor<13x3xf32>
}
