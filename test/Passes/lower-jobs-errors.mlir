// RUN: td-opt %s --split-input-file --verify-diagnostics --td-set-target --td-lower-jobs

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @race target "pulp-redmule" {
  %x = tile.buffer input "x" at 470000000 : memref<32xf32, #l2>
  // expected-note @below {{the job writes this buffer}}
  %a = tile.alloc "a" at 268500000 : memref<16xf32, #l1>
  %0 = tile.copy %x [0] [16], %a load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
  // expected-error @below {{touches bytes of a job that is still in flight}}
  %1 = tile.copy %x [16] [16], %a load false operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @address target "pulp-redmule" {
  %x = tile.buffer input "x" at 470000000 : memref<32xf32, #l2>
  // expected-error @below {{has no address; td-assign-addresses gives it one}}
  %a = tile.alloc "a" : memref<16xf32, #l1>
  %0 = tile.copy %x [0] [16], %a load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @padding target "pulp-redmule" {
  %x = tile.buffer input "x" at 470000000 : memref<32xf32, #l2>
  // expected-error @below {{outside of what a program may use of l1}}
  %a = tile.alloc "a" at 268566464 : memref<16xf32, #l1>
  %0 = tile.copy %x [0] [16], %a load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @code target "pulp-redmule" {
  // expected-error @below {{outside of what a program may use of l2}}
  %x = tile.buffer input "x" at 469827584 : memref<32xf32, #l2>
  %a = tile.alloc "a" at 268500000 : memref<16xf32, #l1>
  %0 = tile.copy %x [0] [16], %a load true operator 0 : memref<32xf32, #l2>, memref<16xf32, #l1>
}

// -----
#l1 = #tile.memory<l1>
tile.program @alias target "pulp-redmule" {
  %x = tile.alloc "x" at 268500000 : memref<4x4xf32, #l1>
  %w = tile.alloc "w" at 268500032 : memref<4x4xf32, #l1>
  // expected-error @below {{writes bytes that it reads as X or W}}
  %0 = redmule.gemm %x, %w, %x operator 0 : memref<4x4xf32, #l1>, memref<4x4xf32, #l1>, memref<4x4xf32, #l1>
}

// -----
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>
tile.program @words target "pulp-redmule" {
  %x = tile.buffer parameter "x" at 0 : memref<8x3xf16, #l3>
  %a = tile.alloc "a" at 470000000 : memref<8x2xf16, #l2>
  // expected-error @below {{moves a window between l2 and l3 that is no whole number of 32-bit words}}
  %0 = tile.copy %x [0, 0] [8, 2], %a load true operator 0 : memref<8x3xf16, #l3>, memref<8x2xf16, #l2>
}
