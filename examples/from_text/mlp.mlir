// A forward model as the frontend would write it: parameters by name, and what is computed; and an optimizer, as
// docs/optimizers.md explains it: SGD with momentum.
module attributes {train.model = "mlp"} {
  train.parameter @hidden.weight : tensor<33x20xf32>
  train.parameter @hidden.bias : tensor<33xf32>
  train.parameter @out.weight : tensor<4x33xf32>
  train.optimizer @optimizer states ["momentum"] once {
  ^bb0(%rate: f32):
    train.yield %rate : f32
  } each {
  ^bb0(%weight: f32, %gradient: f32, %momentum: f32, %rate: f32):
    %share = arith.constant 0.9 : f32
    %velocity = math.fma %share, %momentum, %gradient : f32
    %step = arith.negf %rate : f32
    %moved = math.fma %step, %velocity, %weight : f32
    train.yield %moved, %velocity : f32, f32
  }
  func.func @forward(%x: tensor<8x20xf32> {train.name = "x"}) -> tensor<8x4xf32> {
    %w1 = train.read @hidden.weight : tensor<33x20xf32>
    %b1 = train.read @hidden.bias : tensor<33xf32>
    %h = train.linear %x, %w1, %b1 : tensor<8x20xf32>, tensor<33x20xf32>, tensor<33xf32> -> tensor<8x33xf32>
    %a = train.relu %h : tensor<8x33xf32>
    %w2 = train.read @out.weight : tensor<4x33xf32>
    %y = train.linear %a, %w2 : tensor<8x33xf32>, tensor<4x33xf32> -> tensor<8x4xf32>
    return %y : tensor<8x4xf32>
  }
}
