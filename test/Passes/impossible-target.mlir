// RUN: td-opt %s --split-input-file --verify-diagnostics --td-plan-step

// expected-error @below {{the target description's 'memory.l1.banks' is no number that a machine has}}
module attributes {tile.target = {memory = {l1 = {banks = 0 : i64}}}} {
  func.func @step() { return }
}

// -----

// expected-error @below {{the target description's 'cores.count' is no number that a machine has}}
module attributes {tile.target = {cores = {count = 4611686018427387904 : i64}}} {
  func.func @step() { return }
}
