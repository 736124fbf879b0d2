// RUN: td-opt %s | td-opt | FileCheck %s

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>
// CHECK: tile.program @step target "t"
tile.program @step target "t" {
  %x = tile.buffer input "x" at 64 : memref<16x8xf32, #l2>
  %w = tile.buffer parameter "w" : memref<16x8xf32, #l3>
  %r = tile.buffer temporary "r" : memref<16x8xf32, #l1>
  // CHECK: tile.operator "fc" predicted [4, 3, 2, 1]
  tile.operator "fc" predicted [4, 3, 2, 1]
  // CHECK: %[[A:.*]] = tile.alloc "a" at 128 : memref<4x8xf32, #tile.memory<l1>>
  %a = tile.alloc "a" at 128 : memref<4x8xf32, #l1>
  %s = tile.alloc "s" : memref<4x8xf32, #l2>
  // CHECK: %[[V:.*]] = tile.view %{{.*}} [4, 0] [4, 8] : memref<16x8xf32, #tile.memory<l1>> to memref<4x8xf32, #tile.memory<l1>>
  %v = tile.view %r [4, 0] [4, 8] : memref<16x8xf32, #l1> to memref<4x8xf32, #l1>
  // CHECK: tile.copy %{{.*}} [4, 0] [4, 8], %[[A]] load true operator 0
  %0 = tile.copy %x [4, 0] [4, 8], %a load true operator 0 : memref<16x8xf32, #l2>, memref<4x8xf32, #l1>
  %1 = tile.copy %w [4, 0] [4, 8], %s load true operator 0 : memref<16x8xf32, #l3>, memref<4x8xf32, #l2>
  // CHECK: tile.wait %{{.*}}, %{{.*}} makes %[[A]], %{{.*}} :
  tile.wait %0, %1 makes %a, %s : memref<4x8xf32, #l1>, memref<4x8xf32, #l2>
  // CHECK: tile.call @kernel(%[[A]], %[[V]] : {{.*}}) indices [4] operator 0
  tile.call @kernel(%a, %v : memref<4x8xf32, #l1>, memref<4x8xf32, #l1>) indices [4] operator 0
}
func.func private @kernel(memref<?x?xf32, #l1>, memref<?x?xf32, #l1>, index)
