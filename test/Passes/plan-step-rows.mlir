// What works on whole rows of a contraction's result shares its tiles where that
// is predicted to take less, with an option always.

// RUN: td-opt %s --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-plan-step)' | FileCheck %s
// RUN: sed s/640/16/g %s | td-opt --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-plan-step)' | FileCheck %s --check-prefix=FEW
// RUN: sed s/640/16/g %s | td-opt --split-input-file --pass-pipeline='builtin.module(td-set-target{name=pulp-redmule},td-plan-step{fuse-always=true})' | FileCheck %s

// The sum of a row is complete before it is used: rows are whole, and what
// works on them runs when the last product was added.
// CHECK-LABEL: input "x"
// CHECK-NOT: provisional
// CHECK: tile.group "fc + norm" domain [{{16|640}}, 160, 96] tiles [{{[0-9]+}}, 160, {{[0-9]+}}]
// CHECK-SAME: reductions [2, 1]
// CHECK: tile.stage main on redmule
// CHECK: tile.stage init on cores
// CHECK: tile.stage finish on cores
// CHECK: arith.addf
// CHECK: tile.stage finish on cores
// CHECK: arith.subf

// A sum over the rows of all tiles adds up in each of them, so that all
// products of a tile are added before.
// CHECK-LABEL: input "x"
// CHECK: tile.group "fc + sum" domain [{{16|640}}, 160, 96] tiles [{{[0-9]+}}, {{[0-9]+}}, 96]
// CHECK-SAME: reductions [2, 0]
// CHECK: tile.stage main on redmule
// CHECK: tile.stage main on cores
// CHECK: arith.addf

// With few tiles there is little to work on at the same time.
// FEW-LABEL: input "x"
// FEW: temporary "fc#
// FEW: tile.group "fc" domain
// FEW: tile.group "norm" domain
#row = affine_map<(m, k) -> (m)>
#id = affine_map<(m, k) -> (m, k)>
module {
  func.func @step(%x: tensor<640x96xf32> {train.name = "x"}, %w: tensor<96x160xf32> {train.name = "w"}) -> tensor<640x160xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<640x160xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<640x160xf32>) -> tensor<640x160xf32>
    %y = linalg.matmul ins(%x, %w : tensor<640x96xf32>, tensor<96x160xf32>) outs(%f : tensor<640x160xf32>) -> tensor<640x160xf32> loc("fc")
    %re = tensor.empty() : tensor<640xf32>
    %rf = linalg.fill ins(%zero : f32) outs(%re : tensor<640xf32>) -> tensor<640xf32>
    %s = linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]}
      ins(%y : tensor<640x160xf32>) outs(%rf : tensor<640xf32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = arith.addf %o, %a : f32
      linalg.yield %0 : f32
    } -> tensor<640xf32> loc("norm")
    %n = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%y, %s : tensor<640x160xf32>, tensor<640xf32>) outs(%e : tensor<640x160xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %0 = arith.subf %a, %b : f32
      linalg.yield %0 : f32
    } -> tensor<640x160xf32> loc("norm")
    return %n : tensor<640x160xf32>
  }
}

// -----

#id = affine_map<(m, k) -> (m, k)>
#column = affine_map<(m, k) -> (k)>
module {
  func.func @step(%x: tensor<640x96xf32> {train.name = "x"}, %w: tensor<96x160xf32> {train.name = "w"}) -> tensor<160xf32> {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<640x160xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<640x160xf32>) -> tensor<640x160xf32>
    %y = linalg.matmul ins(%x, %w : tensor<640x96xf32>, tensor<96x160xf32>) outs(%f : tensor<640x160xf32>) -> tensor<640x160xf32> loc("fc")
    %ke = tensor.empty() : tensor<160xf32>
    %kf = linalg.fill ins(%zero : f32) outs(%ke : tensor<160xf32>) -> tensor<160xf32>
    %s = linalg.generic {indexing_maps = [#id, #column], iterator_types = ["reduction", "parallel"]}
      ins(%y : tensor<640x160xf32>) outs(%kf : tensor<160xf32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = arith.addf %o, %a : f32
      linalg.yield %0 : f32
    } -> tensor<160xf32> loc("sum")
    return %s : tensor<160xf32>
  }
}
