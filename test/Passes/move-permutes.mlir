// RUN: td-opt %s --td-move-permutes | FileCheck %s

// Between two convolutions of a model with channels first nothing is left, the flatten at the end pays nothing.
// CHECK-LABEL: func.func @network
// CHECK-SAME: %[[X:.*]]: tensor<2x3x8x8xf32>
// CHECK: %[[A:.*]] = train.permute %[[X]] [0, 2, 3, 1]
// CHECK-NEXT: %[[B:.*]] = train.conv2d %[[A]], %{{.*}}
// CHECK-NEXT: %[[C:.*]] = train.relu %[[B]] : tensor<2x8x8x5xf32>
// CHECK-NEXT: %[[D:.*]] = train.conv2d %[[C]], %{{.*}}
// CHECK-NEXT: %[[E:.*]] = train.reshape %[[D]] : tensor<2x8x8x7xf32> -> tensor<2x64x7xf32>
// CHECK-NEXT: return %[[E]]
func.func @network(%x: tensor<2x3x8x8xf32>, %v: tensor<1x1x3x5xf32>, %w: tensor<1x1x5x7xf32>) -> tensor<2x64x7xf32> {
  %0 = train.permute %x [0, 2, 3, 1] : tensor<2x3x8x8xf32> -> tensor<2x8x8x3xf32>
  %1 = train.conv2d %0, %v {strides = array<i64: 1, 1>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<2x8x8x3xf32>, tensor<1x1x3x5xf32>) -> tensor<2x8x8x5xf32>
  %2 = train.permute %1 [0, 3, 1, 2] : tensor<2x8x8x5xf32> -> tensor<2x5x8x8xf32>
  %3 = train.relu %2 : tensor<2x5x8x8xf32>
  %4 = train.permute %3 [0, 2, 3, 1] : tensor<2x5x8x8xf32> -> tensor<2x8x8x5xf32>
  %5 = train.conv2d %4, %w {strides = array<i64: 1, 1>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<2x8x8x5xf32>, tensor<1x1x5x7xf32>) -> tensor<2x8x8x7xf32>
  %6 = train.permute %5 [0, 3, 1, 2] : tensor<2x8x8x7xf32> -> tensor<2x7x8x8xf32>
  %7 = train.reshape %6 : tensor<2x7x8x8xf32> -> tensor<2x7x64xf32>
  %8 = train.permute %7 [0, 2, 1] : tensor<2x7x64xf32> -> tensor<2x64x7xf32>
  return %8 : tensor<2x64x7xf32>
}

// A vector along the channels is permuted rather than the image.
// CHECK-LABEL: func.func @scale
// CHECK: %[[S:.*]] = train.reshape %{{.*}} -> tensor<1x1x1x5xf32>
// CHECK: %[[Y:.*]] = train.mul %{{.*}}, %[[S]] : tensor<2x3x3x5xf32>, tensor<1x1x1x5xf32> -> tensor<2x3x3x5xf32>
// CHECK: train.permute %[[Y]] [0, 3, 1, 2]
func.func @scale(%x: tensor<2x3x3x5xf32>, %s: tensor<5x1x1xf32>) -> tensor<2x5x3x3xf32> {
  %0 = train.permute %x [0, 3, 1, 2] : tensor<2x3x3x5xf32> -> tensor<2x5x3x3xf32>
  %1 = train.mul %0, %s : tensor<2x5x3x3xf32>, tensor<5x1x1xf32> -> tensor<2x5x3x3xf32>
  return %1 : tensor<2x5x3x3xf32>
}

// CHECK-LABEL: func.func @keys
// CHECK: train.matmul %{{.*}}, %{{.*}} {transpose_rhs}
// CHECK-NOT: train.permute
func.func @keys(%q: tensor<2x5x3xf32>, %k: tensor<2x7x3xf32>) -> tensor<2x5x7xf32> {
  %0 = train.permute %k [0, 2, 1] : tensor<2x7x3xf32> -> tensor<2x3x7xf32>
  %1 = train.matmul %q, %0 : (tensor<2x5x3xf32>, tensor<2x3x7xf32>) -> tensor<2x5x7xf32>
  return %1 : tensor<2x5x7xf32>
}

// A reshape that tears the channels apart keeps its permute.
// CHECK-LABEL: func.func @flatten
// CHECK: train.permute
// CHECK-NEXT: train.reshape
func.func @flatten(%x: tensor<2x3x3x5xf32>) -> tensor<2x45xf32> {
  %0 = train.permute %x [0, 3, 1, 2] : tensor<2x3x3x5xf32> -> tensor<2x5x3x3xf32>
  %1 = train.reshape %0 : tensor<2x5x3x3xf32> -> tensor<2x45xf32>
  return %1 : tensor<2x45xf32>
}
