#include "passes/ZerothOrder.h"

#include "dialects/Train/Structured.h"
#include <cmath>

using namespace mlir;
using namespace td;
using namespace td::train;

namespace {
/// Arithmetic on scalars in a body.
struct Scalars {
  OpBuilder &b;
  Location l;
  Type type;

  Value number(double value) const { return scalar(b, l, type, value); }
  Value add(Value x, Value y) const {
    return arith::AddFOp::create(b, l, x, y);
  }
  Value sub(Value x, Value y) const {
    return arith::SubFOp::create(b, l, x, y);
  }
  Value mul(Value x, double y) const {
    return arith::MulFOp::create(b, l, x, number(y));
  }
  Value equal(Value x, double y) const {
    return arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, x, number(y));
  }
  Value both(Value x, Value y) const {
    return arith::AndIOp::create(b, l, x, y);
  }
  Value either(Value x, Value y) const {
    return arith::OrIOp::create(b, l, x, y);
  }
  Value select(Value condition, Value x, Value y) const {
    return arith::SelectOp::create(b, l, condition, x, y);
  }
  Value select(Value condition, double x, double y) const {
    return select(condition, number(x), number(y));
  }
};
} // namespace

FailureOr<ZerothOrder::Numbers>
ZerothOrder::insert(OpBuilder &builder, func::FuncOp step, Value rate) const {
  auto module = step->getParentOfType<ModuleOp>();
  Location loc = NameLoc::get(builder.getStringAttr("differences of the loss"));
  auto type = cast<RankedTensorType>(rate.getType());
  Value loss = step.getBody().front().getTerminator()->getOperand(0);
  SmallVector<Value> inputs = {loss, rate};
  if (!oneSided) {
    unsigned index = step.getNumArguments();
    if (failed(step.insertArgument(
            index, type,
            builder.getDictionaryAttr(builder.getNamedAttr(
                "train.name", builder.getStringAttr("perturb"))),
            step.getLoc())))
      return failure();
    inputs.push_back(step.getArgument(index));
  }
  unsigned arguments = inputs.size();

  // side: 0, the run is at the parameters themselves; 1, it is beside them; 2,
  // on the other side. direction: its number in all runs. loss: the one that a
  // difference is with. part: its number in the update. slopes: along those of
  // the update that are done.
  SmallVector<std::string> names = {"side", "direction", "loss"};
  if (directions > 1)
    names.push_back("part");
  for (int64_t i = 1; i < directions; ++i)
    names.push_back("slope" + std::to_string(i));
  SmallVector<FlatSymbolRefAttr> symbols;
  {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(step);
    for (StringRef name : names) {
      std::string symbol = ("optimizer." + name).str();
      if (module.lookupSymbol(symbol))
        return step.emitError() << "the name '" << symbol << "' is taken";
      auto state = ParameterOp::create(
          builder, loc, builder.getStringAttr(symbol), TypeAttr::get(type),
          UnitAttr(), FlatSymbolRefAttr(), DenseI64ArrayAttr(),
          builder.getStringAttr(name), FloatAttr(), FlatSymbolRefAttr());
      symbols.push_back(FlatSymbolRefAttr::get(state.getSymNameAttr()));
    }
  }
  for (FlatSymbolRefAttr symbol : symbols)
    inputs.push_back(ReadOp::create(builder, loc, type, symbol));
  unsigned count = 5 + (directions > 1 ? 1 : 0) + (directions - 1);
  Value empty = tensor::EmptyOp::create(builder, loc, ArrayRef<int64_t>(),
                                        type.getElementType());
  SmallVector<Value> results = structured(
      builder, loc, inputs,
      SmallVector<Value>(1 + count + symbols.size(), empty),
      SmallVector<AffineMap>(inputs.size() + 1 + count + symbols.size(),
                             builder.getMultiDimIdentityMap(0)),
      {}, [&](OpBuilder &b, Location l, ValueRange values) {
        Scalars s{b, l, type.getElementType()};
        Value loss = values[0], rate = values[1];
        ValueRange before = values.slice(arguments, symbols.size());
        Value side = before[0], direction = before[1], other = before[2];
        Value atStart = s.equal(side, 0.0);
        Value measures = s.equal(side, oneSided ? 1.0 : 2.0);
        Value last = measures;
        if (directions > 1)
          last = s.both(measures, s.equal(before[3], double(directions)));
        Value slope = oneSided ? s.mul(s.sub(loss, other), 1.0 / distance)
                               : s.mul(s.sub(other, loss), 0.5 / distance);
        Value here, next, nextSide, nextDirection, nextLoss;
        if (oneSided) {
          here = s.select(atStart, 0.0, -distance);
          next = s.select(last, 0.0, distance);
          nextSide = s.select(last, 0.0, 1.0);
          nextLoss = s.select(atStart, loss, other);
        } else {
          Value turns = s.equal(side, 1.0), starts = s.either(last, atStart);
          Value ends = s.both(starts, s.equal(values[2], 0.0));
          here = s.select(measures, s.number(distance),
                          s.select(turns, -2.0 * distance, 0.0));
          next = s.select(s.either(turns, ends), 0.0, distance);
          nextSide = s.select(turns, s.number(2.0), s.select(ends, 0.0, 1.0));
          nextLoss = loss;
        }
        nextDirection =
            s.select(measures, s.add(direction, s.number(1.0)), direction);
        // At the parameters themselves there is none: the next one is the one
        // whose number the state has.
        Value current =
            s.select(atStart, s.sub(direction, s.number(1.0)), direction);
        SmallVector<Value> made = {s.select(last, rate, s.number(0.0)),
                                   s.select(last, 1.0, 0.0),
                                   here,
                                   next,
                                   current,
                                   s.mul(slope, 1.0 / double(directions))};
        SmallVector<Value> after = {nextSide, nextDirection, nextLoss};
        if (directions > 1) {
          Value moves = s.either(
              last, arith::CmpFOp::create(b, l, arith::CmpFPredicate::UNE, next,
                                          s.number(0.0)));
          made.push_back(s.select(moves, 1.0, 0.0));
          Value onward = s.add(before[3], s.number(1.0));
          Value fresh = oneSided ? atStart : s.either(last, atStart);
          after.push_back(s.select(
              fresh, s.number(1.0),
              oneSided ? onward : s.select(measures, onward, before[3])));
          for (int64_t i = 1; i < directions; ++i) {
            made.push_back(s.mul(before[3 + i], 1.0 / double(directions)));
            after.push_back(
                s.select(s.both(measures, s.equal(before[3], double(i))), slope,
                         before[3 + i]));
          }
        }
        llvm::append_range(made, after);
        return made;
      });
  for (auto [symbol, value] :
       llvm::zip(symbols, ArrayRef<Value>(results).take_back(symbols.size())))
    AssignOp::create(builder, loc, symbol, value);
  return Numbers{
      results[0], results[1],
      SmallVector<Value>(ArrayRef<Value>(results).slice(2, count - 1))};
}

/// Of mean 0 and variance 1: the sum of the four bytes of a hash, whose mean is
/// 510 and variance 4 (2^16 - 1) / 12, or a sign.
Value ZerothOrder::drawn(OpBuilder &b, Location l, Value direction,
                         Value position, Type type) const {
  auto constant = [&](uint32_t value) -> Value {
    return arith::ConstantOp::create(
        b, l, b.getI32IntegerAttr(static_cast<int32_t>(value)));
  };
  Value hash = hashed(b, l, direction, seed, position);
  if (signs) {
    Value bits = arith::OrIOp::create(
        b, l, arith::AndIOp::create(b, l, hash, constant(0x80000000)),
        constant(0x3F800000));
    Value sign = arith::BitcastOp::create(b, l, b.getF32Type(), bits);
    return type.isF32() ? sign : arith::ExtFOp::create(b, l, type, sign);
  }
  Value pairs = arith::AddIOp::create(
      b, l, arith::AndIOp::create(b, l, hash, constant(0x00FF00FF)),
      arith::AndIOp::create(b, l,
                            arith::ShRUIOp::create(b, l, hash, constant(8)),
                            constant(0x00FF00FF)));
  Value sum = arith::ShRUIOp::create(
      b, l, arith::MulIOp::create(b, l, pairs, constant(0x00010001)),
      constant(16));
  Value centered = arith::AddIOp::create(b, l, sum, constant(-510));
  return arith::MulFOp::create(b, l,
                               arith::SIToFPOp::create(b, l, type, centered),
                               scalar(b, l, type, 1.0 / std::sqrt(21845.0)));
}

ZerothOrder::Element ZerothOrder::element(OpBuilder &b, Location l,
                                          ValueRange numbers, Value value,
                                          ParameterOp parameter,
                                          uint64_t first) const {
  Type type = value.getType(), integer = b.getI32Type();
  Scalars s{b, l, type};
  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantOp::create(
        b, l, b.getI32IntegerAttr(static_cast<int32_t>(value)));
  };
  // The position in row-major order of the model's tensor.
  RankedTensorType stored = parameter.getType();
  SmallVector<int64_t> loops =
      llvm::to_vector(llvm::seq<int64_t>(stored.getRank()));
  if (std::optional<ArrayRef<int64_t>> layout = parameter.getLayout())
    for (auto [loop, axis] : llvm::enumerate(*layout))
      loops[axis] = loop;
  Value position = constant(0);
  for (int64_t loop : loops) {
    Value index = arith::IndexCastOp::create(
        b, l, integer, linalg::IndexOp::create(b, l, loop));
    position = arith::AddIOp::create(
        b, l,
        arith::MulIOp::create(b, l, position,
                              constant(stored.getDimSize(loop))),
        index);
  }
  position = arith::AddIOp::create(b, l, position, constant(first));
  Value here = numbers[0], next = numbers[1], slope = numbers[3];
  Value direction = arith::FPToSIOp::create(b, l, integer, numbers[2]);
  auto beside = [&](int64_t offset) -> Value {
    return drawn(b, l, arith::AddIOp::create(b, l, direction, constant(offset)),
                 position, type);
  };
  Value current = drawn(b, l, direction, position, type);
  // What most runs do not need is computed in the others only.
  Value idle = s.equal(directions > 1 ? numbers[4] : next, 0.0);
  Element result;
  result.distance = next;
  result.direction = s.select(idle, s.number(0.0), beside(1));
  result.restored = math::FmaOp::create(b, l, here, current, value);
  result.gradient = arith::MulFOp::create(b, l, slope, current);
  if (directions > 1) {
    Value sum = result.gradient;
    for (int64_t i = 1; i < directions; ++i)
      sum = math::FmaOp::create(b, l, numbers[4 + i], beside(i - directions),
                                sum);
    result.gradient = s.select(idle, result.gradient, sum);
  }
  return result;
}

Value ZerothOrder::Element::perturbed(OpBuilder &b, Location l,
                                      Value value) const {
  return math::FmaOp::create(b, l, distance, direction, value);
}
