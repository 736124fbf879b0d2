//===- Semihosting.h - Files and output through the debugger ----*- C++ -*-===//
#ifndef TDSIM_SEMIHOSTING_H
#define TDSIM_SEMIHOSTING_H

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace tdsim {

/// RISC-V (Arm) semihosting calls, with files below one directory only.
class Semihosting {
public:
  /// Gives `size` bytes of simulated memory, to read or to write, or throws.
  using Memory =
      std::function<uint8_t *(uint32_t address, uint32_t size, bool write)>;
  using Output = std::function<void(const std::string &)>;

  struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
  };

  Semihosting(std::string workdir, Memory memory, Output output);

  struct Result {
    uint32_t value = 0;
    std::optional<int> exitCode;
  };
  /// `operation` and `argument` are a0 and a1. Throws Error on an operation
  /// that is not supported or a file name that leaves the work directory.
  Result call(uint32_t operation, uint32_t argument, uint64_t cycle,
              uint64_t cyclesPerCentisecond);

private:
  struct Close {
    void operator()(std::FILE *file) const { std::fclose(file); }
  };
  using File = std::unique_ptr<std::FILE, Close>;

  uint32_t word(uint32_t address, unsigned index);
  std::string text(uint32_t address);
  std::string resolve(const std::string &name) const;
  uint32_t open(uint32_t argument);
  std::FILE *file(uint32_t handle);

  std::string workdir;
  Memory memory;
  Output output;
  // Handles 0 to 2 are the console, whatever mode ":tt" was opened with.
  static constexpr uint32_t FirstFile = 3;
  std::vector<File> files;
  uint32_t errorNumber = 0;
};

} // namespace tdsim

#endif // TDSIM_SEMIHOSTING_H
