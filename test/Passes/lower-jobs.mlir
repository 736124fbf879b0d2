// RUN: td-opt %s --split-input-file --td-set-target --td-lower-jobs | FileCheck %s

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>

// Barriers: between a wait and a call of what it makes valid, between dependent
// calls, between a call and a job that conflicts with it; and no others.
func.func private @add(%a: memref<?xf32, #l1>, %b: memref<?xf32, #l1>) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
    ins(%a : memref<?xf32, #l1>) outs(%b : memref<?xf32, #l1>) {
  ^bb0(%x: f32, %y: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: tile.program @barriers
// A tile lives from its first job to the wait for its last one.
// CHECK-SAME: tile.arrays = [
// CHECK-SAME: {address = 268500000 : i64, bytes = 64 : i64, first = 0 : i64, last = 5 : i64, level = 1 : i64, name = "a", role = "temporary"}
// CHECK-SAME: {address = 470000000 : i64, bytes = 128 : i64, first = 0 : i64, last = 13 : i64, level = 2 : i64, name = "x", role = "input"}
tile.program @barriers target "pulp-redmule" {
  // CHECK: tile.operator "o"
  tile.operator "o" predicted [0, 0, 0, 0]
  %x = tile.buffer input "x" at 470000000 : memref<32xf32, #l2>
  %a = tile.alloc "a" at 268500000 : memref<16xf32, #l1>
  %b = tile.alloc "b" at 268501000 : memref<16xf32, #l1>
  %c = tile.alloc "c" at 268502000 : memref<16xf32, #l1>
  %d = tile.alloc "d" at 268503000 : memref<16xf32, #l1>
  // CHECK-NOT: tile.alloc
  // CHECK: pulp.dma_start slot 0 load true l1 268500000 l2 470000000 bytes 64 operator 0
  %0 = tile.copy %x [0] [16], %a load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
  // CHECK-NEXT: pulp.dma_start slot 1 load true l1 268503000 l2 470000064 bytes 64 operator 0
  %1 = tile.copy %x [16] [16], %d load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
  // CHECK-NEXT: pulp.dma_wait slot 0
  tile.wait %0 makes %a : memref<16xf32, #l1>
  // CHECK-NEXT: pulp.barrier
  // CHECK-NEXT: pulp.call @add [268500000, 16, 268501000, 16] operator 0
  tile.call @add(%a, %b : memref<16xf32, #l1>, memref<16xf32, #l1>) indices [] operator 0
  // Reads what the first call reads.
  // CHECK-NEXT: pulp.call @add [268500000, 16, 268502000, 16]
  tile.call @add(%a, %c : memref<16xf32, #l1>, memref<16xf32, #l1>) indices [] operator 0
  // A wait for a tile that the next call does not touch.
  // CHECK-NEXT: pulp.dma_wait slot 1
  tile.wait %1 makes %d : memref<16xf32, #l1>
  // Reads what the first call wrote.
  // CHECK-NEXT: pulp.barrier
  // CHECK-NEXT: pulp.call @add [268501000, 16, 268502000, 16]
  tile.call @add(%b, %c : memref<16xf32, #l1>, memref<16xf32, #l1>) indices [] operator 0
  // Reads what the call reads: none.
  // CHECK-NEXT: pulp.dma_start slot 0 load false l1 268501000
  %2 = tile.copy %x [0] [16], %b load false operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
  // Reads what the call writes. Slot 0 is taken.
  // CHECK-NEXT: pulp.barrier
  // CHECK-NEXT: pulp.dma_start slot 1 load false l1 268502000
  %3 = tile.copy %x [16] [16], %c load false operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
  // What nobody waits for is waited for at the end; what was waited for is not.
  // CHECK-NEXT: pulp.dma_wait slot 0
  tile.wait %2
  tile.wait %2
  // CHECK-NEXT: pulp.dma_wait slot 1
  // CHECK-NEXT: }
}

// -----
#l1 = #tile.memory<l1>

// One RedMulE job at a time; its result orders what comes next.
// CHECK-LABEL: tile.program @gemms
tile.program @gemms target "pulp-redmule" {
  tile.operator "o" predicted [0, 0, 0, 0]
  %x = tile.alloc "x" at 268500000 : memref<4x5xf32, #l1>
  %w = tile.alloc "w" at 268501000 : memref<5x7xf32, #l1>
  %y = tile.alloc "y" at 268502000 : memref<4x7xf32, #l1>
  %z = tile.alloc "z" at 268503000 : memref<4x7xf32, #l1>
  // CHECK: redmule.start x 268500000 w 268501000 z 268502000 m 4 n 5 k 7 format f32
  %0 = redmule.gemm %x, %w, %y operator 0 : memref<4x5xf32, #l1>, memref<5x7xf32, #l1>, memref<4x7xf32, #l1>
  // CHECK-NEXT: redmule.wait
  // CHECK-NEXT: redmule.start x 268500000 w 268501000 z 268503000
  %1 = redmule.gemm %x, %w, %z operator 0 : memref<4x5xf32, #l1>, memref<5x7xf32, #l1>, memref<4x7xf32, #l1>
  // CHECK-NEXT: redmule.wait
  // CHECK-NEXT: }
  tile.wait %0, %1
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>

// Windows: contiguous dimensions merge; commands are split at the limits.
// CHECK-LABEL: tile.program @windows
tile.program @windows target "pulp-redmule" {
  tile.operator "o" predicted [0, 0, 0, 0]
  %m = tile.buffer temporary "m" at 470000000 : memref<6x8x10xf32, #l2>
  %r4 = tile.buffer temporary "r4" at 470100000 : memref<3x4x5x6xf32, #l2>
  %rows = tile.alloc "rows" at 268500000 : memref<2x8x10xf32, #l1>
  %cols = tile.alloc "cols" at 268501000 : memref<6x8x1xf32, #l1>
  %box = tile.alloc "box" at 268502000 : memref<2x3x4xf32, #l1>
  %mid = tile.alloc "mid" at 268503000 : memref<2x2x5x6xf32, #l1>
  // CHECK: pulp.dma_start slot 0 load true l1 268500000 l2 470000640 bytes 640 operator 0
  %0 = tile.copy %m [2, 0, 0] [2, 8, 10], %rows load true operator 0 : memref<6x8x10xf32, #l2>, memref<2x8x10xf32, #l1>
  // CHECK-NEXT: pulp.dma_start slot 1 load true l1 268501000 l2 470000012 bytes 192 line 4 stride 40 operator 0
  %1 = tile.copy %m [0, 0, 3] [6, 8, 1], %cols load true operator 0 : memref<6x8x10xf32, #l2>, memref<6x8x1xf32, #l1>
  // CHECK-NEXT: pulp.dma_start slot 2 load true l1 268502000 l2 470000368 bytes 48 line 16 stride 40 operator 0
  // CHECK-NEXT: pulp.dma_start slot 2 continued load true l1 268502048 l2 470000688 bytes 48 line 16 stride 40 operator 0
  %2 = tile.copy %m [1, 1, 2] [2, 3, 4], %box load true operator 0 : memref<6x8x10xf32, #l2>, memref<2x3x4xf32, #l1>
  // CHECK-NEXT: pulp.dma_start slot 3 load true l1 268503000 l2 470100600 bytes 480 line 240 stride 480 operator 0
  %3 = tile.copy %r4 [1, 1, 0, 0] [2, 2, 5, 6], %mid load true operator 0 : memref<3x4x5x6xf32, #l2>, memref<2x2x5x6xf32, #l1>
}

// -----
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>

// CHECK-LABEL: tile.program @l3
tile.program @l3 target "pulp-redmule" {
  tile.operator "o" predicted [0, 0, 0, 0]
  %big = tile.buffer parameter "big" at 4096 : memref<1000x400xf32, #l3>
  %near = tile.alloc "near" at 470000000 : memref<1000x300xf32, #l2>
  // 873 lines of 1200 bytes fit a transfer.
  // CHECK: pulp.hyper_start slot 0 load true l3 4496 l2 470000000 bytes 1047600 line 1200 stride 1600 operator 0
  // CHECK-NEXT: pulp.hyper_start slot 1 load true l3 1401296 l2 471047600 bytes 152400 line 1200 stride 1600 operator 0
  // CHECK-NEXT: pulp.hyper_wait slot 0
  // CHECK-NEXT: pulp.hyper_wait slot 1
  %0 = tile.copy %big [0, 100] [1000, 300], %near load true operator 0 : memref<1000x400xf32, #l3>, memref<1000x300xf32, #l2>
  tile.wait %0
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>

// More copies than slots: the oldest is waited for.
// CHECK-LABEL: tile.program @slots
tile.program @slots target "pulp-redmule" {
  tile.operator "o" predicted [0, 0, 0, 0]
  %m = tile.buffer temporary "m" at 470000000 : memref<16x16x16xf32, #l2>
  %t = tile.alloc "t" at 268500000 : memref<16x8x8xf32, #l1>
  %u = tile.alloc "u" at 268510000 : memref<16x8x8xf32, #l1>
  // Eight commands share a slot.
  // CHECK-COUNT-8: pulp.dma_start slot 0
  // CHECK-COUNT-8: pulp.dma_start slot 1
  // CHECK-NEXT: pulp.dma_start slot 2
  %0 = tile.copy %m [0, 0, 0] [16, 8, 8], %t load true operator 0 : memref<16x16x16xf32, #l2>, memref<16x8x8xf32, #l1>
  %1 = tile.copy %m [0, 0, 0] [16, 8, 8], %u load true operator 0 : memref<16x16x16xf32, #l2>, memref<16x8x8xf32, #l1>
}
