// An assertion of MLIR itself ends in an error, not by a signal.
// RUN: not td-opt %s 2>&1 | FileCheck %s

// CHECK: td-opt: error: internal error: an assertion or an invalid access in the compiler
"tile.wait"() {operandSegmentSizes = array<index: 0, 0>} : () -> ()
