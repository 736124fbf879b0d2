// RUN: td-opt %s --td-set-target=name=pulp-redmule --td-plan-step | FileCheck %s
// RUN: td-opt %s --td-set-target=name=pulp --td-plan-step | FileCheck %s --check-prefix=CORES

// The update is part of the group that makes the gradient, in place: the weight
// is in ins and outs, and no buffer holds the gradient.
// CHECK: tile.program @step target "pulp-redmule" attributes {tile.flop = 6324 : i64}
// CHECK-DAG: %[[X:.*]] = tile.buffer input "input" : memref<3x17xf32, #tile.memory<l2>>
// CHECK-DAG: %[[W:.*]] = tile.buffer parameter "w" {trainable} : memref<31x17xf32, #tile.memory<l2>>
// CHECK-DAG: %[[B:.*]] = tile.buffer parameter "b" : memref<31xf32, #tile.memory<l2>>
// CHECK-DAG: %[[D:.*]] = tile.buffer temporary "{{.*}}" : memref<3x31xf32, #tile.memory<l2>>
// CHECK: tile.group "fc1
// CHECK-SAME: domain [3, 31, 17]
// CHECK-SAME: reductions [2]
// CHECK-SAME: ins(%[[X]], %[[W]], %[[B]], %{{.*}} :
// CHECK: tile.stage init on cores
// CHECK: linalg.fill
// CHECK: tile.stage main on {{cores|redmule}}
// CHECK: linalg.matmul
// CHECK: tile.stage finish on cores
// CHECK: arith.maximumf
// CHECK: tile.group "fc1 weight gradient
// CHECK-SAME: ins({{.*}}%[[W]]{{.*}}) outs(%[[W]] :
// CHECK-NOT: train.

// CORES-NOT: on redmule
#nt0 = affine_map<(m,k,n)->(m,n)>
#nt1 = affine_map<(m,k,n)->(k,n)>
#c = affine_map<(m,k,n)->(m,k)>
#id = affine_map<(i,j)->(i,j)>
#col = affine_map<(i,j)->(j)>
#s = affine_map<(i,j)->()>
module {
  train.parameter @w trainable : tensor<31x17xf32>
  train.parameter @b : tensor<31xf32>
  func.func @step(%x: tensor<3x17xf32> {train.name = "input"}, %t: tensor<3x31xf32> {train.name = "target"}, %lr: tensor<f32> {train.name = "lr"}) -> tensor<f32> attributes {train.flop = 6324 : i64} {
    %zero = arith.constant 0.0 : f32
    %scale = arith.constant 0.5 : f32
    %w = train.read @w : tensor<31x17xf32>
    %b = train.read @b : tensor<31xf32>
    %e = tensor.empty() : tensor<3x31xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<3x31xf32>) -> tensor<3x31xf32>
    %m = linalg.matmul indexing_maps = [#nt0, #nt1, #c] ins(%x, %w : tensor<3x17xf32>, tensor<31x17xf32>) outs(%f : tensor<3x31xf32>) -> tensor<3x31xf32> loc("fc1")
    %y = linalg.generic {indexing_maps = [#id, #col, #id], iterator_types = ["parallel", "parallel"]} ins(%m, %b : tensor<3x31xf32>, tensor<31xf32>) outs(%e : tensor<3x31xf32>) {
    ^bb0(%a: f32, %c: f32, %o: f32):
      %0 = arith.addf %a, %c : f32
      %1 = arith.maximumf %0, %zero : f32
      linalg.yield %1 : f32
    } -> tensor<3x31xf32>
    %d = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]} ins(%y, %t : tensor<3x31xf32>, tensor<3x31xf32>) outs(%e : tensor<3x31xf32>) {
    ^bb0(%a: f32, %c: f32, %o: f32):
      %0 = arith.subf %a, %c : f32
      %1 = arith.mulf %0, %scale : f32
      linalg.yield %1 : f32
    } -> tensor<3x31xf32>
    %le = tensor.empty() : tensor<f32>
    %lf = linalg.fill ins(%zero : f32) outs(%le : tensor<f32>) -> tensor<f32>
    %loss = linalg.generic {indexing_maps = [#id, #s], iterator_types = ["reduction", "reduction"]} ins(%d : tensor<3x31xf32>) outs(%lf : tensor<f32>) {
    ^bb0(%a: f32, %o: f32):
      %0 = math.fma %a, %a, %o : f32
      linalg.yield %0 : f32
    } -> tensor<f32>
    %we = tensor.empty() : tensor<31x17xf32>
    %wf = linalg.fill ins(%zero : f32) outs(%we : tensor<31x17xf32>) -> tensor<31x17xf32>
    %dw = linalg.matmul indexing_maps = [affine_map<(m,k,n)->(n,m)>, affine_map<(m,k,n)->(n,k)>, #c] ins(%d, %x : tensor<3x31xf32>, tensor<3x17xf32>) outs(%wf : tensor<31x17xf32>) -> tensor<31x17xf32> loc("fc1 weight gradient")
    %wn = linalg.generic {indexing_maps = [#id, #id, #s, #id], iterator_types = ["parallel", "parallel"]} ins(%w, %dw, %lr : tensor<31x17xf32>, tensor<31x17xf32>, tensor<f32>) outs(%we : tensor<31x17xf32>) {
    ^bb0(%a: f32, %c: f32, %l: f32, %o: f32):
      %0 = arith.mulf %l, %c : f32
      %1 = arith.subf %a, %0 : f32
      linalg.yield %1 : f32
    } -> tensor<31x17xf32>
    train.assign %wn to @w : tensor<31x17xf32>
    return %loss : tensor<f32>
  }
}
