// RUN: td-opt %s --split-input-file --verify-diagnostics --td-plan-step

// expected-error @below {{has no function @step to plan}}
module {
}

// -----

// expected-error @below {{the module has no target description (attribute 'tile.target'; td-set-target sets it)}}
module {
  func.func @step() { return }
}
