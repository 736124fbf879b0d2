// RUN: td-opt %s --td-recognize-composites | FileCheck %s

// CHECK-LABEL: func.func @layer_norm
// CHECK-SAME: %[[X:.*]]: tensor<3x5xf32>, %[[S:.*]]: tensor<5xf32>
// CHECK: %[[Y:.*]] = train.normalize %[[X]], %[[S]] {axes = array<i64: 1>, epsilon = {{.*}}}
// CHECK-NEXT: return %[[Y]]
func.func @layer_norm(%x: tensor<3x5xf32>, %s: tensor<5xf32>) -> tensor<3x5xf32> {
  %part = arith.constant dense<0.2> : tensor<f32>
  %epsilon = arith.constant dense<1.0e-5> : tensor<f32>
  %0 = train.sum %x {axes = array<i64: 1>} : (tensor<3x5xf32>) -> tensor<3xf32>
  %1 = train.reshape %0 : tensor<3xf32> -> tensor<3x1xf32>
  %2 = train.mul %1, %part : tensor<3x1xf32>, tensor<f32> -> tensor<3x1xf32>
  %3 = train.sub %x, %2 : tensor<3x5xf32>, tensor<3x1xf32> -> tensor<3x5xf32>
  %4 = train.pow %3 {exponent = 2.0 : f64} : tensor<3x5xf32>
  %5 = train.sum %4 {axes = array<i64: 1>} : (tensor<3x5xf32>) -> tensor<3xf32>
  %6 = train.reshape %5 : tensor<3xf32> -> tensor<3x1xf32>
  %7 = train.mul %6, %part : tensor<3x1xf32>, tensor<f32> -> tensor<3x1xf32>
  %8 = train.add %7, %epsilon : tensor<3x1xf32>, tensor<f32> -> tensor<3x1xf32>
  %9 = train.sqrt %8 : tensor<3x1xf32>
  %10 = train.div %3, %9 : tensor<3x5xf32>, tensor<3x1xf32> -> tensor<3x5xf32>
  %11 = train.mul %10, %s : tensor<3x5xf32>, tensor<5xf32> -> tensor<3x5xf32>
  return %11 : tensor<3x5xf32>
}

// CHECK-LABEL: func.func @softmax
// CHECK-SAME: %[[X:.*]]: tensor<3x5xf32>
// CHECK: train.softmax %[[X]] {axis = 1 : i64}
func.func @softmax(%x: tensor<3x5xf32>) -> tensor<3x5xf32> {
  %0 = train.max %x {axes = array<i64: 1>} : (tensor<3x5xf32>) -> tensor<3xf32>
  %1 = train.reshape %0 : tensor<3xf32> -> tensor<3x1xf32>
  %2 = train.sub %x, %1 : tensor<3x5xf32>, tensor<3x1xf32> -> tensor<3x5xf32>
  %3 = train.exp %2 : tensor<3x5xf32>
  %4 = train.sum %3 {axes = array<i64: 1>} : (tensor<3x5xf32>) -> tensor<3xf32>
  %5 = train.reshape %4 : tensor<3xf32> -> tensor<3x1xf32>
  %6 = train.div %3, %5 : tensor<3x5xf32>, tensor<3x1xf32> -> tensor<3x5xf32>
  return %6 : tensor<3x5xf32>
}

// CHECK-LABEL: func.func @gelu
// CHECK-SAME: %[[X:.*]]: tensor<7xf32>
// CHECK: %[[Y:.*]] = train.gelu %[[X]] : tensor<7xf32>
// CHECK-NEXT: return %[[Y]]
func.func @gelu(%x: tensor<7xf32>) -> tensor<7xf32> {
  %root = arith.constant dense<1.41421354> : tensor<f32>
  %one = arith.constant dense<1.0> : tensor<f32>
  %half = arith.constant dense<0.5> : tensor<f32>
  %0 = train.div %x, %root : tensor<7xf32>, tensor<f32> -> tensor<7xf32>
  %1 = train.erf %0 : tensor<7xf32>
  %2 = train.add %1, %one : tensor<7xf32>, tensor<f32> -> tensor<7xf32>
  %3 = train.mul %x, %2 : tensor<7xf32>, tensor<7xf32> -> tensor<7xf32>
  %4 = train.mul %3, %half : tensor<7xf32>, tensor<f32> -> tensor<7xf32>
  return %4 : tensor<7xf32>
}

// Another factor is another function.
// CHECK-LABEL: func.func @no_gelu
// CHECK-NOT: train.gelu
func.func @no_gelu(%x: tensor<7xf32>) -> tensor<7xf32> {
  %one = arith.constant dense<1.0> : tensor<f32>
  %half = arith.constant dense<0.5> : tensor<f32>
  %1 = train.erf %x : tensor<7xf32>
  %2 = train.add %1, %one : tensor<7xf32>, tensor<f32> -> tensor<7xf32>
  %3 = train.mul %x, %2 : tensor<7xf32>, tensor<7xf32> -> tensor<7xf32>
  %4 = train.mul %3, %half : tensor<7xf32>, tensor<f32> -> tensor<7xf32>
  return %4 : tensor<7xf32>
}
