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

// -----

// GELU by erf: a polynomial from a table. The function's parts are gone.
// CHECK: llvm.mlir.global internal constant @td_table_gelu({{.*}} section = ".tables"
// CHECK-LABEL: func @gelu
// CHECK: llvm.mlir.addressof @td_table_gelu
// CHECK-COUNT-5: llvm.load
// CHECK: %[[PHI:.*]] = math.fma
// CHECK-NEXT: %[[Y:.*]] = arith.mulf %arg0, %[[PHI]]
// CHECK-NEXT: return %[[Y]]
func.func @gelu(%x: f32) -> f32 {
  %half = arith.constant 0.5 : f32
  %root = arith.constant 0.707106769 : f32
  %scaled = arith.mulf %x, %root : f32
  %erf = math.erf %scaled : f32
  %phi = math.fma %half, %erf, %half : f32
  %y = arith.mulf %phi, %x : f32
  return %y : f32
}

// -----

// Its slope; what both share is needed for neither.
// CHECK-DAG: llvm.mlir.global internal constant @td_table_gelu_slope(
// CHECK-DAG: llvm.mlir.global internal constant @td_table_gelu(
// CHECK-LABEL: func @both
// CHECK-COUNT-10: llvm.load
// CHECK-NOT: llvm.load
// CHECK: return
func.func @both(%x: f32) -> (f32, f32) {
  %half = arith.constant 0.5 : f32
  %root = arith.constant 0.707106769 : f32
  %minus = arith.constant -0.5 : f32
  %factor = arith.constant 0.398942292 : f32
  %scaled = arith.mulf %root, %x : f32
  %erf = math.erf %scaled : f32
  %phi = math.fma %erf, %half, %half : f32
  %y = arith.mulf %x, %phi : f32
  %square = arith.mulf %x, %x : f32
  %power = arith.mulf %square, %minus : f32
  %exp = math.exp %power : f32
  %density = arith.mulf %exp, %factor : f32
  %slope = math.fma %x, %density, %phi : f32
  return %y, %slope : f32, f32
}

// -----

// Another number than GELU's, or another variable, is another function.
// CHECK-LABEL: func @others
// CHECK-NOT: llvm.load
// CHECK: return
func.func @others(%x: f32, %z: f32) -> (f32, f32) {
  %half = arith.constant 0.5 : f32
  %root = arith.constant 0.7 : f32
  %right = arith.constant 0.707106769 : f32
  %scaled = arith.mulf %x, %root : f32
  %erf = math.erf %scaled : f32
  %phi = math.fma %half, %erf, %half : f32
  %y = arith.mulf %x, %phi : f32
  %scaled1 = arith.mulf %x, %right : f32
  %erf1 = math.erf %scaled1 : f32
  %phi1 = math.fma %half, %erf1, %half : f32
  %y1 = arith.mulf %z, %phi1 : f32
  return %y, %y1 : f32, f32
}
