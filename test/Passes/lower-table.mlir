// RUN: td-opt %s --td-set-target --td-lower-table=roll=never | FileCheck %s
// RUN: td-opt %s --td-set-target --td-lower-table=roll=always | FileCheck %s --check-prefix=ROLL

#l2 = #tile.memory<l2>
llvm.func @kernel(!llvm.ptr, i32)

// The header of a chunk; DMA with a 2D and a joined command (2562 = DMA | 10
// words << 8); a wait, a barrier; a call with the kernel's address; a GEMM.
// CHECK: llvm.mlir.global internal constant @td_jobs_0()
// CHECK: dense<[0, 0, 2562, 3, 1966336, 268451840, 469958656, 64, 256, 1442048, 268452096, 469962752, 515, 3, 257, 1024]>
// CHECK: llvm.mlir.addressof @kernel
// CHECK: dense<[268451840, 16, 257, 1796, 268460032, 268464128, 268468224, 458756, 5, 1154, 261,
// CHECK: llvm.mlir.global internal constant @td_buffers()
// Role, level, address, bytes, content.
// CHECK: dense<[0, 2, 469958656, 4096, 0, 4, 2, 469974016, 12]>
// CHECK: llvm.mlir.addressof @td_constant_1
// CHECK: llvm.mlir.global external constant @td_program()
// CHECK: llvm.mlir.addressof @td_jobs_0
// CHECK: llvm.mlir.global external constant @td_manifest("{\22program\22:\22step\22,\22target\22:\22pulp-redmule\22
// CHECK-SAME: \22jobs\22:{\22dma_load\22:[0,2],\22dma_store\22:[],\22hyperram\22:[],\22redmule\22:[0,4]}
// CHECK-SAME: \22stream\22:[0,\22LL..C.G.G.G.G.\22],\22kernels\22:{\22kernel\22:2},\22arrays\22:
// CHECK-SAME: [\22p\22,\22parameter\22,2,469958656,4096,0,2]]
// CHECK-SAME: section = ".traindeeploy"

// Four equal jobs whose addresses grow: one body, three more runs, two
// increments (1801 = LOOP | 7 words << 8).
// ROLL: llvm.mlir.global internal constant @td_jobs_0()
// ROLL: 1796, 268460032, 268464128, 268468224, 458756, 5, 1154, 261, 1801, 20, 3, 21, 80, 23, 112, 266]
tile.program @step target "pulp-redmule" attributes {tile.arrays = [
    {name = "p", role = "parameter", level = 2, address = 469958656, bytes = 4096, first = 0, last = 2}]} {
  tile.operator "o" predicted [1, 2, 3, 4]
  %p = tile.buffer parameter "p" at 469958656 : memref<32x32xf32, #l2>
  %c = tile.buffer constant "c" at 469974016 init dense<[1.0, 2.0, 3.0]> : tensor<3xf32> : memref<3xf32, #l2>
  pulp.dma_start slot 3 load true l1 268451840 l2 469958656 bytes 256 line 64 stride 256 operator 0
  pulp.dma_start slot 3 continued load true l1 268452096 l2 469962752 bytes 256 operator 0
  pulp.dma_wait slot 3 operator 0
  pulp.barrier operator 0
  pulp.call @kernel [268451840, 16] operator 0
  pulp.barrier operator 0
  redmule.start x 268460032 w 268464128 z 268468224 m 4 n 5 k 7 format f32 operator 0
  redmule.wait operator 0
  redmule.start x 268460112 w 268464128 z 268468336 m 4 n 5 k 7 format f32 operator 0
  redmule.wait operator 0
  redmule.start x 268460192 w 268464128 z 268468448 m 4 n 5 k 7 format f32 operator 0
  redmule.wait operator 0
  redmule.start x 268460272 w 268464128 z 268468560 m 4 n 5 k 7 format f32 operator 0
  redmule.wait operator 0
}
