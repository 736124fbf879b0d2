#include "lib/Kernels/MathExpansion.h"

#include "dialects/Train/Structured.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/MapVector.h"
#include <cmath>

using namespace mlir;

namespace td {

namespace {

// Polynomials, lowest degree first: output of tools/fit_math.py.
constexpr float expCoefficients[] = {0x1p-1f, 0x1.5554b6p-3f, 0x1.5555aap-5f,
                                     0x1.12240ep-7f, 0x1.6c6804p-10f};
constexpr float exp2Coefficients[] = {0x1.62e430p-1f,  0x1.ebfbdep-3f,
                                      0x1.c6afa4p-5f,  0x1.3b2c3ap-7f,
                                      0x1.5ef14cp-10f, 0x1.429a38p-13f};
constexpr float logCoefficients[] = {
    0x1.555554p-2f, -0x1.000226p-2f, 0x1.99a01cp-3f, -0x1.54728ap-3f,
    0x1.22d92ep-3f, -0x1.0d8242p-3f, 0x1.055ec6p-3f, -0x1.38c9dep-4f};
constexpr float erfCoefficients[] = {
    -0x1.a0be84p+0f,  -0x1.d63e62p-1f,  -0x1.2fc338p-3f, 0x1.c85498p-6f,
    -0x1.15f52cp-12f, -0x1.df40c8p-10f, 0x1.243996p-11f, -0x1.f54978p-15f};
constexpr float log2e = 0x1.715476p+0f;
constexpr float ln2High = 0x1.62e430p-1f,
                ln2Low = -0x1.05c610p-29f; // their sum is ln 2
// The first part times an exponent is exact.
constexpr float ln2Short = 0x1.63p-1f, ln2Rest = -0x1.bd0106p-13f;
// Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
constexpr float roundingShift = 12582912.0f;
constexpr int32_t roundingShiftBits = 0x4B400000;
constexpr int32_t oneBits = 0x3F800000;
constexpr int32_t signBit = INT32_MIN, infinityBits = 0x7F800000;
constexpr float infinity = std::numeric_limits<float>::infinity();

// log m = 2 s + s^3 P(s^2) with s = (m - 1) / (m + 1).
constexpr float atanhCoefficients[] = {0x1.555556p-1f, 0x1.99999ap-2f,
                                       0x1.24924ap-2f, 0x1.c71c72p-3f,
                                       0x1.745d18p-3f};

/// Polynomials of fourth degree for intervals that have a multiple of 1 / scale
/// in the middle, `side` of them on either side of zero's. The coefficients of
/// all rows follow each other by degree, highest first.
template <unsigned side> struct Table {
  static constexpr unsigned rows = 2 * side + 1;
  float scale;
  float coefficients[5 * rows];
};
#include "lib/Kernels/GeluTables.inc"

struct TableView {
  StringRef symbol;
  float scale;
  unsigned side;
  ArrayRef<float> coefficients;
  bool limits; // the function has a finite value, or x times one, at infinities

  int64_t bytes() const { return 4 * coefficients.size(); }
  static TableView get(Tabulated function) {
    auto view = [](StringRef symbol, const auto &table, bool limits) {
      constexpr unsigned rows = std::decay_t<decltype(table)>::rows;
      return TableView{symbol, table.scale, rows / 2, table.coefficients,
                       limits};
    };
    return function == Tabulated::Gelu
               ? view("td_table_gelu", geluTable, true)
               : view("td_table_gelu_slope", geluSlopeTable, false);
  }
};
constexpr llvm::StringLiteral tableSection = ".tables";

/// Short names for building f32 and i32 arithmetic. No branches, and no
/// selections but where a function has exceptional values. Two cores share a
/// floating-point unit, so what integers can do as cheaply is left to them:
/// signs, and bounds by the order of bit patterns.
class Expander {
public:
  Expander(OpBuilder &b, Location loc) : b(b), loc(loc) {}

  Value exp(Value x) {
    Reduced reduced = reduce(clamp(x, -104.0f, 89.0f));
    Value y = exponential(reduced.rest);
    // 2^n in two steps: the first keeps y normal, so that a subnormal result is
    // rounded once.
    Value half = shiftRight(reduced.n, 1);
    Value first = asReal(addInt(bits(y), shiftLeft(half, 23)));
    return orNaN(mul(first, powerOfTwo(subInt(reduced.n, half))), x);
  }

  /// Of a difference that is not positive. 2^64 of the result is normal, so one
  /// step leaves the rounding to a product. NaN goes its own way: what the
  /// cores compute has no sign, so as an integer it is below what is bounded.
  Value expOfNonPositive(Value x) {
    Value bounded =
        asReal(arith::MinUIOp::create(b, loc, bits(x), bitsOf(-104.0f)));
    Value shift = real(roundingShift + 64.0f);
    Value shifted = fma(bounded, real(log2e), shift);
    Value minusN = sub(shift, shifted);
    Value rest = fma(minusN, real(ln2Short), bounded);
    rest = fma(minusN, real(ln2Rest), rest);
    Value scaled =
        addInt(bits(exponential(rest)), shiftLeft(bits(shifted), 23));
    return mul(asReal(scaled), real(0x1p-64f));
  }

  Value expm1(Value x) {
    Reduced reduced = reduce(clamp(x, -25.0f, 89.0f));
    // Half of the result first: 2^128 is no float.
    Value scale = powerOfTwo(subInt(reduced.n, integer(1)));
    Value half =
        fma(exponentialLessOne(reduced.rest), scale, add(scale, real(-0.5f)));
    return orNaN(copySign(add(half, half), x), x);
  }

  /// tanh |x| = t / (t + 2) with t = expm1(2 |x|), which loses nothing for
  /// small x. tanh 10 rounds to 1.
  Value tanh(Value x) {
    Value magnitude = magnitudeBits(x);
    Value bounded = atMost(magnitude, 10.0f);
    PowerOfTwo power = powerLessOne(bounded, real(2 * log2e));
    Value t =
        fma(power.rest, power.scale, negate(sub(real(1.0f), power.scale)));
    return withSign(quotient(t), x, magnitude);
  }

  Value log(Value x) {
    // A subnormal is scaled by 2^25 to a normal number.
    Value tiny = compare(arith::CmpFPredicate::OLT, x, real(0x1p-126f));
    Value scaled = mul(x, select(tiny, real(0x1p25f), real(1.0f)));
    Value shift = select(tiny, integer(25), integer(0));
    Value exponent = exponentOf(scaled);
    Value f = add(mantissaOf(scaled, exponent), real(-1.0f));
    return logSpecial(logOf(f, subInt(exponent, shift)), x);
  }

  /// With u = 1 + x rounded and c what rounding lost, log(1+x) = log(u + c).
  Value log1p(Value x) {
    Value u = add(x, real(1.0f));
    Value c = sub(x, add(u, real(-1.0f)));
    Value exponent = exponentOf(u);
    // c matters only where u is below 2^25.
    Value large = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sgt,
                                        exponent, integer(100));
    Value scale =
        select(large, real(0.0f), powerOfTwo(subInt(integer(0), exponent)));
    Value f = fma(c, scale, add(mantissaOf(u, exponent), real(-1.0f)));
    return copySign(logSpecial(logOf(f, exponent), u), x);
  }

  Value rsqrt(Value x) {
    return arith::DivFOp::create(b, loc, real(1.0f),
                                 math::SqrtOp::create(b, loc, x));
  }

  /// erf |x| = 1 - 2^p = (1 - 2^n) - 2^n (2^r - 1) with p = |x| Q(|x|) = n + r,
  /// which loses nothing for small x. erf 4 rounds to 1.
  Value erf(Value x) {
    Value magnitude = magnitudeBits(x);
    Value bounded = atMost(magnitude, 4.0f);
    PowerOfTwo power =
        powerLessOne(bounded, polynomial(bounded, erfCoefficients));
    Value result =
        fma(negate(power.scale), power.rest, sub(real(1.0f), power.scale));
    return withSign(result, x, magnitude);
  }

  /// x^y: e^(y log x), with log x and the product in two parts each. A negative
  /// number has whole powers only.
  Value pow(Value x, float y) {
    if (y == 0.0f)
      return real(1.0f);
    Value size = asReal(magnitudeBits(x));
    Parts log = logInParts(size);
    Value product = mul(log.high, real(y));
    Value rest = fma(log.high, real(y), negate(product));
    rest = fma(log.low, real(y), rest);
    // Where the exponential is 0 or infinite, what is left over is so, too.
    Value bounded = clamp(product, -110.0f, 95.0f);
    Value ordinary = compare(arith::CmpFPredicate::OEQ, bounded, product);
    rest = select(ordinary, rest, real(0.0f));
    // The rest of a large exponential is added to its half: the sum may be a
    // float where the exponential rounds to infinity, and the reverse.
    Value root = exp(mul(bounded, real(0.5f)));
    Value result = mul(root, fma(root, rest, root));
    result = select(compare(arith::CmpFPredicate::OEQ, size, real(0.0f)),
                    real(y > 0.0f ? 0.0f : infinity), result);
    result = select(compare(arith::CmpFPredicate::OEQ, size, real(infinity)),
                    real(y > 0.0f ? infinity : 0.0f), result);
    bool whole = y == std::trunc(y);
    if (whole && std::fmod(y, 2.0f) != 0.0f)
      result = copySign(result, x);
    if (whole)
      return orNaN(result, x);
    Value negative = compare(arith::CmpFPredicate::OLT, x, real(0.0f));
    Value none = compare(arith::CmpFPredicate::OEQ, size, real(infinity));
    // As IEEE 754 has it: infinity of either sign has all powers.
    return select(arith::AndIOp::create(
                      b, loc, negative,
                      arith::XOrIOp::create(b, loc, none,
                                            arith::ConstantOp::create(
                                                b, loc, b.getBoolAttr(true)))),
                  real(std::numeric_limits<float>::quiet_NaN()),
                  orNaN(result, x));
  }

  /// GELU, or its slope: a polynomial of x less the middle of its interval.
  Value tabulated(Value x, const TableView &table, Value address) {
    // Adding 1.5 * 2^23 / scale leaves the nearest multiple of 1 / scale; its
    // bits count the rows.
    float shift = roundingShift / table.scale;
    int32_t shiftBits = llvm::bit_cast<int32_t>(shift);
    int32_t side = table.side;
    float bound = table.side / table.scale;
    // A slope has no value at infinity, as x phi(x) is computed.
    Value inside = table.limits ? clamp(x, -bound, bound) : x;
    Value shifted = add(inside, real(shift));
    if (!table.limits) {
      Value below = arith::MinSIOp::create(b, loc, bits(shifted),
                                           integer(shiftBits + side));
      shifted = asReal(
          arith::MaxSIOp::create(b, loc, below, integer(shiftBits - side)));
    }
    Value r = sub(inside, sub(shifted, real(shift)));
    // One sum of constants, ahead of the loops.
    auto offset = [&](Value pointer, LLVM::GEPArg bytes) -> Value {
      return LLVM::GEPOp::create(b, loc, pointer.getType(), b.getI8Type(),
                                 pointer, ArrayRef<LLVM::GEPArg>{bytes});
    };
    int32_t first = static_cast<int32_t>(
        4u * (static_cast<uint32_t>(side) - static_cast<uint32_t>(shiftBits)));
    Value row =
        offset(offset(address, integer(first)), shiftLeft(bits(shifted), 2));
    Value result;
    int32_t bytes = table.bytes() / 5;
    for (int32_t degree = 4; degree >= 0; --degree) {
      Value c = LLVM::LoadOp::create(b, loc, b.getF32Type(),
                                     offset(row, bytes * (4 - degree)));
      result = result ? fma(result, r, c) : c;
    }
    return table.limits ? mul(x, result) : result;
  }

private:
  /// high + low, the second below half a unit of the first's last place.
  struct Parts {
    Value high, low;
  };
  Parts logInParts(Value x) {
    Value tiny = compare(arith::CmpFPredicate::OLT, x, real(0x1p-126f));
    Value scaled = mul(x, select(tiny, real(0x1p25f), real(1.0f)));
    Value exponent = exponentOf(scaled);
    Value f = add(mantissaOf(scaled, exponent), real(-1.0f));
    exponent = subInt(exponent, select(tiny, integer(25), integer(0)));
    Value k = arith::SIToFPOp::create(b, loc, b.getF32Type(), exponent);
    // s = f / (2 + f) in two parts; what 2 + f loses enters the second.
    Value d = add(f, real(2.0f));
    Value dRest = sub(f, sub(d, real(2.0f)));
    Value s = arith::DivFOp::create(b, loc, f, d);
    Value minusS = negate(s);
    Value remainder = fma(minusS, dRest, fma(minusS, d, f));
    Value sRest = arith::DivFOp::create(b, loc, remainder, d);
    Value square = mul(s, s);
    Value series = mul(mul(square, s), polynomial(square, atanhCoefficients));
    // k ln 2 + 2 s, and what the sum loses; the first part of k ln 2 is exact.
    Value whole = mul(k, real(ln2Short)), twice = add(s, s);
    Value high = add(whole, twice);
    Value part = sub(high, whole);
    Value lost = add(sub(whole, sub(high, part)), sub(twice, part));
    Value low = fma(sRest, real(2.0f), fma(k, real(ln2Rest), lost));
    low = add(low, series);
    Value sum = add(high, low);
    return {sum, sub(low, sub(sum, high))};
  }
  /// x = n ln 2 + rest
  struct Reduced {
    Value n, rest;
  };
  Reduced reduce(Value x) {
    Value shifted = fma(x, real(log2e), real(roundingShift));
    Value minusN = sub(real(roundingShift), shifted);
    Value rest = fma(minusN, real(ln2Short), x);
    rest = fma(minusN, real(ln2Rest), rest);
    return {subInt(bits(shifted), integer(roundingShiftBits)), rest};
  }
  /// 2^(x y) = scale (1 + rest)
  struct PowerOfTwo {
    Value scale, rest;
  };
  PowerOfTwo powerLessOne(Value x, Value y) {
    // A constant less something keeps LLVM from making its negative, one more
    // constant.
    Value shifted = fma(x, y, real(roundingShift));
    Value r = fma(x, y, sub(real(roundingShift), shifted));
    // The shift's own bits leave on the left.
    return {powerOfTwo(bits(shifted)), mul(r, polynomial(r, exp2Coefficients))};
  }
  /// e^r - 1 for |r| <= ln 2 / 2
  Value exponentialLessOne(Value r) {
    return fma(polynomial(r, expCoefficients), mul(r, r), r);
  }

  /// e^r for |r| <= ln 2 / 2
  Value exponential(Value r) {
    Value result = polynomial(r, expCoefficients);
    result = fma(result, r, real(1.0f));
    return fma(result, r, real(1.0f));
  }

  /// The exponent that puts the mantissa between sqrt(1/2) and sqrt 2.
  Value exponentOf(Value x) {
    return shiftRight(subInt(bits(x), integer(0x3F3504F3)), 23);
  }
  Value mantissaOf(Value x, Value exponent) {
    return asReal(subInt(bits(x), shiftLeft(exponent, 23)));
  }
  /// log((1 + f) 2^exponent)
  Value logOf(Value f, Value exponent) {
    Value k = arith::SIToFPOp::create(b, loc, b.getF32Type(), exponent);
    Value square = mul(f, f);
    Value rest = fma(mul(square, f), polynomial(f, logCoefficients),
                     mul(square, real(-0.5f)));
    rest = fma(k, real(ln2Low), rest);
    return fma(k, real(ln2High), add(f, rest));
  }
  /// The logarithm of x where it is no positive number.
  Value logSpecial(Value result, Value x) {
    result = select(compare(arith::CmpFPredicate::OEQ, x, real(infinity)),
                    real(infinity), result);
    result = select(compare(arith::CmpFPredicate::OEQ, x, real(0.0f)),
                    real(-infinity), result);
    return orNaNUnless(compare(arith::CmpFPredicate::OGE, x, real(0.0f)),
                       result);
  }

  /// t / (t + 2) for t between 0 and 2^64: a reciprocal by two steps of third
  /// order from a linear guess; then the quotient is corrected by its
  /// remainder, which does not inherit the rounding of t + 2.
  Value quotient(Value t) {
    Value d = add(t, real(2.0f));
    Value reciprocal = asReal(subInt(integer(0x7EF311C7), bits(d)));
    Value minus = negate(d);
    for (int step = 0; step < 2; ++step) {
      Value error = fma(minus, reciprocal, real(1.0f));
      reciprocal = fma(reciprocal, fma(error, error, error), reciprocal);
    }
    Value q = mul(t, reciprocal);
    Value remainder = fma(negate(q), t, fma(q, real(-2.0f), t));
    return fma(remainder, reciprocal, q);
  }

  template <size_t n>
  Value polynomial(Value x, const float (&coefficients)[n]) {
    Value result = real(coefficients[n - 1]);
    for (size_t i = n - 1; i-- > 0;)
      result = fma(result, x, real(coefficients[i]));
    return result;
  }

  /// Some number between the bounds for NaN.
  Value clamp(Value x, float low, float high) {
    // As integers, what exceeds a positive number is positive; without signs,
    // what exceeds a negative one is a larger negative one.
    Value below = arith::MinSIOp::create(b, loc, bits(x), bitsOf(high));
    return asReal(arith::MinUIOp::create(b, loc, below, bitsOf(low)));
  }
  Value magnitudeBits(Value x) {
    return arith::AndIOp::create(b, loc, bits(x), integer(~signBit));
  }
  Value atMost(Value magnitude, float bound) {
    return asReal(arith::MinUIOp::create(b, loc, magnitude, bitsOf(bound)));
  }
  /// A positive result with the sign of x; NaN for NaN.
  Value withSign(Value result, Value x, Value magnitude) {
    Value sign = arith::AndIOp::create(b, loc, bits(x), integer(signBit));
    Value isNaN = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ugt,
                                        magnitude, integer(infinityBits));
    // All ones are a NaN.
    Value mark = arith::OrIOp::create(
        b, loc, sign, arith::ExtSIOp::create(b, loc, b.getI32Type(), isNaN));
    return asReal(arith::OrIOp::create(b, loc, bits(result), mark));
  }

  Value orNaN(Value result, Value x) {
    return orNaNUnless(compare(arith::CmpFPredicate::ORD, x, x), result);
  }
  Value orNaNUnless(Value condition, Value result) {
    return select(condition, result,
                  real(std::numeric_limits<float>::quiet_NaN()));
  }

  Value real(float value) {
    return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value));
  }
  Value bitsOf(float value) { return integer(llvm::bit_cast<int32_t>(value)); }
  Value integer(int32_t value) {
    return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value));
  }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value fma(Value x, Value y, Value z) {
    return math::FmaOp::create(b, loc, x, y, z);
  }
  Value negate(Value x) { return arith::NegFOp::create(b, loc, x); }
  Value copySign(Value x, Value sign) {
    return math::CopySignOp::create(b, loc, x, sign);
  }
  Value compare(arith::CmpFPredicate predicate, Value x, Value y) {
    return arith::CmpFOp::create(b, loc, predicate, x, y);
  }
  Value select(Value condition, Value x, Value y) {
    return arith::SelectOp::create(b, loc, condition, x, y);
  }
  Value bits(Value x) {
    return arith::BitcastOp::create(b, loc, b.getI32Type(), x);
  }
  Value asReal(Value x) {
    return arith::BitcastOp::create(b, loc, b.getF32Type(), x);
  }
  Value addInt(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
  Value subInt(Value x, Value y) { return arith::SubIOp::create(b, loc, x, y); }
  Value shiftLeft(Value x, int32_t by) {
    return arith::ShLIOp::create(b, loc, x, integer(by));
  }
  Value shiftRight(Value x, int32_t by) {
    return arith::ShRSIOp::create(b, loc, x, integer(by));
  }
  Value powerOfTwo(Value n) {
    return asReal(addInt(shiftLeft(n, 23), integer(oneBits)));
  }

  OpBuilder &b;
  Location loc;
};

} // namespace

Value expandMath(OpBuilder &b, Operation *op, ValueRange operands) {
  if (!isa<math::ExpOp, math::ExpM1Op, math::TanhOp, math::LogOp, math::Log1pOp,
           math::RsqrtOp, math::ErfOp, math::PowFOp>(op))
    return {};
  Type type = op->getResult(0).getType();
  if (!type.isF32() && !type.isF16())
    return {};
  Location loc = op->getLoc();
  Value x = operands.front();
  FloatAttr exponent;
  if (auto power = dyn_cast<math::PowFOp>(op);
      power && !matchPattern(power.getRhs(), m_Constant(&exponent)))
    return {};
  if (type.isF16())
    x = arith::ExtFOp::create(b, loc, b.getF32Type(), x);
  Expander expander(b, loc);
  Value result;
  if (isa<math::ExpOp>(op))
    result = op->hasAttr(train::nonPositiveAttrName)
                 ? expander.expOfNonPositive(x)
                 : expander.exp(x);
  else if (isa<math::ExpM1Op>(op))
    result = expander.expm1(x);
  else if (isa<math::TanhOp>(op))
    result = expander.tanh(x);
  else if (isa<math::LogOp>(op))
    result = expander.log(x);
  else if (isa<math::Log1pOp>(op))
    result = expander.log1p(x);
  else if (isa<math::RsqrtOp>(op))
    result = expander.rsqrt(x);
  else if (exponent)
    result = expander.pow(x, static_cast<float>(exponent.getValueAsDouble()));
  else
    result = expander.erf(x);
  if (type.isF16())
    result = arith::TruncFOp::create(b, loc, type, result);
  return result;
}

/// Whether `value` is this number, rounded to f32.
static bool isReal(Value value, double number) {
  FloatAttr attribute;
  return matchPattern(value, m_Constant(&attribute)) &&
         attribute.getType().isF32() &&
         attribute.getValue().convertToFloat() == static_cast<float>(number);
}

/// The other factor of a product with this constant.
static Value timesConstant(Value value, double constant) {
  auto product = value.getDefiningOp<arith::MulFOp>();
  if (!product)
    return {};
  if (isReal(product.getRhs(), constant))
    return product.getLhs();
  return isReal(product.getLhs(), constant) ? product.getRhs() : Value();
}

/// x if the value is Phi(x) = 0.5 erf(x / sqrt 2) + 0.5.
static Value matchDistribution(Value value) {
  auto sum = value.getDefiningOp<math::FmaOp>();
  if (!sum || !isReal(sum.getC(), 0.5))
    return {};
  bool first = isReal(sum.getA(), 0.5);
  if (!first && !isReal(sum.getB(), 0.5))
    return {};
  auto erf = (first ? sum.getB() : sum.getA()).getDefiningOp<math::ErfOp>();
  return erf ? timesConstant(erf.getOperand(), M_SQRT1_2) : Value();
}

/// Whether the value is phi(x) = e^(-x^2 / 2) / sqrt(2 pi).
static bool isDensity(Value value, Value x) {
  Value power = timesConstant(value, 0.5 * M_2_SQRTPI * M_SQRT1_2);
  auto exp = power ? power.getDefiningOp<math::ExpOp>() : math::ExpOp();
  Value squared = exp ? timesConstant(exp.getOperand(), -0.5) : Value();
  auto square =
      squared ? squared.getDefiningOp<arith::MulFOp>() : arith::MulFOp();
  return square && square.getLhs() == x && square.getRhs() == x;
}

static std::optional<TabulatedOp> matchTabulated(Operation &op) {
  if (auto product = dyn_cast<arith::MulFOp>(op))
    for (auto [x, other] : {std::pair(product.getLhs(), product.getRhs()),
                            std::pair(product.getRhs(), product.getLhs())})
      if (matchDistribution(other) == x)
        return TabulatedOp{Tabulated::Gelu, x, &op, {}};
  if (auto sum = dyn_cast<math::FmaOp>(op))
    if (Value x = matchDistribution(sum.getC()))
      if ((sum.getA() == x && isDensity(sum.getB(), x)) ||
          (sum.getB() == x && isDensity(sum.getA(), x)))
        return TabulatedOp{Tabulated::GeluSlope, x, &op, {}};
  return std::nullopt;
}

SmallVector<TabulatedOp> findTabulated(Block &block) {
  SmallVector<TabulatedOp> found;
  SmallPtrSet<Operation *, 16> taken;
  for (Operation &op : llvm::reverse(block)) {
    if (taken.contains(&op))
      continue;
    std::optional<TabulatedOp> match = matchTabulated(op);
    if (!match)
      continue;
    match->parts.push_back(&op);
    taken.insert(&op);
    for (unsigned i = 0; i < match->parts.size(); ++i)
      for (Value operand : match->parts[i]->getOperands()) {
        Operation *part = operand.getDefiningOp();
        if (part && part->getBlock() == &block && operand != match->x &&
            !part->hasTrait<OpTrait::ConstantLike>() && !taken.contains(part) &&
            llvm::all_of(part->getUsers(), [&](Operation *user) {
              return taken.contains(user);
            })) {
          match->parts.push_back(part);
          taken.insert(part);
        }
      }
    found.push_back(std::move(*match));
  }
  return found;
}

Value expandTabulated(OpBuilder &b, const TabulatedOp &op, ModuleOp module) {
  Location loc = op.root->getLoc();
  TableView table = TableView::get(op.function);
  if (!module.lookupSymbol(table.symbol)) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(module.getBody());
    int64_t count = table.coefficients.size();
    auto global = LLVM::GlobalOp::create(
        b, loc, LLVM::LLVMArrayType::get(b.getF32Type(), count),
        /*isConstant=*/true, LLVM::Linkage::Internal, table.symbol,
        DenseElementsAttr::get(RankedTensorType::get({count}, b.getF32Type()),
                               table.coefficients),
        /*alignment=*/4);
    global.setSection(tableSection);
  }
  Value address = LLVM::AddressOfOp::create(
      b, loc, LLVM::LLVMPointerType::get(b.getContext()), table.symbol);
  return Expander(b, loc).tabulated(op.x, table, address);
}

int64_t tableBytes(ModuleOp module) {
  bool needed[2] = {};
  module.walk([&](linalg::LinalgOp op) {
    for (const TabulatedOp &match : findTabulated(*op.getBlock()))
      needed[(size_t)match.function] = true;
  });
  int64_t bytes = 0;
  for (Tabulated function : {Tabulated::Gelu, Tabulated::GeluSlope}) {
    TableView table = TableView::get(function);
    if (needed[(size_t)function] || module.lookupSymbol(table.symbol))
      bytes += table.bytes();
  }
  return bytes;
}

bool isMathInstruction(Operation *op) {
  return isa<math::FmaOp, math::SqrtOp, math::AbsFOp, math::CopySignOp>(op);
}

} // namespace td
