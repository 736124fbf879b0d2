//===- CoreFma.cpp - The interpreter for x86 with FMA and AVX2 ------------===//
//
// Compiled with -mavx2 -mfma; Machine's constructor chooses it when the host
// has both.
//
//===----------------------------------------------------------------------===//
#if defined(__x86_64__)
#define TDSIM_VARIANT 1
#include "CoreLoop.inc"
#include "RedmuleTile.inc"
#endif
