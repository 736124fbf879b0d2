// RUN: td-opt %s --verify-diagnostics --split-input-file

func.func @read() {
  // expected-error@+1 {{'train.read' op @w is not a parameter}}
  %0 = train.read @w : tensor<3xf32>
  return
}

// -----

train.parameter @w : tensor<3xf32>
func.func @read() {
  // expected-error@+1 {{'train.read' op has type 'tensor<5xf32>', but parameter @w has type 'tensor<3xf32>'}}
  %0 = train.read @w : tensor<5xf32>
  return
}

// -----

train.parameter @w : tensor<3xf32>
func.func @assign(%v: tensor<3xf64>) {
  // expected-error@+1 {{'train.assign' op has type 'tensor<3xf64>', but parameter @w has type 'tensor<3xf32>'}}
  train.assign %v to @w : tensor<3xf64>
  return
}

// -----

func.func @gradient(%v: tensor<3xf64>) {
  // expected-error@+1 {{'train.gradient' op @gradient is not a parameter}}
  train.gradient %v of @gradient : tensor<3xf64>
  return
}

// -----

// expected-error@+1 {{'train.parameter' op @v is not a parameter}}
train.parameter @w state_of @v {state = "sum"} : tensor<3xf32>

// -----

train.parameter @v : tensor<3xf32>
// expected-error@+1 {{'train.parameter' op is optimizer state and cannot be trainable}}
train.parameter @w state_of @v trainable {state = "sum"} : tensor<3xf32>

// -----

// expected-error@+1 {{attribute 'type' failed to satisfy constraint}}
"train.parameter"() {sym_name = "w", type = tensor<?xf32>} : () -> ()

// -----

func.func @linear(%x: tensor<2x5xf32>, %w: tensor<3x7xf32>) {
  // expected-error@+2 {{linear's input ends in 5 features, its weight has 7}}
  // expected-error@+1 {{'train.linear' op failed to infer returned types}}
  %0 = train.linear %x, %w : tensor<2x5xf32>, tensor<3x7xf32> -> tensor<2x3xf32>
  return
}

// -----

func.func @linear(%x: tensor<2x5xf32>, %w: tensor<3x5xf32>, %b: tensor<5xf32>) {
  // expected-error@+2 {{linear's bias must have one element for each of the 3 output features}}
  // expected-error@+1 {{'train.linear' op failed to infer returned types}}
  %0 = train.linear %x, %w, %b : tensor<2x5xf32>, tensor<3x5xf32>, tensor<5xf32> -> tensor<2x3xf32>
  return
}

// -----

func.func @linear(%x: tensor<2x5xf32>, %w: tensor<3x5xf64>) {
  // expected-error@+2 {{linear needs operands of one element type}}
  // expected-error@+1 {{'train.linear' op failed to infer returned types}}
  %0 = train.linear %x, %w : tensor<2x5xf32>, tensor<3x5xf64> -> tensor<2x3xf32>
  return
}

// -----

func.func @linear(%x: tensor<f32>, %w: tensor<3x5xf32>) {
  // expected-error@+2 {{linear needs an input of rank >= 1 and a weight of rank 2}}
  // expected-error@+1 {{'train.linear' op failed to infer returned types}}
  %0 = train.linear %x, %w : tensor<f32>, tensor<3x5xf32> -> tensor<3xf32>
  return
}

// -----

func.func @linear(%x: tensor<2x5xf32>, %w: tensor<3x5xf32>) {
  // expected-error@+2 {{'train.linear' op failed to infer returned types}}
  // expected-error@+1 {{'train.linear' op inferred type(s) 'tensor<2x3xf32>' are incompatible with return type(s) of operation 'tensor<3x2xf32>'}}
  %0 = train.linear %x, %w : tensor<2x5xf32>, tensor<3x5xf32> -> tensor<3x2xf32>
  return
}

// -----

func.func @add(%x: tensor<2x5xf32>, %y: tensor<3x5xf32>) {
  // expected-error@+2 {{operands of types 'tensor<2x5xf32>' and 'tensor<3x5xf32>' do not broadcast}}
  // expected-error@+1 {{'train.add' op failed to infer returned types}}
  %0 = train.add %x, %y : tensor<2x5xf32>, tensor<3x5xf32> -> tensor<2x5xf32>
  return
}

// -----

func.func @sub(%x: tensor<2x5xf32>, %y: tensor<5xf64>) {
  // expected-error@+2 {{operands of types 'tensor<2x5xf32>' and 'tensor<5xf64>' do not broadcast}}
  // expected-error@+1 {{'train.sub' op failed to infer returned types}}
  %0 = train.sub %x, %y : tensor<2x5xf32>, tensor<5xf64> -> tensor<2x5xf32>
  return
}

// -----

func.func @mul(%x: tensor<2x5xf32>, %y: tensor<5xf32>) {
  // expected-error@+2 {{'train.mul' op failed to infer returned types}}
  // expected-error@+1 {{'train.mul' op inferred type(s) 'tensor<2x5xf32>' are incompatible with return type(s) of operation 'tensor<5xf32>'}}
  %0 = train.mul %x, %y : tensor<2x5xf32>, tensor<5xf32> -> tensor<5xf32>
  return
}

// -----

func.func @relu(%x: tensor<2x5xi32>) {
  // expected-error@+1 {{must be statically shaped tensor of floating-point values}}
  %0 = train.relu %x : tensor<2x5xi32>
  return
}

// -----

func.func @reshape(%x: tensor<2x5xf32>) {
  // expected-error@+1 {{'train.reshape' op needs as many elements in the result as in the input}}
  %0 = train.reshape %x : tensor<2x5xf32> -> tensor<11xf32>
  return
}

// -----

func.func @mse(%x: tensor<2x5xf32>, %y: tensor<2x3xf32>) {
  // expected-error@+1 {{'train.mse_loss' op requires all operands to have the same type}}
  %0 = "train.mse_loss"(%x, %y) : (tensor<2x5xf32>, tensor<2x3xf32>) -> tensor<f32>
  return
}

// -----

func.func @cross_entropy(%x: tensor<2x5xf32>, %y: tensor<5xi32>) {
  // expected-error@+2 {{cross entropy needs a label for each of the 2 rows of 5 classes, not 'tensor<5xi32>'}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y : tensor<2x5xf32>, tensor<5xi32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_rank(%x: tensor<5xf32>, %y: tensor<1xi32>) {
  // expected-error@+2 {{cross entropy needs logits of rank 2 or more, not 'tensor<5xf32>'}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y : tensor<5xf32>, tensor<1xi32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_axis(%x: tensor<2x5xf32>, %y: tensor<2xi32>) {
  // expected-error@+2 {{cross entropy needs an axis from 0 to 1, not 2}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y {axis = 2 : i64} : tensor<2x5xf32>, tensor<2xi32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_weight(%x: tensor<2x5xf32>, %y: tensor<2xi32>, %w: tensor<2xf32>) {
  // expected-error@+2 {{cross entropy needs a weight for each of the 5 classes, not 'tensor<2xf32>'}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y weight %w : tensor<2x5xf32>, tensor<2xi32>, tensor<2xf32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_ignored(%x: tensor<2x5xf32>, %y: tensor<2xi32>) {
  // expected-error@+2 {{cross entropy ignores a label of 32 bits}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y {ignored = 4294967296 : i64} : tensor<2x5xf32>, tensor<2xi32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_smoothing(%x: tensor<2x5xf32>, %y: tensor<2xi32>) {
  // expected-error@+2 {{cross entropy needs a smoothing from 0 to 1}}
  // expected-error@+1 {{'train.cross_entropy' op failed to infer returned types}}
  %0 = train.cross_entropy %x, %y {smoothing = 2.0 : f64} : tensor<2x5xf32>, tensor<2xi32> -> tensor<f32>
  return
}

// -----

func.func @cross_entropy_vjp(%x: tensor<2x5xf32>, %y: tensor<2xi32>, %g: tensor<f64>) {
  // expected-error@+2 {{the cotangent of a loss has rank 0 and the logits' element type}}
  // expected-error@+1 {{'train.cross_entropy_vjp' op failed to infer returned types}}
  %0 = train.cross_entropy_vjp %x, %y, %g : tensor<2x5xf32>, tensor<2xi32>, tensor<f64> -> tensor<2x5xf32>
  return
}

// -----

func.func @sum_to(%x: tensor<2x5xf32>) {
  // expected-error@+1 {{'train.sum_to' op needs a result that broadcasts to the input}}
  %0 = train.sum_to %x : tensor<2x5xf32> -> tensor<2xf32>
  return
}

// -----

train.parameter @v : tensor<3xf32>
// expected-error@+1 {{'train.parameter' op is a state of @v, but which one is not said: state = "..."}}
train.parameter @w state_of @v : tensor<3xf32>

// -----

train.parameter @v : tensor<3xf32>
// expected-error@+1 {{'train.parameter' op names @v, which is no optimizer}}
train.parameter @w {optimizer = @v} : tensor<3xf32>

// -----

// expected-error@+1 {{'train.optimizer' op has two states called "sum"}}
train.optimizer @o shared ["sum"] states ["sum"] once {
^bb0(%rate: f32, %sum: f32):
  train.yield %rate, %sum : f32, f32
} each {
^bb0(%weight: f32, %gradient: f32, %sum: f32, %rate: f32):
  train.yield %weight, %sum : f32, f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs a first value for each of its 2 states}}
train.optimizer @o shared ["updates"] states ["sum"] first [0.0] once {
^bb0(%rate: f32, %updates: f32):
  train.yield %rate, %updates : f32, f32
} each {
^bb0(%weight: f32, %gradient: f32, %sum: f32, %rate: f32):
  train.yield %weight, %sum : f32, f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs the learning rate as an argument of 'once'}}
train.optimizer @o once {
  train.yield
} each {
^bb0(%weight: f32, %gradient: f32):
  train.yield %weight : f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs the next values of its 1 shared states as results of 'once'}}
train.optimizer @o shared ["updates"] once {
^bb0(%rate: f32, %updates: f32):
  train.yield
} each {
^bb0(%weight: f32, %gradient: f32):
  train.yield %weight : f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs 2 arguments of 'once', and has 1}}
train.optimizer @o shared ["updates"] once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32):
  train.yield %weight : f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs 2 results of 'each', and has 1}}
train.optimizer @o states ["sum"] once {
^bb0(%rate: f32):
  train.yield %rate : f32
} each {
^bb0(%weight: f32, %gradient: f32, %sum: f32, %rate: f32):
  train.yield %weight : f32
}

// -----

// expected-error@+1 {{'train.optimizer' op needs numbers of one floating-point type as arguments and results of 'each'}}
train.optimizer @o once {
^bb0(%rate: f32):
  train.yield
} each {
^bb0(%weight: f64, %gradient: f64):
  train.yield %weight : f64
}

// -----

train.parameter @w : tensor<f32>
train.optimizer @o once {
^bb0(%rate: f32):
  // expected-error@+1 {{'tensor.empty' op is no operation on numbers, which is what an optimizer's formula is made of}}
  %a = tensor.empty() : tensor<f32>
  train.yield
} each {
^bb0(%weight: f32, %gradient: f32):
  train.yield %weight : f32
}

// -----

func.func @compare(%x: tensor<3xf32>) {
  // expected-error@+1 {{'train.compare' op has the predicate 'above'; there are eq, ne, lt, le, gt, ge}}
  %0 = train.compare %x "above" %x : tensor<3xf32>, tensor<3xf32> -> tensor<3xf32>
  return
}

// -----

func.func @compare_broadcast(%x: tensor<3xf32>, %y: tensor<2xf32>) {
  // expected-error@+2 {{operands of types 'tensor<3xf32>' and 'tensor<2xf32>' do not broadcast}}
  // expected-error@+1 {{'train.compare' op failed to infer returned types}}
  %0 = train.compare %x "eq" %y : tensor<3xf32>, tensor<2xf32> -> tensor<3xf32>
  return
}

// -----

func.func @round(%x: tensor<3xf32>) {
  // expected-error@+1 {{'train.round' op has the mode 'up'; there are floor, ceil, trunc, even, sign}}
  %0 = train.round %x "up" : tensor<3xf32>
  return
}

// -----

func.func @select(%x: tensor<3xf32>, %y: tensor<2xf32>) {
  // expected-error@+1 {{'train.select' op needs operands that broadcast}}
  %0 = train.select %x, %x, %y : (tensor<3xf32>, tensor<3xf32>, tensor<2xf32>) -> tensor<3xf32>
  return
}

// -----

func.func @from_integers(%x: tensor<3xi32>) {
  // expected-error@+1 {{'train.from_integers' op has result 'tensor<2xf32>', but its shape is 'tensor<3xf32>'}}
  %0 = train.from_integers %x : tensor<3xi32> -> tensor<2xf32>
  return
}

// -----

// expected-error@+1 {{'train.parameter' op of type 'tensor<4611686018427387904x5xf32>' has more elements than an address reaches}}
train.parameter @w : tensor<4611686018427387904x5xf32>
