// RUN: td-opt %s --canonicalize | FileCheck %s

// CHECK-LABEL: @reshapes
// CHECK-SAME: %[[X:.*]]: tensor<3x5xf32>
// CHECK-NEXT: return %[[X]] : tensor<3x5xf32>
func.func @reshapes(%x: tensor<3x5xf32>) -> tensor<3x5xf32> {
  %0 = train.reshape %x : tensor<3x5xf32> -> tensor<5x3xf32>
  %1 = train.reshape %0 : tensor<5x3xf32> -> tensor<3x5xf32>
  return %1 : tensor<3x5xf32>
}

// CHECK-LABEL: @sum_to
// CHECK-SAME: %[[X:.*]]: tensor<3x5xf32>
// CHECK-NEXT: return %[[X]] : tensor<3x5xf32>
func.func @sum_to(%x: tensor<3x5xf32>) -> tensor<3x5xf32> {
  %0 = train.sum_to %x : tensor<3x5xf32> -> tensor<3x5xf32>
  return %0 : tensor<3x5xf32>
}

// CHECK-LABEL: @constants
// CHECK-DAG: %[[SUM:.*]] = arith.constant dense<5.000000e+00> : tensor<3xf32>
// CHECK-DAG: %[[DIFFERENCE:.*]] = arith.constant dense<-1.000000e+00> : tensor<3xf32>
// CHECK-DAG: %[[PRODUCT:.*]] = arith.constant dense<6.000000e+00> : tensor<3xf32>
// CHECK: return %[[SUM]], %[[DIFFERENCE]], %[[PRODUCT]]
func.func @constants() -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
  %a = arith.constant dense<2.0> : tensor<f32>
  %b = arith.constant dense<3.0> : tensor<3xf32>
  %0 = train.add %a, %b : tensor<f32>, tensor<3xf32> -> tensor<3xf32>
  %1 = train.sub %a, %b : tensor<f32>, tensor<3xf32> -> tensor<3xf32>
  %2 = train.mul %a, %b : tensor<f32>, tensor<3xf32> -> tensor<3xf32>
  return %0, %1, %2 : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
}
