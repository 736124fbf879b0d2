// RUN: td-opt %s --verify-diagnostics --split-input-file

func.func @permute(%x: tensor<3x5xf32>) -> tensor<3x5xf32> {
  // expected-error@+1 {{'train.permute' op has result 'tensor<3x5xf32>', but its shape is 'tensor<5x3xf32>'}}
  %0 = train.permute %x [1, 0] : tensor<3x5xf32> -> tensor<3x5xf32>
  return %0 : tensor<3x5xf32>
}

// -----

func.func @axes(%x: tensor<3x5xf32>) -> tensor<3xf32> {
  // expected-error@+1 {{'train.sum' op needs distinct axes from 0 to 1, not 2}}
  %0 = train.sum %x {axes = array<i64: 2>} : (tensor<3x5xf32>) -> tensor<3xf32>
  return %0 : tensor<3xf32>
}

// -----

func.func @matmul(%x: tensor<2x3x5xf32>, %y: tensor<2x3x7xf32>) -> tensor<2x3x7xf32> {
  // expected-error@+1 {{'train.matmul' op sums over 5 elements of one operand and 3 of the other}}
  %0 = train.matmul %x, %y : (tensor<2x3x5xf32>, tensor<2x3x7xf32>) -> tensor<2x3x7xf32>
  return %0 : tensor<2x3x7xf32>
}

// -----

func.func @channels(%x: tensor<1x5x5x3xf32>, %w: tensor<3x3x2x4xf32>) -> tensor<1x3x3x4xf32> {
  // expected-error@+1 {{'train.conv2d' op has 3 channels in, 4 out and 1 groups, which do not fit the filter 'tensor<3x3x2x4xf32>'}}
  %0 = train.conv2d %x, %w {strides = array<i64: 1, 1>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x5x5x3xf32>, tensor<3x3x2x4xf32>) -> tensor<1x3x3x4xf32>
  return %0 : tensor<1x3x3x4xf32>
}

// -----

func.func @windows(%x: tensor<1x5x5x3xf32>) -> (tensor<1x4x2x3xf32>, tensor<1x4x2x3xi32>) {
  // expected-error@+1 {{'train.max_pool2d' op has 2 windows along axis 1, not 4}}
  %0:2 = train.max_pool2d %x {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, padding = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1, 1>} : (tensor<1x5x5x3xf32>) -> (tensor<1x4x2x3xf32>, tensor<1x4x2x3xi32>)
  return %0#0, %0#1 : tensor<1x4x2x3xf32>, tensor<1x4x2x3xi32>
}

// -----

// expected-error@+1 {{'train.parameter' op needs a layout of 2 axes}}
train.parameter @w {layout = array<i64: 0>} : tensor<3x5xf32>

// -----

func.func @dropout(%x: tensor<3x5xf32>, %c: tensor<i32>) -> tensor<3x5xf32> {
  // expected-error@+1 {{'train.dropout' op needs a probability from 0 to 1}}
  %0 = train.dropout %x, %c {seed = 1, probability = 1.5 : f64} : (tensor<3x5xf32>, tensor<i32>) -> tensor<3x5xf32>
  return %0 : tensor<3x5xf32>
}

// -----

func.func @dropout_shape(%x: tensor<3x5xf32>, %c: tensor<i32>) -> tensor<15xf32> {
  // expected-error@+1 {{'train.dropout' op needs a result of its input's type}}
  %0 = train.dropout %x, %c {seed = 1, probability = 0.5 : f64} : (tensor<3x5xf32>, tensor<i32>) -> tensor<15xf32>
  return %0 : tensor<15xf32>
}
