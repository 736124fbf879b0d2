// RUN: td-opt %s --pass-pipeline="builtin.module(func.func(td-narrow-products))" --split-input-file | FileCheck %s

// The input is rounded where it comes in, the weight where it is read; what reads the product widens it, and
// what it makes is rounded as its further result. The loss has one row and stays in f32.
train.parameter @w trainable : tensor<5x7xf32>
train.parameter @v trainable : tensor<7x3xf32>
#rows = affine_map<(d0, d1) -> (d0, d1)>
#columns = affine_map<(d0, d1) -> (d1)>
// CHECK-LABEL: func.func @step
func.func @step(%x: tensor<13x5xf32>, %b: tensor<7xf32>) -> (tensor<13x3xf32>, tensor<13x7xf32>) {
  // CHECK: %[[X:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<13x5xf32>) outs(%{{.*}} : tensor<13x5xf16>)
  // CHECK: arith.truncf %{{.*}} : f32 to f16
  %zero = arith.constant 0.0 : f32
  // CHECK: %[[W:.*]] = train.read @w
  %w = train.read @w : tensor<5x7xf32>
  %v = train.read @v : tensor<7x3xf32>
  %e0 = tensor.empty() : tensor<13x7xf32>
  %z0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<13x7xf32>) -> tensor<13x7xf32>
  // CHECK: %[[P:.*]] = linalg.matmul ins(%[[X]], %[[W]] : tensor<13x5xf16>, tensor<5x7xf32>) outs(%{{.*}} : tensor<13x7xf16>) -> tensor<13x7xf16>
  %p = linalg.matmul ins(%x, %w : tensor<13x5xf32>, tensor<5x7xf32>) outs(%z0 : tensor<13x7xf32>) -> tensor<13x7xf32>
  // CHECK: %[[Y:.*]]:2 = linalg.generic {{.*}} ins(%[[P]], %arg1 : tensor<13x7xf16>, tensor<7xf32>) outs(%{{.*}}, %{{.*}} : tensor<13x7xf32>, tensor<13x7xf16>)
  // CHECK: %[[WIDE:.*]] = arith.extf %{{.*}} : f16 to f32
  // CHECK: %[[SUM:.*]] = arith.addf %[[WIDE]], %{{.*}} : f32
  // CHECK: %[[HALF:.*]] = arith.truncf %[[SUM]] : f32 to f16
  // CHECK: linalg.yield %[[SUM]], %[[HALF]] : f32, f16
  %y = linalg.generic {indexing_maps = [#rows, #columns, #rows], iterator_types = ["parallel", "parallel"]}
      ins(%p, %b : tensor<13x7xf32>, tensor<7xf32>) outs(%e0 : tensor<13x7xf32>) {
    ^bb0(%a: f32, %c: f32, %o: f32):
      %s = arith.addf %a, %c : f32
      linalg.yield %s : f32
  } -> tensor<13x7xf32>
  %e1 = tensor.empty() : tensor<13x3xf32>
  %z1 = linalg.fill ins(%zero : f32) outs(%e1 : tensor<13x3xf32>) -> tensor<13x3xf32>
  // CHECK: %[[Q:.*]] = linalg.matmul ins(%[[Y]]#1, %{{.*}} : tensor<13x7xf16>, tensor<7x3xf32>) outs(%{{.*}} : tensor<13x3xf16>)
  %q = linalg.matmul ins(%y, %v : tensor<13x7xf32>, tensor<7x3xf32>) outs(%z1 : tensor<13x3xf32>) -> tensor<13x3xf32>
  // What no element-wise op reads is widened by one of its own.
  // CHECK: %[[R:.*]] = linalg.generic {{.*}} ins(%[[Q]] : tensor<13x3xf16>) outs(%{{.*}} : tensor<13x3xf32>)
  // CHECK: arith.extf
  // CHECK: return %[[R]], %[[Y]]#0
  return %q, %y : tensor<13x3xf32>, tensor<13x7xf32>
}

// -----

// Views are views of what is rounded; borders are rounded, too; what a product starts from is added in f32.
#x = affine_map<(n, oc, kw, ic) -> (n + kw, ic)>
#w = affine_map<(n, oc, kw, ic) -> (kw, ic, oc)>
#z = affine_map<(n, oc, kw, ic) -> (n, oc)>
// CHECK-LABEL: func.func @convolution
func.func @convolution(%x: tensor<35xf32>, %w: tensor<3x5x2xf32>, %start: tensor<7x2xf32>) -> tensor<14xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<9x5xf32>
  %border = linalg.fill ins(%zero : f32) outs(%e : tensor<9x5xf32>) -> tensor<9x5xf32>
  // CHECK: tensor.expand_shape {{.*}} : tensor<35xf16> into tensor<7x5xf16>
  %image = tensor.expand_shape %x [[0, 1]] output_shape [7, 5] : tensor<35xf32> into tensor<7x5xf32>
  // CHECK: tensor.insert_slice {{.*}} : tensor<7x5xf16> into tensor<9x5xf16>
  // CHECK-NOT: tensor<9x5xf32>
  %padded = tensor.insert_slice %image into %border[1, 0] [7, 5] [1, 1] : tensor<7x5xf32> into tensor<9x5xf32>
  // CHECK: %[[Z:.*]] = linalg.generic {{.*}}"reduction", "reduction"]} ins(%{{.*}}, %{{.*}} : tensor<9x5xf16>, tensor<3x5x2xf16>) outs(%{{.*}} : tensor<7x2xf16>)
  // CHECK: %[[SUM:.*]] = linalg.generic {{.*}} ins(%[[Z]], %{{.*}} : tensor<7x2xf16>, tensor<7x2xf32>) outs(%{{.*}} : tensor<7x2xf32>)
  %c = linalg.generic {indexing_maps = [#x, #w, #z], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
      ins(%padded, %w : tensor<9x5xf32>, tensor<3x5x2xf32>) outs(%start : tensor<7x2xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %p = arith.mulf %a, %b : f32
      %s = arith.addf %o, %p : f32
      linalg.yield %s : f32
  } -> tensor<7x2xf32>
  %flat = tensor.collapse_shape %c [[0, 1]] : tensor<7x2xf32> into tensor<14xf32>
  return %flat : tensor<14xf32>
}

// -----

// One row, one column or one step is no work for an array of multipliers.
// CHECK-LABEL: func.func @vectors
// CHECK-NOT: f16
func.func @vectors(%x: tensor<1x5xf32>, %w: tensor<5x7xf32>, %v: tensor<7x1xf32>) -> (tensor<1x7xf32>, tensor<5x1xf32>) {
  %zero = arith.constant 0.0 : f32
  %e0 = tensor.empty() : tensor<1x7xf32>
  %z0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<1x7xf32>) -> tensor<1x7xf32>
  %row = linalg.matmul ins(%x, %w : tensor<1x5xf32>, tensor<5x7xf32>) outs(%z0 : tensor<1x7xf32>) -> tensor<1x7xf32>
  %e1 = tensor.empty() : tensor<5x1xf32>
  %z1 = linalg.fill ins(%zero : f32) outs(%e1 : tensor<5x1xf32>) -> tensor<5x1xf32>
  %column = linalg.matmul ins(%w, %v : tensor<5x7xf32>, tensor<7x1xf32>) outs(%z1 : tensor<5x1xf32>) -> tensor<5x1xf32>
  return %row, %column : tensor<1x7xf32>, tensor<5x1xf32>
}
