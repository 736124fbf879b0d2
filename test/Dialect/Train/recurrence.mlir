// RUN: td-opt %s | td-opt | FileCheck %s
// RUN: td-opt %s --mlir-print-op-generic | td-opt | FileCheck %s

// CHECK-LABEL: @rnn
func.func @rnn(%x: tensor<5x2x3xf32>, %h: tensor<2x3xf32>, %w: tensor<3x3xf32>) -> tensor<6x2x3xf32> {
  // CHECK: train.recurrence 5 over(%{{.*}} : tensor<5x2x3xf32>) at [0] from(%{{.*}} : tensor<2x3xf32>) with(%{{.*}} : tensor<3x3xf32>) -> tensor<6x2x3xf32> {
  %0 = train.recurrence 5 over(%x : tensor<5x2x3xf32>) at [0] from(%h : tensor<2x3xf32>) with(%w : tensor<3x3xf32>) -> tensor<6x2x3xf32> {
  // CHECK-NEXT: ^bb0(%[[X:.*]]: tensor<2x3xf32>, %[[H:.*]]: tensor<2x3xf32>, %[[W:.*]]: tensor<3x3xf32>):
  ^bb0(%xt: tensor<2x3xf32>, %ht: tensor<2x3xf32>, %wt: tensor<3x3xf32>):
    // CHECK: train.linear %[[H]], %[[W]]
    %1 = train.linear %ht, %wt : tensor<2x3xf32>, tensor<3x3xf32> -> tensor<2x3xf32>
    %2 = train.add %1, %xt : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<2x3xf32>
    // CHECK: train.recurrence_next %{{.*}} : tensor<2x3xf32>
    train.recurrence_next %2 : tensor<2x3xf32>
  }
  return %0 : tensor<6x2x3xf32>
}

// Backwards, over a part of the input, with an output and no state.
// CHECK-LABEL: @map
func.func @map(%x: tensor<7x3xf64>) -> tensor<4x3xf64> {
  // CHECK: train.recurrence 4 reverse over(%{{.*}} : tensor<7x3xf64>) at [2] -> tensor<4x3xf64> {
  %0 = train.recurrence 4 reverse over(%x : tensor<7x3xf64>) at [2] -> tensor<4x3xf64> {
  ^bb0(%xt: tensor<3xf64>):
    %1 = train.tanh %xt : tensor<3xf64>
    train.recurrence_next %1 : tensor<3xf64>
  }
  return %0 : tensor<4x3xf64>
}
