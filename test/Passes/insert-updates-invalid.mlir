// RUN: td-opt %s --td-insert-updates --verify-diagnostics --split-input-file

// expected-error@+1 {{the model already has an input named 'lr', which is the name of the learning rate}}
func.func @step(%x: tensor<7x5xf32> {train.name = "lr"}) -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  return %loss : tensor<f32>
}

// -----

// expected-error@+1 {{the name of its optimizer state, 'w.momentum', is taken}}
train.parameter @w trainable : tensor<f32>
train.parameter @w.momentum : tensor<f32>
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
func.func @step() -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  train.gradient %loss of @w : tensor<f32>
  return %loss : tensor<f32>
}

// -----

train.parameter @w trainable : tensor<f32>
train.optimizer @optimizer linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
func.func @step() -> tensor<f32> {
  %w = train.read @w : tensor<f32>
  // expected-error@+1 {{'train.gradient' op belongs to a parameter whose old value the step returns}}
  train.gradient %w of @w : tensor<f32>
  return %w : tensor<f32>
}

// -----

// expected-error@+1 {{the module has no train.optimizer, which says how a gradient moves its parameter}}
module {
train.parameter @w trainable : tensor<f32>
func.func @step() -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  train.gradient %loss of @w : tensor<f32>
  return %loss : tensor<f32>
}
}

// -----

// expected-error@+1 {{there are several optimizers, and @w names none of them}}
train.parameter @w trainable : tensor<f32>
train.optimizer @optimizer linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
train.optimizer @other linear once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %rate: f32):
  %step = arith.negf %rate : f32
  %moved = math.fma %step, %gradient, %weight : f32
  train.yield %moved : f32
}
func.func @step() -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  train.gradient %loss of @w : tensor<f32>
  return %loss : tensor<f32>
}

// -----

train.parameter @w trainable : tensor<f32>
// expected-error@+1 {{computes in 'f64', but the step in 'f32'}}
train.optimizer @optimizer linear once {
^bb0(%rate: f64):
  train.yield %rate : f64
} each {
^bb0(%weight: f64, %gradient: f64, %rate: f64):
  %step = arith.negf %rate : f64
  %moved = math.fma %step, %gradient, %weight : f64
  train.yield %moved : f64
}
func.func @step() -> tensor<f32> {
  %loss = arith.constant dense<1.0> : tensor<f32>
  train.gradient %loss of @w : tensor<f32>
  return %loss : tensor<f32>
}
