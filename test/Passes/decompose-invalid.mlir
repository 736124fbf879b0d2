// RUN: td-opt %s --td-decompose --verify-diagnostics --split-input-file

func.func @step(%x: tensor<7x5xf32>) -> tensor<7x5xf32> {
  %0 = tensor.empty() : tensor<7x5xf32>
  // expected-error@+1 {{'linalg.exp' op is not part of a decomposed training step}}
  %y = linalg.exp ins(%x : tensor<7x5xf32>) outs(%0 : tensor<7x5xf32>) -> tensor<7x5xf32>
  return %y : tensor<7x5xf32>
}

// -----

#skewed = affine_map<(d0, d1) -> (d0 * 5 - d1 + 4)>
#identity = affine_map<(d0, d1) -> (d0, d1)>
func.func @step(%x: tensor<35xf32>) -> tensor<7x5xf32> {
  %0 = tensor.empty() : tensor<7x5xf32>
  // expected-error@+1 {{'linalg.generic' op has an indexing map that is no sum of loops times non-negative integers: affine_map<(d0, d1) -> (d0 * 5 - d1 + 4)>}}
  %y = linalg.generic {indexing_maps = [#skewed, #identity], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<35xf32>) outs(%0 : tensor<7x5xf32>) {
    ^bb0(%a: f32, %b: f32):
      linalg.yield %a : f32
  } -> tensor<7x5xf32>
  return %y : tensor<7x5xf32>
}

// -----

// A snapshot used after the update of its parameter would need a copy.
train.parameter @w : tensor<7x5xf32>
func.func @step(%g: tensor<7x5xf32>) -> tensor<35xf32> {
  %w = train.read @w : tensor<7x5xf32>
  %view = train.reshape %w : tensor<7x5xf32> -> tensor<35xf32>
  // expected-note@+1 {{updated here}}
  train.assign %g to @w : tensor<7x5xf32>
  %new = train.read @w : tensor<7x5xf32>
  %y = train.relu %new : tensor<7x5xf32>
  // expected-error@+1 {{uses the value that @w had before its update}}
  %z = train.relu %view : tensor<35xf32>
  return %z : tensor<35xf32>
}
