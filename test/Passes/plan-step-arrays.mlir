// RUN: td-opt %s --split-input-file --verify-diagnostics --td-set-target --td-plan-step

module {
  // expected-error @below {{the plan has no place for an array of type 'tensor<0x4xf32>'}}
  func.func @step(%x: tensor<0x4xf32>) -> tensor<0x4xf32> { return %x : tensor<0x4xf32> }
}

// -----
module {
  func.func @step() -> tensor<4xf32> {
    // expected-error @below {{the plan has no place for an array of type 'tensor<4611686018427387904x4xf32>'}}
    %e = tensor.empty() : tensor<4611686018427387904x4xf32>
    %z = arith.constant 0.0 : f32
    %f = linalg.fill ins(%z : f32) outs(%e : tensor<4611686018427387904x4xf32>) -> tensor<4611686018427387904x4xf32>
    %s = tensor.extract_slice %f[0, 0] [1, 4] [1, 1] : tensor<4611686018427387904x4xf32> to tensor<4xf32>
    return %s : tensor<4xf32>
  }
}

// -----
module {
  // expected-error @below {{returns an array that nothing has written}}
  func.func @step() -> tensor<4xf32> {
    %e = tensor.empty() : tensor<1x4xf32>
    %s = tensor.extract_slice %e[0, 0] [1, 4] [1, 1] : tensor<1x4xf32> to tensor<4xf32>
    return %s : tensor<4xf32>
  }
}
