// Verifiers and folders of the operators whose types are all written down.
#include "dialects/Train/Structured.h"

#include "mlir/Dialect/Traits.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace td::train;

/// Checks that all tensors of floats have one element type.
static LogicalResult verifyElementTypes(Operation *op) {
  Type element = getElementTypeOrSelf(op->getResult(0).getType());
  for (Value operand : op->getOperands()) {
    Type own = getElementTypeOrSelf(operand.getType());
    if (isa<FloatType>(own) && own != element)
      return op->emitOpError("needs tensors of one element type");
  }
  return success();
}

/// Checks that `axes` are distinct axes of a tensor of rank `rank`.
static LogicalResult verifyAxes(Operation *op, ArrayRef<int64_t> axes,
                                int64_t rank) {
  llvm::SmallDenseSet<int64_t> seen;
  for (int64_t axis : axes)
    if (axis < 0 || axis >= rank || !seen.insert(axis).second)
      return op->emitOpError() << "needs distinct axes from 0 to " << rank - 1
                               << ", not " << axis;
  return success();
}

static LogicalResult verifyResultShape(Operation *op,
                                       ArrayRef<int64_t> expected) {
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  if (type.getShape() != expected)
    return op->emitOpError()
           << "has result " << type << ", but its shape is "
           << RankedTensorType::get(expected, type.getElementType());
  return success();
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

LogicalResult ParameterOp::verify() {
  // Passes multiply sizes.
  constexpr int64_t most = int64_t(1) << 32;
  int64_t elements = 1;
  for (int64_t size : cast<RankedTensorType>(getType()).getShape()) {
    if (size > most || (elements *= size) > most)
      return emitOpError() << "of type " << getType()
                           << " has more elements than an address reaches";
  }
  if (getTrainable() && getState())
    return emitOpError("is optimizer state and cannot be trainable");
  if (getStateOf() && !getState())
    return emitOpError() << "is a state of @" << *getStateOf()
                         << ", but which one is not said: state = \"...\"";
  if (std::optional<ArrayRef<int64_t>> layout = getLayout()) {
    int64_t rank = cast<RankedTensorType>(getType()).getRank();
    if (static_cast<int64_t>(layout->size()) != rank)
      return emitOpError() << "needs a layout of " << rank << " axes";
    return verifyAxes(*this, *layout, rank);
  }
  return success();
}

LogicalResult PermuteOp::verify() {
  RankedTensorType from = getInput().getType();
  ArrayRef<int64_t> permutation = getPermutation();
  if (static_cast<int64_t>(permutation.size()) != from.getRank())
    return emitOpError() << "needs a permutation of " << from.getRank()
                         << " axes";
  if (failed(verifyElementTypes(*this)) ||
      failed(verifyAxes(*this, permutation, from.getRank())))
    return failure();
  SmallVector<int64_t> shape;
  for (int64_t axis : permutation)
    shape.push_back(from.getDimSize(axis));
  return verifyResultShape(*this, shape);
}

LogicalResult DropoutOp::verify() {
  double probability = getProbability().convertToDouble();
  if (!(probability >= 0.0 && probability <= 1.0))
    return emitOpError("needs a probability from 0 to 1");
  if (getInput().getType() != getType())
    return emitOpError("needs a result of its input's type");
  return success();
}

OpFoldResult PermuteOp::fold(FoldAdaptor adaptor) {
  ArrayRef<int64_t> own = getPermutation();
  if (llvm::is_sorted(own))
    return getInput();
  if (auto splat = dyn_cast_or_null<SplatElementsAttr>(adaptor.getInput()))
    return splat.resizeSplat(getType());
  // Of two in a row one is left.
  if (auto inner = getInput().getDefiningOp<PermuteOp>()) {
    SmallVector<int64_t> both;
    for (int64_t axis : own)
      both.push_back(inner.getPermutation()[axis]);
    getInputMutable().assign(inner.getInput());
    setPermutation(both);
    return getResult();
  }
  return {};
}

LogicalResult BroadcastOp::verify() {
  SmallVector<int64_t> shape;
  ArrayRef<int64_t> to = getType().getShape();
  if (!OpTrait::util::getBroadcastedShape(getInput().getType().getShape(), to,
                                          shape) ||
      ArrayRef<int64_t>(shape) != to)
    return emitOpError("needs an input that broadcasts to the result");
  return verifyElementTypes(*this);
}

OpFoldResult BroadcastOp::fold(FoldAdaptor adaptor) {
  if (getInput().getType() == getType())
    return getInput();
  if (auto splat = dyn_cast_or_null<SplatElementsAttr>(adaptor.getInput()))
    return splat.resizeSplat(getType());
  return {};
}

/// Checks that `part` fits into `whole` at offsets and strides.
static LogicalResult verifyPart(Operation *op, RankedTensorType whole,
                                RankedTensorType part,
                                ArrayRef<int64_t> offsets,
                                ArrayRef<int64_t> strides) {
  int64_t rank = whole.getRank();
  if (part.getRank() != rank || static_cast<int64_t>(offsets.size()) != rank ||
      static_cast<int64_t>(strides.size()) != rank)
    return op->emitOpError("needs tensors, offsets and strides of one rank");
  for (int64_t dim = 0; dim < rank; ++dim)
    if (offsets[dim] < 0 || strides[dim] < 1 ||
        offsets[dim] + (part.getDimSize(dim) - 1) * strides[dim] >=
            whole.getDimSize(dim))
      return op->emitOpError() << "reaches beyond dimension " << dim
                               << " of size " << whole.getDimSize(dim);
  return verifyElementTypes(op);
}

LogicalResult SliceOp::verify() {
  return verifyPart(*this, getInput().getType(), getType(), getOffsets(),
                    getStrides());
}

LogicalResult EmbedOp::verify() {
  return verifyPart(*this, getType(), getInput().getType(), getOffsets(),
                    getStrides());
}

LogicalResult ConcatOp::verify() {
  int64_t rank = getType().getRank();
  if (getInputs().empty())
    return emitOpError("needs an input");
  if (failed(verifyAxes(*this, {static_cast<int64_t>(getAxis())}, rank)) ||
      failed(verifyElementTypes(*this)))
    return failure();
  SmallVector<int64_t> shape(tensorType(getInputs()[0]).getShape());
  for (Value input : getInputs().drop_front()) {
    ArrayRef<int64_t> own = tensorType(input).getShape();
    if (own.size() != shape.size())
      return emitOpError("needs inputs of one rank");
    shape[getAxis()] += own[getAxis()];
    for (int64_t dim = 0; dim < rank; ++dim)
      if (dim != static_cast<int64_t>(getAxis()) && own[dim] != shape[dim])
        return emitOpError() << "needs inputs that differ along axis "
                             << getAxis() << " only";
  }
  return verifyResultShape(*this, shape);
}

//===----------------------------------------------------------------------===//
// Products, reductions, rows
//===----------------------------------------------------------------------===//

LogicalResult MatmulOp::verify() {
  ArrayRef<int64_t> lhs = getLhs().getType().getShape(),
                    rhs = getRhs().getType().getShape();
  if (lhs.size() < 2 || rhs.size() < 2)
    return emitOpError("needs operands of rank >= 2");
  SmallVector<int64_t> shape;
  if (!OpTrait::util::getBroadcastedShape(lhs.drop_back(2), rhs.drop_back(2),
                                          shape))
    return emitOpError("needs operands that broadcast before the last two "
                       "dimensions");
  ArrayRef<int64_t> left = lhs.take_back(2), right = rhs.take_back(2);
  if (left[getTransposeLhs() ? 0 : 1] != right[getTransposeRhs() ? 1 : 0])
    return emitOpError() << "sums over " << left[getTransposeLhs() ? 0 : 1]
                         << " elements of one operand and "
                         << right[getTransposeRhs() ? 1 : 0] << " of the other";
  shape.push_back(left[getTransposeLhs() ? 1 : 0]);
  shape.push_back(right[getTransposeRhs() ? 0 : 1]);
  if (failed(verifyElementTypes(*this)))
    return failure();
  return verifyResultShape(*this, shape);
}

static LogicalResult verifyReduction(Operation *op, ArrayRef<int64_t> axes) {
  auto type = cast<RankedTensorType>(op->getOperand(0).getType());
  if (axes.empty())
    return op->emitOpError("needs an axis");
  if (failed(verifyAxes(op, axes, type.getRank())) ||
      failed(verifyElementTypes(op)))
    return failure();
  SmallVector<int64_t> shape;
  for (int64_t dim = 0; dim < type.getRank(); ++dim)
    if (!llvm::is_contained(axes, dim))
      shape.push_back(type.getDimSize(dim));
  return verifyResultShape(op, shape);
}
LogicalResult SumOp::verify() { return verifyReduction(*this, getAxes()); }
LogicalResult MaxOp::verify() { return verifyReduction(*this, getAxes()); }

LogicalResult SoftmaxOp::verify() {
  return verifyAxes(*this, {static_cast<int64_t>(getAxis())},
                    getType().getRank());
}
LogicalResult LogSoftmaxOp::verify() {
  return verifyAxes(*this, {static_cast<int64_t>(getAxis())},
                    getType().getRank());
}

LogicalResult NormalizeOp::verify() {
  if (getAxes().empty())
    return emitOpError("needs an axis");
  if (!(getEpsilon().convertToDouble() >= 0.0))
    return emitOpError("needs an epsilon >= 0");
  if (failed(verifyAxes(*this, getAxes(), getType().getRank())) ||
      failed(verifyElementTypes(*this)))
    return failure();
  if (getScale()) {
    SmallVector<int64_t> shape;
    ArrayRef<int64_t> input = getInput().getType().getShape();
    if (!OpTrait::util::getBroadcastedShape(getScale().getType().getShape(),
                                            input, shape) ||
        ArrayRef<int64_t>(shape) != input)
      return emitOpError("needs a scale that broadcasts to the input");
  }
  return verifyResultShape(*this, getInput().getType().getShape());
}

//===----------------------------------------------------------------------===//
// Truth values and what stops gradients
//===----------------------------------------------------------------------===//

/// Checks that `word` is one of `words`.
static LogicalResult verifyWord(Operation *op, StringRef what, StringRef word,
                                ArrayRef<StringRef> words) {
  if (llvm::is_contained(words, word))
    return success();
  InFlightDiagnostic diagnostic = op->emitOpError()
                                  << "has the " << what << " '" << word
                                  << "'; there are ";
  llvm::interleaveComma(words, diagnostic);
  return diagnostic;
}

LogicalResult CompareOp::verify() {
  return verifyWord(*this, "predicate", getPredicate(),
                    {"eq", "ne", "lt", "le", "gt", "ge"});
}

LogicalResult RoundOp::verify() {
  return verifyWord(*this, "mode", getMode(),
                    {"floor", "ceil", "trunc", "even", "sign"});
}

LogicalResult FromIntegersOp::verify() {
  return verifyResultShape(*this,
                           cast<ShapedType>(getInput().getType()).getShape());
}

LogicalResult SelectOp::verify() {
  SmallVector<int64_t> both, shape;
  if (!OpTrait::util::getBroadcastedShape(getYes().getType().getShape(),
                                          getNo().getType().getShape(), both) ||
      !OpTrait::util::getBroadcastedShape(getCondition().getType().getShape(),
                                          both, shape))
    return emitOpError("needs operands that broadcast");
  if (failed(verifyElementTypes(*this)))
    return failure();
  return verifyResultShape(*this, shape);
}

LogicalResult EmbeddingOp::verify() {
  if (getTable().getType().getRank() != 2)
    return emitOpError("needs a table of rank 2");
  SmallVector<int64_t> shape(
      cast<RankedTensorType>(getIndices().getType()).getShape());
  shape.push_back(getTable().getType().getDimSize(1));
  if (failed(verifyElementTypes(*this)))
    return failure();
  return verifyResultShape(*this, shape);
}

//===----------------------------------------------------------------------===//
// Convolution and pooling
//===----------------------------------------------------------------------===//

/// How many windows an axis has; less than 1 if it is too short for one.
static int64_t windows(int64_t size, int64_t before, int64_t after,
                       int64_t taps, int64_t stride, int64_t dilation) {
  int64_t free = size + before + after - (taps - 1) * dilation - 1;
  return free < 0 ? 0 : free / stride + 1;
}

static LogicalResult verifyWindows(Operation *op, ArrayRef<int64_t> kernel,
                                   ArrayRef<int64_t> strides,
                                   ArrayRef<int64_t> padding,
                                   ArrayRef<int64_t> dilations) {
  auto positive = [](ArrayRef<int64_t> values) {
    return values.size() == 2 &&
           llvm::all_of(values, [](int64_t value) { return value > 0; });
  };
  if (!positive(kernel) || !positive(strides) || !positive(dilations))
    return op->emitOpError("needs two positive sizes, strides and dilations");
  if (padding.size() != 4 ||
      llvm::any_of(padding, [](int64_t value) { return value < 0; }))
    return op->emitOpError(
        "needs a padding [top, bottom, left, right] of at least 0");
  return verifyElementTypes(op);
}

/// Checks a convolution of `input` with `filter` to `output`.
template <typename Op>
static LogicalResult verifyConvolution(Op op, RankedTensorType input,
                                       RankedTensorType filter,
                                       RankedTensorType output) {
  if (input.getRank() != 4 || filter.getRank() != 4 || output.getRank() != 4)
    return op.emitOpError("needs tensors of rank 4");
  if (failed(verifyWindows(op, filter.getShape().take_front(2), op.getStrides(),
                           op.getPadding(), op.getDilations())))
    return failure();
  int64_t groups = op.getGroups();
  if (groups < 1 || input.getDimSize(3) != groups * filter.getDimSize(2) ||
      filter.getDimSize(3) % groups ||
      filter.getDimSize(3) != output.getDimSize(3))
    return op.emitOpError()
           << "has " << input.getDimSize(3) << " channels in, "
           << output.getDimSize(3) << " out and " << groups
           << " groups, which do not fit the filter " << filter;
  ArrayRef<int64_t> padding = op.getPadding();
  for (unsigned axis : {0, 1}) {
    int64_t count = windows(input.getDimSize(axis + 1), padding[2 * axis],
                            padding[2 * axis + 1], filter.getDimSize(axis),
                            op.getStrides()[axis], op.getDilations()[axis]);
    if (count < 1 || count != output.getDimSize(axis + 1))
      return op.emitOpError()
             << "has " << count << " windows along axis " << axis + 1
             << ", not " << output.getDimSize(axis + 1);
  }
  if (input.getDimSize(0) != output.getDimSize(0))
    return op.emitOpError("changes the number of samples");
  return success();
}

LogicalResult Conv2DOp::verify() {
  return verifyConvolution(*this, getInput().getType(), getFilter().getType(),
                           getType());
}

LogicalResult Conv2DInputVJPOp::verify() {
  return verifyConvolution(*this, getType(), getFilter().getType(),
                           getCotangent().getType());
}

static LogicalResult
verifyPooling(Operation *op, RankedTensorType input, RankedTensorType output,
              ArrayRef<int64_t> kernel, ArrayRef<int64_t> strides,
              ArrayRef<int64_t> padding, ArrayRef<int64_t> dilations) {
  if (input.getRank() != 4 || output.getRank() != 4)
    return op->emitOpError("needs tensors of rank 4");
  if (failed(verifyWindows(op, kernel, strides, padding, dilations)))
    return failure();
  for (unsigned axis : {0, 1}) {
    int64_t size = input.getDimSize(axis + 1), begin = padding[2 * axis],
            count = output.getDimSize(axis + 1);
    int64_t least = windows(size, begin, padding[2 * axis + 1], kernel[axis],
                            strides[axis], dilations[axis]);
    if (count < std::max<int64_t>(least, 1) || count > least + 1 ||
        (count - 1) * strides[axis] - begin >= size)
      return op->emitOpError() << "has " << least << " windows along axis "
                               << axis + 1 << ", not " << count;
    if (begin > (kernel[axis] - 1) * dilations[axis])
      return op->emitOpError("has a window in the padding only");
  }
  if (input.getDimSize(0) != output.getDimSize(0) ||
      input.getDimSize(3) != output.getDimSize(3))
    return op->emitOpError("changes the number of samples or channels");
  return success();
}

LogicalResult MaxPool2DOp::verify() {
  if (cast<ShapedType>(getTaps().getType()).getShape() !=
      getResult().getType().getShape())
    return emitOpError("needs results of one shape");
  return verifyPooling(*this, getInput().getType(), getResult().getType(),
                       getKernel(), getStrides(), getPadding(), getDilations());
}

LogicalResult AvgPool2DOp::verify() {
  return verifyPooling(*this, getInput().getType(), getType(), getKernel(),
                       getStrides(), getPadding(), {1, 1});
}
