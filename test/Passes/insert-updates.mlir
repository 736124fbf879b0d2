// RUN: td-opt %s --td-insert-updates --split-input-file | FileCheck %s --check-prefixes=CHECK,PLAIN
// RUN: td-opt %s --td-insert-updates=momentum=0.9 --split-input-file | FileCheck %s --check-prefixes=CHECK,MOMENTUM

// The update of @w waits for the op that reads the old @w, that of @b does not.
// CHECK: train.parameter @w trainable : tensor<5x5xf32>
// PLAIN-NOT: state_of
// MOMENTUM-NEXT: train.parameter @w.momentum state_of @w : tensor<5x5xf32>
// CHECK: train.parameter @b trainable : tensor<5xf32>
// MOMENTUM-NEXT: train.parameter @b.momentum state_of @b : tensor<5xf32>
train.parameter @w trainable : tensor<5x5xf32>
train.parameter @b trainable : tensor<5xf32>
// CHECK: func.func @step(%{{.*}}: tensor<7x5xf32>, %[[LR:.*]]: tensor<f32> {train.name = "lr"}) -> tensor<f32>
func.func @step(%x: tensor<7x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<5x5xf32>
  %view = train.reshape %w : tensor<5x5xf32> -> tensor<25xf32>
  %loss = arith.constant dense<1.0> : tensor<f32>
  // CHECK: %[[DB:.*]] = train.sum_to
  // PLAIN-NEXT: train.sgd @b, %[[DB]], %[[LR]] : tensor<5xf32>, tensor<f32>
  // MOMENTUM-NEXT: train.sgd @b, %[[DB]], %[[LR]] {momentum = 9.000000e-01 : f64, state = @b.momentum} : tensor<5xf32>, tensor<f32>
  %db = train.sum_to %x : tensor<7x5xf32> -> tensor<5xf32>
  train.gradient %db of @b : tensor<5xf32>
  // CHECK-NEXT: %[[DW:.*]] = train.relu
  %dw = train.relu %w : tensor<5x5xf32>
  train.gradient %dw of @w : tensor<5x5xf32>
  // CHECK-NEXT: train.tanh
  %dx = train.tanh %view : tensor<25xf32>
  // PLAIN-NEXT: train.sgd @w, %[[DW]], %[[LR]] : tensor<5x5xf32>, tensor<f32>
  // MOMENTUM-NEXT: train.sgd @w, %[[DW]], %[[LR]] {momentum = 9.000000e-01 : f64, state = @w.momentum}
  // CHECK-NEXT: train.sigmoid
  %after = train.sigmoid %dx : tensor<25xf32>
  return %loss : tensor<f32>
}
