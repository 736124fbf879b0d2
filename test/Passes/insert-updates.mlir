// RUN: td-opt %s --td-insert-updates | FileCheck %s

// Two optimizers: @w is moved by one with states, @b by plain descent. What the first computes once a step is an
// operator at the start; the update of @w waits for the op that reads the old @w, that of @b does not.
// CHECK: train.parameter @w trainable : tensor<5x5xf32>
// CHECK-NEXT: train.parameter @w.sum state_of @w {state = "sum"} : tensor<5x5xf32>
// CHECK-NEXT: train.parameter @w.largest state_of @w {first = 3.000000e+00 : f64, state = "largest"} : tensor<5x5xf32>
// CHECK-NEXT: train.parameter @b trainable : tensor<5xf32>
// CHECK-NEXT: train.parameter @counting.updates {first = 1.000000e+00 : f64, state = "updates"} : tensor<f32>
// CHECK-NOT: train.optimizer
train.parameter @w trainable {optimizer = @counting} : tensor<5x5xf32>
train.parameter @b trainable {optimizer = @plain} : tensor<5xf32>
train.optimizer @counting shared ["updates"] states ["sum", "largest"] first [1.0, 0.0, 3.0] once {
^bb0(%rate: f32, %updates: f32):
  %one = arith.constant 1.0 : f32
  %next = arith.addf %updates, %one : f32
  %less = arith.divf %rate, %next : f32
  train.yield %rate, %less, %next : f32, f32, f32
} each {
^bb0(%weight: f32, %gradient: f32, %sum: f32, %largest: f32, %rate: f32, %less: f32):
  %all = arith.addf %sum, %gradient : f32
  %most = arith.maximumf %largest, %gradient : f32
  %step = arith.mulf %less, %all : f32
  %moved = arith.subf %weight, %step : f32
  train.yield %moved, %all, %most : f32, f32, f32
}
train.optimizer @plain linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
// CHECK: func.func @step(%{{.*}}: tensor<7x5xf32>, %[[LR:.*]]: tensor<f32> {train.name = "lr"}) -> tensor<f32>
func.func @step(%x: tensor<7x5xf32>) -> tensor<f32> {
  // CHECK-NEXT: %[[COUNT:.*]] = train.read @counting.updates : tensor<f32>
  // CHECK: %[[ONCE:.*]]:2 = linalg.generic {{.*}} ins(%[[LR]], %[[COUNT]] :
  // CHECK: linalg.yield
  // CHECK: train.assign %[[ONCE]]#1 to @counting.updates
  %w = train.read @w : tensor<5x5xf32>
  %view = train.reshape %w : tensor<5x5xf32> -> tensor<25xf32>
  %loss = arith.constant dense<1.0> : tensor<f32>
  // CHECK: %[[DB:.*]] = train.sum_to
  // CHECK-NEXT: %[[B:.*]] = train.read @b
  // CHECK: %[[NEXT:.*]] = linalg.generic {{.*}} ins(%[[DB]], %[[LR]], %[[B]] :
  // CHECK: train.assign %[[NEXT]] to @b
  %db = train.sum_to %x : tensor<7x5xf32> -> tensor<5xf32>
  train.gradient %db of @b : tensor<5xf32>
  // CHECK-NEXT: %[[DW:.*]] = train.relu
  %dw = train.relu %w : tensor<5x5xf32>
  train.gradient %dw of @w : tensor<5x5xf32>
  // CHECK-NEXT: train.tanh
  %dx = train.tanh %view : tensor<25xf32>
  // CHECK-NEXT: %[[W:.*]] = train.read @w :
  // CHECK-NEXT: %[[SUM:.*]] = train.read @w.sum :
  // CHECK-NEXT: %[[LARGEST:.*]] = train.read @w.largest :
  // CHECK: %[[NEW:.*]]:3 = linalg.generic {{.*}} ins(%[[DW]], %[[LR]], %[[ONCE]]#0, %[[W]], %[[SUM]], %[[LARGEST]] :
  // CHECK: train.assign %[[NEW]]#0 to @w :
  // CHECK-NEXT: train.assign %[[NEW]]#1 to @w.sum :
  // CHECK-NEXT: train.assign %[[NEW]]#2 to @w.largest :
  // CHECK-NEXT: train.sigmoid
  %after = train.sigmoid %dx : tensor<25xf32>
  return %loss : tensor<f32>
}
