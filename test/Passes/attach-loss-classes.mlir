// RUN: td-opt %s "--td-attach-loss=loss=cross-entropy class-axis=-2 labels=3,7 ignored=-100 weighted" | FileCheck %s

// Classes where a permute has moved them from, labels in a shape of their own, weights as a parameter.
// CHECK: train.parameter @loss.weight : tensor<5xf32>
// CHECK: func.func @step(%[[X:.*]]: tensor<3x7x5xf32>, %[[T:.*]]: tensor<3x7xi32> {train.name = "labels"}) -> tensor<f32>
// CHECK: %[[W:.*]] = train.read @loss.weight : tensor<5xf32>
// CHECK: train.cross_entropy %[[X]], %[[T]] weight %[[W]] {axis = 2 : i64, ignored = -100 : i64} : tensor<3x7x5xf32>, tensor<3x7xi32>, tensor<5xf32>
func.func @forward(%x: tensor<3x7x5xf32>) -> tensor<3x5x7xf32> {
  %y = train.permute %x [0, 2, 1] : tensor<3x7x5xf32> -> tensor<3x5x7xf32>
  return %y : tensor<3x5x7xf32>
}
