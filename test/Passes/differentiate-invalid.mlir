// RUN: td-opt %s --td-differentiate --verify-diagnostics --split-input-file

train.parameter @w trainable : tensor<7x5xf32>
func.func @step(%t: tensor<7x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<7x5xf32>
  %0 = tensor.empty() : tensor<7x5xf32>
  // expected-error@+1 {{'linalg.exp' op has no gradient; the operators of the train dialect have one, linalg.matmul, and tensor.collapse_shape and expand_shape}}
  %y = linalg.exp ins(%w : tensor<7x5xf32>) outs(%0 : tensor<7x5xf32>) -> tensor<7x5xf32>
  %loss = train.mse_loss %y, %t : tensor<7x5xf32> -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// An op without a gradient is no error where none is needed: the frozen part,
// and what does not reach the loss.
train.parameter @w trainable : tensor<7x5xf32>
func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<7x5xf32>
  %0 = tensor.empty() : tensor<7x5xf32>
  %dead = linalg.exp ins(%w : tensor<7x5xf32>) outs(%0 : tensor<7x5xf32>) -> tensor<7x5xf32>
  %y = linalg.exp ins(%x : tensor<7x5xf32>) outs(%0 : tensor<7x5xf32>) -> tensor<7x5xf32>
  %z = train.add %y, %w : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %z, %t : tensor<7x5xf32> -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

train.parameter @w trainable : tensor<7x5xf32>
// expected-warning@+1 {{trainable parameter 'v' does not reach the loss and will not be updated}}
train.parameter @v trainable : tensor<7x5xf32>
func.func @step(%t: tensor<7x5xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<7x5xf32>
  %v = train.read @v : tensor<7x5xf32>
  %dead = train.add %v, %w : tensor<7x5xf32>, tensor<7x5xf32> -> tensor<7x5xf32>
  %loss = train.mse_loss %w, %t : tensor<7x5xf32> -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// expected-error@+1 {{no trainable parameter reaches the loss}}
module {
  train.parameter @w trainable : tensor<7x5xf32>
  func.func @step(%x: tensor<7x5xf32>, %t: tensor<7x5xf32>) -> tensor<f32> {
    %w = train.read @w : tensor<7x5xf32>
    %loss = train.mse_loss %x, %t : tensor<7x5xf32> -> tensor<f32>
    return %loss : tensor<f32>
  }
}

// -----

// A matmul operand that broadcasts.
#a = affine_map<(d0, d1, d2) -> (d2)>
#b = affine_map<(d0, d1, d2) -> (d2, d1)>
#c = affine_map<(d0, d1, d2) -> (d0, d1)>
train.parameter @w trainable : tensor<5x3xf32>
func.func @step(%x: tensor<5xf32>, %t: tensor<7x3xf32>) -> tensor<f32> {
  %w = train.read @w : tensor<5x3xf32>
  // expected-error@+1 {{'linalg.matmul' op has no gradient with respect to its operand #1}}
  %y = linalg.matmul indexing_maps = [#a, #b, #c] ins(%x, %w : tensor<5xf32>, tensor<5x3xf32>) outs(%t : tensor<7x3xf32>) -> tensor<7x3xf32>
  %loss = train.mse_loss %y, %t : tensor<7x3xf32> -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// expected-error@+1 {{there is no function @step of one block that returns a loss of rank 0}}
module {
  func.func @step(%x: tensor<7x5xf32>) -> tensor<7x5xf32> {
    return %x : tensor<7x5xf32>
  }
}

// -----

// expected-error@+1 {{no parameter is marked trainable}}
module {
  train.parameter @w : tensor<f32>
  func.func @step() -> tensor<f32> {
    %w = train.read @w : tensor<f32>
    return %w : tensor<f32>
  }
}
