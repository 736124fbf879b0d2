// RUN: td-opt %s --td-insert-updates=momentum=0.9 --verify-diagnostics --split-input-file
// RUN: not td-opt %s --td-insert-updates=optimizer=adamw --split-input-file 2>&1 | FileCheck %s --check-prefix=OPTIMIZER
// RUN: not td-opt %s --td-insert-updates=momentum=-1 --split-input-file 2>&1 | FileCheck %s --check-prefix=MOMENTUM

// OPTIMIZER: error: unknown optimizer 'adamw'; there is sgd
// MOMENTUM: error: the momentum is -1{{.*}}; it must not be negative

// expected-error@+1 {{the model already has an input named 'lr', which is the name of the learning rate}}
func.func @step(%x: tensor<7x5xf32> {train.name = "lr"}) -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  return %loss : tensor<f32>
}

// -----

// expected-error@+1 {{the name of its optimizer state, 'w.momentum', is taken}}
train.parameter @w trainable : tensor<f32>
train.parameter @w.momentum : tensor<f32>
func.func @step() -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  train.gradient %loss of @w : tensor<f32>
  return %loss : tensor<f32>
}

// -----

train.parameter @w trainable : tensor<f32>
func.func @step() -> tensor<f32> {
  %w = train.read @w : tensor<f32>
  // expected-error@+1 {{'train.gradient' op belongs to a parameter whose old value the step returns}}
  train.gradient %w of @w : tensor<f32>
  return %w : tensor<f32>
}
