//===- Decode.cpp - rv32imc_zicsr_zfinx_zhinx + Xpulpv2 + Xfvec -----------===//
#include "Decode.h"

namespace tdsim {
namespace {

uint32_t bits(uint32_t v, unsigned low, unsigned count) {
  return (v >> low) & ((1u << count) - 1);
}
int32_t signExtend(uint32_t v, unsigned width) {
  return int32_t(v << (32 - width)) >> (32 - width);
}
int32_t immI(uint32_t r) { return int32_t(r) >> 20; }
int32_t immS(uint32_t r) {
  return (int32_t(r & 0xFE000000) >> 20) | int32_t(bits(r, 7, 5));
}
int32_t immB(uint32_t r) {
  return signExtend((bits(r, 31, 1) << 12) | (bits(r, 7, 1) << 11) |
                        (bits(r, 25, 6) << 5) | (bits(r, 8, 4) << 1),
                    13);
}
int32_t immJ(uint32_t r) {
  return signExtend((bits(r, 31, 1) << 20) | (bits(r, 12, 8) << 12) |
                        (bits(r, 20, 1) << 11) | (bits(r, 21, 10) << 1),
                    21);
}

// Assembling words from compressed instructions keeps one decoder for both.
uint32_t encodeI(uint32_t opcode, uint32_t f3, uint32_t rd, uint32_t rs1,
                 int32_t imm) {
  return opcode | (rd << 7) | (f3 << 12) | (rs1 << 15) | (uint32_t(imm) << 20);
}
uint32_t encodeR(uint32_t f7, uint32_t f3, uint32_t rd, uint32_t rs1,
                 uint32_t rs2) {
  return 0x33 | (rd << 7) | (f3 << 12) | (rs1 << 15) | (rs2 << 20) | (f7 << 25);
}
uint32_t encodeS(uint32_t f3, uint32_t rs1, uint32_t rs2, int32_t imm) {
  return 0x23 | (bits(uint32_t(imm), 0, 5) << 7) | (f3 << 12) | (rs1 << 15) |
         (rs2 << 20) | (bits(uint32_t(imm), 5, 7) << 25);
}
uint32_t encodeB(uint32_t f3, uint32_t rs1, int32_t imm) {
  uint32_t i = uint32_t(imm);
  return 0x63 | (bits(i, 11, 1) << 7) | (bits(i, 1, 4) << 8) | (f3 << 12) |
         (rs1 << 15) | (bits(i, 5, 6) << 25) | (bits(i, 12, 1) << 31);
}
uint32_t encodeJ(uint32_t rd, int32_t imm) {
  uint32_t i = uint32_t(imm);
  return 0x6F | (rd << 7) | (bits(i, 12, 8) << 12) | (bits(i, 11, 1) << 20) |
         (bits(i, 1, 10) << 21) | (bits(i, 20, 1) << 31);
}

/// Expands a compressed instruction, or returns 0, which is no instruction.
uint32_t expand(uint32_t c) {
  uint32_t rd = bits(c, 7, 5), rs2 = bits(c, 2, 5);
  uint32_t rdp = 8 + bits(c, 2, 3), rs1p = 8 + bits(c, 7, 3);
  int32_t imm6 = signExtend((bits(c, 12, 1) << 5) | bits(c, 2, 5), 6);
  switch ((bits(c, 0, 2) << 3) | bits(c, 13, 3)) {
  case 0: { // c.addi4spn
    uint32_t imm = (bits(c, 11, 2) << 4) | (bits(c, 7, 4) << 6) |
                   (bits(c, 6, 1) << 2) | (bits(c, 5, 1) << 3);
    return imm ? encodeI(0x13, 0, rdp, 2, int32_t(imm)) : 0;
  }
  case 2:   // c.lw
  case 6: { // c.sw
    int32_t imm = int32_t((bits(c, 10, 3) << 3) | (bits(c, 6, 1) << 2) |
                          (bits(c, 5, 1) << 6));
    return bits(c, 15, 1) ? encodeS(2, rs1p, rdp, imm)
                          : encodeI(0x03, 2, rdp, rs1p, imm);
  }
  case 8: // c.addi
    return encodeI(0x13, 0, rd, rd, imm6);
  case 9:    // c.jal
  case 13: { // c.j
    int32_t imm = signExtend((bits(c, 12, 1) << 11) | (bits(c, 11, 1) << 4) |
                                 (bits(c, 9, 2) << 8) | (bits(c, 8, 1) << 10) |
                                 (bits(c, 7, 1) << 6) | (bits(c, 6, 1) << 7) |
                                 (bits(c, 3, 3) << 1) | (bits(c, 2, 1) << 5),
                             12);
    return encodeJ(bits(c, 15, 1) ? 0 : 1, imm);
  }
  case 10: // c.li
    return encodeI(0x13, 0, rd, 0, imm6);
  case 11: // c.addi16sp, c.lui
    if (rd == 2) {
      int32_t imm = signExtend((bits(c, 12, 1) << 9) | (bits(c, 6, 1) << 4) |
                                   (bits(c, 5, 1) << 6) | (bits(c, 3, 2) << 7) |
                                   (bits(c, 2, 1) << 5),
                               10);
      return imm ? encodeI(0x13, 0, 2, 2, imm) : 0;
    }
    return imm6 ? 0x37 | (rd << 7) | (uint32_t(imm6) << 12) : 0;
  case 12: { // arithmetic
    uint32_t shamt = (bits(c, 12, 1) << 5) | bits(c, 2, 5);
    switch (bits(c, 10, 2)) {
    case 0:
      return shamt < 32 ? encodeI(0x13, 5, rs1p, rs1p, int32_t(shamt)) : 0;
    case 1:
      return shamt < 32 ? encodeI(0x13, 5, rs1p, rs1p, int32_t(shamt | 0x400))
                        : 0;
    case 2:
      return encodeI(0x13, 7, rs1p, rs1p, imm6);
    default:
      if (bits(c, 12, 1))
        return 0;
      switch (bits(c, 5, 2)) {
      case 0:
        return encodeR(0x20, 0, rs1p, rs1p, rdp);
      case 1:
        return encodeR(0, 4, rs1p, rs1p, rdp);
      case 2:
        return encodeR(0, 6, rs1p, rs1p, rdp);
      default:
        return encodeR(0, 7, rs1p, rs1p, rdp);
      }
    }
  }
  case 14:   // c.beqz
  case 15: { // c.bnez
    int32_t imm = signExtend((bits(c, 12, 1) << 8) | (bits(c, 10, 2) << 3) |
                                 (bits(c, 5, 2) << 6) | (bits(c, 3, 2) << 1) |
                                 (bits(c, 2, 1) << 5),
                             9);
    return encodeB(bits(c, 13, 1), rs1p, imm);
  }
  case 16: { // c.slli
    uint32_t shamt = (bits(c, 12, 1) << 5) | bits(c, 2, 5);
    return shamt < 32 ? encodeI(0x13, 1, rd, rd, int32_t(shamt)) : 0;
  }
  case 18: // c.lwsp
    return rd ? encodeI(0x03, 2, rd, 2,
                        int32_t((bits(c, 12, 1) << 5) | (bits(c, 4, 3) << 2) |
                                (bits(c, 2, 2) << 6)))
              : 0;
  case 20: // c.jr, c.mv, c.ebreak, c.jalr, c.add
    if (!bits(c, 12, 1)) {
      if (rs2)
        return encodeR(0, 0, rd, 0, rs2);
      return rd ? encodeI(0x67, 0, 0, rd, 0) : 0;
    }
    if (rs2)
      return encodeR(0, 0, rd, rd, rs2);
    return rd ? encodeI(0x67, 0, 1, rd, 0) : 0x00100073;
  case 22: // c.swsp
    return encodeS(2, 2, rs2,
                   int32_t((bits(c, 9, 4) << 2) | (bits(c, 7, 2) << 6)));
  default:
    return 0;
  }
}

uint32_t canonicalWord(uint32_t raw) {
  return (raw & 3) == 3 ? raw : expand(raw & 0xFFFF);
}

/// Whether an instruction reads register `r`. Operand positions are regular,
/// so opcode alone decides; a false positive costs a cycle, no more.
bool reads(uint32_t raw, uint32_t r) {
  if (r == 0)
    return false;
  uint32_t w = canonicalWord(raw);
  bool rs1 = bits(w, 15, 5) == r, rs2 = bits(w, 20, 5) == r;
  uint32_t f3 = bits(w, 12, 3);
  switch (bits(w, 0, 7)) {
  case 0x13: // immediate arithmetic
  case 0x03: // loads, p.elw; the register form adds rs2
  case 0x0B:
    return rs1 || (f3 == 7 && bits(w, 0, 7) != 0x13 && rs2);
  case 0x67:
    return rs1;
  case 0x73:
    return f3 != 0 && f3 < 4 && rs1;
  case 0x7B: // hardware loops: count and setup read a register
    return (f3 == 2 || f3 == 4) && rs1;
  case 0x23:
  case 0x2B: // stores; the register forms have the offset in rd's place
    return rs1 || rs2 || (f3 >= 4 && bits(w, 7, 5) == r);
  case 0x63:
    return rs1 || (f3 != 2 && f3 != 3 && rs2);
  case 0x33: {
    uint32_t f7 = bits(w, 25, 7);
    bool accumulates =
        f7 == 0x21 || f7 == 0x48 || f7 == 0x49 || f7 == 0x4B || f7 == 0x5D;
    return rs1 || rs2 || (accumulates && bits(w, 7, 5) == r);
  }
  case 0x43:
  case 0x47:
  case 0x4B:
  case 0x4F:
    return rs1 || rs2 || bits(w, 27, 5) == r;
  case 0x53:
    return rs1 || rs2;
  default:
    return false;
  }
}

Op loadOp(uint32_t f3, Op lb) {
  // Lb, Lh, Lw, Lbu, Lhu are consecutive in each family.
  static constexpr int8_t place[8] = {0, 1, 2, -1, 3, 4, -1, -1};
  return place[f3] < 0 ? Op::Illegal : Op(uint16_t(lb) + place[f3]);
}

Op registerLoadOp(uint32_t f7, Op lb) {
  switch (f7) {
  case 0x00:
    return lb;
  case 0x08:
    return Op(uint16_t(lb) + 1);
  case 0x10:
    return Op(uint16_t(lb) + 2);
  case 0x20:
    return Op(uint16_t(lb) + 3);
  case 0x28:
    return Op(uint16_t(lb) + 4);
  default:
    return Op::Illegal;
  }
}

bool validRounding(uint32_t rm) { return rm < 5 || rm == 7; }

Op floatOp(uint32_t w) {
  uint32_t rm = bits(w, 12, 3), rs2 = bits(w, 20, 5), fmt = bits(w, 25, 2);
  if (fmt != 0 && fmt != 2)
    return Op::Illegal;
  bool half = fmt == 2;
  auto pick = [&](Op s, Op h) { return half ? h : s; };
  auto rounded = [&](Op s, Op h) {
    return validRounding(rm) ? pick(s, h) : Op::Illegal;
  };
  switch (bits(w, 27, 5)) {
  case 0x00:
    return rounded(Op::FaddS, Op::FaddH);
  case 0x01:
    return rounded(Op::FsubS, Op::FsubH);
  case 0x02:
    return rounded(Op::FmulS, Op::FmulH);
  case 0x03:
    return rounded(Op::FdivS, Op::FdivH);
  case 0x0B:
    return rs2 ? Op::Illegal : rounded(Op::FsqrtS, Op::FsqrtH);
  case 0x04:
    return rm == 0   ? pick(Op::FsgnjS, Op::FsgnjH)
           : rm == 1 ? pick(Op::FsgnjnS, Op::FsgnjnH)
           : rm == 2 ? pick(Op::FsgnjxS, Op::FsgnjxH)
                     : Op::Illegal;
  case 0x05:
    return rm == 0   ? pick(Op::FminS, Op::FminH)
           : rm == 1 ? pick(Op::FmaxS, Op::FmaxH)
                     : Op::Illegal;
  case 0x08: // between formats: rs2 is the source's
    if (fmt == 0 && rs2 == 2)
      return rounded(Op::FcvtSH, Op::FcvtSH);
    if (fmt == 2 && rs2 == 0)
      return rounded(Op::FcvtHS, Op::FcvtHS);
    return Op::Illegal;
  case 0x14:
    return rm == 0   ? pick(Op::FleS, Op::FleH)
           : rm == 1 ? pick(Op::FltS, Op::FltH)
           : rm == 2 ? pick(Op::FeqS, Op::FeqH)
                     : Op::Illegal;
  case 0x18:
    return rs2 == 0   ? rounded(Op::FcvtWS, Op::FcvtWH)
           : rs2 == 1 ? rounded(Op::FcvtWuS, Op::FcvtWuH)
                      : Op::Illegal;
  case 0x1A:
    return rs2 == 0   ? rounded(Op::FcvtSW, Op::FcvtHW)
           : rs2 == 1 ? rounded(Op::FcvtSWu, Op::FcvtHWu)
                      : Op::Illegal;
  case 0x1C: // fmv does not exist where registers are shared
    return rs2 == 0 && rm == 1 ? pick(Op::FclassS, Op::FclassH) : Op::Illegal;
  default:
    return Op::Illegal;
  }
}

Op vectorOp(uint32_t f7, uint32_t f3, uint32_t rs2) {
  bool half = (f3 & 3) == 2; // bit 2 of funct3 replicates lane 0 of rs2
  switch (f7) {
  case 0x41:
    return half ? Op::VfaddH : Op::Illegal;
  case 0x42:
    return half ? Op::VfsubH : Op::Illegal;
  case 0x43:
    return half ? Op::VfmulH : Op::Illegal;
  case 0x44:
    return half ? Op::VfdivH : Op::Illegal;
  case 0x45:
    return half ? Op::VfminH : Op::Illegal;
  case 0x46:
    return half ? Op::VfmaxH : Op::Illegal;
  case 0x47:
    return f3 == 2 && rs2 == 0 ? Op::VfsqrtH : Op::Illegal;
  case 0x48:
    return half ? Op::VfmacH : Op::Illegal;
  case 0x49:
    return half ? Op::VfmreH : Op::Illegal;
  case 0x4B:
    return (f3 & 3) == 0 ? Op::VfdotpexSH : Op::Illegal;
  case 0x4D:
    return half ? Op::VfsgnjH : Op::Illegal;
  case 0x4E:
    return half ? Op::VfsgnjnH : Op::Illegal;
  case 0x4F:
    return half ? Op::VfsgnjxH : Op::Illegal;
  case 0x58:
    return f3 == 2 ? Op::VfcpkaHS : Op::Illegal;
  case 0x5D:
    return (f3 & 3) == 0 ? Op::VfndotpexSH : Op::Illegal;
  default:
    return Op::Illegal;
  }
}

Op registerOp(uint32_t w) {
  uint32_t f3 = bits(w, 12, 3), f7 = bits(w, 25, 7), rs2 = bits(w, 20, 5);
  static constexpr Op base[8] = {Op::Add, Op::Sll, Op::Slt, Op::Sltu,
                                 Op::Xor, Op::Srl, Op::Or,  Op::And};
  static constexpr Op mulDiv[8] = {Op::Mul, Op::Mulh, Op::Mulhsu, Op::Mulhu,
                                   Op::Div, Op::Divu, Op::Rem,    Op::Remu};
  static constexpr Op pulp[8] = {Op::Abs, Op::Illegal, Op::Slet, Op::Sletu,
                                 Op::Min, Op::Minu,    Op::Max,  Op::Maxu};
  switch (f7) {
  case 0x00:
    return base[f3];
  case 0x01:
    return mulDiv[f3];
  case 0x20:
    return f3 == 0 ? Op::Sub : f3 == 5 ? Op::Sra : Op::Illegal;
  case 0x02:
    return f3 == 0 && rs2 != 0 ? Op::Illegal : pulp[f3];
  case 0x08:
    return f3 >= 4 && rs2 == 0 ? Op(uint16_t(Op::Exths) + f3 - 4) : Op::Illegal;
  case 0x21:
    return f3 == 0 ? Op::Mac : f3 == 1 ? Op::Msu : Op::Illegal;
  default:
    return vectorOp(f7, f3, rs2);
  }
}

} // namespace

Insn decode(const Config &config, uint32_t pc, uint32_t raw, uint32_t next,
            uint32_t before) {
  Insn i{};
  uint32_t w = canonicalWord(raw);
  uint32_t opcode = bits(w, 0, 7), f3 = bits(w, 12, 3), f7 = bits(w, 25, 7);
  uint32_t rd = bits(w, 7, 5);
  i.op = Op::Illegal;
  i.length = (raw & 3) == 3 ? 2 : 1;
  i.cycles = 1;
  i.rd = rd ? uint8_t(rd) : Discard;
  i.rs1 = uint8_t(bits(w, 15, 5));
  i.rs2 = uint8_t(bits(w, 20, 5));
  i.rs3 = uint8_t(bits(w, 27, 5));
  i.rounding = uint8_t(f3);
  i.tally = Tally::instruction;
  bool load = false, store = false;

  switch (opcode) {
  case 0x37:
    i.op = Op::Lui;
    i.imm = int32_t(w & 0xFFFFF000);
    break;
  case 0x17: // auipc: the address is known here, which makes it a lui
    i.op = Op::Lui;
    i.imm = int32_t(pc + (w & 0xFFFFF000));
    break;
  case 0x6F:
    i.op = Op::Jal;
    i.imm = immJ(w) / 2; // in halfwords
    break;
  case 0x67:
    if (f3 == 0) {
      i.op = Op::Jalr;
      i.imm = immI(w);
    }
    break;
  case 0x63: {
    static constexpr Op branch[8] = {Op::Beq, Op::Bne, Op::BeqImm, Op::BneImm,
                                     Op::Blt, Op::Bge, Op::Bltu,   Op::Bgeu};
    i.op = branch[f3];
    i.imm = immB(w) / 2;
    if (f3 == 2 || f3 == 3) // compares with a 5-bit signed constant
      i.aux = uint8_t(signExtend(bits(w, 20, 5), 5));
    break;
  }
  case 0x03:
    i.imm = immI(w);
    i.op = f3 == 6   ? Op::Elw
           : f3 == 7 ? registerLoadOp(f7, Op::LbReg)
                     : loadOp(f3, Op::Lb);
    load = true;
    break;
  case 0x0B:
    i.imm = immI(w);
    i.op = f3 == 7 ? registerLoadOp(f7, Op::LbRegPost) : loadOp(f3, Op::LbPost);
    load = true;
    break;
  case 0x23:
  case 0x2B: {
    bool post = opcode == 0x2B;
    i.imm = immS(w);
    store = true;
    if (f3 < 3)
      i.op = Op(uint16_t(post ? Op::SbPost : Op::Sb) + f3);
    else if (f3 >= 4 && f3 < 7 && f7 == 0)
      i.op = Op(uint16_t(post ? Op::SbRegPost : Op::SbReg) + f3 - 4);
    i.rs3 = uint8_t(rd); // the register forms' offset
    break;
  }
  case 0x13: {
    static constexpr Op immediate[8] = {Op::Addi,  Op::Illegal, Op::Slti,
                                        Op::Sltiu, Op::Xori,    Op::Illegal,
                                        Op::Ori,   Op::Andi};
    i.op = immediate[f3];
    i.imm = immI(w);
    if (f3 == 1 && f7 == 0)
      i.op = Op::Slli;
    else if (f3 == 5)
      i.op = f7 == 0 ? Op::Srli : f7 == 0x20 ? Op::Srai : Op::Illegal;
    if (f3 == 1 || f3 == 5)
      i.imm &= 31;
    // slti to x0 is a hint reserved for custom use: here, a marker in time.
    if (f3 == 2 && rd == 0)
      i.op = Op::Marker;
    break;
  }
  case 0x33:
    i.op = registerOp(w);
    if (i.op >= Op::VfaddH)
      i.aux = (f3 & 4) != 0; // replicate lane 0 of rs2
    break;
  case 0x0F:
    i.op = f3 == 0 ? Op::Fence : f3 == 1 ? Op::FenceI : Op::Illegal;
    break;
  case 0x73:
    i.imm = int32_t(bits(w, 20, 12));
    if (f3 == 0) {
      switch (w) {
      case 0x00000073:
        i.op = Op::Ecall;
        break;
      case 0x00100073: // semihosting: between slli x0,x0,31 and srai x0,x0,7
        i.op = raw == w && before == 0x01F01013 && next == 0x40705013
                   ? Op::Semihost
                   : Op::Ebreak;
        break;
      case 0x30200073:
        i.op = Op::Mret;
        break;
      case 0x10500073:
        i.op = Op::Wfi;
        break;
      default:
        break;
      }
    } else if (f3 != 4) {
      static constexpr Op csr[8] = {Op::Illegal, Op::Csrrw,   Op::Csrrs,
                                    Op::Csrrc,   Op::Illegal, Op::Csrrwi,
                                    Op::Csrrsi,  Op::Csrrci};
      i.op = csr[f3];
    }
    break;
  case 0x7B: // hardware loops; the loop's number is bit 0 of rd
    if (f3 < 6 && rd < 2) {
      i.op = Op(uint16_t(Op::LpStarti) + f3);
      i.aux = uint8_t(rd);
      i.imm = int32_t(bits(w, 20, 12));
    }
    break;
  case 0x43:
  case 0x47:
  case 0x4B:
  case 0x4F: {
    uint32_t fmt = bits(w, 25, 2);
    if ((fmt == 0 || fmt == 2) && validRounding(f3))
      i.op = Op(uint16_t(fmt ? Op::FmaddH : Op::FmaddS) + ((opcode >> 2) & 3));
    break;
  }
  case 0x53:
    i.op = floatOp(w);
    break;
  default:
    break;
  }

  switch (i.op) {
  case Op::Mulh:
  case Op::Mulhsu:
  case Op::Mulhu:
    i.cycles = uint8_t(config.mulh);
    if (reads(next, rd))
      i.cycles = uint8_t(i.cycles + config.mulDependent - config.mul);
    break;
  case Op::Mul:
    i.cycles = uint8_t(reads(next, rd) ? config.mulDependent : config.mul);
    break;
  case Op::Div:
  case Op::Divu:
  case Op::Rem:
  case Op::Remu:
    i.cycles = 1; // the rest depends on the divisor
    break;
  case Op::Illegal:
    load = store = false;
    i.imm = int32_t(raw); // for the message
    break;
  default:
    break;
  }
  if (load) {
    i.tally += 1ull << Tally::loadShift;
    if (reads(next, rd)) {
      i.cycles = uint8_t(1 + config.loadUse);
      i.tally += uint64_t(config.loadUse) << Tally::loadStallShift;
    }
  }
  if (store)
    i.tally += 1ull << Tally::storeShift;
  i.real = i.op;
  return i;
}

} // namespace tdsim
