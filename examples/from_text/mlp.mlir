// A forward model as the frontend would write it: parameters by name, and what is computed.
module attributes {train.model = "mlp"} {
  train.parameter @hidden.weight : tensor<33x20xf32>
  train.parameter @hidden.bias : tensor<33xf32>
  train.parameter @out.weight : tensor<4x33xf32>
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
