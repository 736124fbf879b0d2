// RUN: td-opt %s --td-expand-groups | FileCheck %s

// Each run of a loop has its groups' jobs, on windows that move; the cycles of an
// operator are those of all runs.
// CHECK: tile.operator "scale" predicted [30, 6, 24, 0]
// CHECK-NEXT: tile.operator "sum" predicted [3, 0, 3, 0]
// CHECK: tile.copy %[[X:.*]] [0, 0] [2, 3], %{{.*}} load true operator 0
// CHECK: tile.call @[[SCALE:.*]](
// CHECK: tile.copy %[[Y:.*]] [4, 0] [2, 3], %{{.*}} load false operator 0
// CHECK: tile.call @[[SUM:.*]](%{{.*}}) indices [] operator 1
// CHECK: tile.copy %[[X]] [2, 0] [2, 3], %{{.*}} load true operator 0
// CHECK: tile.call @[[SCALE]](
// CHECK: tile.copy %[[Y]] [2, 0] [2, 3], %{{.*}} load false operator 0
// CHECK: tile.call @[[SUM]](
// CHECK: tile.copy %[[X]] [4, 0] [2, 3], %{{.*}} load true operator 0
// CHECK: tile.copy %[[Y]] [0, 0] [2, 3], %{{.*}} load false operator 0
// CHECK: tile.call @[[SUM]](
// CHECK-NOT: tile.loop
// CHECK-NOT: tile.call
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#rows = affine_map<(i, j) -> (i, j)>
#later = affine_map<(i, j) -> (i + 4, j)>
#row = affine_map<(i) -> (i)>
tile.program @step target "t" {
  %x = tile.buffer input "x" : memref<6x3xf32, #l2>
  %y = tile.buffer output "y" : memref<6x3xf32, #l2>
  %z = tile.buffer output "z" : memref<3xf32, #l2>
  tile.loop 3 {
    tile.group "scale" domain [2, 3] tiles [2, 3] order [0, 1] reductions [] predicted [10, 2, 8, 0]
      ins(%x : memref<6x3xf32, #l2>) outs(%y : memref<6x3xf32, #l2>) maps [#rows, #later]
      attributes {tile.advance = array<i64: 2, -2>} {
    ^bb0(%a: memref<?x?xf32, #l1>, %b: memref<?x?xf32, #l1>):
      tile.stage main on cores { linalg.copy ins(%a : memref<?x?xf32, #l1>) outs(%b : memref<?x?xf32, #l1>) }
    }
    tile.group "sum" domain [3] tiles [3] order [0] reductions [] predicted [1, 0, 1, 0]
      outs(%z : memref<3xf32, #l2>) maps [#row] {
    ^bb0(%a: memref<?xf32, #l1>):
      tile.stage main on cores {
        %one = arith.constant 1.0 : f32
        linalg.fill ins(%one : f32) outs(%a : memref<?xf32, #l1>)
      }
    }
  }
}
