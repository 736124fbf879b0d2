// RUN: td-opt %s --split-input-file --verify-diagnostics --td-verify-jobs

// A stream that overlaps what may overlap.
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @right target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<4x8xf32, #l1>
  %b = tile.alloc "b" : memref<4x8xf32, #l1>
  %0 = tile.copy %x [0, 0] [4, 8], %a load true operator 0 {tile.sequence = 0 : i32} : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  %1 = tile.copy %x [4, 0] [4, 8], %b load true operator 0 {tile.sequence = 2 : i32} : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %0 makes %a : memref<4x8xf32, #l1>
  %2 = tile.copy %y [0, 0] [4, 8], %a load false operator 0 {tile.sequence = 1 : i32} : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %1 makes %b : memref<4x8xf32, #l1>
  %3 = tile.copy %y [4, 0] [4, 8], %b load false operator 0 {tile.sequence = 3 : i32} : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %2, %3 makes %y, %a, %b : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>, memref<4x8xf32, #l1>
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @use_before_wait target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  // expected-note @below {{the job in flight}}
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  // expected-error @below {{touches 'a' while a job in flight uses its bytes}}
  tile.call @read(%a : memref<8x8xf32, #l1>) indices [] operator 0
  tile.wait %0 makes %a : memref<8x8xf32, #l1>
}
func.func private @read(memref<?x?xf32, #l1>)

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @never_waited target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  // expected-error @below {{is never waited for}}
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @waited_twice target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %0 makes %a : memref<8x8xf32, #l1>
  // expected-error @below {{waits for a job that was waited for before}}
  tile.wait %0 makes %a : memref<8x8xf32, #l1>
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @not_listed target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  // expected-error @below {{does not list 'a', which it makes valid}}
  tile.wait %0
}

// -----

#l1 = #tile.memory<l1>
tile.program @two_gemms target "t" {
  %x = tile.buffer constant "x" init dense<1.0> : tensor<4x4xf32> : memref<4x4xf32, #l1>
  %a = tile.alloc "a" : memref<4x4xf32, #l1>
  %b = tile.alloc "b" : memref<4x4xf32, #l1>
  tile.call @fill(%a : memref<4x4xf32, #l1>) indices [] operator 0
  tile.call @fill(%b : memref<4x4xf32, #l1>) indices [] operator 0
  // expected-note @below {{the job in flight}}
  %0 = redmule.gemm %x, %x, %a operator 0 : memref<4x4xf32, #l1>, memref<4x4xf32, #l1>, memref<4x4xf32, #l1>
  // expected-error @below {{starts before RedMulE's last job was waited for}}
  %1 = redmule.gemm %x, %x, %b operator 0 : memref<4x4xf32, #l1>, memref<4x4xf32, #l1>, memref<4x4xf32, #l1>
  tile.wait %0, %1 makes %a, %b : memref<4x4xf32, #l1>, memref<4x4xf32, #l1>
}
func.func private @fill(%a: memref<?x?xf32, #l1>) {
  %c = arith.constant 0.0 : f32
  linalg.fill ins(%c : f32) outs(%a : memref<?x?xf32, #l1>)
  return
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @unwritten target "t" {
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  // expected-error @below {{reads bytes of 'a' that nothing wrote}}
  %0 = tile.copy %y [0, 0] [8, 8], %a load false operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %0 makes %y : memref<8x8xf32, #l2>
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @incomplete target "t" {
  %x = tile.buffer input "x" : memref<4x8xf32, #l2>
  // expected-error @below {{is not written as a whole by the step}}
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<4x8xf32, #l1>
  %0 = tile.copy %x [0, 0] [4, 8], %a load true operator 0 : memref<4x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %0 makes %a : memref<4x8xf32, #l1>
  %1 = tile.copy %y [0, 0] [4, 8], %a load false operator 0 : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %1 makes %y : memref<8x8xf32, #l2>
}

// -----

// The load is in order with itself, but the plan wanted the array's value from
// before the store.
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @order target "t" {
  %x = tile.buffer parameter "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  %b = tile.alloc "b" : memref<4x8xf32, #l1>
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 {tile.sequence = 0 : i32} : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %0 makes %a : memref<8x8xf32, #l1>
  %1 = tile.copy %x [0, 0] [8, 8], %a load false operator 0 {tile.sequence = 2 : i32} : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %1 makes %x : memref<8x8xf32, #l2>
  // expected-error @below {{reads 'x' after a job that comes later in the plan wrote it}}
  %2 = tile.copy %x [4, 0] [4, 8], %b load true operator 0 {tile.sequence = 1 : i32} : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
  tile.wait %2 makes %b : memref<4x8xf32, #l1>
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @order_of_writes target "t" {
  %x = tile.buffer parameter "x" : memref<8x8xf32, #l2>
  %a = tile.alloc "a" : memref<8x8xf32, #l1>
  %b = tile.alloc "b" : memref<8x8xf32, #l1>
  tile.call @fill(%b : memref<8x8xf32, #l1>) indices [] operator 0 {tile.sequence = 0 : i32}
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 {tile.sequence = 2 : i32} : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %0 makes %a : memref<8x8xf32, #l1>
  // expected-error @below {{writes 'x' after a job that comes later in the plan used it}}
  %1 = tile.copy %x [0, 0] [8, 8], %b load false operator 0 {tile.sequence = 1 : i32} : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
  tile.wait %1 makes %x : memref<8x8xf32, #l2>
}
func.func private @fill(%a: memref<?x?xf32, #l1>) {
  %c = arith.constant 0.0 : f32
  linalg.fill ins(%c : f32) outs(%a : memref<?x?xf32, #l1>)
  return
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
module attributes {tile.target = {cores = {count = 8}, dma = {bytes_per_cycle = 8}, runtime = {core_stack = 16, l2_reserved = 0},
                                  memory = {l1 = {base = 0, size = 65536}, l2 = {base = 65536, size = 65536}}}} {
  // b is loaded over a, which is still needed.
  tile.program @overwritten target "t" {
    %x = tile.buffer parameter "x" at 65536 : memref<8x8xf32, #l2>
    %a = tile.alloc "a" at 4096 : memref<8x8xf32, #l1>
    %b = tile.alloc "b" at 4224 : memref<4x8xf32, #l1>
    %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
    tile.wait %0 makes %a : memref<8x8xf32, #l1>
    %1 = tile.copy %x [0, 0] [4, 8], %b load true operator 0 : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
    tile.wait %1 makes %b : memref<4x8xf32, #l1>
    // expected-error @below {{reads bytes of 'a' that hold 'b'}}
    %2 = tile.copy %x [0, 0] [8, 8], %a load false operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
    tile.wait %2 makes %x : memref<8x8xf32, #l2>
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
module attributes {tile.target = {cores = {count = 8}, dma = {bytes_per_cycle = 8}, runtime = {core_stack = 16, l2_reserved = 0},
                                  memory = {l1 = {base = 0, size = 65536}, l2 = {base = 65536, size = 65536}}}} {
  // b is loaded over a, which a job in flight reads.
  tile.program @race target "t" {
    %x = tile.buffer parameter "x" at 65536 : memref<8x8xf32, #l2>
    %a = tile.alloc "a" at 4096 : memref<8x8xf32, #l1>
    %b = tile.alloc "b" at 4224 : memref<4x8xf32, #l1>
    %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
    tile.wait %0 makes %a : memref<8x8xf32, #l1>
    // expected-note @below {{the job in flight}}
    %2 = tile.copy %x [0, 0] [8, 8], %a load false operator 0 : memref<8x8xf32, #l2>, memref<8x8xf32, #l1>
    // expected-error @below {{while a job in flight uses its bytes}}
    %1 = tile.copy %x [0, 0] [4, 8], %b load true operator 0 : memref<8x8xf32, #l2>, memref<4x8xf32, #l1>
    tile.wait %1, %2 makes %b, %x : memref<4x8xf32, #l1>, memref<8x8xf32, #l2>
  }
}

// -----

#l2 = #tile.memory<l2>
module attributes {tile.target = {cores = {count = 8}, dma = {bytes_per_cycle = 8}, runtime = {core_stack = 16, l2_reserved = 256},
                                  memory = {l1 = {base = 0, size = 65536}, l2 = {base = 65536, size = 65536}}}} {
  tile.program @reserved target "t" {
    // expected-error @below {{lies outside of the bytes 65792 to 131072 of l2}}
    %x = tile.buffer parameter "x" at 65536 : memref<8x8xf32, #l2>
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @constant target "t" {
  %x = tile.buffer constant "x" init dense<1.0> : tensor<4x4xf32> : memref<4x4xf32, #l2>
  %a = tile.alloc "a" : memref<4x4xf32, #l1>
  %0 = tile.copy %x [0, 0] [4, 4], %a load true operator 0 : memref<4x4xf32, #l2>, memref<4x4xf32, #l1>
  tile.wait %0 makes %a : memref<4x4xf32, #l1>
  // expected-error @below {{writes the constant 'x'}}
  %1 = tile.copy %x [0, 0] [4, 4], %a load false operator 0 : memref<4x4xf32, #l2>, memref<4x4xf32, #l1>
  tile.wait %1 makes %x : memref<4x4xf32, #l2>
}
