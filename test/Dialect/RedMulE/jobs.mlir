// RUN: td-opt %s --split-input-file --verify-diagnostics | td-opt --split-input-file | FileCheck %s

// CHECK: redmule.start x 268451840 w 268455936 z 268460032 m 65535 n 1 k 7 format f32 operator 4
redmule.start x 268451840 w 268455936 z 268460032 m 65535 n 1 k 7 format f32 operator 4
// CHECK: redmule.start x 268451842 w 268455936 z 268460032 m 1 n 1 k 7 format f16 operator 4
redmule.start x 268451842 w 268455936 z 268460032 m 1 n 1 k 7 format f16 operator 4
// CHECK: redmule.wait operator 4
redmule.wait operator 4
