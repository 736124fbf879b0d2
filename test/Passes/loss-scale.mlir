// RUN: td-opt %s --td-differentiate=loss-scale=1024 | FileCheck %s --check-prefix=SEED
// RUN: td-opt %s --td-differentiate=loss-scale=1024 --td-insert-updates=loss-scale=1024 | FileCheck %s --check-prefix=RATE
// RUN: sed 's/ linear once/ once/' %s | td-opt --td-differentiate=loss-scale=1024 --td-insert-updates=loss-scale=1024 | FileCheck %s --check-prefix=EACH
// RUN: not td-opt %s --td-differentiate=loss-scale=1000 2>&1 | FileCheck %s --check-prefix=POWER
// RUN: not td-opt %s --td-differentiate=loss-scale=0.5 2>&1 | FileCheck %s --check-prefix=SMALL
// RUN: not td-opt %s --td-graph="precision=fp8" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// POWER: error: the loss scale is 1.000000e+03; it must be a power of two from 1 to 2^24
// SMALL: error: the loss scale is 5.000000e-01; it must be a power of two
// UNKNOWN: fp8

train.parameter @w trainable : tensor<7x5xf32>
train.optimizer @optimizer linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
func.func @step(%t: tensor<7x5xf32>) -> tensor<f32> {
  // If a weight moves by rate times gradient the rate is divided, once; or else each gradient is.
  // RATE: %[[INVERSE:.*]] = arith.constant dense<9.765625E-4> : tensor<f32>
  // RATE: %[[RATE:.*]] = train.mul %arg1, %[[INVERSE]] : tensor<f32>, tensor<f32> -> tensor<f32>
  // RATE: linalg.generic {{.*}} ins(%{{.*}}, %[[RATE]], %{{.*}} : tensor<7x5xf32>, tensor<f32>, tensor<7x5xf32>)
  // EACH: %[[INVERSE:.*]] = arith.constant dense<9.765625E-4> : tensor<7x5xf32>
  // EACH: %[[GRADIENT:.*]] = train.mul %{{.*}}, %[[INVERSE]]
  // EACH: linalg.generic {{.*}} ins(%[[GRADIENT]], %arg1, %{{.*}} : tensor<7x5xf32>, tensor<f32>, tensor<7x5xf32>)
  %w = train.read @w : tensor<7x5xf32>
  // The loss that is returned is not scaled.
  // SEED: %[[LOSS:.*]] = train.mse_loss
  // SEED: arith.constant dense<1.024000e+03> : tensor<f32>
  // SEED: return %[[LOSS]]
  %loss = train.mse_loss %w, %t : tensor<7x5xf32> -> tensor<f32>
  return %loss : tensor<f32>
}
