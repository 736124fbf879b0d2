//===- Machine.h - The simulated system on chip -----------------*- C++ -*-===//
//
// A machine is a set of actors that each have a time: the cores, the two
// directions of the DMA, the HyperRAM controller and RedMulE. Cores that share
// a floating-point unit take their turn together. The actor that is furthest
// behind goes next, and keeps going until it is a few cycles ahead of
// the others (Lookahead). What actors compete for within those few cycles, the
// banks of L1, is booked in a calendar of cycles in the order of arrival, not
// of simulation; what must be in exact order (devices, floating-point units,
// the divider) makes an actor wait until it is the one furthest behind.
//
//===----------------------------------------------------------------------===//
#ifndef TDSIM_MACHINE_H
#define TDSIM_MACHINE_H

#include "Check.h"
#include "Config.h"
#include "Decode.h"
#include "Elf.h"
#include "InstructionCache.h"
#include "Semihosting.h"
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace tdsim {

inline constexpr uint64_t Never = std::numeric_limits<uint64_t>::max();

/// Ends a run with one message for the user.
struct Stop : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Which cycles the banks of L1 are taken in. A bank serves in the order in
/// which accesses arrive, and of those that arrive in one cycle a core's before
/// an engine's. Cores run ahead, so an engine's access may be simulated after
/// one of a core that arrives later: that one gives way, and the core waits.
class BankCalendar {
public:
  static constexpr uint64_t Size = 1024, Mask = Size - 1;

  /// A cycle: bit b is bank b.
  struct Slot {
    uint32_t taken, engines; // by anyone; by RedMulE or the DMA
  };
  /// Which core holds a bank in a cycle: its index above the low byte of the
  /// time when it came. Kept for as many cycles as cores can be ahead.
  using Holder = uint16_t;
  static constexpr uint64_t Kept = 128, KeptMask = Kept - 1;
  static constexpr unsigned MaxBanks = 32;
  static_assert(Kept <= 128, "arrivals are compared as signed bytes");

  static Holder holder(unsigned core, uint64_t arrival) {
    return Holder(core << 8 | (arrival & 0xFF));
  }
  static size_t place(uint64_t time, uint32_t bank) {
    return (time & KeptMask) * MaxBanks + bank;
  }

  /// Whether an access of an engine gets all its banks at once; it has them
  /// then.
  bool takeFree(uint64_t time, uint32_t banks) {
    Slot &slot = slots[time & Mask];
    if (slot.taken & banks)
      return false;
    slot.taken |= banks;
    slot.engines |= banks;
    return true;
  }
  /// Gives an access of an engine each of its banks when it is served there.
  /// The last one's time counts.
  template <class Delay>
  uint64_t queueEngine(uint64_t time, uint32_t banks, Delay delay) {
    uint64_t last = time;
    for (; banks; banks &= banks - 1)
      last = std::max(last, queue(time, uint32_t(__builtin_ctz(banks)), delay));
    return last;
  }
  /// Takes a core's bank in its first free cycle. Between cores, the order of
  /// simulation stands for that of arrival.
  uint64_t queueCore(uint64_t time, uint32_t bank, unsigned core) {
    uint64_t arrival = time;
    while (slots[time & Mask].taken >> bank & 1)
      ++time;
    slots[time & Mask].taken |= 1u << bank;
    holders[place(time, bank)] = holder(core, arrival);
    return time;
  }

  /// Makes cycles before `until` usable. Those of Size cycles earlier go.
  void clearUntil(uint64_t until) {
    for (; cleared < until; ++cleared)
      slots[cleared & Mask] = {};
  }
  // For the interpreter, which books a free cycle itself.
  Slot *slotData() { return slots.data(); }
  Holder *holderData() { return holders.data(); }

private:
  static constexpr unsigned NoCore = ~0u;

  /// Takes the first cycle from `arrival` on in which the bank is not busy with
  /// what came before. What came later moves on in its order; `delay` is told
  /// which core waits, and how much longer.
  template <class Delay>
  uint64_t queue(uint64_t arrival, uint32_t bank, Delay delay) {
    const uint32_t bit = 1u << bank;
    unsigned core = NoCore; // of the access to place, which held `before`
    uint64_t mine = 0, before = 0;
    for (uint64_t time = arrival;; ++time) {
      Slot &slot = slots[time & Mask];
      Holder &there = holders[place(time, bank)], late = 0;
      bool taken = slot.taken & bit;
      int ahead = 0;
      if (taken) {
        if ((slot.engines & bit) || time - arrival >= Kept / 2)
          continue;
        late = there;
        ahead = int8_t(uint8_t(late - arrival));
        if (ahead <= 0)
          continue;
      }
      slot.taken |= bit;
      if (core == NoCore)
        slot.engines |= bit;
      else
        there = holder(core, arrival);
      if (mine)
        delay(core, time - before);
      else
        mine = time;
      if (!taken)
        return mine;
      before = time;
      arrival += unsigned(ahead);
      core = late >> 8;
    }
  }

  std::array<Slot, Size> slots{};
  std::array<Holder, Kept * MaxBanks> holders{};
  uint64_t cleared = Size;
};

/// What delayed a core, in cycles unless it says otherwise.
struct CoreCounters {
  uint64_t instructions = 0;
  uint64_t loads = 0, stores = 0; // instructions
  uint64_t loadUseStalls = 0, bankStalls = 0, fpuStalls = 0;
  uint64_t l2Stalls = 0, deviceStalls = 0, icacheStalls = 0;
  uint64_t jumps = 0, branches = 0, takenBranches = 0; // instructions
  uint64_t asleep = 0;
};

struct Core {
  uint32_t x[33] = {}; // x[Discard] takes what is written to x0
  Insn *ip = nullptr;
  uint32_t index = 0, hart = 0, fpu = 0;
  bool host = false;

  enum class State : uint8_t {
    Off,
    Running,
    Asleep,
    Blocked
  } state = State::Off;
  uint32_t wakeRegister = Discard; // takes the event mask at wake-up
  uint64_t sleepStart = 0, started = 0;
  bool waitsForInterrupt = false;

  // Hardware loops; the end is the last instruction.
  Insn *lpStart[2] = {}, *lpEnd[2] = {};
  uint32_t lpCount[2] = {};

  uint32_t fflags = 0, frm = 0;
  uint32_t mstatus = 0, mtvec = 0, mepc = 0, mcause = 0, mtval = 0;
  uint32_t mscratch = 0, mie = 0;
  uint64_t cycleOffset = 0, instretOffset = 0;

  static constexpr unsigned PerfEvents = 17;
  uint32_t pcer = 0, pcmr = 3;
  uint32_t pccr[32] = {};
  std::array<uint64_t, PerfEvents> pccrLast{};

  uint32_t fetchLine = ~0u; // with the instruction cache off
  uint32_t bootAddress = 0;
  uint32_t kernelReturn = 0; // where the kernel that it is in returns to
  CoreCounters counters;
};

/// The event unit's part for one core.
struct CoreEvents {
  uint32_t mask = 0, irqMask = 0, buffer = 0, clearOnWake = 0;
};

struct Barrier {
  uint32_t triggerMask = 0, status = 0, targetMask = 0;
};

// Logs of what the engines did; fields in the order Python sees them.
struct DmaJob {
  uint64_t start, end;
  uint32_t bytes, toL1, l1, l2;
};
struct HyperJob {
  uint64_t trigger, start, end;
  uint32_t bytes, toL3, l2, l3;
};
struct RedmuleJob {
  uint64_t trigger, start, end;
  uint32_t m, n, k, format; // 16 or 32
  uint32_t waited, padding; // cycles that L1's banks made the job longer
};
struct MarkerRecord {
  uint64_t cycle;
  uint32_t core, kind, value;
};

enum class LogPolicy { None, Marked, All };

struct RunOptions {
  uint64_t maxCycles = Never;
  LogPolicy log = LogPolicy::All;
  uint64_t logLimit = 1u << 20; // jobs of each engine
  /// Stops at the first access that is not right; see Check.h.
  std::optional<CheckPlan> check;
  std::string workdir;
  std::function<void(const std::string &)> standardOutput;
  std::function<void(uint64_t)> progress; // called a few times a second
  /// Entry points of kernels: calls of these on cores other than 0, which marks
  /// its own, are noted as markers 3 and 4.
  std::vector<uint32_t> kernels;
  /// Called when a step ends (marker 2); the logs are those of the step, and
  /// start anew after it.
  std::function<void()> stepEnded;
};

class Machine {
public:
  /// `portable` keeps to instructions that every host has, which is slower.
  explicit Machine(const Config &config, bool portable = false);
  ~Machine();
  Machine(const Machine &) = delete;
  Machine &operator=(const Machine &) = delete;

  void load(const Elf &elf);
  /// Runs until the program exits; throws Stop when it does not.
  int run(const RunOptions &options);

  const Config config;
  uint64_t endCycle() const { return now; }
  uint64_t instructions() const;
  uint64_t droppedJobs() const { return dropped; }
  unsigned coreCount() const { return unsigned(cores.size()); }
  /// Counters of a core at the end of a run; `active` is cycles not asleep.
  const CoreCounters &counters(unsigned core) const {
    return cores[core].counters;
  }
  uint64_t activeCycles(unsigned core) const;

  std::vector<DmaJob> dmaJobs;
  std::vector<HyperJob> hyperJobs;
  std::vector<RedmuleJob> redmuleJobs;
  std::vector<MarkerRecord> markers;

private:
  /// How far an actor may run ahead of the others, in cycles.
  static constexpr uint64_t Lookahead = 20;
  /// The longest turn, which bounds what the calendar must hold.
  static constexpr uint64_t LongestTurn = BankCalendar::Size / 2;

  // --- Scheduling (Machine.cpp)
  /// Who goes next: from when, and until when it may.
  struct Turn {
    unsigned actor = 0;
    uint64_t start = Never;
    uint64_t others = Never; // when the next one is due
    uint64_t cores = Never;  // when the next core of the cluster is
    uint64_t limit = Never;
  };
  unsigned lastOfUnit(unsigned unit) const;
  Turn nextTurn() const;
  bool beginTurn(Turn &turn);
  void runBankEngines(const Turn &turn);
  void schedule();
  [[noreturn]] void cannotGoOn(const Turn &turn);
  [[noreturn]] void deadlock();
  [[noreturn]] void stopAt(const Core &core, const std::string &what);
  void requireRight(const Core &core, const std::string &wrong) {
    if (!wrong.empty())
      stopAt(core, wrong);
  }
  void poll();

  // --- Cores (CoreLoop.inc, once for each instruction set of the host)
  // Variant 0 runs on any host, variant 1 on x86 with fused multiply-add.
  /// Runs cores until it is an engine's turn, which it returns.
  template <int Variant, bool Checked> Turn runCores(Turn turn);
  Turn (Machine::*runCoresVariant)(Turn) = nullptr;
  Insn *fetch(uint32_t pc);
  uint32_t pcOf(const Insn *ip) const;
  void decodeAt(Insn *ip);
  void markEntry(Insn *ip);
  bool cachedEverywhere(const Insn *ip) const;
  uint64_t refill(const Core &core, uint32_t line, uint64_t time);
  void flushDecoded();
  void setLoopEnd(Core &core, unsigned loop, uint32_t pc, uint64_t time);
  uint32_t readHalf(uint32_t address) const;
  uint32_t readCsr(Core &core, uint32_t csr, uint64_t time);
  void writeCsr(Core &core, uint32_t csr, uint32_t value, uint64_t time);
  void syncPerf(Core &core, uint64_t time);
  std::array<uint64_t, Core::PerfEvents> perfValues(const Core &core,
                                                    uint64_t time) const;
  void trap(Core &core, uint32_t cause, uint64_t time);
  void startCore(Core &core, uint32_t pc, uint64_t time);
  void wake(Core &core, uint32_t value, uint64_t time);
  void noteJump(Core &core, uint32_t target, uint32_t link, uint64_t time);
  void mark(const Core &core, uint32_t kind, uint32_t value, uint64_t time);

  // --- Memory and devices (Devices.cpp)
  enum class Outcome { Done, Sleeps, Blocked };
  /// A load or store that is not one aligned access to L1 or L2. Advances
  /// `time` by what it costs beyond one cycle.
  Outcome access(Core &core, uint32_t address, unsigned size, bool write,
                 uint32_t &value, uint64_t &time, bool mayRun);
  /// When a bank serves a core that comes at `time`, if it is busy then.
  uint64_t queueAtBank(const Core &core, uint32_t bank, uint64_t time);
  /// The same for an engine and several banks: the last one's cycle.
  uint64_t bookBanks(uint32_t which, uint64_t time) {
    return banks.takeFree(time, which) ? time : queueAtBanks(which, time);
  }
  uint64_t queueAtBanks(uint32_t which, uint64_t time);
  bool isMemory(uint32_t address, uint32_t size) const;
  uint8_t *memoryAt(uint32_t address, uint32_t size);
  Outcome device(Core &core, uint32_t address, bool write, uint32_t &value,
                 uint64_t &time);
  void putCharacter(uint32_t offset, char c);
  void flushOutput();
  void emit(const std::string &text);
  void clusterControl(Core &core, uint32_t offset, bool write, uint32_t &value,
                      uint64_t time);
  void hostInterruptController(Core &core, uint32_t offset, bool write,
                               uint32_t &value, uint64_t time);
  void raiseHostInterrupt(unsigned line, uint64_t time);
  void checkHostInterrupts(uint64_t time);
  [[noreturn]] void badRegister(const Core &core, uint32_t address, bool write,
                                const char *device);

  // --- Event unit (EventUnit.cpp)
  Outcome eventUnitLocal(Core &core, uint32_t offset, bool write,
                         uint32_t &value, uint64_t &time);
  void eventUnitGlobal(Core &core, uint32_t offset, bool write, uint32_t &value,
                       uint64_t time);
  bool coreRegister(unsigned core, uint32_t offset, bool write, uint32_t &value,
                    uint64_t time);
  bool barrierRegister(uint32_t offset, bool write, uint32_t &value,
                       uint64_t time);
  bool softwareEvent(uint32_t offset, bool write, uint32_t value,
                     uint64_t time);
  void raise(uint32_t events, uint32_t coreMask, uint64_t time);
  void checkEvents(unsigned core, uint64_t time);
  void checkBarrier(unsigned barrier, uint64_t time);
  Outcome waitForEvents(Core &core, bool clear, uint32_t &value,
                        uint64_t &time);

  /// Stops when a core sleeps that nothing can wake.
  void checkWaits();
  void seeEvents(const Core &core, uint32_t arrived);

  // --- Cluster DMA (Mchan.cpp)
  struct DmaCommand {
    uint32_t words[5];
    unsigned channel, id;
    uint64_t queued;
  };
  struct DmaChannel { // a core's own view
    uint32_t words[5] = {};
    unsigned count = 0, id = 0;
    std::vector<DmaCommand> queue;
  };
  struct DmaDirection {
    std::vector<DmaCommand> queue;
    bool active = false;
    DmaCommand current{};
    uint64_t started = 0;
    uint32_t left = 0, lineLeft = 0; // bytes not yet in a burst
    uint32_t l1 = 0, l2 = 0, line = 0;
    uint32_t burst = 0;          // bytes of the burst in progress still to move
    uint64_t available = 0;      // when its data can move on the L1 side
    std::vector<uint64_t> ports; // when each word port to L1 is free
    uint64_t issue = 0;          // of the last burst
    std::vector<uint64_t> completed; // ring of the last bursts' ends
    unsigned bursts = 0;
    uint64_t lastByte = 0; // when the last word has gone to its port
    bool ending = false;   // only the event is left
  };
  Outcome mchan(Core &core, unsigned channel, uint32_t offset, bool write,
                uint32_t &value, uint64_t time);
  void dmaMoveQueues(uint64_t time);
  void dmaBegin(DmaDirection &direction, bool toL1);
  void runDma(unsigned direction, uint64_t limit);
  void dmaFinish(DmaDirection &direction, bool toL1);
  uint64_t dmaDecided(uint64_t time) const;
  void unblock(uint64_t time);

  // --- HyperRAM (HyperRam.cpp)
  struct HyperChannel {
    uint32_t registers[16] = {};
    bool busy = false, toL3 = false;
    uint64_t triggered = 0;
  };
  void hyperRegister(Core &core, uint32_t offset, bool write, uint32_t &value,
                     uint64_t time);
  void hyperTrigger(Core &core, unsigned channel, bool toL3, uint64_t time);
  void hyperStartNext(uint64_t time);
  uint64_t hyperDuration(const HyperChannel &channel) const;
  void runHyper();

  // --- RedMulE (Redmule.cpp)
  void redmuleRegister(Core &core, uint32_t offset, bool write, uint32_t &value,
                       uint64_t time);
  void redmuleTrigger(Core &core, uint64_t time);
  void runRedmule(uint64_t limit);
  void redmulePreload();
  void redmuleWindow();
  void redmuleStore();
  void redmuleWindowEnd();
  void redmuleBeats(uint32_t base, uint32_t row, uint32_t rows, uint32_t stride,
                    uint32_t column, uint32_t width, bool wholePort);
  template <int Variant> void redmuleTile32(uint32_t row, uint32_t column);
  void redmuleTile16(uint32_t row, uint32_t column);
  void (Machine::*redmuleTile32Variant)(uint32_t, uint32_t) = nullptr;

  void clearLogs();
  bool logging() const {
    return log == LogPolicy::All || (log == LogPolicy::Marked && markedRegion);
  }
  template <class T> void logJob(std::vector<T> &jobs, const T &job) {
    if (!logging())
      return;
    if (jobs.size() < logLimit)
      jobs.push_back(job);
    else
      ++dropped;
  }

  // --- Actors. The cluster's cores come first, then the host, then engines.
  unsigned hostIndex = 0, dmaActor = 0, hyperActor = 0, redmuleActor = 0;
  std::vector<Core> cores;
  std::vector<uint64_t> times;
  uint64_t now = 0;
  uint64_t turns = 0;
  bool exited = false;
  int exitCode = 0;
  uint64_t maxCycles = Never;
  LogPolicy log = LogPolicy::All;
  bool markedRegion = false;
  uint64_t logLimit = 0, dropped = 0;
  std::vector<uint32_t> kernels; // sorted
  std::function<void(uint64_t)> progress;
  std::function<void()> stepEnded;
  std::function<void(const std::string &)> standardOutput;

  // --- Memory
  std::vector<uint8_t> l1, l2;
  std::unique_ptr<uint8_t, decltype(&std::free)> l3;
  std::unique_ptr<Insn, decltype(&std::free)> l1Code, l2Code;
  BankCalendar banks;
  Elf elf;

  std::vector<uint64_t> fpuFree;
  uint64_t fdivFree = 0;
  uint32_t hostFlags = 31; // what may be raised in the host's own unit
  bool readsFlags = false; // some instruction of the program may
  bool clusterIcacheOn = false, hostIcacheOn = false;
  InstructionCache icache{config};

  std::vector<std::string> outputLines;
  std::unique_ptr<Semihosting> semihosting;
  unsigned semihostingCore = 0;

  bool fusedHost = false; // variant 1 of what exists twice
  std::unique_ptr<Checker> checker;
  // RedMulE jobs that were started, that ended, and that a core saw the end of.
  uint64_t redmuleStarted = 0, redmuleEnded = 0;
  std::vector<uint64_t> redmuleSeen;

  std::vector<CoreEvents> events;
  std::array<Barrier, 16> barriers{};
  uint32_t interruptMask = 0, interruptStatus = 0;
  uint32_t fetchEnabled = 0;

  std::vector<DmaChannel> dmaChannels;
  std::array<DmaDirection, 2> dma; // 0: to L2, 1: to L1
  std::array<uint32_t, 16> dmaPending{};
  uint32_t dmaFreeIds = 0xFFFF;

  std::array<HyperChannel, 8> hyper{};
  std::array<uint32_t, 10> hyperCommon{};
  uint32_t udmaClockGate = 0;
  unsigned hyperServed = 0; // the channel whose turn it is, or was
  uint64_t hyperStarted = 0;
  // In 1/65536 cycle: a run computes with no floating point but the program's.
  uint64_t hyperReadRate = 0, hyperWriteRate = 0;

  struct RedmuleState {
    uint32_t x = 0, w = 0, y = 0, m = 0, n = 0, k = 0, arithmetic = 0;
    bool busy = false;
    bool half = false;
    uint64_t trigger = 0, start = 0;
    // A window is a stretch of the job in which the array computes on what it
    // has while the port loads what comes next and stores what came before.
    enum class Phase { Preload, Compute, Store, FirstEvent, SecondEvent };
    Phase phase = Phase::Preload;
    uint32_t tileRow = 0, tileColumn = 0, block = 0; // in elements, blocks
    struct Beat {
      uint32_t address, bytes;
    };
    std::vector<Beat> beats;
    size_t beat = 0;
    uint64_t windowStart = 0, portTime = 0, lastBeat = 0;
    uint64_t decided = 0; // when it was clear when the next beat would come
    uint32_t array = 0;   // cycles of the window's computation
    uint32_t waited = 0;  // cycles that banks made the windows so far longer
    bool ending = false;
  } rm;
  /// Which of the two comes first at a bank in one cycle: the one for which it
  /// was clear earlier that it would come then; else the one that was first in
  /// the cycle before. So does GVSoC, whose events of a cycle happen in the
  /// order in which they were set.
  bool redmuleBeforeDma = false;
  std::vector<double> tileW; // W of an FP16 tile, widened
  uint64_t lastPoll = 0;
};

/// The core furthest behind of those that share a floating-point unit.
inline unsigned Machine::lastOfUnit(unsigned unit) const {
  unsigned last = unit;
  for (unsigned i = unit; i < config.clusterCores; i += config.fpus)
    last = times[i] < times[last] ? i : last;
  return last;
}

/// The actor furthest behind; among equals the first, which is what makes a run
/// repeatable. Cores that share a floating-point unit are one actor here.
inline Machine::Turn Machine::nextTurn() const {
  Turn turn;
  uint64_t first = Never, second = Never;
  auto see = [&](unsigned actor, uint64_t time) {
    second = std::min(second, std::max(first, time));
    turn.actor = time < first ? actor : turn.actor;
    first = std::min(first, time);
  };
  for (unsigned unit = 0; unit < std::min(config.fpus, hostIndex); ++unit) {
    unsigned core = lastOfUnit(unit);
    see(core, times[core]);
  }
  turn.cores = first;
  for (unsigned actor = hostIndex; actor < times.size(); ++actor)
    see(actor, times[actor]);
  turn.start = first;
  turn.others = second;
  return turn;
}

/// Whether the run goes on.
inline bool Machine::beginTurn(Turn &turn) {
  if (exited)
    return false;
  now = turn.start;
  if (turn.start == Never || turn.start > maxCycles)
    cannotGoOn(turn);
  if ((++turns & 0x3FFF) == 0)
    poll();
  turn.limit = turn.start + LongestTurn;
  if (turn.others != Never)
    turn.limit = std::min(turn.limit, turn.others + Lookahead);
  // Waiting for a bank takes far less than what the longest turn leaves.
  banks.clearUntil(turn.start + BankCalendar::Size);
  return true;
}

template <> void Machine::redmuleTile32<0>(uint32_t, uint32_t);
template <> void Machine::redmuleTile32<1>(uint32_t, uint32_t);

} // namespace tdsim

#endif // TDSIM_MACHINE_H
