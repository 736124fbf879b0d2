// A plan by hand: two chained layers whose weights are transposed on the cores,
// an element-wise operator on edge tiles, and the update in place of a weight
// whose gradient is summed in several steps. One parameter lies in L3, one
// temporary in L1.
#mn = affine_map<(m,k,n)->(m,n)>
#kn = affine_map<(m,k,n)->(k,n)>
#mk = affine_map<(m,k,n)->(m,k)>
#nk = affine_map<(m,k,n)->(n,k)>
#none = affine_map<(m,k,n)->()>
#id = affine_map<(i,j)->(i,j)>
#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
#l3 = #tile.memory<l3>
!tile = memref<?x?xf32, #l1>
tile.program @step target "pulp-redmule" {
  %x = tile.buffer input "x" : memref<16x64xf32, #l2>
  %lr = tile.buffer input "lr" : memref<f32, #l2>
  %w1 = tile.buffer parameter "w1" : memref<32x64xf32, #l2>
  %w2 = tile.buffer parameter "w2" : memref<24x32xf32, #l3>
  %y1 = tile.buffer temporary "y1" : memref<16x32xf32, #l2>
  %y2 = tile.buffer temporary "y2" : memref<16x24xf32, #l1>
  %y3 = tile.buffer output "y3" : memref<16x24xf32, #l2>
  // y1 = x w1^T
  tile.group "fc1" domain [16,32,64] tiles [16,16,64] order [0,1,2] reductions [2] predicted [0,0,0,0]
   ins(%x, %w1 : memref<16x64xf32, #l2>, memref<32x64xf32, #l2>) outs(%y1 : memref<16x32xf32, #l2>) maps [#mn, #kn, #mk] {
   ^bb0(%xt: !tile, %wt: !tile, %yt: !tile):
     %wT = tile.scratch #nk : !tile
     tile.stage prepare on cores {
       linalg.transpose ins(%wt : !tile) outs(%wT : !tile) permutation = [1,0]
     }
     tile.stage init on cores {
       %c0 = arith.constant 0.0 : f32
       linalg.fill ins(%c0 : f32) outs(%yt : !tile)
     }
     tile.stage main on redmule { linalg.matmul ins(%xt, %wT : !tile, !tile) outs(%yt : !tile) }
  }
  // y2 = y1 w2^T, the reduction in steps of 20 and 12
  tile.group "fc2" domain [16,24,32] tiles [16,24,20] order [0,1,2] reductions [2] predicted [0,0,0,0]
   ins(%y1, %w2 : memref<16x32xf32, #l2>, memref<24x32xf32, #l3>) outs(%y2 : memref<16x24xf32, #l1>) maps [#mn, #kn, #mk] {
   ^bb0(%xt: !tile, %wt: !tile, %yt: !tile):
     %wT = tile.scratch #nk : !tile
     tile.stage prepare on cores {
       linalg.transpose ins(%wt : !tile) outs(%wT : !tile) permutation = [1,0]
     }
     tile.stage init on cores {
       %c0 = arith.constant 0.0 : f32
       linalg.fill ins(%c0 : f32) outs(%yt : !tile)
     }
     tile.stage main on redmule { linalg.matmul ins(%xt, %wT : !tile, !tile) outs(%yt : !tile) }
  }
  // y3 = relu(y2) + 100 row + column: edge tiles, index arguments
  tile.group "relu" domain [16,24] tiles [5,24] order [0,1] reductions [] predicted [0,0,0,0]
   ins(%y2 : memref<16x24xf32, #l1>) outs(%y3 : memref<16x24xf32, #l2>) maps [#id, #id] {
   ^bb0(%a: !tile, %b: !tile):
     tile.stage main on cores {
       %c0 = arith.constant 0.0 : f32
       linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%a : !tile) outs(%b : !tile) {
       ^bb0(%v: f32, %o: f32):
         %i = linalg.index 0 : index
         %c = arith.index_cast %i : index to i32
         %f = arith.sitofp %c : i32 to f32
         %s = arith.addf %v, %f : f32
         %r = arith.maximumf %s, %c0 : f32
         linalg.yield %r : f32
       }
     }
  }
  // w1 -= lr x^T-sum: w1[k,n] -= lr sum_m y1[m,k] x[m,n]
  tile.group "fc1 weight gradient" domain [16,32,64] tiles [6,16,64] order [1,2,0] reductions [0] predicted [0,0,0,0]
   ins(%y1, %x, %w1, %lr : memref<16x32xf32, #l2>, memref<16x64xf32, #l2>, memref<32x64xf32, #l2>, memref<f32, #l2>)
   outs(%w1 : memref<32x64xf32, #l2>) maps [#mk, #mn, #kn, #none, #kn] {
   ^bb0(%yt: !tile, %xt: !tile, %wt: !tile, %r: memref<f32, #l1>, %wo: !tile):
     %yT = tile.scratch affine_map<(m,k,n)->(k,m)> : !tile
     %g = tile.scratch #kn : !tile
     tile.stage prepare on cores {
       linalg.transpose ins(%yt : !tile) outs(%yT : !tile) permutation = [1,0]
     }
     tile.stage init on cores {
       %c0 = arith.constant 0.0 : f32
       linalg.fill ins(%c0 : f32) outs(%g : !tile)
     }
     tile.stage main on redmule { linalg.matmul ins(%yT, %xt : !tile, !tile) outs(%g : !tile) }
     tile.stage finish on cores {
       linalg.generic {indexing_maps = [#id, #id, affine_map<(i,j)->()>, #id], iterator_types = ["parallel", "parallel"]}
         ins(%wt, %g, %r : !tile, !tile, memref<f32, #l1>) outs(%wo : !tile) {
       ^bb0(%w: f32, %d: f32, %l: f32, %o: f32):
         %p = arith.mulf %l, %d : f32
         %n = arith.subf %w, %p : f32
         linalg.yield %n : f32
       }
     }
  }
}
