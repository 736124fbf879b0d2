// RUN: td-opt %s --td-attach-loss=loss=cross-entropy --verify-diagnostics --split-input-file

// expected-error@+1 {{the model has 2 results; training needs exactly one, the prediction}}
func.func @forward(%x: tensor<3x5xf32>) -> (tensor<3x5xf32>, tensor<3x5xf32>) {
  return %x, %x : tensor<3x5xf32>, tensor<3x5xf32>
}

// -----

// expected-error@+1 {{cross entropy needs logits with an axis of classes, 1; the prediction is 'tensor<3xf32>'}}
func.func @forward(%x: tensor<3xf32>) -> tensor<3xf32> {
  return %x : tensor<3xf32>
}

// -----

// expected-error@+1 {{the prediction is 'tensor<3x5xi32>'; training needs a tensor of floats with a static shape}}
func.func @forward(%x: tensor<3x5xi32>) -> tensor<3x5xi32> {
  return %x : tensor<3x5xi32>
}

// -----

// expected-error@+1 {{the model already has an input named 'labels', which is the name of the loss's input}}
func.func @forward(%x: tensor<3x5xf32> {train.name = "labels"}) -> tensor<3x5xf32> {
  return %x : tensor<3x5xf32>
}

// -----

// expected-error@+1 {{the module has no function @forward of one block}}
module {
}
