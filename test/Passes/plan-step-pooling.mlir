// A pooling shares the tiles of the convolution before it where that is
// predicted to take less, or the array between them fits nowhere.

// RUN: td-opt %s --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-plan-step{fuse-always=true})' | FileCheck %s
// RUN: sed 's/1x34x34/1x130x66/g; s/1x32x32/1x128x64/g; s/1x33x33/1x129x65/g; s/1, 32, 32/1, 128, 64/g; s/1x16x16x/1x64x32x/g' %s | td-opt --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp},td-plan-step{fuse-always=true},td-expand-groups)' | FileCheck %s --check-prefix=JOBS
// RUN: sed 's/1x34x34/1x1026x514/g; s/1x32x32/1x1024x512/g; s/1x33x33/1x1025x513/g; s/1, 32, 32/1, 1024, 512/g; s/1x16x16x/1x512x256x/g' %s | td-opt --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp},td-plan-step)' | FileCheck %s --check-prefix=LARGE

// Windows that overlap: the tile of 2 lines a window keeps one of the tile
// before, which are padding at first. The column of windows on the padding
// ahead of the lines has taps of its own; nothing is an array but x and y.
// CHECK-LABEL: input "x"
// CHECK-NOT: tile.buffer temporary
// CHECK: tile.group "conv + pool" domain [1, 16, 32, 8, 3, 3, 4, 3, 2, 3, 16, 1, 2, 15]
// CHECK-SAME: tiles [1, {{[0-9]+}}, 32, {{[0-9]+}}, {{[0-9]+}}, {{[0-9]+}}, {{[0-9]+}}, 3, 2, 3, 16, 1, 2, 15]
// CHECK: %[[TILE:.*]] = tile.scratch #{{.*}} : memref<?x?x?x?xf32
// CHECK: %[[WHOLE:.*]], %[[HEAD:.*]], %[[BEFORE:.*]] = tile.lines 1 before %{{.*}} along 1
// CHECK: tile.stage main on redmule
// CHECK: tile.stage first on cores
// CHECK-NEXT: %[[PADDING:.*]] = arith.constant 0xFF800000 : f32
// CHECK-NEXT: linalg.fill ins(%[[PADDING]] : f32) outs(%[[HEAD]]
// CHECK: tile.stage next on cores
// CHECK-NEXT: linalg.transpose ins(%[[BEFORE]] : {{.*}}) outs(%[[HEAD]]
// CHECK: tile.stage finish on cores
// CHECK-NEXT: linalg.generic {{.*}} ins(%[[WHOLE]], %{{.*}}, %{{.*}} : {{.*}}, memref<3x2xf32, {{.*}}>, memref<1xf32,
// CHECK: tile.stage finish on cores
// CHECK-NEXT: linalg.generic {{.*}} ins(%[[WHOLE]], %{{.*}}, %{{.*}} : {{.*}}, memref<3x3xf32, {{.*}}>, memref<?xf32,

// The lines are a tile's own behind the last of the tile before.
// JOBS-LABEL: input "x"
// JOBS: %[[FIRST:.*]] = tile.alloc "conv + pool" : memref<1x[[#LINES:]]x64x[[#C:]]xf32,
// JOBS: tile.view %[[FIRST]] [0, 1, 0, 0] [1, [[#LINES-1]], 64, [[#C]]]
// JOBS: %[[HEAD:.*]] = tile.view %[[FIRST]] [0, 0, 0, 0] [1, 1, 64, [[#C]]]
// JOBS: tile.call @[[FILL:.*]](%[[HEAD]] :
// JOBS: %[[SECOND:.*]] = tile.alloc "conv + pool" : memref<1x[[#LINES]]x64x[[#C]]xf32,
// JOBS: %[[NEXT:.*]] = tile.view %[[SECOND]] [0, 0, 0, 0] [1, 1, 64, [[#C]]]
// JOBS: %[[LAST:.*]] = tile.view %[[FIRST]] [0, [[#LINES-1]], 0, 0] [1, 1, 64, [[#C]]]
// JOBS: tile.call @{{.*}}(%[[LAST]], %[[NEXT]] :
// JOBS: func.func private @[[FILL]]
// JOBS: linalg.fill

// 16 MiB between them would be in L3.
// LARGE: input "x"
// LARGE-NOT: tile.buffer temporary
// LARGE: tile.group "conv + pool"
#x = affine_map<(b,h,w,o,y,z,c)->(b,h+y,w+z,c)>
#f = affine_map<(b,h,w,o,y,z,c)->(y,z,c,o)>
#o = affine_map<(b,h,w,o,y,z,c)->(b,h,w,o)>
#win = affine_map<(b,h,w,o,y,z)->(b,2*h+y,2*w+z,o)>
#tap = affine_map<(b,h,w,o,y,z)->(y,z)>
#out = affine_map<(b,h,w,o,y,z)->(b,h,w,o)>
module {
  func.func @step(%x: tensor<1x34x34x4xf32> {train.name = "x"}, %w: tensor<3x3x4x8xf32> {train.name = "w"}) -> tensor<1x16x16x8xf32> {
    %zero = arith.constant 0.0 : f32
    %least = arith.constant 0xFF800000 : f32
    %e = tensor.empty() : tensor<1x32x32x8xf32>
    %z = linalg.fill ins(%zero : f32) outs(%e : tensor<1x32x32x8xf32>) -> tensor<1x32x32x8xf32>
    %y = linalg.generic {indexing_maps = [#x, #f, #o],
        iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]}
      ins(%x, %w : tensor<1x34x34x4xf32>, tensor<3x3x4x8xf32>) outs(%z : tensor<1x32x32x8xf32>) {
    ^bb0(%a: f32, %b: f32, %s: f32):
      %p = arith.mulf %a, %b : f32
      %q = arith.addf %s, %p : f32
      linalg.yield %q : f32
    } -> tensor<1x32x32x8xf32> loc("conv")
    %pe = tensor.empty() : tensor<1x33x33x8xf32>
    %pf = linalg.fill ins(%least : f32) outs(%pe : tensor<1x33x33x8xf32>) -> tensor<1x33x33x8xf32>
    %padded = tensor.insert_slice %y into %pf[0, 1, 1, 0] [1, 32, 32, 8] [1, 1, 1, 1] : tensor<1x32x32x8xf32> into tensor<1x33x33x8xf32>
    %taps = tensor.empty() : tensor<3x3xf32>
    %oe = tensor.empty() : tensor<1x16x16x8xf32>
    %of = linalg.fill ins(%least : f32) outs(%oe : tensor<1x16x16x8xf32>) -> tensor<1x16x16x8xf32>
    %r = linalg.generic {indexing_maps = [#win, #tap, #out],
        iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction"]}
      ins(%padded, %taps : tensor<1x33x33x8xf32>, tensor<3x3xf32>) outs(%of : tensor<1x16x16x8xf32>) {
    ^bb0(%a: f32, %t: f32, %s: f32):
      %q = arith.maximumf %s, %a : f32
      linalg.yield %q : f32
    } -> tensor<1x16x16x8xf32> loc("pool")
    return %r : tensor<1x16x16x8xf32>
  }
}

// -----

// Windows beside each other keep no lines, and one kernel has them all. Two
// images are two tiles or one.
// CHECK-LABEL: input "x"
// CHECK-NOT: temporary
// CHECK: tile.group "conv + pool" domain [2, 5, 10, 8, 4, 2, 2, 2, 5]
// CHECK-NOT: tile.lines
// CHECK: tile.stage finish on cores
// CHECK: arith.addf
// CHECK-NOT: tile.stage
#row = affine_map<(b,h,w,o,c)->(b,h,w,c)>
#f1 = affine_map<(b,h,w,o,c)->(c,o)>
#o1 = affine_map<(b,h,w,o,c)->(b,h,w,o)>
#win = affine_map<(b,h,w,o,y,z)->(b,2*h+y,2*w+z,o)>
#tap = affine_map<(b,h,w,o,y,z)->(y,z)>
#out = affine_map<(b,h,w,o,y,z)->(b,h,w,o)>
module {
  func.func @step(%x: tensor<2x10x10x4xf32> {train.name = "x"}, %w: tensor<4x8xf32> {train.name = "w"}) -> tensor<2x5x5x8xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<2x10x10x8xf32>
    %z = linalg.fill ins(%zero : f32) outs(%e : tensor<2x10x10x8xf32>) -> tensor<2x10x10x8xf32>
    %y = linalg.generic {indexing_maps = [#row, #f1, #o1],
        iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<2x10x10x4xf32>, tensor<4x8xf32>) outs(%z : tensor<2x10x10x8xf32>) {
    ^bb0(%a: f32, %b: f32, %s: f32):
      %p = arith.mulf %a, %b : f32
      %q = arith.addf %s, %p : f32
      linalg.yield %q : f32
    } -> tensor<2x10x10x8xf32> loc("conv")
    %taps = tensor.empty() : tensor<2x2xf32>
    %oe = tensor.empty() : tensor<2x5x5x8xf32>
    %of = linalg.fill ins(%zero : f32) outs(%oe : tensor<2x5x5x8xf32>) -> tensor<2x5x5x8xf32>
    %r = linalg.generic {indexing_maps = [#win, #tap, #out],
        iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction"]}
      ins(%y, %taps : tensor<2x10x10x8xf32>, tensor<2x2xf32>) outs(%of : tensor<2x5x5x8xf32>) {
    ^bb0(%a: f32, %t: f32, %s: f32):
      %q = arith.addf %s, %a : f32
      linalg.yield %q : f32
    } -> tensor<2x5x5x8xf32> loc("pool")
    return %r : tensor<2x5x5x8xf32>
  }
}

// -----

// Not where a tile's last window reaches beyond its lines (3 with stride 1, padding 1 would).
// CHECK-LABEL: input "x"
// CHECK: tile.group "conv" domain
// CHECK: tile.group "pool" domain
#row = affine_map<(h,w,o,c)->(h,w,c)>
#f1 = affine_map<(h,w,o,c)->(c,o)>
#o1 = affine_map<(h,w,o,c)->(h,w,o)>
#win = affine_map<(h,w,o,y,z)->(h+y,w+z,o)>
#tap = affine_map<(h,w,o,y,z)->(y,z)>
#out = affine_map<(h,w,o,y,z)->(h,w,o)>
module {
  func.func @step(%x: tensor<10x10x4xf32> {train.name = "x"}, %w: tensor<4x8xf32> {train.name = "w"}) -> tensor<8x8x8xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<10x10x8xf32>
    %z = linalg.fill ins(%zero : f32) outs(%e : tensor<10x10x8xf32>) -> tensor<10x10x8xf32>
    %y = linalg.generic {indexing_maps = [#row, #f1, #o1], iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<10x10x4xf32>, tensor<4x8xf32>) outs(%z : tensor<10x10x8xf32>) {
    ^bb0(%a: f32, %b: f32, %s: f32):
      %p = arith.mulf %a, %b : f32
      %q = arith.addf %s, %p : f32
      linalg.yield %q : f32
    } -> tensor<10x10x8xf32> loc("conv")
    %taps = tensor.empty() : tensor<3x3xf32>
    %oe = tensor.empty() : tensor<8x8x8xf32>
    %of = linalg.fill ins(%zero : f32) outs(%oe : tensor<8x8x8xf32>) -> tensor<8x8x8xf32>
    %r = linalg.generic {indexing_maps = [#win, #tap, #out], iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}
      ins(%y, %taps : tensor<10x10x8xf32>, tensor<3x3xf32>) outs(%of : tensor<8x8x8xf32>) {
    ^bb0(%a: f32, %t: f32, %s: f32):
      %q = arith.addf %s, %a : f32
      linalg.yield %q : f32
    } -> tensor<8x8x8xf32> loc("pool")
    return %r : tensor<8x8x8xf32>
  }
}
