// RUN: td-opt %s "--td-attach-loss=loss=cross-entropy labels=5" --verify-diagnostics

// expected-error@+1 {{labels of type 'tensor<5xi32>' are not one for each row of classes of 'tensor<3x5xf32>'}}
func.func @forward(%x: tensor<3x5xf32>) -> tensor<3x5xf32> {
  return %x : tensor<3x5xf32>
}
