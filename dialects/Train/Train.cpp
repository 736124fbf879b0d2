// The train dialect: verifiers, type inference, folders.
#include "dialects/Train/Recurrence.h"

#include "mlir/Dialect/Traits.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace td::train;

#include "dialects/Train/DifferentiableOpInterface.cpp.inc"
#include "dialects/Train/TrainDialect.cpp.inc"
#include "dialects/Train/TrainEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/Train/TrainAttributes.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/Train/TrainTypes.cpp.inc"
#define GET_OP_CLASSES
#include "dialects/Train/TrainOps.cpp.inc"

void TrainDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/Train/TrainOps.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/Train/Recurrence.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

/// Checks that `symbol` is a parameter of type `type`.
static LogicalResult verifyParameter(Operation *op,
                                     SymbolTableCollection &symbols,
                                     FlatSymbolRefAttr symbol, Type type) {
  auto parameter = symbols.lookupNearestSymbolFrom<ParameterOp>(op, symbol);
  if (!parameter)
    return op->emitOpError() << symbol << " is not a parameter";
  if (type && parameter.getType() != type)
    return op->emitOpError() << "has type " << type << ", but parameter "
                             << symbol << " has type " << parameter.getType();
  return success();
}

LogicalResult ParameterOp::verifySymbolUses(SymbolTableCollection &symbols) {
  if (FlatSymbolRefAttr optimizer = getOptimizerAttr())
    if (!symbols.lookupNearestSymbolFrom<OptimizerOp>(*this, optimizer))
      return emitOpError() << "names " << optimizer
                           << ", which is no optimizer";
  return getStateOfAttr()
             ? verifyParameter(*this, symbols, getStateOfAttr(), Type())
             : success();
}

LogicalResult ReadOp::verifySymbolUses(SymbolTableCollection &symbols) {
  return verifyParameter(*this, symbols, getParameterAttr(),
                         getResult().getType());
}

LogicalResult AssignOp::verifySymbolUses(SymbolTableCollection &symbols) {
  return verifyParameter(*this, symbols, getParameterAttr(),
                         getValue().getType());
}

LogicalResult GradientOp::verifySymbolUses(SymbolTableCollection &symbols) {
  return verifyParameter(*this, symbols, getParameterAttr(),
                         getValue().getType());
}

//===----------------------------------------------------------------------===//
// Optimizers
//===----------------------------------------------------------------------===//

static SmallVector<StringAttr> names(std::optional<ArrayAttr> attribute) {
  if (!attribute)
    return {};
  return llvm::to_vector(attribute->getAsRange<StringAttr>());
}

SmallVector<StringAttr> OptimizerOp::getSharedNames() {
  return names(getShared());
}

SmallVector<StringAttr> OptimizerOp::getStateNames() {
  return names(getStates());
}

double OptimizerOp::getFirstOf(unsigned state) {
  return getFirst() ? cast<FloatAttr>((*getFirst())[state]).getValueAsDouble()
                    : 0.0;
}

Type OptimizerOp::getElementType() {
  return getOnce().front().getArgument(0).getType();
}

/// Checks a formula: numbers of one type in and out, and operations on numbers
/// in between.
static LogicalResult verifyFormula(OptimizerOp op, StringRef name, Block &body,
                                   unsigned arguments, unsigned results) {
  if (body.getNumArguments() != arguments)
    return op.emitOpError() << "needs " << arguments << " arguments of '"
                            << name << "', and has " << body.getNumArguments();
  auto yield = dyn_cast<YieldOp>(body.getTerminator());
  if (!yield)
    return op.emitOpError()
           << "needs a train.yield at the end of '" << name << "'";
  if (yield.getNumOperands() != results)
    return op.emitOpError() << "needs " << results << " results of '" << name
                            << "', and has " << yield.getNumOperands();
  Type element = op.getElementType();
  auto isNumber = [&](Type type) { return type == element; };
  if (!isa<FloatType>(element) ||
      !llvm::all_of(body.getArgumentTypes(), isNumber) ||
      !llvm::all_of(yield.getOperandTypes(), isNumber))
    return op.emitOpError() << "needs numbers of one floating-point type as "
                               "arguments and results of '"
                            << name << "'";
  for (Operation &inner : body.without_terminator())
    if (!isa_and_present<arith::ArithDialect, math::MathDialect>(
            inner.getDialect()) ||
        inner.getNumRegions() != 0 ||
        llvm::any_of(inner.getResultTypes(), llvm::IsaPred<ShapedType>))
      return inner.emitOpError() << "is no operation on numbers, which is what "
                                    "an optimizer's formula is made of";
  return success();
}

LogicalResult OptimizerOp::verifyRegions() {
  SmallVector<StringAttr> shared = getSharedNames(), states = getStateNames();
  llvm::SmallDenseSet<StringAttr> seen;
  for (StringAttr name : llvm::concat<StringAttr>(shared, states))
    if (!seen.insert(name).second)
      return emitOpError() << "has two states called " << name;
  if (getFirst() && getFirst()->size() != shared.size() + states.size())
    return emitOpError() << "needs a first value for each of its "
                         << shared.size() + states.size() << " states";
  Block &once = getOnce().front(), &each = getEach().front();
  if (once.getNumArguments() == 0)
    return emitOpError("needs the learning rate as an argument of 'once'");
  unsigned yielded = once.getTerminator()->getNumOperands();
  if (yielded < shared.size())
    return emitOpError() << "needs the next values of its " << shared.size()
                         << " shared states as results of 'once'";
  if (failed(verifyFormula(*this, "once", once, 1 + shared.size(), yielded)))
    return failure();
  return verifyFormula(*this, "each", each,
                       2 + states.size() + yielded - shared.size(),
                       1 + states.size());
}

//===----------------------------------------------------------------------===//
// Snapshots
//===----------------------------------------------------------------------===//

StringAttr td::train::getSnapshotParameter(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (auto read = dyn_cast<ReadOp>(op))
      return read.getParameterAttr().getAttr();
    if (!isa<ReshapeOp, PermuteOp, SliceOp, tensor::CollapseShapeOp,
             tensor::ExpandShapeOp, tensor::ExtractSliceOp>(op))
      return {};
    value = op->getOperand(0);
  }
  return {};
}

LogicalResult td::train::verifySnapshots(Block &block) {
  llvm::DenseMap<StringAttr, Operation *> lastUpdate;
  LogicalResult result = success();
  for (Operation &op : block) {
    op.walk([&](Operation *nested) {
      for (Value operand : nested->getOperands()) {
        StringAttr parameter = getSnapshotParameter(operand);
        Operation *update = parameter ? lastUpdate.lookup(parameter) : nullptr;
        if (!update)
          continue;
        Operation *read = operand.getDefiningOp();
        while (!isa<ReadOp>(read))
          read = read->getOperand(0).getDefiningOp();
        if (!read->isBeforeInBlock(update))
          continue;
        InFlightDiagnostic diagnostic = nested->emitOpError()
                                        << "uses the value that @"
                                        << parameter.getValue()
                                        << " had before its update";
        diagnostic.attachNote(update->getLoc()) << "updated here";
        result = failure();
      }
    });
    if (auto assign = dyn_cast<AssignOp>(op))
      lastUpdate[assign.getParameterAttr().getAttr()] = assign;
  }
  return result;
}

/// Whether `expr` is a sum of loops times non-negative integers.
static bool isWindow(AffineExpr expr) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue() >= 0;
  if (isa<AffineDimExpr>(expr))
    return true;
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary || (binary.getKind() != AffineExprKind::Add &&
                  binary.getKind() != AffineExprKind::Mul))
    return false;
  return isWindow(binary.getLHS()) && isWindow(binary.getRHS());
}

/// Checks the indexing maps of a generic of a decomposed step.
static LogicalResult verifyMaps(linalg::GenericOp generic) {
  for (OpOperand &operand : generic->getOpOperands()) {
    AffineMap map = generic.getMatchingIndexingMap(&operand);
    if (generic.isDpsInit(&operand)) {
      if (!map.isProjectedPermutation())
        return generic.emitOpError(
                   "has a result whose indexing map is no projected "
                   "permutation: ")
               << AffineMapAttr::get(map);
    } else if (!llvm::all_of(map.getResults(), isWindow)) {
      return generic.emitOpError("has an indexing map that is no sum of loops "
                                 "times non-negative integers: ")
             << AffineMapAttr::get(map);
    }
  }
  return success();
}

/// Checks that a block holds the closed set of ops; `outermost` are those that
/// the step itself may have besides.
static LogicalResult verifyDecomposed(Block &block, bool outermost) {
  for (Operation &op : block) {
    if (auto generic = dyn_cast<linalg::GenericOp>(op)) {
      if (failed(verifyMaps(generic)))
        return failure();
      continue;
    }
    if (auto slice = dyn_cast<OffsetSizeAndStrideOpInterface>(op)) {
      if (!isa<tensor::ExtractSliceOp, tensor::InsertSliceOp>(op) ||
          llvm::any_of(slice.getMixedOffsets(), llvm::IsaPred<Value>) ||
          llvm::any_of(slice.getMixedStrides(), llvm::IsaPred<Value>))
        return op.emitOpError("needs constant offsets and strides");
      continue;
    }
    if (auto recurrence = dyn_cast<RecurrenceOp>(op); recurrence && outermost) {
      if (failed(verifyDecomposed(recurrence.getBody().front(), false)))
        return failure();
      continue;
    }
    bool isEitherWay =
        isa<linalg::MatmulOp, linalg::FillOp, tensor::CollapseShapeOp,
            tensor::ExpandShapeOp, tensor::EmptyOp, arith::ConstantOp>(op);
    if (!isEitherWay && !(outermost ? isa<ReadOp, AssignOp, func::ReturnOp>(op)
                                    : isa<NextOp>(op)))
      return op.emitOpError("is not part of a decomposed training step");
  }
  return success();
}

LogicalResult td::train::verifyDecomposed(func::FuncOp step) {
  if (failed(::verifyDecomposed(step.getBody().front(), true)))
    return failure();
  return verifySnapshots(step.getBody().front());
}

//===----------------------------------------------------------------------===//
// Type inference and verifiers of operators
//===----------------------------------------------------------------------===//

LogicalResult LinearOp::inferReturnTypes(MLIRContext *,
                                         std::optional<Location> location,
                                         Adaptor adaptor,
                                         SmallVectorImpl<Type> &types) {
  auto input = dyn_cast<RankedTensorType>(adaptor.getInput().getType());
  auto weight = dyn_cast<RankedTensorType>(adaptor.getWeight().getType());
  if (!input || !weight || input.getRank() < 1 || weight.getRank() != 2)
    return emitOptionalError(
        location, "linear needs an input of rank >= 1 and a weight of rank 2");
  if (input.getElementType() != weight.getElementType())
    return emitOptionalError(location,
                             "linear needs operands of one element type");
  if (input.getShape().back() != weight.getDimSize(1))
    return emitOptionalError(
        location, "linear's input ends in ", input.getShape().back(),
        " features, its weight has ", weight.getDimSize(1));
  if (Value bias = adaptor.getBias())
    if (bias.getType() !=
        RankedTensorType::get({weight.getDimSize(0)}, weight.getElementType()))
      return emitOptionalError(
          location, "linear's bias must have one element for each of the ",
          weight.getDimSize(0), " output features");
  SmallVector<int64_t> shape(input.getShape());
  shape.back() = weight.getDimSize(0);
  types.push_back(RankedTensorType::get(shape, input.getElementType()));
  return success();
}

/// The type that two operands broadcast to.
static LogicalResult inferBroadcast(std::optional<Location> location, Value lhs,
                                    Value rhs, SmallVectorImpl<Type> &types) {
  auto left = dyn_cast<RankedTensorType>(lhs.getType());
  auto right = dyn_cast<RankedTensorType>(rhs.getType());
  SmallVector<int64_t> shape;
  if (!left || !right || left.getElementType() != right.getElementType() ||
      !OpTrait::util::getBroadcastedShape(left.getShape(), right.getShape(),
                                          shape))
    return emitOptionalError(location, "operands of types ", lhs.getType(),
                             " and ", rhs.getType(), " do not broadcast");
  types.push_back(RankedTensorType::get(shape, left.getElementType()));
  return success();
}

LogicalResult AddOp::inferReturnTypes(MLIRContext *,
                                      std::optional<Location> location,
                                      Adaptor adaptor,
                                      SmallVectorImpl<Type> &types) {
  return inferBroadcast(location, adaptor.getLhs(), adaptor.getRhs(), types);
}
LogicalResult SubOp::inferReturnTypes(MLIRContext *,
                                      std::optional<Location> location,
                                      Adaptor adaptor,
                                      SmallVectorImpl<Type> &types) {
  return inferBroadcast(location, adaptor.getLhs(), adaptor.getRhs(), types);
}
LogicalResult MulOp::inferReturnTypes(MLIRContext *,
                                      std::optional<Location> location,
                                      Adaptor adaptor,
                                      SmallVectorImpl<Type> &types) {
  return inferBroadcast(location, adaptor.getLhs(), adaptor.getRhs(), types);
}

LogicalResult DivOp::inferReturnTypes(MLIRContext *,
                                      std::optional<Location> location,
                                      Adaptor adaptor,
                                      SmallVectorImpl<Type> &types) {
  return inferBroadcast(location, adaptor.getLhs(), adaptor.getRhs(), types);
}

LogicalResult CompareOp::inferReturnTypes(MLIRContext *,
                                          std::optional<Location> location,
                                          Adaptor adaptor,
                                          SmallVectorImpl<Type> &types) {
  return inferBroadcast(location, adaptor.getLhs(), adaptor.getRhs(), types);
}

LogicalResult ReshapeOp::verify() {
  if (getInput().getType().getElementType() !=
          getResult().getType().getElementType() ||
      getInput().getType().getNumElements() !=
          getResult().getType().getNumElements())
    return emitOpError("needs as many elements in the result as in the input");
  return success();
}

//===----------------------------------------------------------------------===//
// Folders
//===----------------------------------------------------------------------===//

Operation *TrainDialect::materializeConstant(OpBuilder &builder,
                                             Attribute value, Type type,
                                             Location location) {
  return arith::ConstantOp::materialize(builder, value, type, location);
}

/// Folds an element-wise op of two splat constants.
static OpFoldResult
foldSplats(Attribute lhs, Attribute rhs, RankedTensorType type,
           llvm::function_ref<APFloat(APFloat, const APFloat &)> compute) {
  auto left = dyn_cast_or_null<SplatElementsAttr>(lhs),
       right = dyn_cast_or_null<SplatElementsAttr>(rhs);
  if (!left || !right)
    return {};
  return DenseElementsAttr::get(type, compute(left.getSplatValue<APFloat>(),
                                              right.getSplatValue<APFloat>()));
}

OpFoldResult AddOp::fold(FoldAdaptor adaptor) {
  return foldSplats(adaptor.getLhs(), adaptor.getRhs(), getType(),
                    [](APFloat a, const APFloat &b) { return a + b; });
}
OpFoldResult SubOp::fold(FoldAdaptor adaptor) {
  return foldSplats(adaptor.getLhs(), adaptor.getRhs(), getType(),
                    [](APFloat a, const APFloat &b) { return a - b; });
}
OpFoldResult MulOp::fold(FoldAdaptor adaptor) {
  return foldSplats(adaptor.getLhs(), adaptor.getRhs(), getType(),
                    [](APFloat a, const APFloat &b) { return a * b; });
}

OpFoldResult DivOp::fold(FoldAdaptor adaptor) {
  return foldSplats(adaptor.getLhs(), adaptor.getRhs(), getType(),
                    [](APFloat a, const APFloat &b) { return a / b; });
}

OpFoldResult ReshapeOp::fold(FoldAdaptor) {
  if (getInput().getType() == getType())
    return getInput();
  // Of several reshapes in a row only the last matters.
  if (auto inner = getInput().getDefiningOp<ReshapeOp>()) {
    getInputMutable().assign(inner.getInput());
    return getResult();
  }
  return {};
}

/// A loss is a scalar of the prediction's element type.
#define TD_POINTWISE_LOSS(OP)                                                  \
  LogicalResult OP::inferReturnTypes(MLIRContext *, std::optional<Location>,   \
                                     Adaptor adaptor,                          \
                                     SmallVectorImpl<Type> &types) {           \
    types.push_back(RankedTensorType::get(                                     \
        {}, getElementTypeOrSelf(adaptor.getPrediction().getType())));         \
    return success();                                                          \
  }
TD_POINTWISE_LOSS(MSELossOp)
TD_POINTWISE_LOSS(L1LossOp)
TD_POINTWISE_LOSS(BCELossOp)
#undef TD_POINTWISE_LOSS

/// Checks the operands that cross entropy and its gradient have in common.
template <typename Adaptor>
static LogicalResult checkCrossEntropy(std::optional<Location> location,
                                       Adaptor adaptor) {
  auto logits = dyn_cast<RankedTensorType>(adaptor.getLogits().getType());
  auto labels = dyn_cast<RankedTensorType>(adaptor.getLabels().getType());
  if (!logits || !labels || logits.getRank() < 2)
    return emitOptionalError(
        location, "cross entropy needs logits of rank 2 or more, not ",
        adaptor.getLogits().getType());
  int64_t axis = adaptor.getAxis();
  if (axis < 0 || axis >= logits.getRank())
    return emitOptionalError(location, "cross entropy needs an axis from 0 to ",
                             logits.getRank() - 1, ", not ", axis);
  int64_t classes = logits.getDimSize(axis);
  if (labels.getNumElements() * classes != logits.getNumElements())
    return emitOptionalError(location,
                             "cross entropy needs a label for each of the ",
                             classes ? logits.getNumElements() / classes : 0,
                             " rows of ", classes, " classes, not ", labels);
  if (Value weight = adaptor.getWeight())
    if (weight.getType() !=
        RankedTensorType::get({classes}, logits.getElementType()))
      return emitOptionalError(location,
                               "cross entropy needs a weight for "
                               "each of the ",
                               classes, " classes, not ", weight.getType());
  if (std::optional<uint64_t> ignored = adaptor.getIgnored())
    if (!llvm::isInt<32>(static_cast<int64_t>(*ignored)))
      return emitOptionalError(location,
                               "cross entropy ignores a label of 32 bits");
  double smoothing = adaptor.getSmoothing().convertToDouble();
  if (!(smoothing >= 0.0 && smoothing <= 1.0))
    return emitOptionalError(location,
                             "cross entropy needs a smoothing from 0 to 1");
  return success();
}

LogicalResult CrossEntropyOp::inferReturnTypes(MLIRContext *,
                                               std::optional<Location> location,
                                               Adaptor adaptor,
                                               SmallVectorImpl<Type> &types) {
  if (failed(checkCrossEntropy(location, adaptor)))
    return failure();
  types.push_back(RankedTensorType::get(
      {}, getElementTypeOrSelf(adaptor.getLogits().getType())));
  return success();
}

LogicalResult CrossEntropyVJPOp::inferReturnTypes(
    MLIRContext *, std::optional<Location> location, Adaptor adaptor,
    SmallVectorImpl<Type> &types) {
  Type logits = adaptor.getLogits().getType();
  if (failed(checkCrossEntropy(location, adaptor)))
    return failure();
  if (adaptor.getCotangent().getType() !=
      RankedTensorType::get({}, getElementTypeOrSelf(logits)))
    return emitOptionalError(
        location,
        "the cotangent of a loss has rank 0 and the logits' element type");
  types.push_back(logits);
  return success();
}

LogicalResult SumToOp::verify() {
  SmallVector<int64_t> shape;
  ArrayRef<int64_t> input = getInput().getType().getShape();
  if (getInput().getType().getElementType() !=
          getResult().getType().getElementType() ||
      !OpTrait::util::getBroadcastedShape(
          input, getResult().getType().getShape(), shape) ||
      ArrayRef<int64_t>(shape) != input)
    return emitOpError("needs a result that broadcasts to the input");
  return success();
}

OpFoldResult SumToOp::fold(FoldAdaptor) {
  return getInput().getType() == getType() ? getInput() : Value();
}
