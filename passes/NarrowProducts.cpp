// Computes products of matrices in half precision.
#include "dialects/Train/Structured.h"
#include "lib/Planner/Grouping.h"
#include "passes/Passes.h"

#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

namespace td {
#define GEN_PASS_DEF_NARROWPRODUCTS
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using namespace td::train;

/// Whether an op multiplies matrices of f32, with more than one row, column and
/// step of the sum: the rest is no work for an array of multipliers.
static bool isProductOfMatrices(linalg::LinalgOp op) {
  if (!td::isContraction(op) ||
      !llvm::all_of(op->getOperandTypes(), [](Type type) {
        return getElementTypeOrSelf(type).isF32();
      }))
    return false;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  int64_t rows = 1, columns = 1, summed = 1;
  for (auto [loop, size] : llvm::enumerate(op.getStaticLoopRanges())) {
    bool x = maps[0].isFunctionOfDim(loop), w = maps[1].isFunctionOfDim(loop),
         z = maps[2].isFunctionOfDim(loop);
    if (x && w && z)
      continue; // a product for each
    if (x + w + z != 2)
      return false;
    (!w ? rows : !x ? columns : summed) *= size;
  }
  return rows > 1 && columns > 1 && summed > 1;
}

namespace {
class Narrowing {
public:
  explicit Narrowing(func::FuncOp step)
      : block(step.getBody().front()),
        half(Float16Type::get(step.getContext())) {}

  unsigned run() {
    for (Operation &op : block)
      if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
          linalgOp && isProductOfMatrices(linalgOp))
        products.insert(&op);
    for (Operation *product : products)
      narrow(cast<linalg::LinalgOp>(product));
    eraseDead();
    for (linalg::GenericOp op : roundings)
      joinWithProducer(op);
    eraseDead();
    return products.size();
  }

private:
  RankedTensorType halfOf(Value value) {
    return cast<RankedTensorType>(value.getType()).clone(half);
  }

  void narrow(linalg::LinalgOp op) {
    Location location = op.getLoc();
    SmallVector<Value> inputs;
    for (OpOperand *input : op.getDpsInputOperands()) {
      // A parameter's array stays: whoever loads a tile of it rounds that.
      bool stays = td::viewSource(input->get()).getDefiningOp<ReadOp>() &&
                   op.getMatchingIndexingMap(input).isProjectedPermutation();
      inputs.push_back(stays ? input->get() : rounded(input->get(), location));
    }
    OpBuilder b(op);
    Value result = op->getResult(0), init = op.getDpsInits()[0];
    RankedTensorType type = halfOf(result);
    Value zero = arith::ConstantOp::create(b, location, b.getZeroAttr(half));
    Value empty = tensor::EmptyOp::create(b, location, type.getShape(), half);
    Value start = linalg::FillOp::create(b, location, zero, empty).getResult(0);
    Value product;
    if (isa<linalg::MatmulOp>(op.getOperation())) {
      NamedAttribute maps = b.getNamedAttr(
          "indexing_maps", b.getAffineMapArrayAttr(op.getIndexingMapsArray()));
      product = linalg::MatmulOp::create(b, location, TypeRange(type), inputs,
                                         ValueRange(start), ArrayRef(maps))
                    .getResult(0);
    } else {
      product =
          linalg::GenericOp::create(
              b, location, type, inputs, start, op.getIndexingMapsArray(),
              op.getIteratorTypesArray(),
              [&](OpBuilder &b, Location l, ValueRange values) {
                auto narrowed = [&](Value value) -> Value {
                  return value.getType() == half
                             ? value
                             : arith::TruncFOp::create(b, l, half, value);
                };
                Value x = narrowed(values[0]), w = narrowed(values[1]);
                Value term = arith::MulFOp::create(b, l, x, w);
                linalg::YieldOp::create(
                    b, l,
                    arith::AddFOp::create(b, l, values[2], term).getResult());
              })
              .getResult(0);
    }
    auto fill = init.getDefiningOp<linalg::FillOp>();
    if (fill && matchPattern(fill.getInputs()[0], m_AnyZeroFloat()))
      return readNarrow(result, product);
    // What it starts from is added in f32.
    Value sum = elementwise(
        b, location, cast<RankedTensorType>(result.getType()), {product, init},
        [](OpBuilder &b, Location l, ValueRange v) -> Value {
          Value wide = arith::ExtFOp::create(b, l, v[1].getType(), v[0]);
          return arith::AddFOp::create(b, l, v[1], wide);
        });
    result.replaceAllUsesWith(sum);
  }

  /// A value in f16, rounded where it is made. Views are views of what is
  /// rounded.
  Value rounded(Value value, Location location) {
    if (Value known = narrowOf.lookup(value))
      return known;
    Operation *op = value.getDefiningOp();
    OpBuilder b(block.getParentOp());
    op ? b.setInsertionPointAfter(op) : b.setInsertionPointToStart(&block);
    RankedTensorType type = halfOf(value);
    Value result;
    DenseElementsAttr elements;
    FloatAttr scalar;
    if (auto view = dyn_cast_if_present<tensor::CollapseShapeOp>(op)) {
      result = tensor::CollapseShapeOp::create(b, op->getLoc(), type,
                                               rounded(view.getSrc(), location),
                                               view.getReassociationIndices());
    } else if (auto view = dyn_cast_if_present<tensor::ExpandShapeOp>(op)) {
      result = tensor::ExpandShapeOp::create(b, op->getLoc(), type,
                                             rounded(view.getSrc(), location),
                                             view.getReassociationIndices());
    } else if (auto slice = dyn_cast_if_present<tensor::ExtractSliceOp>(op)) {
      result = tensor::ExtractSliceOp::create(
          b, op->getLoc(), type, rounded(slice.getSource(), location),
          slice.getMixedOffsets(), slice.getMixedSizes(),
          slice.getMixedStrides());
    } else if (auto slice = dyn_cast_if_present<tensor::InsertSliceOp>(op)) {
      Value source = rounded(slice.getSource(), location),
            array = rounded(slice.getDest(), location);
      result = tensor::InsertSliceOp::create(
          b, op->getLoc(), source, array, slice.getMixedOffsets(),
          slice.getMixedSizes(), slice.getMixedStrides());
    } else if (isa_and_present<tensor::EmptyOp>(op)) {
      result = tensor::EmptyOp::create(b, op->getLoc(), type.getShape(), half);
    } else if (matchPattern(value, m_Constant(&elements))) {
      auto narrowed = elements.mapValues(half, [&](const APFloat &wide) {
        return toHalf(wide).bitcastToAPInt();
      });
      result = arith::ConstantOp::create(b, op->getLoc(), narrowed);
    } else if (auto fill = dyn_cast_if_present<linalg::FillOp>(op);
               fill && matchPattern(fill.getInputs()[0], m_Constant(&scalar))) {
      Value constant = arith::ConstantOp::create(
          b, op->getLoc(), b.getFloatAttr(half, toHalf(scalar.getValue())));
      Value empty =
          tensor::EmptyOp::create(b, op->getLoc(), type.getShape(), half);
      result =
          linalg::FillOp::create(b, op->getLoc(), constant, empty).getResult(0);
    } else {
      result =
          elementwise(b, op ? op->getLoc() : location, type, value,
                      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
                        return arith::TruncFOp::create(b, l, half, v[0]);
                      });
      roundings.push_back(result.getDefiningOp<linalg::GenericOp>());
    }
    return narrowOf[value] = result;
  }

  APFloat toHalf(APFloat value) {
    bool losesInfo = false;
    value.convert(half.getFloatSemantics(), APFloat::rmNearestTiesToEven,
                  &losesInfo);
    return value;
  }

  /// Makes all that reads a product read it in f16. Other products find it
  /// when they are narrowed.
  void readNarrow(Value wide, Value narrow) {
    narrowOf[wide] = narrow;
    Value widened;
    for (OpOperand &use : llvm::make_early_inc_range(wide.getUses())) {
      Operation *user = use.getOwner();
      auto linalgOp = dyn_cast<linalg::LinalgOp>(user);
      bool isInput = linalgOp && linalgOp.isDpsInput(&use);
      if (isInput && products.contains(user))
        continue;
      if (isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp,
              tensor::ExtractSliceOp>(user)) {
        readNarrow(user->getResult(0),
                   rounded(user->getResult(0), user->getLoc()));
        continue;
      }
      if (auto generic = dyn_cast<linalg::GenericOp>(user);
          isInput && generic && !td::accumulatesProducts(generic)) {
        widenWhereRead(generic, use, narrow);
        continue;
      }
      if (!widened) {
        OpBuilder b(block.getParentOp());
        b.setInsertionPointAfterValue(narrow);
        auto type = cast<RankedTensorType>(wide.getType());
        widened = elementwise(
            b, wide.getLoc(), type, narrow,
            [&](OpBuilder &b, Location l, ValueRange v) -> Value {
              return arith::ExtFOp::create(b, l, type.getElementType(), v[0]);
            });
      }
      use.set(widened);
    }
  }

  void widenWhereRead(linalg::GenericOp op, OpOperand &use, Value narrow) {
    use.set(narrow);
    BlockArgument argument = op.getMatchingBlockArgument(&use);
    Type type = argument.getType();
    argument.setType(half);
    if (argument.use_empty())
      return; // there for its size
    OpBuilder b = OpBuilder::atBlockBegin(op.getBody());
    auto wide = arith::ExtFOp::create(b, op.getLoc(), type, argument);
    argument.replaceAllUsesExcept(wide, wide);
  }

  /// A rounding becomes a further result of the element-wise op whose result it
  /// rounds, or the only one.
  void joinWithProducer(linalg::GenericOp rounding) {
    auto source = dyn_cast<OpResult>(rounding.getInputs()[0]);
    auto producer =
        source ? dyn_cast<linalg::GenericOp>(source.getOwner()) : nullptr;
    if (!producer || producer.getNumReductionLoops() != 0)
      return;
    AffineMap map = producer.getIndexingMapMatchingResult(source);
    if (!map.isPermutation())
      return;
    unsigned index = source.getResultNumber();
    bool only = source.hasOneUse() && !producer.payloadUsesValueFromOperand(
                                          producer.getDpsInitOperand(index));
    OpBuilder b(producer);
    RankedTensorType type = halfOf(source);
    Value empty =
        tensor::EmptyOp::create(b, rounding.getLoc(), type.getShape(), half);
    SmallVector<Value> outputs(producer.getOutputs());
    SmallVector<Type> types(producer.getResultTypes());
    SmallVector<AffineMap> maps = producer.getIndexingMapsArray();
    if (only) {
      outputs[index] = empty;
      types[index] = type;
    } else {
      outputs.push_back(empty);
      types.push_back(type);
      maps.push_back(map);
    }
    auto joined = linalg::GenericOp::create(b, producer.getLoc(), types,
                                            producer.getInputs(), outputs, maps,
                                            producer.getIteratorTypesArray());
    joined->setDiscardableAttrs(producer->getDiscardableAttrDictionary());
    joined.getRegion().takeBody(producer.getRegion());
    Block *body = joined.getBody();
    auto yield = cast<linalg::YieldOp>(body->getTerminator());
    OpBuilder inside(yield);
    Value narrowed = arith::TruncFOp::create(inside, rounding.getLoc(), half,
                                             yield.getOperand(index));
    if (only) {
      body->getArgument(joined.getNumDpsInputs() + index).setType(half);
      yield->setOperand(index, narrowed);
    } else {
      body->addArgument(half, rounding.getLoc());
      yield->insertOperands(yield->getNumOperands(), narrowed);
    }
    rounding.getResult(0).replaceAllUsesWith(
        joined.getResult(only ? index : joined.getNumResults() - 1));
    rounding.erase();
    for (OpResult result : producer->getResults())
      if (!only || result.getResultNumber() != index)
        result.replaceAllUsesWith(joined.getResult(result.getResultNumber()));
    producer.erase();
  }

  void eraseDead() {
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
      if (isOpTriviallyDead(&op)) {
        llvm::erase_if(roundings, [&](linalg::GenericOp rounding) {
          return rounding.getOperation() == &op;
        });
        op.erase();
      }
  }

  Block &block;
  FloatType half;
  llvm::SetVector<Operation *> products;
  llvm::DenseMap<Value, Value> narrowOf;
  SmallVector<linalg::GenericOp> roundings;
};

struct NarrowProducts : td::impl::NarrowProductsBase<NarrowProducts> {
  using NarrowProductsBase::NarrowProductsBase;

  void runOnOperation() override {
    func::FuncOp step = getOperation();
    if (step.isDeclaration())
      return;
    narrowed += Narrowing(step).run();
    if (failed(verifyDecomposed(step)))
      signalPassFailure();
  }
};
} // namespace
