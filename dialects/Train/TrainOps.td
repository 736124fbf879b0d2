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

/// Whole numbers that index a table.
def Train_Indices : StaticShapeTensorOf<[I32, AnyFloat]>;

/// Of an operator through which no gradient passes.
def Train_StopsGradient : NativeOpTrait<"StopsGradient"> {
  let cppNamespace = "::td::train";
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

def Train_ParameterOp : Train_Op<"parameter", [Symbol, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "a parameter of the model, or an optimizer state tensor";
  let description = [{
    Its value persists from step to step and is loaded before the first one.
    `trainable` is set by a recipe, and `optimizer` may name the `train.optimizer`
    that then moves it. `state` is the name of an optimizer's state that this is,
    with the value `first` before the first step (zero without it); `state_of`
    names the parameter that it is a state of, unless all share it. `layout` says that memory holds
    the model's tensor transposed: stored = numpy.transpose(model, layout). The
    type is that of what is stored.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<Train_Tensor>:$type,
                       UnitAttr:$trainable, OptionalAttr<FlatSymbolRefAttr>:$state_of,
                       OptionalAttr<DenseI64ArrayAttr>:$layout, OptionalAttr<StrAttr>:$state,
                       OptionalAttr<F64Attr>:$first, OptionalAttr<FlatSymbolRefAttr>:$optimizer);
  let assemblyFormat = "$sym_name (`state_of` $state_of^)? (`trainable` $trainable^)? attr-dict `:` $type";
  let hasVerifier = 1;
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
def Train_ExpOp : Train_UnaryOp<"exp", "e^x">;
def Train_LogOp : Train_UnaryOp<"log", "natural logarithm">;
def Train_SqrtOp : Train_UnaryOp<"sqrt", "square root">;
def Train_RsqrtOp : Train_UnaryOp<"rsqrt", "1 / sqrt(x)">;
def Train_ErfOp : Train_UnaryOp<"erf", "error function">;
def Train_AbsOp : Train_UnaryOp<"abs", "absolute value; the slope at 0 is 0">;
def Train_GeluOp : Train_UnaryOp<"gelu", "x times the normal distribution function of x"> {
  let description = [{
    0.5 x (1 + erf(x / sqrt(2))), or, with `tanh`, PyTorch's approximation
    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Each has its own derivative.
  }];
  let arguments = (ins Train_Tensor:$input, UnitAttr:$tanh);
}
def Train_ClampOp : Train_UnaryOp<"clamp", "min(max(x, low), high); NaN stays NaN"> {
  let description = "On the bounds the slope is 1, as of torch.clamp, or 0 with `flat`, as of torch.nn.functional.hardtanh.";
  let arguments = (ins Train_Tensor:$input, F64Attr:$low, F64Attr:$high, UnitAttr:$flat);
}
def Train_PowOp : Train_UnaryOp<"pow", "x^exponent with a constant exponent"> {
  let arguments = (ins Train_Tensor:$input, F64Attr:$exponent);
}

def Train_DropoutOp : Train_Operator<"dropout"> {
  let summary = "elements zeroed with a probability, the others divided by what is left of it";
  let description = [{
    Which elements depends on `seed`, the value of `counter` and the element's
    position only, by a hash of 32-bit integers: the same bits on every machine, and
    nothing is stored for the gradient. `counter` tells the steps apart, `seed` the
    places in a model. `probability` is from 0 to 1.
  }];
  let arguments = (ins Train_Tensor:$input, 0DTensorOf<[I32]>:$counter, I64Attr:$seed, F64Attr:$probability);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

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
def Train_DivOp : Train_BinaryOp<"div", "quotient of two tensors, element by element">;

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

/// An operator whose types are all written down.
class Train_TypedOperator<string mnemonic, list<Trait> traits = []> : Train_Operator<mnemonic, traits> {
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Train_PermuteOp : Train_TypedOperator<"permute"> {
  let summary = "the same elements with the dimensions in another order";
  let description = "Dimension i of the result is dimension `permutation[i]` of the input: numpy.transpose.";
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$permutation);
  let assemblyFormat = "$input $permutation attr-dict `:` type($input) `->` type($result)";
  let hasFolder = 1;
}

def Train_BroadcastOp : Train_TypedOperator<"broadcast"> {
  let summary = "repeat along the dimensions that the result has more of, as numpy broadcasts";
  let arguments = (ins Train_Tensor:$input);
  let hasFolder = 1;
}

def Train_SliceOp : Train_TypedOperator<"slice"> {
  let summary = "the elements at offsets + index * strides";
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$offsets, DenseI64ArrayAttr:$strides);
}

def Train_EmbedOp : Train_TypedOperator<"embed"> {
  let summary = "zeros with the input at offsets + index * strides: the transpose of slice";
  let description = "Also what pads with zeros.";
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$offsets, DenseI64ArrayAttr:$strides);
}

def Train_ConcatOp : Train_TypedOperator<"concat"> {
  let summary = "tensors one after the other along an axis";
  let arguments = (ins Variadic<Train_Tensor>:$inputs, I64Attr:$axis);
}

def Train_MatmulOp : Train_TypedOperator<"matmul"> {
  let summary = "matrix products over the last two dimensions";
  let description = [{
    [..., m, k] times [..., k, n]; a transposed operand is [..., k, m] or [..., n, k].
    The dimensions before those are the same in both, or broadcast as in numpy.
  }];
  let arguments = (ins Train_Tensor:$lhs, Train_Tensor:$rhs, UnitAttr:$transpose_lhs, UnitAttr:$transpose_rhs);
}

def Train_SumOp : Train_TypedOperator<"sum"> {
  let summary = "sum over axes, which the result lacks";
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$axes);
}

def Train_MaxOp : Train_TypedOperator<"max"> {
  let summary = "maximum over axes, which the result lacks; its gradient is shared by equal maxima";
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$axes);
}

def Train_SoftmaxOp : Train_TypedOperator<"softmax", [SameOperandsAndResultType]> {
  let summary = "exp(x - max) / sum(exp(x - max)) along an axis";
  let arguments = (ins Train_Tensor:$input, I64Attr:$axis);
}

def Train_LogSoftmaxOp : Train_TypedOperator<"log_softmax", [SameOperandsAndResultType]> {
  let summary = "the logarithm of softmax along an axis";
  let arguments = (ins Train_Tensor:$input, I64Attr:$axis);
}

def Train_NormalizeOp : Train_TypedOperator<"normalize"> {
  let summary = "(x - mean) / sqrt(variance + epsilon), times scale: layer norm and its relatives";
  let description = [{
    Mean and variance are taken over `axes`: the last ones for layer norm, all
    but the last one for batch norm with the statistics of the batch. With
    `rms` the mean counts as 0: RMS norm. `scale` broadcasts to the input.
    The variance is that of the population.
  }];
  let arguments = (ins Train_Tensor:$input, Optional<Train_Tensor>:$scale, DenseI64ArrayAttr:$axes,
                       F64Attr:$epsilon, UnitAttr:$rms);
}

def Train_EmbeddingOp : Train_TypedOperator<"embedding"> {
  let summary = "rows of a table by index";
  let description = [{
    `indices` [...] are 0 <= index < rows (what feeds the program checks them), `table` [rows, width]. Floats
    hold whole numbers: indices that are known are a constant beside the parameters.
    The row `padding`, if it is one, has no gradient.
  }];
  let arguments = (ins Train_Indices:$indices, Train_Tensor:$table,
                       DefaultValuedAttr<I64Attr, "-1">:$padding);
}

//===----------------------------------------------------------------------===//
// Truth values and what stops gradients
//===----------------------------------------------------------------------===//

/// An operator that is a constant to all before it: no gradient passes. Its result is not active.
class Train_ConstantOperator<string mnemonic, list<Trait> traits = []>
    : Train_Op<mnemonic, !listconcat([Pure, Train_StopsGradient,
                                      DeclareOpInterfaceMethods<AggregatedOpInterface, ["decomposeOperation"]>], traits)> {
  let results = (outs Train_Tensor:$result);
}

def Train_CompareOp : Train_ConstantOperator<"compare", [InferTypeOpAdaptor]> {
  let summary = "1 where two numbers compare as `predicate` (eq, ne, lt, le, gt, ge) says, else 0";
  let description = "The operands broadcast as in numpy. NaN is unequal to all. Truth values are floats in memory.";
  let arguments = (ins Train_Tensor:$lhs, Train_Tensor:$rhs, StrAttr:$predicate);
  let assemblyFormat = "$lhs $predicate $rhs attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)";
  let hasVerifier = 1;
}

def Train_RoundOp : Train_ConstantOperator<"round", [SameOperandsAndResultType]> {
  let summary = "a whole number near each: by `mode` floor, ceil, trunc, even (the nearest), or sign";
  let description = "NaN stays one, but its sign is 0.";
  let arguments = (ins Train_Tensor:$input, StrAttr:$mode);
  let assemblyFormat = "$input $mode attr-dict `:` type($result)";
  let hasVerifier = 1;
}

def Train_DetachOp : Train_ConstantOperator<"detach", [SameOperandsAndResultType]> {
  let summary = "the input, to which no gradient passes";
  let arguments = (ins Train_Tensor:$input);
  let assemblyFormat = "$input attr-dict `:` type($result)";
}

def Train_FromIntegersOp : Train_ConstantOperator<"from_integers"> {
  let summary = "whole numbers as floats";
  let arguments = (ins StaticShapeTensorOf<[I32]>:$input);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

def Train_SelectOp : Train_TypedOperator<"select"> {
  let summary = "`yes` where `condition` is not 0, else `no`";
  let description = "The three broadcast as in numpy to the result. The gradient of what is not taken is 0.";
  let arguments = (ins Train_Tensor:$condition, Train_Tensor:$yes, Train_Tensor:$no);
}

//===----------------------------------------------------------------------===//
// Convolution and pooling, channels last
//===----------------------------------------------------------------------===//

def Train_Conv2DOp : Train_TypedOperator<"conv2d"> {
  let summary = "two-dimensional convolution, [n, h, w, ic] with [kh, kw, ic / groups, oc]";
  let description = [{
    Element [n, y, x, o] of the result sums input[n, y * strides[0] + i * dilations[0] - top, ...]
    times filter[i, j, c, o] over i, j and the channels c of o's group; outside of the input are zeros.
    `padding` is [top, bottom, left, right].
  }];
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$filter, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, DenseI64ArrayAttr:$dilations,
                       DefaultValuedAttr<I64Attr, "1">:$groups);
}

def Train_Conv2DInputVJPOp : Train_TypedOperator<"conv2d_input_vjp"> {
  let summary = "the cotangent of a convolution's input; as an operator the transposed convolution";
  let description = [{
    The attributes are those of the convolution. Without zero-stuffing: each
    residue of the position modulo the stride is a dense convolution of the
    cotangent with the taps that reach it.
  }];
  let arguments = (ins Train_Tensor:$cotangent, Train_Tensor:$filter, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, DenseI64ArrayAttr:$dilations,
                       DefaultValuedAttr<I64Attr, "1">:$groups);
}

def Train_MaxPool2DOp
    : Train_Op<"max_pool2d", [Pure, DeclareOpInterfaceMethods<DifferentiableOpInterface, ["isCheapToRecompute"]>,
                              DeclareOpInterfaceMethods<AggregatedOpInterface, ["decomposeOperation"]>]> {
  let summary = "maximum over windows, channels last, and which tap it is";
  let description = [{
    `taps` is the position i * kernel[1] + j of the first maximum in its window
    (a NaN counts as one), which the gradient needs; unused, it costs nothing.
    Padding never wins. The result's height and width may be larger than the padding suggests
    (PyTorch's ceil_mode) if every window begins inside.
  }];
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$kernel, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, DenseI64ArrayAttr:$dilations);
  let results = (outs Train_Tensor:$result, StaticShapeTensorOf<[I32]>:$taps);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Train_AvgPool2DOp : Train_TypedOperator<"avg_pool2d"> {
  let summary = "average over windows, channels last";
  let description = [{
    Divides by the number of taps, or, with `exclude_padding`, of those inside of the input.
  }];
  let arguments = (ins Train_Tensor:$input, DenseI64ArrayAttr:$kernel, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, UnitAttr:$exclude_padding);
}

//===----------------------------------------------------------------------===//
// Losses
//===----------------------------------------------------------------------===//

class Train_PointwiseLossOp<string mnemonic, string text>
    : Train_Operator<mnemonic, [SameTypeOperands, InferTypeOpAdaptor]> {
  let summary = text;
  let description = "With `sum` the sum over all elements, else the mean.";
  let arguments = (ins Train_Tensor:$prediction, Train_Tensor:$target, UnitAttr:$sum);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$prediction `,` $target attr-dict `:` type($prediction) `->` type($result)";
}
def Train_MSELossOp : Train_PointwiseLossOp<"mse_loss", "(prediction - target)^2">;
def Train_L1LossOp : Train_PointwiseLossOp<"l1_loss", "|prediction - target|">;
def Train_BCELossOp : Train_PointwiseLossOp<
    "bce_loss", "binary cross-entropy of logits: max(x, 0) - x target + log(1 + exp(-|x|))">;

def Train_CrossEntropyOp : Train_Operator<"cross_entropy", [InferTypeOpAdaptor]> {
  let summary = "mean over rows of log(sum(exp(logits))) - logits[label]";
  let description = [{
    The classes are the axis `axis` of `logits`; a row, of what is along it, is a sample, token or pixel.
    `labels` has as many elements as there are rows, in row-major order: class indices 0 <= label < C, or `ignored`
    for a row that does not count (what feeds the program checks them). Stable for logits of any size.
    `smoothing` s mixes the label with the uniform distribution: 1 - s on the label and s / C on all; `weight` [C]
    multiplies each class's share. The sum over the rows is divided by the number of those that count, or, with weights, by
    the sum of their labels' weights (0 if nothing counts); with `sum` it is not. torch.nn.functional.cross_entropy.
  }];
  let arguments = (ins Train_Tensor:$logits, StaticShapeTensorOf<[I32]>:$labels, Optional<Train_Tensor>:$weight,
                       DefaultValuedAttr<I64Attr, "1">:$axis, OptionalAttr<I64Attr>:$ignored,
                       DefaultValuedAttr<F64Attr, "0.0">:$smoothing, UnitAttr:$sum);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = [{
    $logits `,` $labels (`weight` $weight^)? attr-dict `:` type($logits) `,` type($labels) (`,` type($weight)^)?
    `->` type($result)
  }];
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
  let summary = "the cotangent of the logits of cross_entropy: for one that counts (softmax - onehot) / count";
  let description = "Operands and attributes are those of the loss, which `cotangent` is that of.";
  let arguments = (ins Train_Tensor:$logits, StaticShapeTensorOf<[I32]>:$labels, Train_Tensor:$cotangent,
                       Optional<Train_Tensor>:$weight, DefaultValuedAttr<I64Attr, "1">:$axis,
                       OptionalAttr<I64Attr>:$ignored, DefaultValuedAttr<F64Attr, "0.0">:$smoothing, UnitAttr:$sum);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = [{
    $logits `,` $labels `,` $cotangent (`weight` $weight^)? attr-dict `:` type($logits) `,` type($labels) `,`
    type($cotangent) (`,` type($weight)^)? `->` type($result)
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

/// Of the element-wise gradient ops: a function of the forward's input.
class Train_InputVJPOp<string mnemonic, string text> : Train_Backward<mnemonic, [SameOperandsAndResultType]> {
  let summary = text;
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent);
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "$input `,` $cotangent attr-dict `:` type($result)";
}
def Train_AbsVJPOp : Train_InputVJPOp<"abs_vjp", "cotangent * sign(x)">;
def Train_GeluVJPOp : Train_InputVJPOp<"gelu_vjp", "cotangent times the derivative of train.gelu at x"> {
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent, UnitAttr:$tanh);
}
def Train_ClampVJPOp : Train_InputVJPOp<"clamp_vjp", "cotangent where low <= x <= high (with `flat` low < x < high), else 0"> {
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent, F64Attr:$low, F64Attr:$high, UnitAttr:$flat);
}

/// An op of the backward pass whose types are all written down.
class Train_TypedBackward<string mnemonic, list<Trait> traits = []> : Train_Backward<mnemonic, traits> {
  let results = (outs Train_Tensor:$result);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Train_SoftmaxVJPOp : Train_TypedBackward<"softmax_vjp", [SameOperandsAndResultType]> {
  let summary = "y * (cotangent - sum(y * cotangent)) with the output y of softmax";
  let arguments = (ins Train_Tensor:$output, Train_Tensor:$cotangent, I64Attr:$axis);
}

def Train_LogSoftmaxVJPOp : Train_TypedBackward<"log_softmax_vjp", [SameOperandsAndResultType]> {
  let summary = "cotangent - exp(y) * sum(cotangent) with the output y of log-softmax";
  let arguments = (ins Train_Tensor:$output, Train_Tensor:$cotangent, I64Attr:$axis);
}

def Train_MaxVJPOp : Train_TypedBackward<"max_vjp"> {
  let summary = "the cotangent of a maximum over axes, in equal parts to the elements that attain it";
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$output, Train_Tensor:$cotangent,
                       DenseI64ArrayAttr:$axes);
}

def Train_NormalizeVJPOp : Train_TypedBackward<"normalize_vjp"> {
  let summary = "the cotangent of the input of train.normalize, its statistics computed again";
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent, Optional<Train_Tensor>:$scale,
                       DenseI64ArrayAttr:$axes, F64Attr:$epsilon, UnitAttr:$rms);
}

def Train_NormalizeScaleVJPOp : Train_TypedBackward<"normalize_scale_vjp"> {
  let summary = "the cotangent of the scale of train.normalize";
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent, DenseI64ArrayAttr:$axes, F64Attr:$epsilon,
                       UnitAttr:$rms);
}

def Train_EmbeddingVJPOp : Train_TypedBackward<"embedding_vjp"> {
  let summary = "the cotangent of an embedding's table";
  let arguments = (ins Train_Indices:$indices, Train_Tensor:$cotangent,
                       DefaultValuedAttr<I64Attr, "-1">:$padding);
}

def Train_Conv2DFilterVJPOp : Train_TypedBackward<"conv2d_filter_vjp"> {
  let summary = "the cotangent of a convolution's filter";
  let description = "The attributes are those of the convolution.";
  let arguments = (ins Train_Tensor:$input, Train_Tensor:$cotangent, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, DenseI64ArrayAttr:$dilations,
                       DefaultValuedAttr<I64Attr, "1">:$groups);
}

def Train_MaxPool2DVJPOp : Train_TypedBackward<"max_pool2d_vjp"> {
  let summary = "each element of the cotangent at the tap that won its window, added up";
  let arguments = (ins StaticShapeTensorOf<[I32]>:$taps, Train_Tensor:$cotangent, DenseI64ArrayAttr:$kernel,
                       DenseI64ArrayAttr:$strides, DenseI64ArrayAttr:$padding, DenseI64ArrayAttr:$dilations);
}

def Train_AvgPool2DVJPOp : Train_TypedBackward<"avg_pool2d_vjp"> {
  let summary = "each element of the cotangent in equal parts to its window, added up";
  let arguments = (ins Train_Tensor:$cotangent, DenseI64ArrayAttr:$kernel, DenseI64ArrayAttr:$strides,
                       DenseI64ArrayAttr:$padding, UnitAttr:$exclude_padding);
}

//===----------------------------------------------------------------------===//
// Optimizers
//===----------------------------------------------------------------------===//

def Train_OptimizerOp : Train_Op<"optimizer", [Symbol, IsolatedFromAbove]> {
  let summary = "how a gradient moves its parameter: a formula on numbers";
  let description = [{
    `once` is what a step computes once: from the learning rate and the `shared` states (numbers that all
    parameters share, such as a count of updates) it yields numbers for the updates, and then the next
    values of the shared states. `each` is the update of an element: from weight, gradient, `states` (one array
    of the parameter's shape each) and the numbers of `once` it yields the next weight and the next states.
    `first` has the values before the first step, of the shared states and then of the others; without it
    they are zero. `linear` says that a weight moves by the rate times the gradient, so that what gradients are
    scaled by may be divided out of the rate. td-insert-updates applies it to every `train.gradient`.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, OptionalAttr<StrArrayAttr>:$shared,
                       OptionalAttr<StrArrayAttr>:$states, OptionalAttr<F64ArrayAttr>:$first, UnitAttr:$linear);
  let regions = (region SizedRegion<1>:$once, SizedRegion<1>:$each);
  let assemblyFormat = [{
    $sym_name (`shared` $shared^)? (`states` $states^)? (`first` $first^)? (`linear` $linear^)? attr-dict
    `once` $once `each` $each
  }];
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    /// Names of the shared states, and of those of each parameter.
    ::llvm::SmallVector<::mlir::StringAttr> getSharedNames();
    ::llvm::SmallVector<::mlir::StringAttr> getStateNames();
    /// The first value of a state, counted through the shared ones first.
    double getFirstOf(unsigned state);
    /// What it computes in.
    ::mlir::Type getElementType();
  }];
}

def Train_YieldOp : Train_Op<"yield", [Pure, Terminator, HasParent<"OptimizerOp">]> {
  let summary = "what a region of an optimizer gives";
  let arguments = (ins Variadic<AnyFloat>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
}

#endif
