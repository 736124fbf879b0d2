// RUN: td-opt %s | td-opt | FileCheck %s
// RUN: td-opt %s --mlir-print-op-generic | td-opt | FileCheck %s

llvm.func @kernel(!llvm.ptr, i32)

// CHECK-LABEL: tile.program @jobs
tile.program @jobs target "t" {
  // CHECK: pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 4096 operator 3
  pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 4096 operator 3
  // CHECK: pulp.dma_start slot 1 load false l1 268451840 l2 469827584 bytes 4096 line 64 stride 1024 operator 3
  pulp.dma_start slot 1 load false l1 268451840 l2 469827584 bytes 4096 line 64 stride 1024 operator 3
  // CHECK: pulp.dma_start slot 1 continued load false l1 268455936 l2 469893120 bytes 16 operator 3
  pulp.dma_start slot 1 continued load false l1 268455936 l2 469893120 bytes 16 operator 3
  // CHECK: pulp.dma_wait slot 0 operator 3
  pulp.dma_wait slot 0 operator 3
  // CHECK: pulp.hyper_start slot 7 load true l3 4096 l2 469827584 bytes 1048572 operator 0
  pulp.hyper_start slot 7 load true l3 4096 l2 469827584 bytes 1048572 operator 0
  // CHECK: pulp.hyper_start slot 0 load false l3 0 l2 469827584 bytes 64 line 16 stride 32 operator 0
  pulp.hyper_start slot 0 load false l3 0 l2 469827584 bytes 64 line 16 stride 32 operator 0
  // CHECK: pulp.hyper_wait slot 7 operator 0
  pulp.hyper_wait slot 7 operator 0
  // CHECK: pulp.call @kernel [268451840, 4, 5, -1] operator 2
  pulp.call @kernel [268451840, 4, 5, -1] operator 2
  // CHECK: pulp.barrier operator 2
  pulp.barrier operator 2
}
