// RUN: td-opt %s --split-input-file --verify-diagnostics

// expected-error @below {{size 65536 does not fit the job's 16-bit registers}}
redmule.start x 268451840 w 268455936 z 268460032 m 65536 n 1 k 7 format f32 operator 0

// -----
// expected-error @below {{size 0 does not fit the job's 16-bit registers}}
redmule.start x 268451840 w 268455936 z 268460032 m 1 n 1 k 0 format f32 operator 0

// -----
// expected-error @below {{address 268451842 is no 32-bit address of an element}}
redmule.start x 268451842 w 268455936 z 268460032 m 1 n 1 k 1 format f32 operator 0

// -----
#l1 = #tile.memory<l1>
func.func @shapes(%x: memref<4x5xf32, #l1>, %w: memref<6x7xf32, #l1>, %z: memref<4x7xf32, #l1>) {
  // expected-error @below {{needs X: MxN, W: NxK, Z: MxK}}
  %0 = redmule.gemm %x, %w, %z operator 0 : memref<4x5xf32, #l1>, memref<6x7xf32, #l1>, memref<4x7xf32, #l1>
  return
}

// -----
#l1 = #tile.memory<l1>
func.func @level(%x: memref<4x5xf32, #tile.memory<l2>>, %w: memref<5x7xf32, #l1>, %z: memref<4x7xf32, #l1>) {
  // expected-error @below {{operands lie in L1}}
  %0 = redmule.gemm %x, %w, %z operator 0 : memref<4x5xf32, #tile.memory<l2>>, memref<5x7xf32, #l1>, memref<4x7xf32, #l1>
  return
}

// -----
#l1 = #tile.memory<l1>
func.func @types(%x: memref<4x5xf16, #l1>, %w: memref<5x7xf32, #l1>, %z: memref<4x7xf32, #l1>) {
  // expected-error @below {{operands are all f32 or all f16}}
  %0 = redmule.gemm %x, %w, %z operator 0 : memref<4x5xf16, #l1>, memref<5x7xf32, #l1>, memref<4x7xf32, #l1>
  return
}

// -----
#l1 = #tile.memory<l1>
func.func @rank(%x: memref<20xf32, #l1>, %w: memref<5x7xf32, #l1>, %z: memref<4x7xf32, #l1>) {
  // expected-error @below {{operands are packed row-major matrices}}
  %0 = redmule.gemm %x, %w, %z operator 0 : memref<20xf32, #l1>, memref<5x7xf32, #l1>, memref<4x7xf32, #l1>
  return
}

// -----
#l1 = #tile.memory<l1>
func.func @size(%x: memref<1x65536xf32, #l1>, %w: memref<65536x1xf32, #l1>, %z: memref<1x1xf32, #l1>) {
  // expected-error @below {{size 65536 does not fit the job's 16-bit registers}}
  %0 = redmule.gemm %x, %w, %z operator 0 : memref<1x65536xf32, #l1>, memref<65536x1xf32, #l1>, memref<1x1xf32, #l1>
  return
}
