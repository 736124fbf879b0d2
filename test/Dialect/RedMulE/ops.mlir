// RUN: td-opt %s | td-opt | FileCheck %s

#l1 = #tile.memory<l1>
// CHECK-LABEL: func.func @gemm
func.func @gemm(%x: memref<4x5xf16, #l1>, %w: memref<5x7xf16, #l1>, %z: memref<4x7xf16, #l1>) -> !tile.token {
  // CHECK: redmule.gemm %{{.*}}, %{{.*}}, %{{.*}} operator 3 : memref<4x5xf16, #tile.memory<l1>>
  %0 = redmule.gemm %x, %w, %z operator 3 : memref<4x5xf16, #l1>, memref<5x7xf16, #l1>, memref<4x7xf16, #l1>
  return %0 : !tile.token
}
