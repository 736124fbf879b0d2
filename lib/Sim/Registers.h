//===- Registers.h - Register offsets of the devices ------------*- C++ -*-===//
//
// Offsets inside an IP block belong to the block, not to a target: a target
// says where a block is, this file says what is in it.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_REGISTERS_H
#define TDSIM_REGISTERS_H

#include <cstdint>

namespace tdsim {

namespace redmule {
inline constexpr uint32_t Trigger = 0x00, Status = 0x0C;
inline constexpr uint32_t XAddress = 0x40, WAddress = 0x44, YAddress = 0x48;
inline constexpr uint32_t SizeKM = 0x4C, SizeN = 0x50, Arithmetic = 0x54;
/// Codes of the arithmetic register: bit 10 is the fused multiply-add, bits 9:7
/// the format. Bits 6:0 are unused by the published RTL, which reads FP16; this
/// project's FP32 is FP16's code with bit 1 set. The value is defined here: a
/// target description states the same number, and loading one that does not is
/// an error.
inline constexpr uint32_t ArithmeticFp16 = 0x480;
inline constexpr uint32_t ArithmeticFp32 = 0x482;
} // namespace redmule

namespace mchan {
inline constexpr uint32_t Command = 0x0, Status = 0x4;
inline constexpr uint32_t LengthMask = 0x1FFFF;
inline constexpr uint32_t ToL1 = 1u << 17, Increment = 1u << 18;
inline constexpr uint32_t TwoD = 1u << 19, Event = 1u << 20;
inline constexpr uint32_t Interrupt = 1u << 21, Broadcast = 1u << 22;
inline constexpr uint32_t TwoDL1 = 1u << 23;
inline constexpr unsigned Ids = 16;
} // namespace mchan

namespace event_unit {
// A core's own registers.
inline constexpr uint32_t Mask = 0x00, MaskAnd = 0x04, MaskOr = 0x08;
inline constexpr uint32_t IrqMask = 0x0C, IrqMaskAnd = 0x10, IrqMaskOr = 0x14;
inline constexpr uint32_t CoreStatus = 0x18, Buffer = 0x1C;
inline constexpr uint32_t BufferMasked = 0x20, BufferIrqMasked = 0x24;
inline constexpr uint32_t BufferClear = 0x28, Wait = 0x38, WaitClear = 0x3C;
inline constexpr uint32_t CoreStride = 0x40;
// Areas in a core's view ("demux") and in the global one.
inline constexpr uint32_t LocalSoftware = 0x100, LocalBarriers = 0x200;
inline constexpr uint32_t GlobalBarriers = 0x400, GlobalSoftware = 0x600;
inline constexpr uint32_t GlobalSize = 0x800, LocalSize = 0x400;
// Barrier i is 0x20 bytes.
inline constexpr uint32_t BarrierStride = 0x20;
inline constexpr uint32_t BarrierTriggerMask = 0x00, BarrierStatus = 0x04;
inline constexpr uint32_t BarrierSummary = 0x08, BarrierTargetMask = 0x0C;
inline constexpr uint32_t BarrierTrigger = 0x10, BarrierTriggerSelf = 0x14;
inline constexpr uint32_t BarrierWait = 0x18, BarrierWaitClear = 0x1C;
inline constexpr unsigned Barriers = 16;
inline constexpr unsigned SoftwareEvents = 8;
// Event numbers.
inline constexpr unsigned DmaEvent = 8, RedmuleEvent = 12, BarrierEvent = 16;
} // namespace event_unit

namespace cluster_control {
inline constexpr uint32_t EndOfComputation = 0x00, FetchEnable = 0x08;
inline constexpr uint32_t ClockGate = 0x20, BootAddress = 0x40, Size = 0x400;
} // namespace cluster_control

namespace icache {
inline constexpr uint32_t Enable = 0x0, Flush = 0x4, Size = 0x400;
} // namespace icache

namespace interrupts {
inline constexpr uint32_t Mask = 0x00, MaskSet = 0x04, MaskClear = 0x08;
inline constexpr uint32_t Status = 0x0C, StatusSet = 0x10, StatusClear = 0x14;
inline constexpr uint32_t Size = 0x100;
inline constexpr unsigned DmaLine = 8; // MCHAN's host channel
} // namespace interrupts

namespace soc_control {
inline constexpr uint32_t CoreStatus = 0xA0, Size = 0x100;
inline constexpr uint32_t EndOfComputation = 1u << 31;
} // namespace soc_control

namespace hyper {
inline constexpr uint32_t ClockGate = 0x000; // from the uDMA's base
inline constexpr uint32_t Channels = 0x480;  // channel 0, from the base
inline constexpr uint32_t ChannelStride = 0x80;
inline constexpr unsigned ChannelCount = 8;
inline constexpr uint32_t Common = Channels + ChannelCount * ChannelStride;
inline constexpr uint32_t CommonSize = 0x28;
inline constexpr uint32_t PeripheralBit = 8; // of the clock gate register
// A channel.
inline constexpr uint32_t RxAddress = 0x00, RxSize = 0x04, RxConfig = 0x08;
inline constexpr uint32_t TxAddress = 0x0C, TxSize = 0x10, TxConfig = 0x14;
inline constexpr uint32_t Command = 0x18, ExternalAddress = 0x1C;
inline constexpr uint32_t DeviceConfig = 0x20, Status = 0x24;
inline constexpr uint32_t TwoDActive = 0x28, TwoDCount = 0x2C;
inline constexpr uint32_t TwoDStride = 0x30, TwoDActiveL2 = 0x34;
inline constexpr uint32_t TwoDCountL2 = 0x38, TwoDStrideL2 = 0x3C;
inline constexpr unsigned RegisterCount = 16;
inline constexpr uint32_t Enable = 1u << 4;
inline constexpr uint32_t CommandRead = 4;
inline constexpr uint32_t Size = 0x1000;
} // namespace hyper

} // namespace tdsim

#endif // TDSIM_REGISTERS_H
