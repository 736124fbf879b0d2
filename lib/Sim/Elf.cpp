//===- Elf.cpp ------------------------------------------------------------===//
#include "Elf.h"
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace tdsim {
namespace {

struct Header {
  uint8_t ident[16];
  uint16_t type, machine;
  uint32_t version, entry, phoff, shoff, flags;
  uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
struct ProgramHeader {
  uint32_t type, offset, vaddr, paddr, filesz, memsz, flags, align;
};
struct SectionHeader {
  uint32_t name, type, flags, addr, offset, size, link, info, align, entsize;
};
struct SymbolEntry {
  uint32_t name, value, size;
  uint8_t info, other;
  uint16_t section;
};

constexpr uint16_t MachineRiscv = 243;
constexpr uint32_t Load = 1, ProgramBits = 1, SymbolTable = 2, Instructions = 4;

class Reader {
public:
  Reader(const std::string &path, std::vector<char> bytes)
      : path(path), bytes(std::move(bytes)) {}
  template <class T> T at(uint64_t offset) const {
    T value;
    std::memcpy(&value, range(offset, sizeof(T)), sizeof(T));
    return value;
  }
  const char *range(uint64_t offset, uint64_t size) const {
    if (offset + size > bytes.size())
      throw std::runtime_error(path + ": truncated ELF file");
    return bytes.data() + offset;
  }

private:
  std::string path;
  std::vector<char> bytes;
};

} // namespace

Elf Elf::read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw std::runtime_error(path + ": cannot open");
  Reader in(path, {std::istreambuf_iterator<char>(file), {}});
  auto header = in.at<Header>(0);
  if (std::memcmp(header.ident, "\177ELF\1\1", 6) != 0 ||
      header.machine != MachineRiscv)
    throw std::runtime_error(path +
                             ": not a 32-bit little-endian RISC-V ELF file");
  Elf elf;
  elf.entry = header.entry;
  for (unsigned i = 0; i < header.phnum; ++i) {
    auto ph =
        in.at<ProgramHeader>(header.phoff + uint64_t(i) * header.phentsize);
    if (ph.type != Load || ph.memsz == 0)
      continue;
    if (ph.filesz > ph.memsz)
      throw std::runtime_error(path +
                               ": segment larger in the file than in memory");
    Segment segment{ph.paddr, {}};
    const char *data = in.range(ph.offset, ph.filesz);
    segment.bytes.assign(data, data + ph.filesz);
    // A target's memories are 32 MiB together; a larger segment is no program.
    if (ph.memsz > (64u << 20))
      throw std::runtime_error(path + ": segment of more than 64 MiB");
    segment.bytes.resize(ph.memsz);
    elf.segments.push_back(std::move(segment));
  }
  for (unsigned i = 0; i < header.shnum; ++i) {
    auto sh =
        in.at<SectionHeader>(header.shoff + uint64_t(i) * header.shentsize);
    if (sh.type == ProgramBits && (sh.flags & Instructions)) {
      const char *data = in.range(sh.offset, sh.size);
      elf.code.emplace_back(data, data + sh.size);
    }
    if (sh.type != SymbolTable || sh.link >= header.shnum)
      continue;
    auto strings = in.at<SectionHeader>(header.shoff +
                                        uint64_t(sh.link) * header.shentsize);
    for (uint32_t at = 0; at + sizeof(SymbolEntry) <= sh.size;
         at += sizeof(SymbolEntry)) {
      auto symbol = in.at<SymbolEntry>(uint64_t(sh.offset) + at);
      unsigned type = symbol.info & 15;
      if (type > 2 || symbol.section == 0 || symbol.name >= strings.size)
        continue; // keeps untyped labels, objects and functions
      const char *name = in.range(uint64_t(strings.offset) + symbol.name, 1);
      size_t longest = strings.size - symbol.name;
      std::string text(name, strnlen(name, longest));
      // Mapping symbols ($x, $d) and assembler-local labels say nothing.
      if (!text.empty() && text[0] != '$' && text.compare(0, 2, ".L") != 0)
        elf.symbols.push_back({symbol.value, symbol.size, text});
    }
  }
  std::stable_sort(
      elf.symbols.begin(), elf.symbols.end(),
      [](const Symbol &a, const Symbol &b) { return a.address < b.address; });
  return elf;
}

std::string Elf::locate(uint32_t address) const {
  auto after = std::upper_bound(
      symbols.begin(), symbols.end(), address,
      [](uint32_t a, const Symbol &s) { return a < s.address; });
  while (after != symbols.begin()) {
    const Symbol &symbol = *--after;
    uint32_t offset = address - symbol.address;
    if (symbol.size && offset >= symbol.size)
      continue;
    if (!offset)
      return symbol.name;
    char text[16];
    std::snprintf(text, sizeof text, "+0x%x", offset);
    return symbol.name + text;
  }
  return "";
}

} // namespace tdsim
