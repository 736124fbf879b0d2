// RUN: td-opt %s --split-input-file --verify-diagnostics

func.func @f(%a: memref<8x8xf32, #tile.memory<l1>>) {
  // expected-error @below {{window is not contiguous in the source}}
  %v = tile.view %a [0, 0] [4, 4] : memref<8x8xf32, #tile.memory<l1>> to memref<4x4xf32, #tile.memory<l1>>
  return
}

// -----

func.func @f(%a: memref<8x8xf32, #tile.memory<l1>>) {
  // expected-error @below {{window lies outside the source}}
  %v = tile.view %a [6, 0] [4, 8] : memref<8x8xf32, #tile.memory<l1>> to memref<4x8xf32, #tile.memory<l1>>
  return
}

// -----

func.func @f(%a: memref<8x8xf32, #tile.memory<l1>>) {
  // expected-error @below {{result is the packed window of the source}}
  %v = tile.view %a [4, 0] [4, 8] : memref<8x8xf32, #tile.memory<l1>> to memref<8x4xf32, #tile.memory<l1>>
  return
}

// -----

// expected-error @below {{lies in l1 or l2}}
%a = tile.alloc "a" : memref<4xf32, #tile.memory<l3>>

// -----

func.func @f(%x: memref<8x8xf32, #tile.memory<l3>>, %a: memref<8x8xf32, #tile.memory<l1>>) {
  // expected-error @below {{copies between l1 and l2, or l2 and l3}}
  %0 = tile.copy %x [0, 0] [8, 8], %a load true operator 0 : memref<8x8xf32, #tile.memory<l3>>, memref<8x8xf32, #tile.memory<l1>>
  return
}

// -----

func.func @f(%x: memref<8x8xf32, #tile.memory<l2>>, %a: memref<8x8xf32, #tile.memory<l1>>) {
  // expected-error @below {{window and tile differ in size}}
  %0 = tile.copy %x [0, 0] [4, 8], %a load true operator 0 : memref<8x8xf32, #tile.memory<l2>>, memref<8x8xf32, #tile.memory<l1>>
  return
}

// -----

// expected-error @below {{needs a token}}
"tile.wait"() {operandSegmentSizes = array<i32: 0, 0>} : () -> ()

// -----

func.func private @kernel(memref<?xf32, #tile.memory<l1>>)
func.func @f(%a: memref<8xf16, #tile.memory<l1>>) {
  // expected-error @below {{for an argument of type}}
  tile.call @kernel(%a : memref<8xf16, #tile.memory<l1>>) indices [] operator 0
  return
}

// -----

func.func @f(%a: memref<8xf32, #tile.memory<l1>>) {
  // expected-error @below {{calls @kernel, which is no function of the module}}
  tile.call @kernel(%a : memref<8xf32, #tile.memory<l1>>) indices [] operator 0
  return
}

// -----

func.func private @kernel(memref<?xf32, #tile.memory<l1>>, index)
func.func @f(%a: memref<8xf32, #tile.memory<l1>>) {
  // expected-error @below {{needs one operand or index per argument}}
  tile.call @kernel(%a : memref<8xf32, #tile.memory<l1>>) indices [] operator 0
  return
}

// -----

func.func private @kernel(memref<?xf32, #tile.memory<l2>>)
func.func @f(%a: memref<8xf32, #tile.memory<l2>>) {
  // expected-error @below {{operands are packed row-major tiles in l1}}
  tile.call @kernel(%a : memref<8xf32, #tile.memory<l2>>) indices [] operator 0
  return
}
