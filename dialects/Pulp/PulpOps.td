// The pulp dialect: what a PULP cluster's cores, DMA and event unit do. See README.md.
#ifndef PULP_OPS
#define PULP_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Pulp_Dialect : Dialect {
  let name = "pulp";
  let cppNamespace = "::td::pulp";
  let summary = "Cluster jobs: DMA, uDMA, kernels, barriers";
}

class Pulp_Op<string mnemonic, list<Trait> traits = []> : Op<Pulp_Dialect, mnemonic, traits>;

//===----------------------------------------------------------------------===//
// Level 5: one op a job record. Addresses are absolute, sizes in bytes.
//===----------------------------------------------------------------------===//

def Pulp_DmaStartOp : Pulp_Op<"dma_start"> {
  let summary = "give the cluster's DMA one command";
  let description = [{
    Moves `bytes` between `l1` and `l2`; `load` says whether to L1. With `line`
    and `stride`, the L2 side is lines of `line` bytes that start `stride` bytes
    apart; the L1 side is always contiguous. `slot` is what a `dma_wait` waits
    for; a `continued` command joins those of the `dma_start` just before it.
  }];
  let arguments = (ins I32Attr:$slot, UnitAttr:$continued, BoolAttr:$load, I64Attr:$l1, I64Attr:$l2,
                       I64Attr:$bytes, OptionalAttr<I64Attr>:$line, OptionalAttr<I64Attr>:$stride,
                       I32Attr:$op_index);
  let assemblyFormat = [{
    `slot` $slot (`continued` $continued^)? `load` $load `l1` $l1 `l2` $l2 `bytes` $bytes
    (`line` $line^ `stride` $stride)? `operator` $op_index attr-dict
  }];
  let hasVerifier = 1;
}

def Pulp_DmaWaitOp : Pulp_Op<"dma_wait"> {
  let summary = "wait for the DMA commands of a slot, and free it";
  let arguments = (ins I32Attr:$slot, I32Attr:$op_index);
  let assemblyFormat = "`slot` $slot `operator` $op_index attr-dict";
  let hasVerifier = 1;
}

def Pulp_HyperStartOp : Pulp_Op<"hyper_start"> {
  let summary = "start a transfer between L2 and L3";
  let description = [{
    Moves `bytes` between the HyperRAM at `l3` (from its start) and `l2`; `load`
    says whether to L2. With `line` and `stride`, the L3 side is lines of `line`
    bytes that start `stride` bytes apart. Everything is a multiple of 4.
  }];
  let arguments = (ins I32Attr:$slot, BoolAttr:$load, I64Attr:$l3, I64Attr:$l2, I64Attr:$bytes,
                       OptionalAttr<I64Attr>:$line, OptionalAttr<I64Attr>:$stride, I32Attr:$op_index);
  let assemblyFormat = [{
    `slot` $slot `load` $load `l3` $l3 `l2` $l2 `bytes` $bytes (`line` $line^ `stride` $stride)?
    `operator` $op_index attr-dict
  }];
  let hasVerifier = 1;
}

def Pulp_HyperWaitOp : Pulp_Op<"hyper_wait"> {
  let summary = "wait for the transfer of a slot between L2 and L3, and free it";
  let arguments = (ins I32Attr:$slot, I32Attr:$op_index);
  let assemblyFormat = "`slot` $slot `operator` $op_index attr-dict";
  let hasVerifier = 1;
}

def Pulp_CallOp : Pulp_Op<"call", [DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "run a kernel on every core of the cluster";
  let description = [{
    `args` are the kernel's 32-bit words: for each tile its address, then its
    sizes; then the indices.
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, DenseI64ArrayAttr:$args, I32Attr:$op_index);
  let assemblyFormat = "$kernel $args `operator` $op_index attr-dict";
  let hasVerifier = 1;
}

def Pulp_BarrierOp : Pulp_Op<"barrier"> {
  let summary = "all cores of the cluster meet";
  let arguments = (ins I32Attr:$op_index);
  let assemblyFormat = "`operator` $op_index attr-dict";
}

def Pulp_MaskOp : Pulp_Op<"mask", [Pure]> {
  let summary = "a word of ones if the condition holds (with `unless`: if it does not), else zero";
  let description = [{
    For selections without a branch, `y ^ ((x ^ y) & mask)`. It becomes one
    instruction of inline assembly, so that LLVM does not see a selection, which
    it would turn into a branch.
  }];
  let arguments = (ins I1:$condition, UnitAttr:$unless);
  let results = (outs I32:$mask);
  let assemblyFormat = "(`unless` $unless^)? $condition attr-dict `:` type($mask)";
}

def Pulp_AdvanceOp : Pulp_Op<"advance", [Pure, AllTypesMatch<["address", "next"]>]> {
  let summary = "an address some bytes on, as one addition";
  let description = [{
    For the addresses that an innermost loop carries. It becomes one instruction
    of inline assembly: LLVM's loop strength reduction would replace several such
    addresses by fewer and more additions, and spill.
  }];
  let arguments = (ins AnyType:$address, I32:$bytes);
  let results = (outs AnyType:$next);
  let assemblyFormat = "$address `by` $bytes attr-dict `:` type($address)";
}

#endif
