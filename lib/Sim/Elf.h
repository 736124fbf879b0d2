//===- Elf.h - Reading the program ------------------------------*- C++ -*-===//
#ifndef TDSIM_ELF_H
#define TDSIM_ELF_H

#include <cstdint>
#include <string>
#include <vector>

namespace tdsim {

/// A 32-bit little-endian RISC-V executable.
struct Elf {
  struct Segment {
    uint32_t address;
    std::vector<uint8_t> bytes; // zero-filled to its size in memory
  };
  struct Symbol {
    uint32_t address, size;
    std::string name;
  };

  uint32_t entry = 0;
  std::vector<std::vector<uint8_t>> code; // sections of instructions
  std::vector<Segment> segments;
  std::vector<Symbol> symbols; // functions and labels in ascending order

  /// Throws std::runtime_error with one line when the file is not such a file.
  static Elf read(const std::string &path);
  /// "name+0x10", or an empty string when no symbol covers the address.
  std::string locate(uint32_t address) const;
};

} // namespace tdsim

#endif // TDSIM_ELF_H
