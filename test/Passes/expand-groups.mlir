// RUN: td-opt %S/Inputs/training-step.mlir --td-expand-groups | FileCheck %s

// CHECK: tile.program @step
// CHECK-DAG: %[[X:.*]] = tile.buffer input "x"
// CHECK-DAG: %[[LR:.*]] = tile.buffer input "lr"
// CHECK-DAG: %[[W1:.*]] = tile.buffer parameter "w1"
// CHECK-DAG: %[[W2:.*]] = tile.buffer parameter "w2"
// CHECK-DAG: %[[Y1:.*]] = tile.buffer temporary "y1"
// CHECK-DAG: %[[Y2:.*]] = tile.buffer temporary "y2"
// CHECK-DAG: %[[Y3:.*]] = tile.buffer output "y3"

// The operators, in order, for the jobs to name.
// CHECK: tile.operator "fc1"
// CHECK-NEXT: tile.operator "fc2"
// CHECK-NEXT: tile.operator "relu"
// CHECK-NEXT: tile.operator "fc1 weight gradient"

// The input is loaded once, the weight tile by tile; each is transposed, and
// the zero start is written before the first step of the reduction.
// CHECK: %[[XT:.*]] = tile.alloc "x" : memref<16x64xf32, #tile.memory<l1>>
// CHECK-NEXT: %[[T:.*]] = tile.copy %[[X]] [0, 0] [16, 64], %[[XT]] load true operator 0
// CHECK-NEXT: tile.wait %[[T]] makes %[[XT]]
// CHECK-NEXT: %[[WT:.*]] = tile.alloc "w1" : memref<16x64xf32, #tile.memory<l1>>
// CHECK-NEXT: tile.copy %[[W1]] [0, 0] [16, 64], %[[WT]] load true
// CHECK: tile.call @[[TRANSPOSE:.*]](%[[WT]], %[[S:.*]] : {{.*}}) indices [] operator 0
// CHECK-NEXT: tile.call @[[FILL:.*]](%[[Z:.*]] : {{.*}}) indices [] operator 0
// CHECK-NEXT: %[[G:.*]] = redmule.gemm %[[XT]], %[[S]], %[[Z]] operator 0
// CHECK-NEXT: tile.wait %[[G]]
// CHECK-NEXT: tile.copy %[[Y1]] [0, 0] [16, 16], %[[Z]] load false operator 0
// CHECK: tile.copy %[[W1]] [16, 0] [16, 64]
// CHECK: redmule.gemm %[[XT]]
// CHECK: tile.copy %[[Y1]] [0, 16] [16, 16], %{{.*}} load false

// Two steps of the reduction into a resident array; the weight comes from L3
// through L2; kernels are shared with the operator before.
// CHECK: tile.copy %[[Y1]] [0, 0] [16, 20], %{{.*}} load true operator 1
// CHECK: %[[STAGING:.*]] = tile.alloc "w2" : memref<24x20xf32, #tile.memory<l2>>
// CHECK-NEXT: tile.copy %[[W2]] [0, 0] [24, 20], %[[STAGING]] load true
// CHECK-NEXT: tile.wait %{{.*}} makes %[[STAGING]]
// CHECK-NEXT: tile.copy %[[STAGING]] [0, 0] [24, 20], %[[NEAR:.*]] load true
// CHECK: tile.call @[[TRANSPOSE]](%[[NEAR]], %{{.*}}) indices [] operator 1
// CHECK-NEXT: tile.call @[[FILL]](%[[Y2]] :
// CHECK-NEXT: redmule.gemm %{{.*}}, %{{.*}}, %[[Y2]] operator 1
// CHECK: tile.copy %[[W2]] [0, 20] [24, 12]
// CHECK-NOT: @[[FILL]]
// CHECK: redmule.gemm %{{.*}}, %{{.*}}, %[[Y2]] operator 1 : memref<16x12xf32

// Edge tiles of a resident array are used in place; the kernel gets the index
// of a tile's first row.
// CHECK: %[[V0:.*]] = tile.view %[[Y2]] [0, 0] [5, 24]
// CHECK: tile.call @[[RELU:.*]](%[[V0]], %{{.*}} : {{.*}}) indices [0] operator 2
// CHECK: tile.call @[[RELU]]({{.*}}) indices [5]
// CHECK: tile.call @[[RELU]]({{.*}}) indices [10]
// CHECK: %[[V3:.*]] = tile.view %[[Y2]] [15, 0] [1, 24]
// CHECK: tile.call @[[RELU]](%[[V3]], %{{.*}} : memref<1x24xf32{{.*}}) indices [15]

// The weight's tile is loaded, changed after the last of three steps of the
// sum, and stored; the learning rate is loaded once.
// CHECK: %[[WI:.*]] = tile.alloc "w1" : memref<16x64xf32, #tile.memory<l1>>
// CHECK: tile.copy %[[W1]] [0, 0] [16, 64], %[[WI]] load true operator 3
// CHECK: tile.copy %[[LR]] [] [], %[[R:.*]] load true operator 3
// CHECK: redmule.gemm %{{.*}}, %{{.*}}, %[[GRADIENT:.*]] operator 3 : memref<16x6xf32
// CHECK-NOT: tile.call @{{.*}}(%[[WI]]
// CHECK: redmule.gemm %{{.*}}, %{{.*}}, %[[GRADIENT]] operator 3 : memref<16x6xf32
// CHECK-NOT: tile.call @{{.*}}(%[[WI]]
// CHECK: redmule.gemm %{{.*}}, %{{.*}}, %[[GRADIENT]] operator 3 : memref<16x4xf32
// CHECK-NEXT: tile.wait
// CHECK-NEXT: tile.call @[[UPDATE:.*]](%[[WI]], %[[GRADIENT]], %[[R]] :
// CHECK-NEXT: tile.copy %[[W1]] [0, 0] [16, 64], %[[WI]] load false
// CHECK-NOT: tile.copy %[[LR]]
// CHECK: tile.copy %[[W1]] [16, 0] [16, 64], %{{.*}} load false

// CHECK: func.func private @[[TRANSPOSE]]({{.*}}) attributes {tile.kernel}
// CHECK: linalg.transpose
// CHECK: func.func private @[[FILL]]
// CHECK: linalg.fill
// CHECK: func.func private @[[RELU]](%{{.*}}, %{{.*}}, %[[ROW:.*]]: index)
// CHECK: %[[I:.*]] = linalg.index 0
// CHECK: arith.addi %[[I]], %[[ROW]]
// CHECK: func.func private @[[UPDATE]](%[[A:.*]]: memref<?x?xf32, {{.*}}>, %{{.*}}: {{.*}}, %{{.*}}: memref<f32, {{.*}}>)
// CHECK: linalg.generic {{.*}} ins(%[[A]], {{.*}}) outs(%[[A]] :
// CHECK-NOT: func.func
