// RUN: td-opt %S/Inputs/training-step.mlir --td-set-target --td-expand-groups --td-schedule-jobs | FileCheck %s
// RUN: td-opt %S/Inputs/training-step.mlir --td-set-target --td-expand-groups --td-schedule-jobs --td-verify-jobs -o /dev/null
// RUN: td-opt %S/Inputs/training-step.mlir --td-set-target=name=pulp-redmule --td-tile | FileCheck %s --check-prefix=ADDRESSES

// Both tiles of the first weight are on their way before the first GEMM starts,
// and calls run beside it: its wait comes after them.
// CHECK: tile.program @step target "pulp-redmule" attributes {tile.predicted_cycles = {{[0-9]+}} : i64}
// CHECK-DAG: %[[W1:.*]] = tile.buffer parameter "w1"
// CHECK-DAG: tile.copy %[[W1]] [0, 0] [16, 64], %{{.*}} load true operator 0 {tile.sequence = 1 : i32}
// CHECK-DAG: tile.copy %[[W1]] [16, 0] [16, 64], %{{.*}} load true operator 0 {tile.sequence = 6 : i32}
// CHECK: %[[G:.*]] = redmule.gemm {{.*}} operator 0 {tile.sequence = 4 : i32}
// CHECK-NOT: tile.wait {{.*}}%[[G]]
// CHECK: tile.call
// CHECK: tile.wait {{.*}}%[[G]]
// The stream ends with the stores that nothing else waits for.
// CHECK: tile.wait %{{[0-9]+}}, %{{[0-9]+}}, %{{[0-9]+}}, %{{[0-9]+}}, 
// CHECK-NEXT: }

// ADDRESSES-COUNT-7: tile.buffer {{.*}} at {{[0-9]+}}
// ADDRESSES-NOT: tile.alloc "{{[a-z0-9 ]*}}" :
// ADDRESSES: func.func
