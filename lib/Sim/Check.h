//===- Check.h - Checked execution ------------------------------*- C++ -*-===//
//
// A shadow of every byte of memory: whether somebody wrote it, and which jobs
// in flight read or write it. Where the program's plan is known, also which
// arrays and tiles lie there, and when. An engine's job is checked as a whole
// when it starts, a core's access when it happens.
//
// A job is in flight until the program has seen its end: until the DMA's
// identifier is freed, RedMulE or the HyperRAM channel is seen idle. So what is
// found does not depend on how fast an engine happens to be.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_CHECK_H
#define TDSIM_CHECK_H

#include "Config.h"
#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tdsim {

/// What is known of a program: where its data lie, and in which order its jobs
/// are issued. All of it may be empty.
struct CheckPlan {
  static constexpr uint32_t Always = ~0u;
  struct Array {
    std::string name;
    unsigned level; // 1 to 3
    uint32_t begin, bytes;
    /// Places in the stream of jobs between which it lives, both included.
    uint32_t first, last;
    /// The host core may access it, and it lives as long as the program.
    bool host;
    /// Has no value when a step begins; nor has one that is not `host`.
    bool output;
  };
  struct Stack {
    uint32_t low = 0, high = 0;
  };

  std::array<MemoryRange, 4> planned{}; // by level: where arrays lie
  std::vector<Array> arrays;
  /// The stream: a job's kind (call C, load L, store S, L3 transfer H, GEMM G)
  /// and its operator.
  std::string kinds;
  std::vector<uint32_t> operatorOf;
  std::vector<std::string> operators;
  std::map<uint32_t, uint32_t> kernels; // entry point to words of arguments
  std::vector<Stack> stacks;            // by core, the host's last
};

class Checker {
public:
  /// Lines of bytes that a job touches, `stride` apart, in one memory.
  struct Region {
    unsigned level;
    uint32_t address, line, stride, lines;
    bool write;
    const char *what; // "X", "L2 side", ...
    bool read = !write;
    uint32_t extent() const { return (lines - 1) * stride + line; }
    bool overlaps(const Region &other) const {
      return level == other.level &&
             address < uint64_t(other.address) + other.extent() &&
             other.address < uint64_t(address) + extent();
    }
  };
  enum class Engine { Dma, HyperRam, Redmule };
  using Locate = std::function<std::string(uint32_t)>;
  /// Reads a word of L1 or L2 without checking it.
  using ReadWord = std::function<uint32_t(uint32_t)>;

  /// `locate` gives the symbol at an address, or an empty string.
  Checker(const Config &config, CheckPlan plan, Locate locate,
          ReadWord readWord);

  /// A load or store of a core is right, or to no memory. If not, `wrong` says
  /// why.
  bool access(unsigned core, uint32_t address, uint32_t size, bool write) {
    const uint32_t l1Offset = address - config.l1.base;
    const uint32_t l2Offset = address - config.l2.base;
    unsigned level;
    uint8_t *bytes;
    if (l1Offset < config.l1.size && size <= config.l1.size - l1Offset) {
      level = 1;
      bytes = l1.data() + l1Offset;
    } else if (l2Offset < config.l2.size && size <= config.l2.size - l2Offset) {
      level = 2;
      bytes = l2.data() + l2Offset;
    } else {
      return true;
    }
    const MemoryRange &planned = plan.planned[level];
    if (address - planned.base < planned.size &&
        !mayAccess(core, level, address, size)) {
      wrong = outside(core, level, address, size, write);
      return false;
    }
    uint8_t all = 0xFF, any = 0;
    for (uint32_t i = 0; i < size; ++i) {
      all &= bytes[i];
      any |= bytes[i];
    }
    if (write ? !(any & (Writer | Reader))
              : (all & Defined) && !(any & Writer)) {
      if (write)
        for (uint32_t i = 0; i < size; ++i)
          bytes[i] |= Defined;
      return true;
    }
    wrong = broken(core, level, address, size, write);
    return false;
  }
  std::string wrong;

  // All of these return what is wrong, or an empty string.

  /// A core's stack pointer has moved from `before` to `after`.
  std::string stack(unsigned core, uint32_t before, uint32_t after) const;
  /// A jump of a core that may begin or end a kernel.
  std::string jump(unsigned core, uint32_t target, uint32_t link,
                   uint32_t arguments);

  /// A job begins; `key` is the DMA's identifier or the HyperRAM's channel.
  std::string start(Engine engine, unsigned key, char kind,
                    std::vector<Region> regions, uint64_t cycle);
  /// Nobody has seen the end of the last job with this key yet.
  bool unseen(Engine engine, unsigned key) const;
  /// The program has seen the end of the jobs with this key.
  void retire(Engine engine, unsigned key);

  void beginStep();
  void endStep() { inStep = false; }
  /// Bytes that are there before the program starts.
  void define(unsigned level, uint32_t address, uint32_t size);

private:
  static constexpr uint8_t Defined = 0x80, Writer = 0x40, Reader = 0x20;

  struct Job {
    Engine engine;
    unsigned key;
    std::vector<Region> regions;
    uint64_t cycle;
    uint32_t position;
  };
  struct Range {
    uint32_t begin, bytes;
  };
  struct CoreState {
    uint32_t calls = 0;
    bool inKernel = false;
    uint32_t returnTo = 0, position = 0;
    std::vector<Range> ranges; // what the kernel's arguments name
  };

  uint8_t *shadow(unsigned level, uint32_t address);
  bool mayAccess(unsigned core, unsigned level, uint32_t address,
                 uint32_t size);
  std::string outside(unsigned core, unsigned level, uint32_t address,
                      uint32_t size, bool write) const;
  std::string broken(unsigned core, unsigned level, uint32_t address,
                     uint32_t size, bool write);
  std::string describe(unsigned level, uint32_t address, uint32_t size,
                       uint32_t position) const;
  std::string operatorAt(uint32_t position) const;
  std::string name(const Job &job) const;
  /// The job in flight that touches a byte, other than to read it when
  /// `writesOnly`.
  const Job *jobAt(unsigned level, uint32_t address, bool writesOnly) const;
  const CheckPlan::Array *find(unsigned level, uint32_t address, uint32_t size,
                               uint32_t position) const;
  void advance(uint32_t position);
  void mark(const Region &region);

  const Config config;
  CheckPlan plan;
  Locate locate;
  ReadWord readWord;
  std::vector<uint8_t> l1, l2;
  std::unique_ptr<uint8_t, decltype(&std::free)> l3;
  std::vector<Job> inFlight;
  std::vector<CoreState> cores;
  std::map<char, std::vector<uint32_t>> positions; // of the jobs of a kind
  std::map<char, uint32_t> issued;                 // in this step
  std::vector<uint32_t> births; // arrays that jobs bring to life, in order
  std::vector<bool> begun;      // places of the stream
  std::vector<uint32_t> live;   // of these, those that a job may still use
  std::vector<uint32_t> permanent;
  bool inStep = false;
};

} // namespace tdsim

#endif // TDSIM_CHECK_H
