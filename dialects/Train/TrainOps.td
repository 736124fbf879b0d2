// The train dialect: what upstream lacks to write a training step on tensors. See README.md.
#ifndef TRAIN_OPS
#define TRAIN_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"

def Train_Dialect : Dialect {
  let name = "train";
  let cppNamespace = "::td::train";
  let summary = "Training graphs: parameters, losses, optimizer steps, composite operators";
}

class Train_Op<string mnemonic, list<Trait> traits = []> : Op<Train_Dialect, mnemonic, traits>;

def Train_ParameterOp : Train_Op<"parameter", [Symbol]> {
  let summary = "a parameter of the model, or an optimizer state tensor";
  let description = [{
    Its value persists from step to step and is loaded before the first one.
    `trainable` is set by a recipe. `state_of` names the parameter whose
    optimizer state this is (initially zero).
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<AnyStaticShapeTensor>:$type,
                       UnitAttr:$trainable, OptionalAttr<FlatSymbolRefAttr>:$state_of);
  let assemblyFormat = "$sym_name (`state_of` $state_of^)? (`trainable` $trainable^)? attr-dict `:` $type";
}

def Train_ReadOp : Train_Op<"read", [MemoryEffects<[MemRead]>]> {
  let summary = "the value that a parameter has at this point of the step";
  let arguments = (ins FlatSymbolRefAttr:$parameter);
  let results = (outs AnyStaticShapeTensor:$result);
  let assemblyFormat = "$parameter attr-dict `:` type($result)";
}

def Train_AssignOp : Train_Op<"assign", [MemoryEffects<[MemWrite]>]> {
  let summary = "give a parameter or state its next value, in place";
  let arguments = (ins FlatSymbolRefAttr:$parameter, AnyStaticShapeTensor:$value);
  let assemblyFormat = "$value `to` $parameter attr-dict `:` type($value)";
}

#endif
