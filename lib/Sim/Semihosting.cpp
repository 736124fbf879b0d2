//===- Semihosting.cpp ----------------------------------------------------===//
#include "Semihosting.h"
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace tdsim {
namespace {

enum Operation : uint32_t {
  Open = 0x01,
  CloseFile = 0x02,
  WriteC = 0x03,
  Write0 = 0x04,
  Write = 0x05,
  Read = 0x06,
  IsError = 0x08,
  IsTty = 0x09,
  Seek = 0x0A,
  Flen = 0x0C,
  Clock = 0x10,
  Errno = 0x13,
  Exit = 0x18,
  ExitExtended = 0x20,
};
constexpr uint32_t ApplicationExit = 0x20026;
constexpr uint32_t Failed = 0xFFFFFFFF;

} // namespace

Semihosting::Semihosting(std::string workdir, Memory memory, Output output)
    : workdir(std::move(workdir)), memory(std::move(memory)),
      output(std::move(output)) {}

uint32_t Semihosting::word(uint32_t address, unsigned index) {
  uint32_t value;
  std::memcpy(&value, memory(address + 4 * index, 4, false), 4);
  return value;
}

std::string Semihosting::text(uint32_t address) {
  std::string result;
  while (char c = char(*memory(address++, 1, false)))
    result += c;
  return result;
}

std::string Semihosting::resolve(const std::string &name) const {
  namespace fs = std::filesystem;
  // weakly_canonical also follows links, so that none leads outside.
  fs::path root = fs::weakly_canonical(workdir);
  fs::path path = fs::weakly_canonical(root / name);
  auto relative = path.lexically_relative(root);
  if (fs::path(name).is_absolute() || relative.empty() ||
      *relative.begin() == "..")
    throw Error("semihosting: \"" + name +
                "\" is outside of the work directory");
  return path.string();
}

uint32_t Semihosting::open(uint32_t argument) {
  static constexpr const char *modes[12] = {
      "r", "rb", "r+", "r+b", "w", "wb", "w+", "w+b", "a", "ab", "a+", "a+b"};
  uint32_t mode = word(argument, 1), length = word(argument, 2);
  const char *bytes =
      reinterpret_cast<const char *>(memory(word(argument, 0), length, false));
  std::string name(bytes, length);
  if (name == ":tt")
    return mode < 4 ? 0 : mode < 8 ? 1 : 2;
  if (mode >= 12)
    throw Error("semihosting: no such mode of opening a file");
  File opened(std::fopen(resolve(name).c_str(), modes[mode]));
  if (!opened) {
    errorNumber = uint32_t(errno);
    return Failed;
  }
  for (size_t i = 0; i < files.size(); ++i)
    if (!files[i]) {
      files[i] = std::move(opened);
      return FirstFile + uint32_t(i);
    }
  files.push_back(std::move(opened));
  return FirstFile + uint32_t(files.size()) - 1;
}

std::FILE *Semihosting::file(uint32_t handle) {
  uint32_t index = handle - FirstFile;
  if (handle < FirstFile || index >= files.size() || !files[index]) {
    errorNumber = EBADF;
    return nullptr;
  }
  return files[index].get();
}

Semihosting::Result Semihosting::call(uint32_t operation, uint32_t argument,
                                      uint64_t cycle,
                                      uint64_t cyclesPerCentisecond) {
  Result result;
  switch (operation) {
  case Open:
    result.value = open(argument);
    break;
  case CloseFile: {
    uint32_t handle = word(argument, 0);
    if (handle < FirstFile)
      break;
    if (!file(handle)) {
      result.value = Failed;
      break;
    }
    files[handle - FirstFile].reset();
    break;
  }
  case WriteC:
    output(std::string(1, char(*memory(argument, 1, false))));
    break;
  case Write0:
    output(text(argument));
    break;
  case Write: { // returns the bytes not written
    uint32_t handle = word(argument, 0), size = word(argument, 2);
    uint8_t *bytes = memory(word(argument, 1), size, false);
    if (handle == 1 || handle == 2) {
      output(std::string(reinterpret_cast<char *>(bytes), size));
    } else {
      std::FILE *f = file(handle);
      result.value = f ? size - uint32_t(std::fwrite(bytes, 1, size, f)) : size;
    }
    break;
  }
  case Read: { // returns the bytes not read
    uint32_t handle = word(argument, 0), size = word(argument, 2);
    uint8_t *bytes = memory(word(argument, 1), size, true);
    std::FILE *f = file(handle);
    result.value = f ? size - uint32_t(std::fread(bytes, 1, size, f)) : size;
    break;
  }
  case IsError:
    result.value = int32_t(word(argument, 0)) < 0;
    break;
  case IsTty:
    result.value = word(argument, 0) < FirstFile;
    break;
  case Seek: {
    std::FILE *f = file(word(argument, 0));
    result.value =
        f && std::fseek(f, long(word(argument, 1)), SEEK_SET) == 0 ? 0 : Failed;
    break;
  }
  case Flen: {
    std::FILE *f = file(word(argument, 0));
    result.value = Failed;
    if (!f)
      break;
    long at = std::ftell(f);
    if (at >= 0 && std::fseek(f, 0, SEEK_END) == 0) {
      result.value = uint32_t(std::ftell(f));
      std::fseek(f, at, SEEK_SET);
    }
    break;
  }
  case Clock:
    result.value = uint32_t(cycle / cyclesPerCentisecond);
    break;
  case Errno:
    result.value = errorNumber;
    break;
  case Exit: // on a 32-bit machine the argument is the reason itself
    result.exitCode = argument == ApplicationExit ? 0 : 1;
    break;
  case ExitExtended:
    result.exitCode =
        word(argument, 0) == ApplicationExit ? int(word(argument, 1)) : 1;
    break;
  default:
    char message[64];
    std::snprintf(message, sizeof message,
                  "semihosting: operation 0x%x is not supported", operation);
    throw Error(message);
  }
  return result;
}

} // namespace tdsim
