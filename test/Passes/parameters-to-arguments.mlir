// RUN: td-opt %s --td-parameters-to-arguments | FileCheck %s

// The next value of what is assigned comes back; a read after the assign sees it.
// CHECK-NOT: train.
// CHECK: func.func @step(%[[X:.*]]: tensor<3xf32> {train.name = "x"}, %[[A:.*]]: tensor<3xf32>, %[[B:.*]]: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) attributes {llvm.emit_c_interface} {
// CHECK-NEXT: return %[[A]], %[[A]] : tensor<3xf32>, tensor<3xf32>
train.parameter @a : tensor<3xf32>
train.parameter @b trainable : tensor<3xf32>
func.func @step(%x: tensor<3xf32> {train.name = "x"}) -> tensor<3xf32> {
  %a = train.read @a : tensor<3xf32>
  train.assign %a to @b : tensor<3xf32>
  %b = train.read @b : tensor<3xf32>
  return %b : tensor<3xf32>
}
