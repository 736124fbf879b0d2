// The train dialect: what upstream lacks to write a training step on tensors. See README.md.
#ifndef TRAIN_OPS
#define TRAIN_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Dialect/Linalg/IR/LinalgInterfaces.td"
include "dialects/Train/DifferentiableOpInterface.td"

def Train_Dialect : Dialect {
  let name = "train";
  let cppNamespace = "::td::train";
  let summary = "Training graphs: parameters, losses, optimizer steps, composite operators";
  let hasConstantMaterializer = 1;
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect",
    "::mlir::tensor::TensorDialect"];
}

class Train_Op<string mnemonic, list<Trait> traits = []> : Op<Train_Dialect, mnemonic, traits>;

/// A ranked tensor of static shape and any float type.
def Train_Tensor : StaticShapeTensorOf<[AnyFloat]>;

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

def Train_ParameterOp : Train_Op<"parameter", [Symbol, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "a parameter of the model, or an optimizer state tensor";
  let description = [{
    Its value persists from step to step and is loaded before the first one.
    `trainable` is set by a recipe. `state_of` names the parameter whose
    optimizer state this is (initially zero).
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<Train_Tensor>:$type,
                       UnitAttr:$trainable, OptionalAttr<FlatSymbolRefAttr>:$state_of);
  let assemblyFormat = "$sym_name (`state_of` $state_of^)? (`trainable` $trainable^)? attr-dict `:` $type";
}

def Train_ReadOp : Train_Op<"read", [MemoryEffects<[MemRead]>, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "the value that a parameter has at this point of the step";
  let description = [{
    A snapshot: a later `train.assign` does not change the result. Since the
    parameter is one buffer, no op that uses the snapshot may come after the
    assign (`td::train::verifySnapshots`).
  }];
  let arguments = (ins FlatSymbolRefAttr:$parameter);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$parameter attr-dict `:` type($result)";
}

def Train_AssignOp : Train_Op<"assign", [MemoryEffects<[MemWrite]>, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "give a parameter or state its next value, in place";
  let arguments = (ins FlatSymbolRefAttr:$parameter, Train_Tensor:$value);
  let assemblyFormat = "$value `to` $parameter attr-dict `:` type($value)";
}

def Train_GradientOp : Train_Op<"gradient", [MemoryEffects<[MemWrite]>, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "mark a value as the gradient of the loss with respect to a parameter";
  let description = "An optimizer's update takes its place.";
  let arguments = (ins Train_Tensor:$value, FlatSymbolRefAttr:$parameter);
  let assemblyFormat = "$value `of` $parameter attr-dict `:` type($value)";
}

//===----------------------------------------------------------------------===//
// Operators
//===----------------------------------------------------------------------===//

/// An operator with a vector-Jacobian product and a decomposition.
class Train_Operator<string mnemonic, list<Trait> traits = []>
    : Train_Op<mnemonic, !listconcat([Pure, DeclareOpInterfaceMethods<DifferentiableOpInterface, ["isCheapToRecompute"]>,
                                      DeclareOpInterfaceMethods<AggregatedOpInterface, ["decomposeOperation"]>], traits)>;

def Train_LinearOp : Train_Operator<"linear", [InferTypeOpAdaptor]> {
  let summary = "y = x w^T + b over the last dimension of x";
  let description = [{
    `input` is [..., in] of any rank >= 1, `weight` [out, in], `bias` [out], the
    result [..., out]: torch.nn.functional.linear.
  }];
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$weight, Optional<Train_Tensor>:$bias);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = [{
    $input `,` $weight (`,` $bias^)? attr-dict `:` type($input) `,` type($weight) (`,` type($bias)^)? `->` type($result)
  }];
}

class Train_UnaryOp<string mnemonic, string text> : Train_Operator<mnemonic, [SameOperandsAndResultType]> {
  let summary = text;
  let arguments = (ins Train_Tensor:$input);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($result)";
}
def Train_ReluOp : Train_UnaryOp<"relu", "max(x, 0); NaN stays NaN, the slope at 0 is 0">;
def Train_SigmoidOp : Train_UnaryOp<"sigmoid", "1 / (1 + exp(-x))">;
def Train_TanhOp : Train_UnaryOp<"tanh", "hyperbolic tangent">;

class Train_BinaryOp<string mnemonic, string text> : Train_Operator<mnemonic, [InferTypeOpAdaptor]> {
  let hasFolder = 1;
  let summary = text;
  let description = [{
    The operands broadcast as in numpy: shapes are aligned at the last
    dimension, missing dimensions and dimensions of size 1 are repeated. A scalar is a tensor of rank 0.
  }];
  let arguments = (ins Train_Tensor:$lhs, Train_Tensor:$rhs);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$lhs `,` $rhs attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)";
}
def Train_AddOp : Train_BinaryOp<"add", "sum of two tensors, element by element">;
def Train_SubOp : Train_BinaryOp<"sub", "difference of two tensors, element by element">;
def Train_MulOp : Train_BinaryOp<"mul", "product of two tensors, element by element">;

def Train_ReshapeOp : Train_Operator<"reshape"> {
  let summary = "the same elements in row-major order, in another shape";
  let description = [{
    For any pair of shapes with as many elements. Decomposes to
    `tensor.collapse_shape` and `tensor.expand_shape`.
  }];
  let arguments = (ins Train_Tensor:$input);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

//===----------------------------------------------------------------------===//
// Losses
//===----------------------------------------------------------------------===//

def Train_MSELossOp : Train_Operator<"mse_loss", [SameTypeOperands, InferTypeOpAdaptor]> {
  let summary = "mean over all elements of (prediction - target)^2";
  let arguments = (ins Train_Tensor:$prediction, Train_Tensor:$target);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$prediction `,` $target attr-dict `:` type($prediction) `->` type($result)";
}

def Train_CrossEntropyOp : Train_Operator<"cross_entropy", [InferTypeOpAdaptor]> {
  let summary = "mean over the samples of log(sum(exp(logits))) - logits[label]";
  let description = [{
    `logits` is [N, C], `labels` [N] with class indices 0 <= label < C (what
    feeds the program checks them). Stable for logits of any size.
  }];
  let arguments = (ins Train_Tensor:$logits, StaticShapeTensorOf<[I32]>:$labels);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$logits `,` $labels attr-dict `:` type($logits) `,` type($labels) `->` type($result)";
}

//===----------------------------------------------------------------------===//
// What vector-Jacobian products are made of
//===----------------------------------------------------------------------===//

/// An op of the backward pass: it decomposes, and is not differentiated again.
class Train_Backward<string mnemonic, list<Trait> traits = []>
    : Train_Op<mnemonic, !listconcat([Pure, DeclareOpInterfaceMethods<AggregatedOpInterface, ["decomposeOperation"]>], traits)>;

class Train_UnaryVJPOp<string mnemonic, string text> : Train_Backward<mnemonic, [SameOperandsAndResultType]> {
  let summary = text;
  let arguments = (ins Train_Tensor:$output, Train_Tensor:$cotangent);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$output `,` $cotangent attr-dict `:` type($result)";
}
def Train_ReluVJPOp : Train_UnaryVJPOp<"relu_vjp", "cotangent where the output y of ReLU is not <= 0, else 0">;
def Train_SigmoidVJPOp : Train_UnaryVJPOp<"sigmoid_vjp", "cotangent * y * (1 - y) with the output y of sigmoid">;
def Train_TanhVJPOp : Train_UnaryVJPOp<"tanh_vjp", "cotangent * (1 - y^2) with the output y of tanh">;

def Train_CrossEntropyVJPOp : Train_Backward<"cross_entropy_vjp", [InferTypeOpAdaptor]> {
  let summary = "cotangent / N * (softmax(logits) - onehot(labels))";
  let arguments = (ins Train_Tensor:$logits, StaticShapeTensorOf<[I32]>:$labels, Train_Tensor:$cotangent);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = [{
    $logits `,` $labels `,` $cotangent attr-dict `:` type($logits) `,` type($labels) `,` type($cotangent)
    `->` type($result)
  }];
}

def Train_SumToOp : Train_Backward<"sum_to"> {
  let summary = "sum over the dimensions along which the result would broadcast to the input";
  let description = "The transpose of numpy broadcasting, from the result's shape to the input's.";
  let arguments = (ins Train_Tensor:$input);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

//===----------------------------------------------------------------------===//
// Optimizers
//===----------------------------------------------------------------------===//

def Train_SGDOp : Train_Op<"sgd", [MemoryEffects<[MemRead, MemWrite]>, DeclareOpInterfaceMethods<SymbolUserOpInterface>,
                                   DeclareOpInterfaceMethods<AggregatedOpInterface, ["decomposeOperation"]>]> {
  let summary = "a step of stochastic gradient descent";
  let description = [{
    Reads and assigns `parameter` w and, with momentum, `state` v:
    v = momentum * v + gradient, w = w - rate * v; torch.optim.SGD. `rate` is a
    tensor of rank 0.
  }];
  let arguments = (ins FlatSymbolRefAttr:$parameter, Train_Tensor:$gradient, Train_Tensor:$rate,
                       DefaultValuedAttr<F64Attr, "0.0">:$momentum, OptionalAttr<FlatSymbolRefAttr>:$state);
  let assemblyFormat = "$parameter `,` $gradient `,` $rate attr-dict `:` type($gradient) `,` type($rate)";
  let hasVerifier = 1;
}

#endif
