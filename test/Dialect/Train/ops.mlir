// RUN: td-opt %s | td-opt | FileCheck %s
// RUN: td-opt %s --mlir-print-op-generic | td-opt | FileCheck %s

// CHECK: train.parameter @fc.weight trainable : tensor<3x5xf32>
train.parameter @fc.weight trainable : tensor<3x5xf32>
// CHECK: train.parameter @fc.weight.momentum state_of @fc.weight {first = 5.000000e-01 : f64, state = "momentum"} : tensor<3x5xf32>
train.parameter @fc.weight.momentum state_of @fc.weight {state = "momentum", first = 0.5} : tensor<3x5xf32>
// CHECK: train.parameter @updates {state = "updates"} : tensor<f32>
train.parameter @updates {state = "updates"} : tensor<f32>
// CHECK: train.parameter @moved trainable {optimizer = @halves} : tensor<f32>
train.parameter @moved trainable {optimizer = @halves} : tensor<f32>
// CHECK: train.optimizer @halves shared ["updates"] states ["sum", "largest"] first [0.000000e+00, 1.000000e+00, 2.000000e+00] linear once {
train.optimizer @halves shared ["updates"] states ["sum", "largest"] first [0.0, 1.0, 2.0] linear once {
// CHECK-NEXT: ^bb0(%[[RATE:.*]]: f32, %[[UPDATES:.*]]: f32):
^bb0(%rate: f32, %updates: f32):
  // CHECK: train.yield %[[RATE]], %{{.*}} : f32, f32
  // CHECK-NEXT: } each {
  %one = arith.constant 1.0 : f32
  %next = arith.addf %updates, %one : f32
  train.yield %rate, %next : f32, f32
} each {
^bb0(%weight: f32, %gradient: f32, %sum: f32, %largest: f32, %rate: f32):
  %step = arith.mulf %rate, %gradient : f32
  %moved = arith.subf %weight, %step : f32
  train.yield %moved, %sum, %largest : f32, f32, f32
}
// CHECK: train.parameter @"a b" : tensor<3xf64>
train.parameter @"a b" : tensor<3xf64>

// CHECK-LABEL: @parameters
func.func @parameters() {
  // CHECK: %[[W:.*]] = train.read @fc.weight : tensor<3x5xf32>
  %w = train.read @fc.weight : tensor<3x5xf32>
  // CHECK: train.gradient %[[W]] of @fc.weight : tensor<3x5xf32>
  train.gradient %w of @fc.weight : tensor<3x5xf32>
  // CHECK: train.assign %[[W]] to @fc.weight : tensor<3x5xf32>
  train.assign %w to @fc.weight : tensor<3x5xf32>
  return
}

// CHECK-LABEL: @linear
func.func @linear(%x: tensor<2x7x5xf32>, %v: tensor<5xf32>, %w: tensor<3x5xf32>, %b: tensor<3xf32>) {
  // CHECK: train.linear %{{.*}}, %{{.*}}, %{{.*}} : tensor<2x7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<2x7x3xf32>
  %0 = train.linear %x, %w, %b : tensor<2x7x5xf32>, tensor<3x5xf32>, tensor<3xf32> -> tensor<2x7x3xf32>
  // CHECK: train.linear %{{.*}}, %{{.*}} : tensor<5xf32>, tensor<3x5xf32> -> tensor<3xf32>
  %1 = train.linear %v, %w : tensor<5xf32>, tensor<3x5xf32> -> tensor<3xf32>
  return
}

// CHECK-LABEL: @elementwise
func.func @elementwise(%x: tensor<3x1xf16>, %y: tensor<5xf16>, %s: tensor<f16>) {
  // CHECK: train.relu %{{.*}} : tensor<3x1xf16>
  %0 = train.relu %x : tensor<3x1xf16>
  // CHECK: train.sigmoid %{{.*}} : tensor<3x1xf16>
  %1 = train.sigmoid %x : tensor<3x1xf16>
  // CHECK: train.tanh %{{.*}} : tensor<3x1xf16>
  %2 = train.tanh %x : tensor<3x1xf16>
  // CHECK: train.add %{{.*}}, %{{.*}} : tensor<3x1xf16>, tensor<5xf16> -> tensor<3x5xf16>
  %3 = train.add %x, %y : tensor<3x1xf16>, tensor<5xf16> -> tensor<3x5xf16>
  // CHECK: train.sub %{{.*}}, %{{.*}} : tensor<3x5xf16>, tensor<f16> -> tensor<3x5xf16>
  %4 = train.sub %3, %s : tensor<3x5xf16>, tensor<f16> -> tensor<3x5xf16>
  // CHECK: train.mul %{{.*}}, %{{.*}} : tensor<5xf16>, tensor<3x5xf16> -> tensor<3x5xf16>
  %5 = train.mul %y, %4 : tensor<5xf16>, tensor<3x5xf16> -> tensor<3x5xf16>
  // CHECK: train.relu_vjp %{{.*}}, %{{.*}} : tensor<3x1xf16>
  %6 = train.relu_vjp %0, %x : tensor<3x1xf16>
  // CHECK: train.sigmoid_vjp %{{.*}}, %{{.*}} : tensor<3x1xf16>
  %7 = train.sigmoid_vjp %1, %x : tensor<3x1xf16>
  // CHECK: train.tanh_vjp %{{.*}}, %{{.*}} : tensor<3x1xf16>
  %8 = train.tanh_vjp %2, %x : tensor<3x1xf16>
  // CHECK: train.reshape %{{.*}} : tensor<3x5xf16> -> tensor<5x3x1xf16>
  %9 = train.reshape %5 : tensor<3x5xf16> -> tensor<5x3x1xf16>
  // CHECK: train.sum_to %{{.*}} : tensor<5x3x1xf16> -> tensor<1x1xf16>
  %10 = train.sum_to %9 : tensor<5x3x1xf16> -> tensor<1x1xf16>
  return
}

// CHECK-LABEL: @losses
func.func @losses(%y: tensor<3x5xf64>, %t: tensor<3x5xf64>, %labels: tensor<3xi32>, %w: tensor<3xf64>) {
  // CHECK: train.mse_loss %{{.*}}, %{{.*}} : tensor<3x5xf64> -> tensor<f64>
  %0 = train.mse_loss %y, %t : tensor<3x5xf64> -> tensor<f64>
  // CHECK: train.cross_entropy %{{.*}}, %{{.*}} : tensor<3x5xf64>, tensor<3xi32> -> tensor<f64>
  %1 = train.cross_entropy %y, %labels : tensor<3x5xf64>, tensor<3xi32> -> tensor<f64>
  // CHECK: train.cross_entropy_vjp %{{.*}}, %{{.*}}, %{{.*}} : tensor<3x5xf64>, tensor<3xi32>, tensor<f64> -> tensor<3x5xf64>
  %2 = train.cross_entropy_vjp %y, %labels, %0 : tensor<3x5xf64>, tensor<3xi32>, tensor<f64> -> tensor<3x5xf64>
  %pixels = train.reshape %y : tensor<3x5xf64> -> tensor<1x3x5xf64>
  %classes = tensor.empty() : tensor<5x1xi32>
  // CHECK: train.cross_entropy %{{.*}}, %{{.*}} weight %{{.*}} {ignored = -100 : i64} : tensor<1x3x5xf64>, tensor<5x1xi32>, tensor<3xf64> -> tensor<f64>
  %3 = train.cross_entropy %pixels, %classes weight %w {axis = 1 : i64, ignored = -100 : i64} : tensor<1x3x5xf64>, tensor<5x1xi32>, tensor<3xf64> -> tensor<f64>
  // CHECK: train.cross_entropy_vjp %{{.*}}, %{{.*}}, %{{.*}} weight %{{.*}} : tensor<1x3x5xf64>, tensor<5x1xi32>, tensor<f64>, tensor<3xf64> -> tensor<1x3x5xf64>
  %4 = train.cross_entropy_vjp %pixels, %classes, %3 weight %w : tensor<1x3x5xf64>, tensor<5x1xi32>, tensor<f64>, tensor<3xf64> -> tensor<1x3x5xf64>
  return
}

// CHECK-LABEL: @truth
func.func @truth(%x: tensor<3x5xf64>, %y: tensor<5xf64>, %ids: tensor<3x1xi32>, %table: tensor<7x2xf64>) {
  // CHECK: train.compare %{{.*}} "lt" %{{.*}} : tensor<3x5xf64>, tensor<5xf64> -> tensor<3x5xf64>
  %0 = train.compare %x "lt" %y : tensor<3x5xf64>, tensor<5xf64> -> tensor<3x5xf64>
  // CHECK: train.select %{{.*}}, %{{.*}}, %{{.*}} : (tensor<3x5xf64>, tensor<5xf64>, tensor<3x5xf64>) -> tensor<3x5xf64>
  %1 = train.select %0, %y, %x : (tensor<3x5xf64>, tensor<5xf64>, tensor<3x5xf64>) -> tensor<3x5xf64>
  // CHECK: train.round %{{.*}} "floor" : tensor<3x5xf64>
  %2 = train.round %1 "floor" : tensor<3x5xf64>
  // CHECK: train.detach %{{.*}} : tensor<3x5xf64>
  %3 = train.detach %2 : tensor<3x5xf64>
  // CHECK: train.from_integers %{{.*}} : tensor<3x1xi32> -> tensor<3x1xf64>
  %4 = train.from_integers %ids : tensor<3x1xi32> -> tensor<3x1xf64>
  // CHECK: train.embedding %{{.*}}, %{{.*}} : (tensor<3x1xf64>, tensor<7x2xf64>) -> tensor<3x1x2xf64>
  %5 = train.embedding %4, %table : (tensor<3x1xf64>, tensor<7x2xf64>) -> tensor<3x1x2xf64>
  return
}
