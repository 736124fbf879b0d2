//===- Config.h - Machine numbers the simulator runs with -------*- C++ -*-===//
//
// Every number that describes the machine comes in through this struct, filled
// from a target description. There are no defaults here on purpose: a number
// that nobody stated would be a number that nobody checked.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_CONFIG_H
#define TDSIM_CONFIG_H

#include <cstdint>

namespace tdsim {

struct MemoryRange {
  uint32_t base = 0;
  uint32_t size = 0; // bytes
};

struct Config {
  uint64_t clockHz = 0;

  // Cores. The host ("fabric controller") is one more core beside the cluster.
  uint32_t clusterCores = 0;
  uint32_t hostHartId = 0;

  // Memories. L3 has no address of its own on the bus, only an extent.
  MemoryRange l1, l2;
  uint32_t l1Banks = 0; // each 4 bytes wide, one access a cycle
  uint32_t l3Size = 0;

  // Device base addresses.
  uint32_t clusterControl = 0;
  uint32_t eventUnit = 0;      // as the host sees it: all cores side by side
  uint32_t eventUnitLocal = 0; // as a cluster core sees it: its own view
  uint32_t dmaLocal = 0;       // MCHAN, a cluster core's own channel
  uint32_t dmaHost = 0;        // MCHAN, the channel for the host
  uint32_t redmule = 0;        // 0 when the target has none
  uint32_t clusterIcache = 0;
  uint32_t hostIcache = 0;
  uint32_t hostInterrupts = 0;
  uint32_t udma = 0;
  uint32_t socControl = 0;
  uint32_t standardOutput = 0;

  // Core timing, all in cycles.
  uint32_t mul = 0;              // an integer multiplication
  uint32_t mulDependent = 0;     // the same when the next instruction needs it
  uint32_t mulh = 0;             // the upper half of a product
  uint32_t div = 0;              // of a division by a number of two bits
  uint32_t loadUse = 0;          // extra when the next instruction needs a load
  uint32_t l2Access = 0;         // load or store to L2, or of the host to L1
  uint32_t peripheralAccess = 0; // load or store to a cluster peripheral
  uint32_t localAccess = 0; // load or store to the core's own event unit, DMA
  uint32_t socAccess = 0;   // load or store to an APB peripheral of the SoC
  uint32_t takenBranch = 0;
  uint32_t jump = 0;
  uint32_t wakeUp = 0;        // from an event to the core's next instruction
  uint32_t icacheOffLine = 0; // a 16 byte line with the cache off

  // The cluster's instruction caches: each core's own, and shared banks.
  uint32_t icacheOwnSets = 0, icacheOwnWays = 0;
  uint32_t icacheBanks = 0, icacheSets = 0, icacheWays = 0;
  uint32_t icacheRefill = 0; // cycles that each of both adds to a refill

  // Floating point.
  uint32_t fpus = 0;               // core i uses unit i modulo fpus
  uint32_t fdiv32 = 0, fdiv16 = 0; // division and square root, one shared unit

  // Cluster DMA (MCHAN).
  uint32_t dmaBytesPerCycle = 0; // each way
  uint32_t dmaTransfer =
      0; // from the command's last word to the first byte, and to the event
  uint32_t dmaBurst = 0;       // bytes
  uint32_t dmaOutstanding = 0; // bursts in flight each way
  uint32_t dmaLatency = 0;     // of a burst, to L2
  uint32_t dmaCoreQueue = 0;   // commands a core can have waiting
  uint32_t dmaGlobalQueue = 0; // commands each direction can have waiting

  // HyperRAM.
  double hyperReadPerByte = 0, hyperWritePerByte = 0; // cycles
  uint32_t hyperTransfer = 0;                         // cycles a transfer
  // Cycles for each further line of a 2D transfer.
  uint32_t hyperReadLine = 0, hyperWriteLine = 0;

  // RedMulE: L rows, H columns, P pipeline registers.
  uint32_t redmuleRows = 0, redmuleColumns = 0, redmulePipeline = 0;
  uint32_t redmulePortBytes = 0;
  uint32_t redmuleTile = 0; // cycles each tile of Z costs on top
  bool redmuleFp16 = false, redmuleFp32 = false;
  uint32_t redmuleCodeFp16 = 0, redmuleCodeFp32 = 0; // arithmetic register
};

} // namespace tdsim

#endif // TDSIM_CONFIG_H
