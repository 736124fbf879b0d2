// RUN: td-opt %s --pass-pipeline='builtin.module(func.func(td-lower-copies))' | FileCheck %s

// CHECK: linalg.copy ins(%arg0 : memref<3xf32>) outs(%arg1 : memref<3xf32, strided<[2]>>)
// CHECK-NOT: memref.copy
func.func @copy(%a: memref<3xf32>, %b: memref<3xf32, strided<[2]>>) {
  memref.copy %a, %b : memref<3xf32> to memref<3xf32, strided<[2]>>
  return
}
