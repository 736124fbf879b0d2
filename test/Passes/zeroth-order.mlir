// RUN: td-opt %s --td-insert-updates="zeroth-order=0.5 seed=7" | FileCheck %s
// RUN: td-opt %s --td-insert-updates="zeroth-order=0.5 one-sided=true directions=2" | FileCheck %s --check-prefix=TWO

// One operator computes from the loss how far parameters move, and one moves each of them: along the direction of
// this run, whose number and the element's position are hashed, and of the next one, for which there is a branch.
// A linear optimizer has a rate of 0 between updates. @w is stored transposed: positions are the model's. What the
// loss does not depend on is not moved.
// CHECK: train.parameter @w trainable {layout = array<i64: 1, 0>} : tensor<3x5xf32>
// CHECK-NEXT: train.parameter @unused : tensor<4xf32>
// CHECK: train.parameter @optimizer.side {state = "side"} : tensor<f32>
// CHECK-NEXT: train.parameter @optimizer.direction {state = "direction"} : tensor<f32>
// CHECK-NEXT: train.parameter @optimizer.loss {state = "loss"} : tensor<f32>
// CHECK-NEXT: func.func @step(%{{.*}}: tensor<3x5xf32>, %[[LR:.*]]: tensor<f32> {train.name = "lr"}, %[[MORE:.*]]: tensor<f32> {train.name = "perturb"}) -> tensor<f32>
// CHECK: %[[LOSS:.*]] = train.mse_loss
// CHECK: %[[NUMBERS:.*]]:9 = linalg.generic {{.*}} ins(%[[LOSS]], %[[LR]], %[[MORE]],
// CHECK: train.assign %[[NUMBERS]]#6 to @optimizer.side
// CHECK: linalg.generic {{.*}} ins(%[[NUMBERS]]#0, %[[NUMBERS]]#2, %[[NUMBERS]]#3, %[[NUMBERS]]#4, %[[NUMBERS]]#5,
// CHECK: linalg.index 1
// CHECK: linalg.index 0
// CHECK: arith.select
// CHECK: train.assign %{{.*}} to @w
// TWO: train.parameter @optimizer.slope1
// TWO: func.func @step(%{{.*}}: tensor<3x5xf32>, %{{.*}}: tensor<f32> {train.name = "lr"}) -> tensor<f32>
train.parameter @w trainable {layout = array<i64: 1, 0>} : tensor<3x5xf32>
train.parameter @unused trainable : tensor<4xf32>
train.optimizer @optimizer linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
func.func @step(%x: tensor<3x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<3x5xf32>
  %loss = train.mse_loss %w, %x : tensor<3x5xf32> -> tensor<f32>
  return %loss : tensor<f32>
}
