// RUN: td-opt %s --td-decompose --cse --split-input-file | FileCheck %s

// Leading dimensions collapse; W stays [out, in] and is read transposed by an
// indexing map; the bias comes after the matmul.
// CHECK-DAG: #[[X:.*]] = affine_map<(d0, d1, d2) -> (d0, d2)>
// CHECK-DAG: #[[W:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-DAG: #[[Y:.*]] = affine_map<(d0, d1, d2) -> (d0, d1)>
// CHECK-DAG: #[[ALL:.*]] = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-DAG: #[[COLUMN:.*]] = affine_map<(d0, d1) -> (d1)>
// CHECK-LABEL: @linear
func.func @linear(%x: tensor<2x7x5xf32>, %w: tensor<3x5xf32>, %b: tensor<3xf32>) -> tensor<2x7x3xf32> {
  // CHECK: %[[IN:.*]] = tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<2x7x5xf32> into tensor<14x5xf32>
  // CHECK: %[[ZERO:.*]] = linalg.fill
  // CHECK: %[[MM:.*]] = linalg.matmul indexing_maps = [#[[X]], #[[W]], #[[Y]]] ins(%[[IN]], %{{.*}} : tensor<14x5xf32>, tensor<3x5xf32>) outs(%[[ZERO]] : tensor<14x3xf32>)
  // CHECK: %[[SUM:.*]] = linalg.generic {indexing_maps = [#[[ALL]], #[[COLUMN]], #[[ALL]]], iterator_types = ["parallel", "parallel"]} ins(%[[MM]], %{{.*}} : tensor<14x3xf32>, tensor<3xf32>)
  // CHECK: arith.addf
  // CHECK: tensor.expand_shape %[[SUM]] {{\[\[}}0, 1], [2]] output_shape [2, 7, 3]
  %0 = train.linear %x, %w, %b : tensor<2x7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<2x7x3xf32>
  return %0 : tensor<2x7x3xf32>
}

// -----

// Dimensions that repeat are collapsed away: maps stay projected permutations.
// CHECK-DAG: #[[LEFT:.*]] = affine_map<(d0, d1, d2) -> (d0, d2)>
// CHECK-DAG: #[[RIGHT:.*]] = affine_map<(d0, d1, d2) -> (d1)>
// CHECK-DAG: #[[ALL:.*]] = affine_map<(d0, d1, d2) -> (d0, d1, d2)>
// CHECK-DAG: #[[NONE:.*]] = affine_map<(d0, d1, d2) -> ()>
// CHECK-LABEL: @broadcast
func.func @broadcast(%x: tensor<3x1x5xf32>, %y: tensor<7x1xf32>, %s: tensor<1x1xf32>) -> tensor<3x7x5xf32> {
  // CHECK: %[[L:.*]] = tensor.collapse_shape %{{.*}} {{\[\[}}0, 1], [2]] : tensor<3x1x5xf32> into tensor<3x5xf32>
  // CHECK: %[[R:.*]] = tensor.collapse_shape %{{.*}} {{\[\[}}0, 1]] : tensor<7x1xf32> into tensor<7xf32>
  // CHECK: linalg.generic {indexing_maps = [#[[LEFT]], #[[RIGHT]], #[[ALL]]], {{.*}}} ins(%[[L]], %[[R]] :
  // CHECK: arith.addf
  %0 = train.add %x, %y : tensor<3x1x5xf32>, tensor<7x1xf32> -> tensor<3x7x5xf32>
  // CHECK: %[[S:.*]] = tensor.collapse_shape %{{.*}} [] : tensor<1x1xf32> into tensor<f32>
  // CHECK: linalg.generic {indexing_maps = [#[[NONE]], #[[ALL]], #[[ALL]]], {{.*}}} ins(%[[S]],
  // CHECK: arith.mulf
  %1 = train.mul %s, %0 : tensor<1x1xf32>, tensor<3x7x5xf32> -> tensor<3x7x5xf32>
  return %1 : tensor<3x7x5xf32>
}

// CHECK-LABEL: @sum_to
func.func @sum_to(%x: tensor<3x7x5xf32>) -> tensor<7x1xf32> {
  // CHECK: linalg.generic {indexing_maps = [#[[ALL]], #[[RIGHT]]], iterator_types = ["reduction", "parallel", "reduction"]}
  // CHECK: tensor.expand_shape {{.*}} : tensor<7xf32> into tensor<7x1xf32>
  %0 = train.sum_to %x : tensor<3x7x5xf32> -> tensor<7x1xf32>
  return %0 : tensor<7x1xf32>
}

// -----

// CHECK-LABEL: @reshape
func.func @reshape(%x: tensor<3x5xf32>, %s: tensor<f32>) -> (tensor<5x3xf32>, tensor<1x1xf32>, tensor<15xf32>) {
  // CHECK: %[[FLAT:.*]] = tensor.collapse_shape %{{.*}} {{\[\[}}0, 1]] : tensor<3x5xf32> into tensor<15xf32>
  // CHECK: tensor.expand_shape %[[FLAT]] {{\[\[}}0, 1]] output_shape [5, 3]
  %0 = train.reshape %x : tensor<3x5xf32> -> tensor<5x3xf32>
  // CHECK: tensor.expand_shape %{{.*}} [] output_shape [1, 1] : tensor<f32> into tensor<1x1xf32>
  %1 = train.reshape %s : tensor<f32> -> tensor<1x1xf32>
  %2 = train.reshape %x : tensor<3x5xf32> -> tensor<15xf32>
  return %0, %1, %2 : tensor<5x3xf32>, tensor<1x1xf32>, tensor<15xf32>
}

// CHECK-LABEL: @activations
func.func @activations(%x: tensor<7xf32>, %dy: tensor<7xf32>) -> (tensor<7xf32>, tensor<7xf32>, tensor<7xf32>) {
  // CHECK: arith.maximumf
  %0 = train.relu %x : tensor<7xf32>
  // CHECK: arith.negf
  // CHECK: math.exp
  // CHECK: arith.addf
  // CHECK: arith.divf
  %1 = train.sigmoid %x : tensor<7xf32>
  // CHECK: math.tanh
  %2 = train.tanh %x : tensor<7xf32>
  // CHECK: arith.cmpf ole
  // CHECK: arith.select
  %3 = train.relu_vjp %0, %dy : tensor<7xf32>
  // CHECK: arith.subf
  // CHECK: arith.mulf
  // CHECK: arith.mulf
  %4 = train.sigmoid_vjp %1, %dy : tensor<7xf32>
  // CHECK: arith.mulf
  // CHECK: arith.subf
  // CHECK: arith.mulf
  %5 = train.tanh_vjp %2, %dy : tensor<7xf32>
  return %3, %4, %5 : tensor<7xf32>, tensor<7xf32>, tensor<7xf32>
}

// -----

// A compensated sum in two stages: 24 x 10 elements as 15 x 16, then 16.
// CHECK-LABEL: @mse
func.func @mse(%y: tensor<24x10xf32>, %t: tensor<24x10xf32>) -> tensor<f32> {
  // CHECK: %[[P:.*]]:2 = linalg.generic {{.*}}iterator_types = ["reduction", "parallel"]} ins(%{{.*}} : tensor<15x16xf32>, tensor<15x16xf32>) outs(%{{.*}} : tensor<16xf32>, tensor<16xf32>)
  // CHECK: linalg.generic {{.*}}iterator_types = ["reduction"]} ins(%[[P]]#0, %[[P]]#1 :
  // CHECK: linalg.generic {{.*}}iterator_types = []}
  %0 = train.mse_loss %y, %t : tensor<24x10xf32> -> tensor<f32>
  return %0 : tensor<f32>
}

// A prime number of elements: one stage.
// CHECK-LABEL: @mse_prime
func.func @mse_prime(%y: tensor<1x13xf32>, %t: tensor<1x13xf32>) -> tensor<f32> {
  // CHECK: linalg.generic {{.*}}iterator_types = ["reduction"]} ins(%{{.*}} : tensor<13xf32>, tensor<13xf32>) outs(%{{.*}} : tensor<f32>, tensor<f32>)
  // CHECK-NEXT: ^bb0
  // CHECK-NEXT: arith.subf
  // CHECK-NEXT: arith.mulf
  // CHECK: linalg.generic {{.*}}iterator_types = []}
  %0 = train.mse_loss %y, %t : tensor<1x13xf32> -> tensor<f32>
  return %0 : tensor<f32>
}

// -----

// Cross entropy and its gradient share the maximum and the sum of exponentials.
// CHECK-LABEL: @cross_entropy
func.func @cross_entropy(%x: tensor<7x5xf32>, %labels: tensor<7xi32>, %g: tensor<f32>) -> (tensor<f32>, tensor<7x5xf32>) {
  // CHECK: arith.maximumf
  // CHECK-NOT: arith.maximumf
  // CHECK: math.exp
  // CHECK: linalg.index 1
  // CHECK: math.log
  // CHECK-NOT: math.log
  // CHECK: arith.divf
  // CHECK: math.exp
  // CHECK: linalg.index 1
  // CHECK-NOT: math.exp
  %0 = train.cross_entropy %x, %labels : tensor<7x5xf32>, tensor<7xi32> -> tensor<f32>
  %1 = train.cross_entropy_vjp %x, %labels, %g : tensor<7x5xf32>, tensor<7xi32>, tensor<f32> -> tensor<7x5xf32>
  return %0, %1 : tensor<f32>, tensor<7x5xf32>
}

// -----

// Rows along the last axis, of which some do not count; weights. What is counted is summed once for loss and gradient.
// CHECK-LABEL: @cross_entropy_of_pixels
func.func @cross_entropy_of_pixels(%x: tensor<2x5x3x7xf32>, %labels: tensor<2x3x7xi32>, %w: tensor<5xf32>, %g: tensor<f32>) -> (tensor<f32>, tensor<2x5x3x7xf32>) {
  // CHECK: arith.maximumf
  // CHECK: math.exp
  // CHECK: linalg.index 1
  // CHECK: arith.constant -100 : i32
  // CHECK: arith.cmpi eq
  // CHECK: arith.divf
  // CHECK: arith.divf
  // CHECK-NOT: arith.divf
  %0 = train.cross_entropy %x, %labels weight %w {ignored = -100 : i64} : tensor<2x5x3x7xf32>, tensor<2x3x7xi32>, tensor<5xf32> -> tensor<f32>
  %1 = train.cross_entropy_vjp %x, %labels, %g weight %w {ignored = -100 : i64} : tensor<2x5x3x7xf32>, tensor<2x3x7xi32>, tensor<f32>, tensor<5xf32> -> tensor<2x5x3x7xf32>
  return %0, %1 : tensor<f32>, tensor<2x5x3x7xf32>
}

// -----

// Bits of a hash of the position: nothing is stored, and the same op is its gradient.
// CHECK-LABEL: @dropout
func.func @dropout(%x: tensor<3x5xf32>, %c: tensor<i32>) -> tensor<3x5xf32> {
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<3x5xf32>, tensor<i32>)
  // CHECK: linalg.index 0
  // CHECK: linalg.index 1
  // CHECK: arith.cmpi ult
  // CHECK: arith.select
  %0 = train.dropout %x, %c {seed = 1, probability = 0.5 : f64} : (tensor<3x5xf32>, tensor<i32>) -> tensor<3x5xf32>
  return %0 : tensor<3x5xf32>
}

// -----

// Truth values are floats in memory; what stops a gradient is nothing in the forward.
// CHECK-LABEL: @truth
func.func @truth(%x: tensor<3x5xf32>, %y: tensor<5xf32>, %ids: tensor<3x5xi32>) -> (tensor<3x5xf32>, tensor<3x5xf32>, tensor<3x5xf32>) {
  // CHECK: arith.cmpf olt
  // CHECK: arith.select
  %0 = train.compare %x "lt" %y : tensor<3x5xf32>, tensor<5xf32> -> tensor<3x5xf32>
  // CHECK: arith.cmpf une
  // CHECK: arith.select
  %1 = train.select %0, %y, %x : (tensor<3x5xf32>, tensor<5xf32>, tensor<3x5xf32>) -> tensor<3x5xf32>
  // CHECK-NOT: train.detach
  %2 = train.detach %1 : tensor<3x5xf32>
  // CHECK: arith.addf
  // CHECK: arith.subf
  %3 = train.round %x "even" : tensor<3x5xf32>
  // CHECK: arith.sitofp
  %4 = train.from_integers %ids : tensor<3x5xi32> -> tensor<3x5xf32>
  return %2, %3, %4 : tensor<3x5xf32>, tensor<3x5xf32>, tensor<3x5xf32>
}
