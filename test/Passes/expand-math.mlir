// RUN: td-opt %s --td-expand-math --verify-diagnostics --split-input-file | FileCheck %s

// Nothing of it calls a library or branches.
// CHECK-LABEL: func @functions
// CHECK-NOT: math.{{exp|tanh|log|erf|rsqrt}}
// CHECK: math.fma
// CHECK: math.copysign
// CHECK: math.sqrt
// CHECK: return
func.func @functions(%x: f32) -> (f32, f32, f32, f32, f32, f32, f32) {
  %0 = math.exp %x : f32
  %1 = math.expm1 %x : f32
  %2 = math.log %x : f32
  %3 = math.log1p %x : f32
  %4 = math.tanh %x : f32
  %5 = math.erf %x : f32
  %6 = math.rsqrt %x : f32
  return %0, %1, %2, %3, %4, %5, %6 : f32, f32, f32, f32, f32, f32, f32
}

// -----

// f16 is computed in f32.
// CHECK-LABEL: func @half
// CHECK: arith.extf
// CHECK: arith.truncf
func.func @half(%x: f16) -> f16 {
  %0 = math.exp %x : f16
  return %0 : f16
}

// -----

// A power with a constant exponent; a whole one takes the sign of its base.
// CHECK-LABEL: func @powers
// CHECK-NOT: math.powf
// CHECK: arith.divf
// CHECK: math.copysign
func.func @powers(%x: f32) -> (f32, f32) {
  %broken = arith.constant 1.7 : f32
  %whole = arith.constant 11.0 : f32
  %0 = math.powf %x, %broken : f32
  %1 = math.powf %x, %whole : f32
  return %0, %1 : f32, f32
}

// -----

func.func @exponent(%x: f32, %y: f32) -> f32 {
  // expected-error @+1 {{has no expansion to the cores' arithmetic (types f32 and f16)}}
  %0 = math.powf %x, %y : f32
  return %0 : f32
}

// -----

func.func @unknown(%x: f32) -> f32 {
  // expected-error @+1 {{has no expansion to the cores' arithmetic (types f32 and f16)}}
  %0 = math.cos %x : f32
  return %0 : f32
}
