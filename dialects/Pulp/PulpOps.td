// The pulp dialect: what a PULP cluster's cores, DMA and event unit do. See README.md.
#ifndef PULP_OPS
#define PULP_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Pulp_Dialect : Dialect {
  let name = "pulp";
  let cppNamespace = "::td::pulp";
  let summary = "Cluster jobs: DMA, uDMA, kernels, barriers";
}

class Pulp_Op<string mnemonic, list<Trait> traits = []> : Op<Pulp_Dialect, mnemonic, traits>;

def Pulp_CoreIdOp : Pulp_Op<"core_id", [Pure]> {
  let summary = "index of the executing cluster core, 0 to cores-1";
  let results = (outs I32:$id);
  let assemblyFormat = "attr-dict `:` type($id)";
}

#endif
