// RUN: td-opt %s --split-input-file --verify-diagnostics

tile.program @runs target "t" {
  // expected-error @below {{'tile.loop' op runs from 1 to 65536 times}}
  tile.loop 0 {
  }
}

// -----
tile.program @other target "t" {
  tile.loop 2 {
    // expected-error @below {{is no group of a loop}}
    tile.operator "x" predicted [0, 0, 0, 0]
  }
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#id = affine_map<(i)->(i)>
tile.program @moves target "t" {
  %x = tile.buffer input "x" : memref<12xf32, #l2>
  %y = tile.buffer output "y" : memref<12xf32, #l2>
  tile.loop 4 {
    // expected-error @below {{operand's dimension 0 is smaller than what the domain walks}}
    tile.group "copy" domain [4] tiles [4] order [0] reductions [] predicted [0, 0, 0, 0]
      ins(%x : memref<12xf32, #l2>) outs(%y : memref<12xf32, #l2>) maps [#id, #id] attributes {tile.advance = array<i64: 0, 4>} {
    ^bb0(%a: memref<?xf32, #l1>, %b: memref<?xf32, #l1>):
      tile.stage main on cores { linalg.copy ins(%a : memref<?xf32, #l1>) outs(%b : memref<?xf32, #l1>) }
    }
  }
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#id = affine_map<(i)->(i)>
tile.program @back target "t" {
  %x = tile.buffer input "x" : memref<12xf32, #l2>
  %y = tile.buffer output "y" : memref<12xf32, #l2>
  tile.loop 3 {
    // expected-error @below {{operand #0 moves out of its array in the loop}}
    tile.group "copy" domain [4] tiles [4] order [0] reductions [] predicted [0, 0, 0, 0]
      ins(%x : memref<12xf32, #l2>) outs(%y : memref<12xf32, #l2>) maps [#id, #id] attributes {tile.advance = array<i64: -4, 4>} {
    ^bb0(%a: memref<?xf32, #l1>, %b: memref<?xf32, #l1>):
      tile.stage main on cores { linalg.copy ins(%a : memref<?xf32, #l1>) outs(%b : memref<?xf32, #l1>) }
    }
  }
}

// -----
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#id = affine_map<(i)->(i)>
tile.program @outside target "t" {
  %x = tile.buffer input "x" : memref<12xf32, #l2>
  %y = tile.buffer output "y" : memref<12xf32, #l2>
  // expected-error @below {{has 'tile.advance' per operand in a tile.loop alone}}
  tile.group "copy" domain [4] tiles [4] order [0] reductions [] predicted [0, 0, 0, 0]
    ins(%x : memref<12xf32, #l2>) outs(%y : memref<12xf32, #l2>) maps [#id, #id] attributes {tile.advance = array<i64: 4, 4>} {
  ^bb0(%a: memref<?xf32, #l1>, %b: memref<?xf32, #l1>):
    tile.stage main on cores { linalg.copy ins(%a : memref<?xf32, #l1>) outs(%b : memref<?xf32, #l1>) }
  }
}
