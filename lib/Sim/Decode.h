//===- Decode.h - Instructions decoded ahead of execution -------*- C++ -*-===//
#ifndef TDSIM_DECODE_H
#define TDSIM_DECODE_H

#include "Config.h"
#include <cstdint>

namespace tdsim {

// Undecoded comes first: memory that calloc returns is undecoded code.
// HwLoopEnd stands in for the last instruction of a hardware loop, whose own
// operation moves to Insn::real. So does Entry where execution can enter a line
// of the instruction cache; when all cores have the line, the two are swapped.
// clang-format off
#define TDSIM_OPERATIONS(X)                                                    \
  X(Undecoded) X(HwLoopEnd) X(Entry) X(OutOfRegion) X(Illegal) X(Lui) X(Jal) X(Jalr)    \
  X(Beq) X(Bne) X(Blt) X(Bge) X(Bltu) X(Bgeu) X(BeqImm) X(BneImm) X(Lb)        \
  X(Lh) X(Lw) X(Lbu) X(Lhu) X(Sb) X(Sh) X(Sw) X(LbPost) X(LhPost) X(LwPost)    \
  X(LbuPost) X(LhuPost) X(SbPost) X(ShPost) X(SwPost) X(LbRegPost)             \
  X(LhRegPost) X(LwRegPost) X(LbuRegPost) X(LhuRegPost) X(SbRegPost)           \
  X(ShRegPost) X(SwRegPost) X(LbReg) X(LhReg) X(LwReg) X(LbuReg) X(LhuReg)     \
  X(SbReg) X(ShReg) X(SwReg) X(Elw) X(Addi) X(Slti) X(Sltiu) X(Xori) X(Ori)    \
  X(Andi) X(Slli) X(Srli) X(Srai) X(Add) X(Sub) X(Sll) X(Slt) X(Sltu) X(Xor)   \
  X(Srl) X(Sra) X(Or) X(And) X(Mul) X(Mulh) X(Mulhsu) X(Mulhu) X(Div)          \
  X(Divu) X(Rem) X(Remu) X(Fence) X(FenceI) X(Ecall) X(Ebreak) X(Semihost)     \
  X(Mret) X(Wfi) X(Marker) X(Csrrw) X(Csrrs) X(Csrrc) X(Csrrwi) X(Csrrsi)      \
  X(Csrrci) X(Mac) X(Msu) X(Abs) X(Slet) X(Sletu) X(Min) X(Minu) X(Max)        \
  X(Maxu) X(Exths) X(Exthz) X(Extbs) X(Extbz) X(LpStarti) X(LpEndi)            \
  X(LpCount) X(LpCounti) X(LpSetup) X(LpSetupi) X(FaddS) X(FsubS) X(FmulS)     \
  X(FdivS) X(FsqrtS) X(FmaddS) X(FmsubS) X(FnmsubS) X(FnmaddS) X(FsgnjS)       \
  X(FsgnjnS) X(FsgnjxS) X(FminS) X(FmaxS) X(FeqS) X(FltS) X(FleS) X(FclassS)   \
  X(FcvtWS) X(FcvtWuS) X(FcvtSW) X(FcvtSWu) X(FcvtSH) X(FcvtHS) X(FaddH)       \
  X(FsubH) X(FmulH) X(FdivH) X(FsqrtH) X(FmaddH) X(FmsubH) X(FnmsubH)          \
  X(FnmaddH) X(FsgnjH) X(FsgnjnH) X(FsgnjxH) X(FminH) X(FmaxH) X(FeqH)         \
  X(FltH) X(FleH) X(FclassH) X(FcvtWH) X(FcvtWuH) X(FcvtHW) X(FcvtHWu)         \
  X(VfaddH) X(VfsubH) X(VfmulH) X(VfdivH) X(VfminH) X(VfmaxH) X(VfsqrtH)       \
  X(VfmacH) X(VfmreH) X(VfsgnjH) X(VfsgnjnH) X(VfsgnjxH) X(VfcpkaHS)           \
  X(VfdotpexSH) X(VfndotpexSH)
// clang-format on

enum class Op : uint16_t {
#define TDSIM_OPERATION(name) name,
  TDSIM_OPERATIONS(TDSIM_OPERATION)
#undef TDSIM_OPERATION
      Count
};

/// What one instruction adds to a core's counters, packed so that one addition
/// accumulates all of them. A turn is far shorter than 2^16 instructions.
struct Tally {
  static constexpr uint64_t instruction = 1;
  static constexpr unsigned loadStallShift = 16, loadShift = 32,
                            storeShift = 48;
};

/// A register number that takes what is written to x0.
inline constexpr uint8_t Discard = 32;

struct Insn {
  Op op;
  Op real;
  uint8_t rd, rs1, rs2, rs3;
  int32_t imm;
  uint8_t length;   // in halfwords
  uint8_t cycles;   // what it costs without contention
  uint8_t rounding; // of floating point, 7 = dynamic
  uint8_t aux;      // second small operand: loop index, replicated vector lane
  uint64_t tally;
};
static_assert(sizeof(Insn) == 32 || sizeof(Insn) == 24, "kept small");

/// Decodes the instruction word `raw` (whose upper half is ignored when it is
/// compressed) at `pc`. `next` is the word after it: an instruction that
/// follows a load or a multiplication and reads its result costs more, and
/// that is known now. `before` is the halfword-pair before `pc`, for
/// semihosting's marker around ebreak.
Insn decode(const Config &config, uint32_t pc, uint32_t raw, uint32_t next,
            uint32_t before);

} // namespace tdsim

#endif // TDSIM_DECODE_H
