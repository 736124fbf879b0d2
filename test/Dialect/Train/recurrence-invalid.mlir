// RUN: td-opt %s --verify-diagnostics --split-input-file

func.func @steps(%x: tensor<5x3xf32>) {
  // expected-error@+1 {{'train.recurrence' op needs from 1 to 65536 steps}}
  %0 = train.recurrence 0 over(%x : tensor<5x3xf32>) at [0] -> tensor<1x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @starts(%x: tensor<5x3xf32>) {
  // expected-error@+1 {{'train.recurrence' op needs one start for each of its 1 inputs}}
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [] -> tensor<5x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @times(%x: tensor<5x3xf32>) {
  // expected-error@+1 {{'train.recurrence' op takes 4 steps from 2 on of input #0, which has 5}}
  %0 = train.recurrence 4 over(%x : tensor<5x3xf32>) at [2] -> tensor<4x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @far(%x: tensor<5x3xf32>) {
  // expected-error@+1 {{'train.recurrence' op takes 5 steps from 9223372036854775807 on of input #0, which has 5}}
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [9223372036854775807] -> tensor<5x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @rank(%x: tensor<5xf32>) {
  // expected-error@+1 {{'train.recurrence' op needs inputs with a dimension of time and one more; input #0 is 'tensor<5xf32>'}}
  %0 = train.recurrence 5 over(%x : tensor<5xf32>) at [0] -> tensor<5xf32> {
  ^bb0(%xt: tensor<f32>):
    train.recurrence_next %xt : tensor<f32>
  }
  return
}

// -----

func.func @arguments(%x: tensor<5x3xf32>, %h: tensor<3xf32>) {
  // expected-error@+1 {{'train.recurrence' op needs a body whose arguments are one step's part of each input, the states and what is shared}}
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [0] from(%h : tensor<3xf32>) -> tensor<6x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @results(%x: tensor<5x3xf32>) {
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [0] -> tensor<5x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    // expected-error@+1 {{'train.recurrence_next' op needs an operand for each of the 1 results, the states first}}
    train.recurrence_next
  }
  return
}

// -----

func.func @state(%x: tensor<5x3xf32>, %h: tensor<2xf32>) {
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [0] from(%h : tensor<2xf32>) -> tensor<6x2xf32> {
  ^bb0(%xt: tensor<3xf32>, %ht: tensor<2xf32>):
    // expected-error@+1 {{'train.recurrence_next' op gives state #0 the type 'tensor<3xf32>', but it starts as 'tensor<2xf32>'}}
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @stack(%x: tensor<5x3xf32>, %h: tensor<3xf32>) {
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [0] from(%h : tensor<3xf32>) -> tensor<5x3xf32> {
  ^bb0(%xt: tensor<3xf32>, %ht: tensor<3xf32>):
    // expected-error@+1 {{'train.recurrence_next' op makes result #0 of type 'tensor<6x3xf32>', not 'tensor<5x3xf32>'}}
    train.recurrence_next %xt : tensor<3xf32>
  }
  return
}

// -----

func.func @captured(%x: tensor<5x3xf32>, %w: tensor<3xf32>) {
  // expected-note@+1 {{required by region isolation constraints}}
  %0 = train.recurrence 5 over(%x : tensor<5x3xf32>) at [0] -> tensor<5x3xf32> {
  ^bb0(%xt: tensor<3xf32>):
    // expected-error@+1 {{'train.add' op using value defined outside the region}}
    %1 = train.add %xt, %w : tensor<3xf32>, tensor<3xf32> -> tensor<3xf32>
    train.recurrence_next %1 : tensor<3xf32>
  }
  return
}

// -----

func.func @nested(%x: tensor<5x4x3xf32>) {
  %0 = train.recurrence 5 over(%x : tensor<5x4x3xf32>) at [0] -> tensor<5x4x3xf32> {
  ^bb0(%xt: tensor<4x3xf32>):
    // expected-error@+1 {{'train.recurrence' op stands in the body of another one}}
    %1 = train.recurrence 4 over(%xt : tensor<4x3xf32>) at [0] -> tensor<4x3xf32> {
    ^bb0(%xtt: tensor<3xf32>):
      train.recurrence_next %xtt : tensor<3xf32>
    }
    train.recurrence_next %1 : tensor<4x3xf32>
  }
  return
}
