//===- log.h - The log of a run on GVSoC ----------------------------------===//
//
// All components write to one pipe, which traindeeploy.gvsoc reads while the
// program runs: entries come in the order in which they are written, whoever
// writes them, and take no disk. An entry is its kind and 48 bytes that begin
// with one of the structures below.
//
//===----------------------------------------------------------------------===//
#ifndef TRAINDEEPLOY_GVSOC_LOG_H
#define TRAINDEEPLOY_GVSOC_LOG_H
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>

struct Marker {
  static constexpr uint64_t Kind = 0;
  uint64_t cycle;
  uint32_t core, kind, value, padding;
};
struct DmaJob {
  static constexpr uint64_t Kind = 1;
  uint64_t start, end;
  uint32_t bytes, toL1, l1, l2;
};
struct RedmuleJob {
  static constexpr uint64_t Kind = 2;
  uint64_t trigger, start, end;
  uint32_t m, n, k, format;
};
/// A transfer when it is programmed; `time` and the clock's `period` are
/// picoseconds.
struct HyperJob {
  static constexpr uint64_t Kind = 3;
  uint64_t trigger, time, period;
  uint32_t bytes, toL3, l2, l3;
};
/// A burst on the HyperRAM's bus; its times are picoseconds, for the bus has
/// no clock of the cluster's. `bytes` count the command, too.
struct Burst {
  static constexpr uint64_t Kind = 4;
  uint64_t start, end;
  uint32_t bytes, write, address, padding;
};

class Log {
public:
  Log() = default;
  Log(const Log &) = delete;
  Log &operator=(const Log &) = delete;
  ~Log() { close(); }

  bool open(const std::string &path) {
    descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    return descriptor >= 0;
  }

  void close() {
    if (descriptor >= 0)
      ::close(descriptor);
    descriptor = -1;
  }

  template <typename Job> void put(const Job &job) {
    static_assert(sizeof(Job) <= sizeof(Entry::payload));
    Entry entry{Job::Kind, {}};
    std::memcpy(entry.payload, &job, sizeof job);
    // So little is written whole or not at all.
    while (::write(descriptor, &entry, sizeof entry) < 0 && errno == EINTR)
      ;
  }

private:
  struct Entry {
    uint64_t kind;
    unsigned char payload[48];
  };
  int descriptor = -1;
};

#endif // TRAINDEEPLOY_GVSOC_LOG_H
