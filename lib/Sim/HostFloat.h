//===- HostFloat.h - Single precision on the host's own unit ----*- C++ -*-===//
//
// Round-to-nearest single precision is most of what a training step executes.
// SSE agrees with RISC-V on it but for NaN payloads: tininess is detected after
// rounding and exception flags are sticky, so they are collected from MXCSR
// when a core's turn ends (FloatEnvironment). Hosts without SSE take
// SoftFloat.h, where every flag is explicit.
//
// This file is included by translation units compiled for different
// instruction sets; everything in it is in an unnamed namespace so that no
// linker merges the two.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_HOSTFLOAT_H
#define TDSIM_HOSTFLOAT_H

#include "SoftFloat.h"
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define TDSIM_HOST_SSE 1
#else
#define TDSIM_HOST_SSE 0
#endif

namespace tdsim::fp {
namespace {

inline float asFloat(uint32_t v) {
  float f;
  std::memcpy(&f, &v, 4);
  return f;
}
inline uint32_t asBits(float f) {
  uint32_t v;
  std::memcpy(&v, &f, 4);
  return v;
}

/// Puts the host's unit in the default state for its lifetime: for a run, or
/// for code of others within a run, whose flags must not reach a core.
class FloatEnvironment {
public:
#if TDSIM_HOST_SSE
  FloatEnvironment() : saved(_mm_getcsr()) { clear(); }
  ~FloatEnvironment() { _mm_setcsr(saved); }
  static void clear() { _mm_setcsr(0x1F80); } // nearest, no FTZ, no DAZ
  static uint32_t flags() {
    uint32_t csr = _mm_getcsr();
    // MXCSR: IE DE ZE OE UE PE from bit 0.
    return ((csr >> 5) & 1) * NX | ((csr >> 4) & 1) * UF |
           ((csr >> 3) & 1) * OF | ((csr >> 2) & 1) * DZ | (csr & 1) * NV;
  }

private:
  uint32_t saved;
#else
  static void clear() {}
  static uint32_t flags() { return 0; }
#endif
};

#if TDSIM_HOST_SSE
inline uint32_t canonical(float f) { return f == f ? asBits(f) : F32::nan; }
inline uint32_t hostAdd(uint32_t a, uint32_t b, uint32_t &) {
  return canonical(asFloat(a) + asFloat(b));
}
inline uint32_t hostSub(uint32_t a, uint32_t b, uint32_t &) {
  return canonical(asFloat(a) - asFloat(b));
}
inline uint32_t hostMul(uint32_t a, uint32_t b, uint32_t &) {
  return canonical(asFloat(a) * asFloat(b));
}
inline uint32_t hostDiv(uint32_t a, uint32_t b, uint32_t &) {
  return canonical(asFloat(a) / asFloat(b));
}
inline uint32_t hostSqrt(uint32_t a, uint32_t &) {
  return canonical(_mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(asFloat(a)))));
}
#if defined(__FMA__)
inline float fusedMultiplyAdd(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
inline uint32_t hostFma(uint32_t a, uint32_t b, uint32_t c, uint32_t &flags) {
  float f = fusedMultiplyAdd(asFloat(a), asFloat(b), asFloat(c));
  if (__builtin_expect(f == f, 1))
    return asBits(f);
  // x86 leaves out the invalid flag for infinity times zero plus a quiet NaN.
  return fma<F32>(a, b, c, RNE, flags);
}
#else
/// The product of two floats is exact in double precision, and rounding the
/// sum to odd there makes the second rounding innocuous (Boldo, Melquiond).
inline float fusedMultiplyAdd(float a, float b, float c) {
  double p = double(a) * double(b), s = p + double(c);
  double t = s - p, error = (p - (s - t)) + (double(c) - t);
  if (error != 0.0) { // false for NaN-free exact sums; NaN ends in s anyway
    uint64_t bits;
    std::memcpy(&bits, &s, 8);
    if (!(bits & 1) && error == error) {
      bits += ((error > 0) == (s > 0)) ? 1 : uint64_t(-1);
      std::memcpy(&s, &bits, 8);
    }
  }
  return float(s);
}
inline uint32_t hostFma(uint32_t a, uint32_t b, uint32_t c, uint32_t &flags) {
  // The helper's own infinities minus infinities would raise invalid.
  constexpr uint32_t e = F32::inf;
  if ((a & e) == e || (b & e) == e || (c & e) == e)
    return fma<F32>(a, b, c, RNE, flags);
  return asBits(fusedMultiplyAdd(asFloat(a), asFloat(b), asFloat(c)));
}
#endif
#else // no SSE
inline uint32_t hostAdd(uint32_t a, uint32_t b, uint32_t &flags) {
  return add<F32>(a, b, RNE, flags);
}
inline uint32_t hostSub(uint32_t a, uint32_t b, uint32_t &flags) {
  return add<F32>(a, b ^ F32::sign, RNE, flags);
}
inline uint32_t hostMul(uint32_t a, uint32_t b, uint32_t &flags) {
  return mul<F32>(a, b, RNE, flags);
}
inline uint32_t hostDiv(uint32_t a, uint32_t b, uint32_t &flags) {
  return div<F32>(a, b, RNE, flags);
}
inline uint32_t hostSqrt(uint32_t a, uint32_t &flags) {
  return sqrt<F32>(a, RNE, flags);
}
inline float fusedMultiplyAdd(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
inline uint32_t hostFma(uint32_t a, uint32_t b, uint32_t c, uint32_t &flags) {
  return fma<F32>(a, b, c, RNE, flags);
}
#endif

} // namespace
} // namespace tdsim::fp

#endif // TDSIM_HOSTFLOAT_H
