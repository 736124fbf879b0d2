// RUN: td-opt %s --td-set-target=name=pulp-redmule-fp16 --td-plan-step | FileCheck %s
// RUN: sed s/96x64/960x640/g %s | sed s/48x96/48x960/g | sed s/48x64/48x640/g | td-opt --td-set-target=name=pulp-redmule-fp16 --td-plan-step | FileCheck %s --check-prefix=FULL

// A parameter that two products read rounded is rounded once, ahead of the first, and read from there.
// CHECK: %[[HALFS:.*]] = tile.buffer temporary "{{.*}}" : memref<96x64xf16
// CHECK: outs(%[[HALFS]] : memref<96x64xf16
// CHECK: arith.truncf
// CHECK: tile.group "forward
// CHECK-SAME: ins({{.*}}%[[HALFS]]
// CHECK: tile.stage main on redmule
// CHECK: tile.group "backward
// CHECK-SAME: ins({{.*}}%[[HALFS]]

// Where L2 has no room for that, whoever reads a tile of it rounds that.
// FULL-NOT: memref<960x640xf16
// FULL: tile.group "forward
// FULL: tile.stage prepare on cores
// FULL: arith.truncf
// FULL: tile.stage main on redmule
// FULL: tile.group "backward
// FULL: tile.stage prepare on cores
// FULL: arith.truncf
// FULL: tile.stage main on redmule
#mk = affine_map<(m,n,k)->(m,k)>
#nk = affine_map<(m,n,k)->(n,k)>
#kn = affine_map<(m,n,k)->(k,n)>
#mn = affine_map<(m,n,k)->(m,n)>
module {
  train.parameter @w : tensor<96x64xf32>
  func.func @step(%x: tensor<48x96xf16> {train.name = "x"}) -> (tensor<48x64xf16>, tensor<48x96xf16>) attributes {train.flop = 0 : i64} {
    %zero = arith.constant 0.0 : f16
    %w = train.read @w : tensor<96x64xf32>
    %e = tensor.empty() : tensor<48x64xf16>
    %f = linalg.fill ins(%zero : f16) outs(%e : tensor<48x64xf16>) -> tensor<48x64xf16>
    %y = linalg.matmul indexing_maps = [#mk, #kn, #mn] ins(%x, %w : tensor<48x96xf16>, tensor<96x64xf32>) outs(%f : tensor<48x64xf16>) -> tensor<48x64xf16> loc("forward")
    %e1 = tensor.empty() : tensor<48x96xf16>
    %f1 = linalg.fill ins(%zero : f16) outs(%e1 : tensor<48x96xf16>) -> tensor<48x96xf16>
    %z = linalg.matmul indexing_maps = [#mk, #nk, #mn] ins(%y, %w : tensor<48x64xf16>, tensor<96x64xf32>) outs(%f1 : tensor<48x96xf16>) -> tensor<48x96xf16> loc("backward")
    return %y, %z : tensor<48x64xf16>, tensor<48x96xf16>
  }
}
