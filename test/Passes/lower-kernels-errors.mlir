// RUN: td-opt %s --td-set-target --td-lower-kernels --verify-diagnostics --split-input-file

#l1 = #tile.memory<l1>
func.func private @exp(%x: memref<?xf32, #l1>) attributes {tile.kernel} {
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
      outs(%x : memref<?xf32, #l1>) {
  ^bb0(%a: f32):
    // expected-error @+1 {{is no instruction of the cores: td-expand-math has to run before}}
    %r = math.exp %a : f32
    linalg.yield %r : f32
  }
  return
}

// -----

#l2 = #tile.memory<l2>
func.func private @far(%x: memref<?xf32, #l2>) attributes {tile.kernel} {
  %zero = arith.constant 0.0 : f32
  // expected-error @+1 {{kernels work on arguments that are packed row-major tiles in L1}}
  linalg.fill ins(%zero : f32) outs(%x : memref<?xf32, #l2>)
  return
}

// -----

#l1 = #tile.memory<l1>
// expected-error @+1 {{is a kernel and holds no linalg op}}
func.func private @empty(%x: memref<?xf32, #l1>) attributes {tile.kernel} {
  return
}

// -----

#l1 = #tile.memory<l1>
func.func private @modulo(%x: memref<?xf32, #l1>, %y: memref<?xf32, #l1>) attributes {tile.kernel} {
  // expected-error @+1 {{kernels for the cores need indexing maps whose results are sums of multiples of dimensions}}
  linalg.generic {indexing_maps = [affine_map<(i) -> (i mod 2)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
      ins(%x : memref<?xf32, #l1>) outs(%y : memref<?xf32, #l1>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  }
  return
}

// -----

#l1 = #tile.memory<l1>
func.func private @backwards(%x: memref<?xf32, #l1>, %y: memref<?xf32, #l1>) attributes {tile.kernel} {
  // expected-error @+1 {{kernels for the cores need indexing maps whose results are sums of multiples of dimensions}}
  linalg.generic {indexing_maps = [affine_map<(i) -> (9 - i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
      ins(%x : memref<?xf32, #l1>) outs(%y : memref<?xf32, #l1>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  }
  return
}

// -----

#l1 = #tile.memory<l1>
func.func private @strided_output(%x: memref<?xf32, #l1>, %y: memref<?xf32, #l1>) attributes {tile.kernel} {
  // expected-error @+1 {{kernels for the cores need indexing maps of outputs that are projections, from an element on}}
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i * 2)>], iterator_types = ["parallel"]}
      ins(%x : memref<?xf32, #l1>) outs(%y : memref<?xf32, #l1>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  }
  return
}

// -----

#l1 = #tile.memory<l1>
func.func private @wide(%x: memref<?xf64, #l1>) attributes {tile.kernel} {
  %zero = arith.constant 0.0 : f64
  // expected-error @+1 {{kernels for the cores have no elements of type 'f64'}}
  linalg.fill ins(%zero : f64) outs(%x : memref<?xf64, #l1>)
  return
}
