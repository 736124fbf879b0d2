// A model goes through all borders at once, or through one after the other, to the same program.
// RUN: td-opt %s --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-compile{loss=mse trainable=fc.weight,fc.bias})' -o %t.whole
// RUN: td-opt %s --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-graph{loss=mse trainable=fc.weight,fc.bias})' --mlir-print-debuginfo | td-opt --td-plan --mlir-print-debuginfo | td-opt --td-tile --mlir-print-debuginfo | td-opt --td-cluster --mlir-print-debuginfo | td-opt --td-llvm -o %t.steps
// RUN: diff %t.whole %t.steps
// RUN: FileCheck %s < %t.whole

// CHECK-NOT: tile.program
// CHECK-DAG: llvm.mlir.global {{.*}}@td_program
// CHECK-DAG: llvm.mlir.global {{.*}}@td_jobs
// CHECK-DAG: llvm.func @kernel_
module attributes {train.model = "linear"} {
  train.parameter @fc.weight : tensor<5x7xf32>
  train.parameter @fc.bias : tensor<5xf32>
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
  func.func @forward(%input: tensor<3x7xf32> {train.name = "input"}) -> tensor<3x5xf32> {
    %w = train.read @fc.weight : tensor<5x7xf32>
    %b = train.read @fc.bias : tensor<5xf32>
    %y = train.linear %input, %w, %b : tensor<3x7xf32>, tensor<5x7xf32>, tensor<5xf32> -> tensor<3x5xf32>
    return %y : tensor<3x5xf32>
  }
}
