// RUN: td-opt %s --td-differentiate | FileCheck %s --check-prefix=GRADIENT
// RUN: td-opt %s --pass-pipeline='builtin.module(func.func(td-decompose,canonicalize,td-lower-recurrences))' | FileCheck %s --check-prefix=HOST
// RUN: td-opt %s --pass-pipeline='builtin.module(td-differentiate,td-insert-updates,func.func(td-decompose,cse,canonicalize,td-fuse-elementwise,canonicalize,cse),td-set-target,td-plan-step)' | FileCheck %s --check-prefix=PLAN

// The gradient runs the other way, over the states that are there; what is
// multiplied with the weight in all steps is one product outside of the loop.
// GRADIENT: %[[STATES:.*]] = train.recurrence 5 over(
// GRADIENT: train.mse_loss
// GRADIENT: %[[DY:.*]] = train.embed
// GRADIENT: %[[BACK:.*]]:2 = train.recurrence 5 reverse over(%[[DY]], %[[STATES]] : tensor<6x2x3xf32>, tensor<6x2x3xf32>) at [1, 1] from(
// GRADIENT-NEXT: ^bb0(%[[D:.*]]: tensor<2x3xf32>, %[[N:.*]]: tensor<2x3xf32>, %[[CARRY:.*]]: tensor<2x3xf32>, %[[W:.*]]: tensor<3x3xf32>):
// GRADIENT-NEXT: %[[SUM:.*]] = train.add %[[D]], %[[CARRY]]
// GRADIENT-NEXT: %[[DS:.*]] = train.tanh_vjp %[[N]], %[[SUM]]
// GRADIENT: %[[DH:.*]] = linalg.matmul ins(%[[DS]], %[[W]] :
// GRADIENT-NEXT: train.recurrence_next %[[DH]], %[[DS]]
// GRADIENT: %[[ROWS:.*]] = train.reshape %[[BACK]]#1 : tensor<5x2x3xf32> -> tensor<10x3xf32>
// GRADIENT-NEXT: %[[ALL:.*]] = train.reshape %[[STATES]] : tensor<6x2x3xf32> -> tensor<12x3xf32>
// GRADIENT-NEXT: %[[BEFORE:.*]] = train.slice %[[ALL]] {offsets = array<i64: 0, 0>
// GRADIENT: %[[DW:.*]] = linalg.matmul {{.*}} ins(%[[ROWS]], %[[BEFORE]] : tensor<10x3xf32>, tensor<10x3xf32>)
// GRADIENT-NEXT: train.gradient %[[DW]] of @w

// HOST: %[[FIRST:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[0, 0, 0] [1, 2, 3] [1, 1, 1] : tensor<2x3xf32> into tensor<6x2x3xf32>
// HOST: scf.for %[[T:.*]] = %{{.*}} to %{{.*}} step %{{.*}} iter_args(%[[ARG:.*]] = %[[FIRST]])
// HOST: tensor.extract_slice %{{.*}}[%{{.*}}, 0, 0] [1, 2, 3] [1, 1, 1] : tensor<5x2x3xf32> to tensor<2x3xf32>
// HOST: tensor.extract_slice %[[ARG]][%{{.*}}, 0, 0] [1, 2, 3] [1, 1, 1] : tensor<6x2x3xf32> to tensor<2x3xf32>
// HOST: %[[NEXT:.*]] = tensor.insert_slice %{{.*}} into %[[ARG]]
// HOST-NEXT: scf.yield %[[NEXT]]
// HOST-NOT: train.recurrence

// Each run reads the state before it and writes the one after it, in one array.
// PLAN: %[[H:.*]] = tile.buffer temporary "{{.*}}" : memref<12x3xf32
// PLAN: tile.group {{.*}} outs(%[[H]] :
// PLAN: tile.loop 5 {
// PLAN-NEXT: tile.group "matmul + generic" {{.*}} ins(%[[H]], {{.*}} outs(%[[H]] : {{.*}}tile.advance = array<i64: 2, 0, 2, 2>
// PLAN: tile.loop 5 {
// PLAN-NEXT: tile.group {{.*}}tile.advance = array<i64: -2
// PLAN: tile.group "matmul" {{.*}}tile.advance = array<i64: -2, 0, -2>
// PLAN: tile.group
// PLAN-NOT: tile.loop
train.parameter @w trainable : tensor<3x3xf32>
train.optimizer @descent linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
func.func @step(%x: tensor<5x2x3xf32>, %t: tensor<5x2x3xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<3x3xf32>
  %h = arith.constant dense<0.0> : tensor<2x3xf32>
  %states = train.recurrence 5 over(%x : tensor<5x2x3xf32>) at [0] from(%h : tensor<2x3xf32>) with(%w : tensor<3x3xf32>) -> tensor<6x2x3xf32> {
  ^bb0(%xt: tensor<2x3xf32>, %ht: tensor<2x3xf32>, %wt: tensor<3x3xf32>):
    %p = train.linear %ht, %wt : tensor<2x3xf32>, tensor<3x3xf32> -> tensor<2x3xf32>
    %s = train.add %p, %xt : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<2x3xf32>
    %n = train.tanh %s : tensor<2x3xf32>
    train.recurrence_next %n : tensor<2x3xf32>
  }
  %y = train.slice %states {offsets = array<i64: 1, 0, 0>, strides = array<i64: 1, 1, 1>} : (tensor<6x2x3xf32>) -> tensor<5x2x3xf32>
  %loss = train.mse_loss %y, %t : tensor<5x2x3xf32> -> tensor<f32>
  return %loss : tensor<f32>
}
