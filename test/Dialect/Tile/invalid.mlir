// RUN: td-opt %s --split-input-file --verify-diagnostics

#l2 = #tile.memory<l2>
tile.program @empty target "t" {
  // expected-error @below {{has no element, or more than 32 bits address}}
  %x = tile.buffer input "x" : memref<4x0xf32, #l2>
}

// -----
#l2 = #tile.memory<l2>
tile.program @large target "t" {
  // expected-error @below {{has no element, or more than 32 bits address}}
  %x = tile.buffer input "x" : memref<2147483648x2147483648xf32, #l2>
}

// -----
#l1 = #tile.memory<l1>
tile.program @bits target "t" {
  // expected-error @below {{has elements of type 'i1', which are no numbers of 8 to 64 bits}}
  %x = tile.alloc "x" : memref<4xi1, #l1>
}

// -----
#l2 = #tile.memory<l2>
tile.program @constant target "t" {
  // expected-error @below {{has an init of as many elements, of its type}}
  %x = tile.buffer constant "x" init dense<1> : tensor<4xi32> : memref<4xf32, #l2>
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
tile.program @far target "t" {
  %x = tile.buffer input "x" : memref<4xf32, #l2>
  %a = tile.alloc "a" : memref<2xf32, #l1>
  // expected-error @below {{window lies outside the array}}
  %0 = tile.copy %x [0] [2] step [9223372036854775807], %a load true operator 0 : memref<4xf32, #l2>, memref<2xf32, #l1>
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#id = affine_map<(i)->(i)>
tile.program @scratch target "t" {
  %x = tile.buffer input "x" : memref<8xf32, #l2>
  %y = tile.buffer output "y" : memref<8xf32, #l2>
  tile.group "copy" domain [8] tiles [4] order [0] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8xf32, #l2>) outs(%y : memref<8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: memref<?xf32, #l1>, %b: memref<?xf32, #l1>):
     // expected-error @below {{needs a map with a sum of the domain's dimensions per dimension of its tile}}
     %s = tile.scratch affine_map<(i)->(i floordiv 2)> : memref<?xf32, #l1>
     tile.stage main on cores { linalg.copy ins(%a : memref<?xf32, #l1>) outs(%b : memref<?xf32, #l1>) }
  }
}
