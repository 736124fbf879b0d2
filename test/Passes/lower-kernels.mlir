// RUN: td-opt %s --td-set-target --td-lower-kernels | FileCheck %s

// CHECK: #loop_annotation = #llvm.loop_annotation<vectorize = #loop_vectorize, unroll = #loop_unroll>

#l1 = #tile.memory<l1>

// The table: three addresses, each with its sizes; sizes that are the same
// dimension's are read once. Four cores in one direction and two in the other is
// one of the grids.
// CHECK-LABEL: llvm.func @gemm(%arg0: !llvm.ptr, %arg1: i32)
// CHECK-SAME: passthrough = ["no-builtins", "noimplicitfloat", "nounwind"]
// CHECK-SAME: tile.kernel
// CHECK-COUNT-6: llvm.load %{{.*}} : !llvm.ptr -> i32
// A rank-1 update is a stream, others accumulate a block in registers.
// CHECK: llvm.intr.fma
// CHECK: llvm.store
// CHECK: llvm.cond_br %{{.*}} {loop_annotation = #loop_annotation}
func.func private @gemm(%a: memref<?x?xf32, #l1>, %b: memref<?x?xf32, #l1>, %c: memref<?x?xf32, #l1>) attributes {tile.kernel} {
  linalg.matmul ins(%a, %b : memref<?x?xf32, #l1>, memref<?x?xf32, #l1>) outs(%c : memref<?x?xf32, #l1>)
  return
}

// Full identity maps are one loop; no selection becomes a branch.
// CHECK-LABEL: llvm.func @relu
// CHECK: llvm.fcmp "ole"
// CHECK: llvm.inline_asm "addi $0, $1, -1"
// CHECK-NOT: llvm.intr.maximum
// CHECK: llvm.return
func.func private @relu(%x: memref<?x?xf32, #l1>, %y: memref<?x?xf32, #l1>) attributes {tile.kernel} {
  %zero = arith.constant 0.0 : f32
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<?x?xf32, #l1>) outs(%y : memref<?x?xf32, #l1>) {
  ^bb0(%a: f32, %b: f32):
    %r = arith.maximumf %a, %zero : f32
    linalg.yield %r : f32
  }
  return
}

// The index argument follows the tiles' words.
// CHECK-LABEL: llvm.func @column
// CHECK: llvm.getelementptr %arg0[12] : (!llvm.ptr) -> !llvm.ptr, i8
// CHECK: llvm.sitofp
func.func private @column(%y: memref<?x?xf32, #l1>, %first: index) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
      outs(%y : memref<?x?xf32, #l1>) {
  ^bb0(%b: f32):
    %n = linalg.index 1 : index
    %m = arith.addi %n, %first : index
    %w = arith.index_cast %m : index to i32
    %f = arith.sitofp %w : i32 to f32
    linalg.yield %f : f32
  }
  return
}

// A sum to a scalar is core 0's.
// CHECK-LABEL: llvm.func @sum
// CHECK: %[[FIRST:.*]] = llvm.icmp "eq" %arg1, %{{.*}} : i32
// CHECK: llvm.cond_br %[[FIRST]]
func.func private @sum(%x: memref<?xf32, #l1>, %y: memref<f32, #l1>) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> ()>], iterator_types = ["reduction"]}
      ins(%x : memref<?xf32, #l1>) outs(%y : memref<f32, #l1>) {
  ^bb0(%a: f32, %b: f32):
    %r = arith.addf %b, %a : f32
    linalg.yield %r : f32
  }
  return
}

// A window: the input's rows are two output rows apart; nothing is loaded from
// the tile that gives the window's sizes. Maxima carry a word, the largest of
// all bits but the sign; with a NaN among them the block is done again. The
// columns of the window have no loop: 8 results in a row take 24 maxima.
// CHECK-LABEL: llvm.func @pool
// CHECK: llvm.intr.maxnum
// CHECK: llvm.shl
// CHECK: llvm.inline_asm {{.*}}".insn r 0x33, 7, 2, $0, $1, $2"
// CHECK-COUNT-23: llvm.intr.maxnum
// CHECK-NOT: llvm.intr.maxnum
// CHECK: %[[NAN:.*]] = llvm.icmp "ugt" %{{.*}}, %{{.*}} : i32
// CHECK-NEXT: llvm.cond_br %[[NAN]] weights([1, 1000])
// CHECK: llvm.fcmp "ord"
func.func private @pool(%x: memref<?x?x?xf32, #l1>, %k: memref<3x3xf32, #l1>, %y: memref<?x?x?xf32, #l1>) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(h, w, c, y, x) -> (h * 2 + y, w * 2 + x, c)>,
                                   affine_map<(h, w, c, y, x) -> (y, x)>,
                                   affine_map<(h, w, c, y, x) -> (h, w, c)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}
      ins(%x, %k : memref<?x?x?xf32, #l1>, memref<3x3xf32, #l1>) outs(%y : memref<?x?x?xf32, #l1>) {
  ^bb0(%a: f32, %s: f32, %b: f32):
    %r = arith.maximumf %b, %a : f32
    linalg.yield %r : f32
  }
  return
}

// Cut off at zero, maxima are of bits as integers.
// CHECK-LABEL: llvm.func @pool_relu
// CHECK: ".insn r 0x33, 6, 2, $0, $1, $2"
// CHECK: ".insn r 0x33, 7, 2, $0, $1, $2"
// CHECK-NOT: llvm.intr.maxnum
// CHECK: llvm.cond_br %{{.*}} weights([1, 1000])
func.func private @pool_relu(%x: memref<?x?x?xf32, #l1>, %k: memref<3x3xf32, #l1>, %y: memref<?x?x?xf32, #l1>) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(h, w, c, y, x) -> (h * 2 + y, w * 2 + x, c)>,
                                   affine_map<(h, w, c, y, x) -> (y, x)>,
                                   affine_map<(h, w, c, y, x) -> (h, w, c)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}
      ins(%x, %k : memref<?x?x?xf32, #l1>, memref<3x3xf32, #l1>) outs(%y : memref<?x?x?xf32, #l1>) {
  ^bb0(%a: f32, %s: f32, %b: f32):
    %zero = arith.constant 0.0 : f32
    %c = arith.maximumf %a, %zero : f32
    %r = arith.maximumf %b, %c : f32
    linalg.yield %r : f32
  }
  return
}
