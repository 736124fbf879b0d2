// RUN: td-opt %s --td-set-target=name=pulp-redmule --td-plan-step | FileCheck %s
// RUN: sed s/128x1024/16x1024/g %s | td-opt --td-set-target=name=pulp-redmule --td-plan-step | FileCheck %s --check-prefix=FITS

// "squares" and "scaled" wait for the last operator while more than L2 has is
// live beside the input. What they are made of is there anyway, so they are
// made again where they are used, on its tiles: nothing goes to L3.
// CHECK-NOT: temporary "squares
// CHECK-NOT: memory<l3>
// CHECK: tile.group "squares + sum" {{.*}} outs(%{{[0-9]+}} : memref<f32,
// CHECK: tile.group "scaled + greatest"
// CHECK: tile.group "shifted + length"
// CHECK: tile.group "scaled + squares + loss"

// Where all fits, nothing is made again.
// FITS: temporary "squares
// FITS: tile.group "squares + sum" {{.*}} outs(%{{[0-9]+}}, %{{[0-9]+}} : memref<16x1024xf32,
// FITS: tile.group "loss"
#id = affine_map<(i,j)->(i,j)>
#scalar = affine_map<(i,j)->()>
module {
  func.func @step(%x: tensor<128x1024xf32> {train.name = "input"}) -> tensor<f32> attributes {train.flop = 0 : i64} {
    %zero = arith.constant 0.0 : f32
    %e = tensor.empty() : tensor<128x1024xf32>
    %le = tensor.empty() : tensor<f32>
    %lf = linalg.fill ins(%zero : f32) outs(%le : tensor<f32>) -> tensor<f32>
    %y = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%x : tensor<128x1024xf32>) outs(%e : tensor<128x1024xf32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = arith.mulf %a, %a : f32
      linalg.yield %0 : f32
    } -> tensor<128x1024xf32> loc("squares")
    %p = linalg.generic {indexing_maps = [#id, #scalar], iterator_types = ["reduction", "reduction"]} ins(%y : tensor<128x1024xf32>) outs(%lf : tensor<f32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = arith.addf %a, %o : f32
      linalg.yield %0 : f32
    } -> tensor<f32> loc("sum")
    %z = linalg.generic {indexing_maps = [#id, #scalar, #id], iterator_types = ["parallel", "parallel"]} ins(%x, %p : tensor<128x1024xf32>, tensor<f32>) outs(%e : tensor<128x1024xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %0 = arith.mulf %a, %b : f32
      linalg.yield %0 : f32
    } -> tensor<128x1024xf32> loc("scaled")
    %q = linalg.generic {indexing_maps = [#id, #scalar], iterator_types = ["reduction", "reduction"]} ins(%z : tensor<128x1024xf32>) outs(%lf : tensor<f32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = arith.maximumf %a, %o : f32
      linalg.yield %0 : f32
    } -> tensor<f32> loc("greatest")
    %v = linalg.generic {indexing_maps = [#id, #scalar, #id], iterator_types = ["parallel", "parallel"]} ins(%z, %q : tensor<128x1024xf32>, tensor<f32>) outs(%e : tensor<128x1024xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %0 = arith.subf %a, %b : f32
      linalg.yield %0 : f32
    } -> tensor<128x1024xf32> loc("shifted")
    %r = linalg.generic {indexing_maps = [#id, #scalar], iterator_types = ["reduction", "reduction"]} ins(%v : tensor<128x1024xf32>) outs(%lf : tensor<f32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = math.fma %a, %a, %o : f32
      linalg.yield %0 : f32
    } -> tensor<f32> loc("length")
    %loss = linalg.generic {indexing_maps = [#id, #id, #id, #scalar, #scalar], iterator_types = ["reduction", "reduction"]} ins(%y, %z, %v, %r : tensor<128x1024xf32>, tensor<128x1024xf32>, tensor<128x1024xf32>, tensor<f32>) outs(%lf : tensor<f32>) {
    ^bb0(%a: f32, %b: f32, %c: f32, %d: f32, %o: f32):
      %0 = math.fma %b, %c, %d : f32
      %1 = math.fma %a, %0, %o : f32
      linalg.yield %1 : f32
    } -> tensor<f32> loc("loss")
    return %loss : tensor<f32>
  }
}
