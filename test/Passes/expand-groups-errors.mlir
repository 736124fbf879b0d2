// RUN: td-opt %s --split-input-file --verify-diagnostics --td-expand-groups

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
tile.program @revisited target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8xf32, #l2>
  // expected-error @below {{visits a tile of 'y' again after others: tiled dimension 1 must lie outside}}
  tile.group "sum" domain [8,8] tiles [4,4] order [0,1] reductions [0] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8xf32, #l2>)
   maps [affine_map<(i,j)->(i,j)>, affine_map<(i,j)->(j)>] {
   ^bb0(%a: !tile, %b: memref<?xf32, #l1>):
     tile.stage main on cores {
       linalg.reduce ins(%a : !tile) outs(%b : memref<?xf32, #l1>) dimensions = [0] (%p: f32, %q: f32) {
         %s = arith.addf %p, %q : f32
         linalg.yield %s : f32
       }
     }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @strided target "t" {
  %x = tile.buffer temporary "x" : memref<8x8xf32, #l1>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  // expected-error @below {{tile of 'x' is not contiguous in l1}}
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l1>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     tile.stage main on cores { linalg.copy ins(%a : !tile) outs(%b : !tile) }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @engine target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     // expected-error @below {{RedMulE runs only a contraction of two tiles into a third}}
     tile.stage main on redmule { linalg.copy ins(%a : !tile) outs(%b : !tile) }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @lines target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  // expected-error @below {{keeps lines along dimension 0, but tiles of dimension 1 lie within}}
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     %s = tile.scratch #id : !tile
     %whole, %head, %before = tile.lines 1 before %s along 0 : !tile
     tile.stage main on cores { linalg.copy ins(%a : !tile) outs(%s : !tile) }
     tile.stage next on cores { linalg.copy ins(%before : !tile) outs(%head : !tile) }
     tile.stage main on cores { linalg.copy ins(%s : !tile) outs(%b : !tile) }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @lines target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     %s = tile.scratch #id : !tile
     // expected-error @below {{is along a dimension that does not walk the tile}}
     %whole, %head, %before = tile.lines 1 before %s along 2 : !tile
     tile.stage main on cores { linalg.copy ins(%a : !tile) outs(%b : !tile) }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @lines target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     // expected-error @below {{belongs to a scratch tile}}
     %whole, %head, %before = tile.lines 1 before %a along 0 : !tile
     tile.stage main on cores { linalg.copy ins(%a : !tile) outs(%b : !tile) }
  }
}
