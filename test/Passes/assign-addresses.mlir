// RUN: td-opt %s --td-assign-addresses --td-verify-jobs | FileCheck %s

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>
module attributes {tile.target = {cores = {count = 8}, dma = {bytes_per_cycle = 8}, redmule = {port_bytes = 32, read_ahead = 64},
                                  runtime = {core_stack = 16, l2_reserved = 256},
                                  memory = {l1 = {base = 4096, size = 16384}, l2 = {base = 65536, size = 8192}, l3 = {size = 65536}}}} {
  // CHECK: tile.program @shared
  tile.program @shared target "t" {
    // Parameters and the like have places of their own; in L2 at the end, so that
    // what is free lies behind what the runtime occupies.
    // CHECK: tile.buffer input "x" at 71680 : memref<16x16xf32
    %x = tile.buffer input "x" : memref<16x16xf32, #l2>
    // CHECK: tile.buffer parameter "p" at 0 : memref<16x16xf32, #tile.memory<l3>>
    %p = tile.buffer parameter "p" : memref<16x16xf32, #l3>
    // A temporary that nothing uses is gone.
    // CHECK-NOT: unused
    %u = tile.buffer temporary "unused" : memref<16x16xf32, #l2>
    // CHECK: tile.buffer output "y" at 72704
    %y = tile.buffer output "y" : memref<16x16xf32, #l2>
    // Tiles that do not live together share their bytes; an operand of RedMulE is
    // aligned to its port.
    // CHECK: tile.alloc "a" at [[FIRST:[0-9]+]]
    %a = tile.alloc "a" : memref<16x16xf32, #l1>
    %0 = tile.copy %x [0, 0] [16, 16], %a load true operator 0 : memref<16x16xf32, #l2>, memref<16x16xf32, #l1>
    tile.wait %0 makes %a : memref<16x16xf32, #l1>
    %1 = tile.copy %y [0, 0] [16, 16], %a load false operator 0 : memref<16x16xf32, #l2>, memref<16x16xf32, #l1>
    tile.wait %1 makes %y, %a : memref<16x16xf32, #l2>, memref<16x16xf32, #l1>
    // CHECK: tile.alloc "b" at [[FIRST]]
    %b = tile.alloc "b" : memref<16x16xf32, #l1>
    %2 = tile.copy %x [0, 0] [16, 16], %b load true operator 0 : memref<16x16xf32, #l2>, memref<16x16xf32, #l1>
    tile.wait %2 makes %b : memref<16x16xf32, #l1>
    %3 = redmule.gemm %b, %b, %b operator 0 : memref<16x16xf32, #l1>, memref<16x16xf32, #l1>, memref<16x16xf32, #l1>
    tile.wait %3 makes %b : memref<16x16xf32, #l1>
  }
}
