//===- CoreGeneric.cpp - The interpreter for any host ---------------------===//
#define TDSIM_VARIANT 0
#include "CoreLoop.inc"
#include "RedmuleTile.inc"
