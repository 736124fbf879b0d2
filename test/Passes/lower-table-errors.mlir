// RUN: td-opt %s --split-input-file --verify-diagnostics --td-set-target --td-lower-table

tile.program @format target "pulp-redmule" {
  // expected-error @below {{needs a RedMulE that computes in fp16, and target 'pulp-redmule' has none}}
  redmule.start x 268451840 w 268455936 z 268460032 m 4 n 5 k 7 format f16 operator 0
}

// -----
#l1 = #tile.memory<l1>
tile.program @level4 target "pulp-redmule" {
  // expected-error @below {{is no job record; td-lower-jobs makes them}}
  %0 = tile.alloc "a" at 268500000 : memref<4xf32, #l1>
}

// -----
// expected-error @below {{needs one tile.program, has 0}}
module {
}

// -----
#l2 = #tile.memory<l2>
tile.program @step target "pulp-redmule" {
  // expected-error @below {{has no address; td-assign-addresses gives it}}
  %x = tile.buffer input "x" : memref<4xf32, #l2>
}

// -----
// expected-error @below {{has 'tile.arrays' that are not a list of name, role, level, address, bytes, first and last}}
tile.program @step target "pulp-redmule" attributes {tile.arrays = [
    {name = "p", role = "parameter", address = 469958656, bytes = 4096, first = 0, last = 2}]} {
}
