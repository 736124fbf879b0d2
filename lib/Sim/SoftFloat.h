//===- SoftFloat.h - Exact IEEE 754 arithmetic on integers ------*- C++ -*-===//
//
// Binary floating point as RISC-V defines it: canonical NaNs, tininess after
// rounding, five rounding modes, sticky flags. Written for formats whose
// significand has at most 24 bits; the common cases of single precision take
// the host's arithmetic instead (HostFloat.h), and this is the rest.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_SOFTFLOAT_H
#define TDSIM_SOFTFLOAT_H

#include <cstdint>
#include <cstring>

namespace tdsim::fp {

enum Rounding : uint8_t { RNE = 0, RTZ = 1, RDN = 2, RUP = 3, RMM = 4 };
enum Flag : uint32_t { NX = 1, UF = 2, OF = 4, DZ = 8, NV = 16 };

template <unsigned ExponentBits, unsigned MantissaBits> struct Format {
  static constexpr unsigned mant = MantissaBits;
  static constexpr unsigned width = 1 + ExponentBits + MantissaBits;
  static constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  static constexpr int emax = bias;
  static constexpr int emin = 1 - bias;
  static constexpr uint32_t expMask = (1u << ExponentBits) - 1;
  static constexpr uint32_t mantMask = (1u << MantissaBits) - 1;
  static constexpr uint32_t sign = 1u << (width - 1);
  static constexpr uint32_t mask = sign | (sign - 1);
  static constexpr uint32_t inf = expMask << MantissaBits;
  static constexpr uint32_t nan = inf | (1u << (MantissaBits - 1));
  static constexpr uint32_t max = inf - 1;

  static bool isNaN(uint32_t v) { return (v & (sign - 1)) > inf; }
  static bool isSignaling(uint32_t v) {
    return isNaN(v) && !(v & (1u << (MantissaBits - 1)));
  }
  static bool isInf(uint32_t v) { return (v & (sign - 1)) == inf; }
  static bool isZero(uint32_t v) { return (v & (sign - 1)) == 0; }
};
using F32 = Format<8, 23>;
using F16 = Format<5, 10>;

/// A finite number other than zero: (-1)^sign * sig * 2^(exp - 62), with the
/// leading one of sig in bit 62. The lowest bits hold what a format has no
/// room for, the very lowest one being sticky.
struct Unpacked {
  bool sign;
  int exp;
  uint64_t sig;
};

inline uint64_t shiftRightSticky(uint64_t v, unsigned n) {
  if (n == 0)
    return v;
  if (n > 63)
    return v != 0;
  return (v >> n) | ((v << (64 - n)) != 0);
}

template <class F> inline Unpacked unpack(uint32_t v) {
  Unpacked u;
  u.sign = v & F::sign;
  uint32_t e = (v >> F::mant) & F::expMask, m = v & F::mantMask;
  if (e)
    return u.exp = int(e) - F::bias,
           u.sig = uint64_t(m | (1u << F::mant)) << (62 - F::mant), u;
  int shift = __builtin_clzll(m) - 1;
  u.sig = uint64_t(m) << shift;
  u.exp = F::emin + (62 - int(F::mant)) - shift;
  return u;
}

inline uint64_t roundAt(uint64_t v, unsigned drop, bool sign, Rounding rm) {
  uint64_t half = 1ull << (drop - 1), rem = v & ((half << 1) - 1);
  v >>= drop;
  switch (rm) {
  case RNE:
    return v + (rem > half || (rem == half && (v & 1)));
  case RTZ:
    return v;
  case RDN:
    return v + (rem && sign);
  case RUP:
    return v + (rem && !sign);
  case RMM:
    return v + (rem >= half);
  }
  return v;
}

template <class F>
inline uint32_t roundPack(Unpacked u, Rounding rm, uint32_t &flags) {
  constexpr unsigned drop = 62 - F::mant;
  constexpr uint64_t remMask = (1ull << drop) - 1;
  uint32_t s = u.sign ? F::sign : 0;
  if (u.exp < F::emin) {
    unsigned shift = unsigned(F::emin - u.exp);
    // Tiny unless rounding to an unbounded exponent reaches the normal range.
    bool tiny =
        shift > 1 || roundAt(u.sig, drop, u.sign, rm) < (2ull << F::mant);
    uint64_t sig = shiftRightSticky(u.sig, shift);
    if (sig & remMask)
      flags |= tiny ? NX | UF : NX;
    // A carry into the lowest exponent bit is the smallest normal number.
    return s | uint32_t(roundAt(sig, drop, u.sign, rm));
  }
  uint64_t m = roundAt(u.sig, drop, u.sign, rm);
  int exp = u.exp;
  if (m >> (F::mant + 1)) {
    m >>= 1;
    ++exp;
  }
  if (exp > F::emax) {
    flags |= OF | NX;
    bool toInf = rm == RNE || rm == RMM || (rm == RUP && !u.sign) ||
                 (rm == RDN && u.sign);
    return s | (toInf ? F::inf : F::max);
  }
  if (u.sig & remMask)
    flags |= NX;
  return s | (uint32_t(exp + F::bias) << F::mant) | (uint32_t(m) & F::mantMask);
}

template <class F>
inline uint32_t propagate(uint32_t a, uint32_t b, uint32_t &flags) {
  if (F::isSignaling(a) || F::isSignaling(b))
    flags |= NV;
  return F::nan;
}

template <class F> inline uint32_t zeroSum(bool sa, bool sb, Rounding rm) {
  return (sa == sb ? sa : rm == RDN) ? F::sign : 0;
}

/// Adds two unpacked numbers whose significands leave at least 14 low bits
/// free, which is what keeps the sticky bit out of the way of rounding.
template <class F>
inline uint32_t addUnpacked(Unpacked a, Unpacked b, Rounding rm,
                            uint32_t &flags) {
  if (a.exp < b.exp || (a.exp == b.exp && a.sig < b.sig)) {
    Unpacked t = a;
    a = b;
    b = t;
  }
  uint64_t low = shiftRightSticky(b.sig, unsigned(a.exp - b.exp));
  if (a.sign == b.sign) {
    a.sig += low;
    if (a.sig >> 63) {
      a.sig = shiftRightSticky(a.sig, 1);
      ++a.exp;
    }
  } else {
    a.sig -= low;
    if (!a.sig)
      return zeroSum<F>(false, true, rm);
    int shift = __builtin_clzll(a.sig) - 1;
    a.sig <<= shift;
    a.exp -= shift;
  }
  return roundPack<F>(a, rm, flags);
}

template <class F>
inline uint32_t add(uint32_t a, uint32_t b, Rounding rm, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b))
    return propagate<F>(a, b, flags);
  bool sa = a & F::sign, sb = b & F::sign;
  if (F::isInf(a) || F::isInf(b)) {
    if (F::isInf(a) && F::isInf(b) && sa != sb) {
      flags |= NV;
      return F::nan;
    }
    return F::isInf(a) ? a : b;
  }
  if (F::isZero(a) && F::isZero(b))
    return zeroSum<F>(sa, sb, rm);
  if (F::isZero(a))
    return b;
  if (F::isZero(b))
    return a;
  return addUnpacked<F>(unpack<F>(a), unpack<F>(b), rm, flags);
}

template <class F>
inline uint32_t sub(uint32_t a, uint32_t b, Rounding rm, uint32_t &flags) {
  return add<F>(a, b ^ F::sign, rm, flags);
}

/// The exact product; 24 by 24 bits fit.
inline Unpacked mulUnpacked(Unpacked a, Unpacked b) {
  uint64_t p = (a.sig >> 31) * (b.sig >> 31); // leading one in bit 62 or 63
  int exp = a.exp + b.exp;
  if (p >> 63)
    return {a.sign != b.sign, exp + 1, shiftRightSticky(p, 1)};
  return {a.sign != b.sign, exp, p};
}

template <class F>
inline uint32_t mul(uint32_t a, uint32_t b, Rounding rm, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b))
    return propagate<F>(a, b, flags);
  uint32_t s = (a ^ b) & F::sign;
  if (F::isInf(a) || F::isInf(b)) {
    if (F::isZero(a) || F::isZero(b)) {
      flags |= NV;
      return F::nan;
    }
    return s | F::inf;
  }
  if (F::isZero(a) || F::isZero(b))
    return s;
  return roundPack<F>(mulUnpacked(unpack<F>(a), unpack<F>(b)), rm, flags);
}

/// a * b + c with one rounding.
template <class F>
inline uint32_t fma(uint32_t a, uint32_t b, uint32_t c, Rounding rm,
                    uint32_t &flags) {
  bool invalid = (F::isInf(a) && F::isZero(b)) || (F::isZero(a) && F::isInf(b));
  if (F::isNaN(a) || F::isNaN(b) || F::isNaN(c) || invalid) {
    // RISC-V raises invalid for infinity times zero even when c is a quiet NaN.
    if (invalid || F::isSignaling(a) || F::isSignaling(b) || F::isSignaling(c))
      flags |= NV;
    return F::nan;
  }
  bool sp = (a ^ b) & F::sign, sc = c & F::sign;
  if (F::isInf(a) || F::isInf(b)) {
    if (F::isInf(c) && sc != sp) {
      flags |= NV;
      return F::nan;
    }
    return (sp ? F::sign : 0) | F::inf;
  }
  if (F::isInf(c))
    return c & F::mask;
  if (F::isZero(a) || F::isZero(b))
    return F::isZero(c) ? zeroSum<F>(sp, sc, rm) : c & F::mask;
  Unpacked p = mulUnpacked(unpack<F>(a), unpack<F>(b));
  if (F::isZero(c))
    return roundPack<F>(p, rm, flags);
  return addUnpacked<F>(p, unpack<F>(c), rm, flags);
}

template <class F>
inline uint32_t div(uint32_t a, uint32_t b, Rounding rm, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b))
    return propagate<F>(a, b, flags);
  uint32_t s = (a ^ b) & F::sign;
  if ((F::isInf(a) && F::isInf(b)) || (F::isZero(a) && F::isZero(b))) {
    flags |= NV;
    return F::nan;
  }
  if (F::isInf(a))
    return s | F::inf;
  if (F::isInf(b) || F::isZero(a))
    return s;
  if (F::isZero(b)) {
    flags |= DZ;
    return s | F::inf;
  }
  Unpacked x = unpack<F>(a), y = unpack<F>(b);
  uint64_t d = y.sig >> 39;
  uint64_t q = x.sig / d; // 39 or 40 bits
  q = (q << 1) | (x.sig % d != 0);
  int shift = __builtin_clzll(q) - 1;
  // With equal significands the quotient's leading one is in bit 40.
  return roundPack<F>({s != 0, x.exp - y.exp + 22 - shift, q << shift}, rm,
                      flags);
}

template <class F>
inline uint32_t sqrt(uint32_t a, Rounding rm, uint32_t &flags) {
  if (F::isNaN(a))
    return propagate<F>(a, a, flags);
  if (F::isZero(a))
    return a & F::mask;
  if (a & F::sign) {
    flags |= NV;
    return F::nan;
  }
  if (F::isInf(a))
    return F::inf;
  Unpacked x = unpack<F>(a);
  // An even exponent halves exactly; an odd one lends its bit to the radicand.
  bool odd = x.exp & 1;
  uint64_t rest = odd ? x.sig << 1 : x.sig, root = 0;
  for (uint64_t bit = 1ull << 62; bit; bit >>= 2) {
    if (rest >= root + bit) {
      rest -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  // The root has 32 bits, its leading one in bit 31.
  uint64_t sig = (root << 31) | (rest != 0);
  return roundPack<F>({false, (x.exp - odd) / 2, sig}, rm, flags);
}

template <class From, class To>
inline uint32_t convert(uint32_t a, Rounding rm, uint32_t &flags) {
  if (From::isNaN(a)) {
    if (From::isSignaling(a))
      flags |= NV;
    return To::nan;
  }
  uint32_t s = (a & From::sign) ? To::sign : 0;
  if (From::isInf(a))
    return s | To::inf;
  if (From::isZero(a))
    return s;
  return roundPack<To>(unpack<From>(a), rm, flags);
}

/// To a 32-bit integer. Out of range, infinity and NaN saturate and are
/// invalid, never inexact.
template <class F, bool Signed>
inline uint32_t toInt(uint32_t a, Rounding rm, uint32_t &flags) {
  constexpr uint32_t top = Signed ? 0x7FFFFFFFu : 0xFFFFFFFFu;
  constexpr uint32_t bottom = Signed ? 0x80000000u : 0;
  bool negative = (a & F::sign) && !F::isNaN(a);
  if (F::isNaN(a) || F::isInf(a)) {
    flags |= NV;
    return negative ? bottom : top;
  }
  if (F::isZero(a))
    return 0;
  Unpacked u = unpack<F>(a);
  if (u.exp > 32) {
    flags |= NV;
    return negative ? bottom : top;
  }
  // Place the binary point at bit 29: integers up to 2^33 fit above it.
  uint64_t fixed = shiftRightSticky(u.sig, unsigned(33 - u.exp));
  uint64_t magnitude = roundAt(fixed, 29, negative, rm);
  uint64_t limit = negative ? (Signed ? 0x80000000ull : 0) : top;
  if (magnitude > limit) {
    flags |= NV;
    return negative ? bottom : top;
  }
  if (fixed & ((1u << 29) - 1))
    flags |= NX;
  return negative ? 0u - uint32_t(magnitude) : uint32_t(magnitude);
}

template <class F>
inline uint32_t fromInt(bool negative, uint32_t magnitude, Rounding rm,
                        uint32_t &flags) {
  if (!magnitude)
    return 0;
  int shift = __builtin_clzll(magnitude) - 1;
  return roundPack<F>({negative, 62 - shift, uint64_t(magnitude) << shift}, rm,
                      flags);
}

template <class F>
inline uint32_t fromSigned(uint32_t v, Rounding rm, uint32_t &flags) {
  bool negative = v >> 31;
  return fromInt<F>(negative, negative ? 0u - v : v, rm, flags);
}

template <class F> inline bool lessOrdered(uint32_t a, uint32_t b) {
  bool sa = a & F::sign, sb = b & F::sign;
  if (sa != sb)
    return sa && !(F::isZero(a) && F::isZero(b));
  return sa ? (a & F::mask) > (b & F::mask) : (a & F::mask) < (b & F::mask);
}

template <class F> inline uint32_t eq(uint32_t a, uint32_t b, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b)) {
    if (F::isSignaling(a) || F::isSignaling(b))
      flags |= NV;
    return 0;
  }
  return ((a ^ b) & F::mask) == 0 || (F::isZero(a) && F::isZero(b));
}

template <class F> inline uint32_t lt(uint32_t a, uint32_t b, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b)) {
    flags |= NV;
    return 0;
  }
  return lessOrdered<F>(a, b);
}

template <class F> inline uint32_t le(uint32_t a, uint32_t b, uint32_t &flags) {
  if (F::isNaN(a) || F::isNaN(b)) {
    flags |= NV;
    return 0;
  }
  return !lessOrdered<F>(b, a);
}

template <class F>
inline uint32_t minMax(uint32_t a, uint32_t b, bool max, uint32_t &flags) {
  if (F::isSignaling(a) || F::isSignaling(b))
    flags |= NV;
  if (F::isNaN(a))
    return F::isNaN(b) ? F::nan : b & F::mask;
  if (F::isNaN(b))
    return a & F::mask;
  bool aFirst = lessOrdered<F>(a, b);
  if (F::isZero(a) && F::isZero(b)) // -0 counts as less than +0
    aFirst = a & F::sign;
  return (aFirst != max ? a : b) & F::mask;
}

template <class F> inline uint32_t classify(uint32_t a) {
  bool s = a & F::sign;
  uint32_t e = (a >> F::mant) & F::expMask, m = a & F::mantMask;
  if (e == F::expMask)
    return m ? (F::isSignaling(a) ? 1u << 8 : 1u << 9) : (s ? 1u : 1u << 7);
  if (e == 0)
    return m ? (s ? 1u << 2 : 1u << 5) : (s ? 1u << 3 : 1u << 4);
  return s ? 1u << 1 : 1u << 6;
}

/// The value of a half, exactly.
inline double halfToDouble(uint32_t v) {
  uint64_t sign = uint64_t(v & F16::sign) << 48, e = (v >> 10) & 31,
           m = v & F16::mantMask, bits;
  if (e == 0) {
    double d = double(m) * 0x1p-24;
    return sign ? -d : d;
  }
  bits = sign | (m << 42) | ((e == 31 ? 2047 : e + 1008) << 52);
  double d;
  std::memcpy(&d, &bits, 8);
  return d;
}

/// The half nearest to a double, ties to even, as a double.
inline double roundToHalf(double d) {
  uint64_t bits;
  std::memcpy(&bits, &d, 8);
  uint64_t sign = bits & (1ull << 63), e = (bits >> 52) & 2047;
  if (e < 1009) { // subnormal: adding a power of two rounds to 2^-24
    double magnitude = sign ? -d : d;
    magnitude = (magnitude + 0x1.8p28) - 0x1.8p28;
    return sign ? -magnitude : magnitude;
  }
  // Ten bits of fraction stay; a carry may run into the exponent.
  bits += (1ull << 41) - 1 + ((bits >> 42) & 1);
  bits &= ~((1ull << 42) - 1);
  if (((bits >> 52) & 2047) > 1038 && e != 2047)
    bits = sign | (2047ull << 52);
  if (e == 2047) // infinity stays, NaN too whatever its bits
    return d;
  std::memcpy(&d, &bits, 8);
  return d;
}

/// The bits of a double that is a half, or NaN.
inline uint32_t doubleToHalf(double d) {
  uint32_t flags = 0;
  if (d != d)
    return F16::nan;
  uint64_t bits;
  std::memcpy(&bits, &d, 8);
  uint32_t sign = uint32_t(bits >> 48) & F16::sign;
  if (d == 0)
    return sign;
  if (((bits >> 52) & 2047) == 2047)
    return sign | F16::inf;
  int exp = int((bits >> 52) & 2047) - 1023;
  uint64_t sig = ((bits & ((1ull << 52) - 1)) | (1ull << 52)) << 10;
  return roundPack<F16>({sign != 0, exp, sig}, RNE, flags);
}

} // namespace tdsim::fp

#endif // TDSIM_SOFTFLOAT_H
