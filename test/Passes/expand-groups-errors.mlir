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

// -----

// As many results as the filter's taps are apart: their sum walks six elements
// one by one, but the results are its inner dimension, not the rows.
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#window = affine_map<(o,c,k)->(o + 2*k)>
#filter = affine_map<(o,c,k)->(k,c)>
#result = affine_map<(o,c,k)->(o,c)>
tile.program @dilated target "t" {
  %x = tile.buffer input "x" : memref<6xf32, #l2>
  %w = tile.buffer parameter "w" : memref<3x4xf32, #l2>
  %y = tile.buffer output "y" : memref<2x4xf32, #l2>
  tile.group "convolution" domain [2,4,3] tiles [2,4,3] order [0,1,2] reductions [2] predicted [0,0,0,0]
   ins(%x, %w : memref<6xf32, #l2>, memref<3x4xf32, #l2>) outs(%y : memref<2x4xf32, #l2>) maps [#window, #filter, #result] {
   ^bb0(%a: memref<?xf32, #l1>, %b: memref<?x?xf32, #l1>, %c: memref<?x?xf32, #l1>):
     // expected-error @below {{RedMulE runs only on plain row-major operands}}
     tile.stage main on redmule {
       linalg.generic {indexing_maps = [#window, #filter, #result], iterator_types = ["parallel", "parallel", "reduction"]}
         ins(%a, %b : memref<?xf32, #l1>, memref<?x?xf32, #l1>) outs(%c : memref<?x?xf32, #l1>) {
       ^bb0(%p: f32, %q: f32, %r: f32):
         %m = arith.mulf %p, %q : f32
         %s = arith.addf %r, %m : f32
         linalg.yield %s : f32
       }
     }
  }
}

// -----

// Windows side by side are rows of a matrix, but not if they are cut.
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#window = affine_map<(o,c,k)->(4*o + k)>
#filter = affine_map<(o,c,k)->(k,c)>
#result = affine_map<(o,c,k)->(o,c)>
tile.program @patches target "t" {
  %x = tile.buffer input "x" : memref<12xf32, #l2>
  %w = tile.buffer parameter "w" : memref<4x4xf32, #l2>
  %y = tile.buffer output "y" : memref<3x4xf32, #l2>
  tile.group "convolution" domain [3,4,4] tiles [3,4,3] order [0,1,2] reductions [2] predicted [0,0,0,0]
   ins(%x, %w : memref<12xf32, #l2>, memref<4x4xf32, #l2>) outs(%y : memref<3x4xf32, #l2>) maps [#window, #filter, #result] {
   ^bb0(%a: memref<?xf32, #l1>, %b: memref<?x?xf32, #l1>, %c: memref<?x?xf32, #l1>):
     // expected-error @below {{RedMulE runs only on plain row-major operands}}
     tile.stage main on redmule {
       linalg.generic {indexing_maps = [#window, #filter, #result], iterator_types = ["parallel", "parallel", "reduction"]}
         ins(%a, %b : memref<?xf32, #l1>, memref<?x?xf32, #l1>) outs(%c : memref<?x?xf32, #l1>) {
       ^bb0(%p: f32, %q: f32, %r: f32):
         %m = arith.mulf %p, %q : f32
         %s = arith.addf %r, %m : f32
         linalg.yield %s : f32
       }
     }
  }
}

// -----

// A preparation that takes rows for columns.
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @crossed target "t" {
  %x = tile.buffer input "x" : memref<8x8xf32, #l2>
  %y = tile.buffer output "y" : memref<8x8xf32, #l2>
  tile.group "copy" domain [8,8] tiles [4,4] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<8x8xf32, #l2>) outs(%y : memref<8x8xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     %s = tile.scratch #id : !tile
     // expected-error @below {{addresses dimension 0 of a tile of 'copy' by other steps of the domain's dimension 0 than the tile has}}
     tile.stage prepare on cores { linalg.transpose ins(%a : !tile) outs(%s : !tile) permutation = [1, 0] }
     tile.stage main on cores { linalg.copy ins(%s : !tile) outs(%b : !tile) }
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
!tile = memref<?x?xf32, #l1>
#id = affine_map<(i,j)->(i,j)>
tile.program @endless target "t" {
  %x = tile.buffer input "x" : memref<4096x4096xf32, #l2>
  %y = tile.buffer output "y" : memref<4096x4096xf32, #l2>
  // expected-error @below {{has more than 131072 tiles, whose jobs no table holds}}
  tile.group "copy" domain [4096,4096] tiles [1,1] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%x : memref<4096x4096xf32, #l2>) outs(%y : memref<4096x4096xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     tile.stage main on cores { linalg.copy ins(%a : !tile) outs(%b : !tile) }
  }
}
