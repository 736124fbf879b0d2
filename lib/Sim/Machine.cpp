//===- Machine.cpp - Scheduling, code, CSRs -------------------------------===//
#include "Machine.h"
#include "HostFloat.h"
#include "Registers.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace tdsim {
namespace {

uint64_t hostMilliseconds() {
  using namespace std::chrono;
  return uint64_t(
      duration_cast<milliseconds>(steady_clock::now().time_since_epoch())
          .count());
}

/// Whether a word is an instruction that accesses fflags or fcsr.
bool accessesFlags(uint32_t word) {
  uint32_t csr = word >> 20;
  return (word & 0x7F) == 0x73 && (word & 0x3000) && (csr == 1 || csr == 3);
}

// Zero pages that the host provides only when they are touched.
template <class T>
std::unique_ptr<T, decltype(&std::free)> lazyZeroes(size_t count) {
  auto *p = static_cast<T *>(std::calloc(count, sizeof(T)));
  if (!p)
    throw std::bad_alloc();
  return {p, &std::free};
}

} // namespace

Machine::Machine(const Config &config, bool portable)
    : config(config), l1(config.l1.size), l2(config.l2.size),
      l3(lazyZeroes<uint8_t>(config.l3Size)),
      l1Code(lazyZeroes<Insn>(config.l1.size / 2 + 2)),
      l2Code(lazyZeroes<Insn>(config.l2.size / 2 + 2)) {
  hostIndex = config.clusterCores;
  dmaActor = hostIndex + 1;
  hyperActor = dmaActor + 2;
  redmuleActor = hyperActor + 1;
  cores.resize(config.clusterCores + 1);
  times.assign(redmuleActor + 1, Never);
  for (unsigned i = 0; i < cores.size(); ++i) {
    cores[i].index = i;
    cores[i].host = i == hostIndex;
    cores[i].hart = cores[i].host ? config.hostHartId : i;
    cores[i].fpu = cores[i].host ? config.fpus : i % config.fpus;
  }
  hyperReadRate = uint64_t(config.hyperReadPerByte * 65536.0 + 0.5);
  hyperWriteRate = uint64_t(config.hyperWritePerByte * 65536.0 + 0.5);
  fpuFree.assign(config.fpus + 1, 0); // the host has its own
  events.resize(config.clusterCores);
  dmaChannels.resize(config.clusterCores + 1);
  for (auto &direction : dma)
    direction.completed.assign(config.dmaOutstanding, 0);
  // One instruction may be fetched past either end of a memory.
  for (auto *end :
       {l1Code.get() + config.l1.size / 2, l2Code.get() + config.l2.size / 2})
    end[0].op = end[1].op = Op::OutOfRegion;
  redmuleSeen.resize(config.clusterCores + 1);
  redmuleTile32Variant = &Machine::redmuleTile32<0>;
  (void)portable;
#if defined(__x86_64__)
  if (!portable && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    fusedHost = true;
    redmuleTile32Variant = &Machine::redmuleTile32<1>;
  }
#endif
}

Machine::~Machine() = default;

void Machine::load(const Elf &program) {
  elf = program;
  for (const auto &segment : elf.segments) {
    if (!isMemory(segment.address, uint32_t(segment.bytes.size()))) {
      char text[96];
      std::snprintf(text, sizeof text,
                    "ELF segment of %zu bytes at 0x%08x does not fit L1 or L2",
                    segment.bytes.size(), segment.address);
      throw Stop(text);
    }
    std::memcpy(memoryAt(segment.address, uint32_t(segment.bytes.size())),
                segment.bytes.data(), segment.bytes.size());
  }
  for (const auto &code : elf.code)
    for (size_t at = 0; at + 4 <= code.size(); at += 2) {
      uint32_t word;
      std::memcpy(&word, &code[at], 4);
      readsFlags |= accessesFlags(word);
    }
  startCore(cores[hostIndex], elf.entry, 0);
}

int Machine::run(const RunOptions &options) {
  maxCycles = options.maxCycles;
  log = options.log;
  logLimit = options.logLimit;
  progress = options.progress;
  stepEnded = options.stepEnded;
  kernels = options.kernels;
  std::sort(kernels.begin(), kernels.end());
  standardOutput = options.standardOutput;
  if (options.check) {
    checker = std::make_unique<Checker>(
        config, *options.check,
        [this](uint32_t address) {
          for (const auto &segment : elf.segments)
            if (address - segment.address < segment.bytes.size())
              return elf.locate(address);
          return std::string();
        },
        [this](uint32_t address) {
          uint32_t word = 0;
          if (isMemory(address, 4))
            std::memcpy(&word, memoryAt(address, 4), 4);
          return word;
        });
    for (const auto &segment : elf.segments)
      checker->define(segment.address - config.l1.base < config.l1.size ? 1 : 2,
                      segment.address, uint32_t(segment.bytes.size()));
  }
  runCoresVariant =
      checker ? &Machine::runCores<0, true> : &Machine::runCores<0, false>;
#if defined(__x86_64__)
  if (fusedHost)
    runCoresVariant =
        checker ? &Machine::runCores<1, true> : &Machine::runCores<1, false>;
#endif
  semihosting = std::make_unique<Semihosting>(
      options.workdir,
      [this](uint32_t address, uint32_t size, bool write) {
        if (!isMemory(address, size)) {
          char text[80];
          std::snprintf(text, sizeof text,
                        "semihosting: %u bytes at 0x%08x are not in L1 or L2",
                        size, address);
          throw Semihosting::Error(text);
        }
        if (checker && !checker->access(semihostingCore, address, size, write))
          throw Semihosting::Error("semihosting: " + checker->wrong);
        return memoryAt(address, size);
      },
      [this](const std::string &text) { emit(text); });
  lastPoll = hostMilliseconds();
  fp::FloatEnvironment environment;
  // A file that is closed writes what is left of it, and may wait for the
  // reader of a pipe: that is a part of the run.
  auto end = [&] {
    flushOutput();
    semihosting.reset();
  };
  try {
    schedule();
  } catch (...) {
    end();
    throw;
  }
  end();
  return exitCode;
}

void Machine::schedule() {
  Turn turn = nextTurn();
  while (beginTurn(turn)) {
    if (turn.actor < cores.size()) {
      turn = (this->*runCoresVariant)(turn);
      continue;
    }
    if (turn.actor == hyperActor)
      runHyper();
    else
      runBankEngines(turn);
    turn = nextTurn();
  }
}

/// Runs the DMA's directions and RedMulE in the order in which they come to the
/// banks, until it is another's turn.
void Machine::runBankEngines(const Turn &turn) {
  uint64_t limit = std::min({turn.start + LongestTurn, turn.cores - 1,
                             times[hostIndex], times[hyperActor]});
  for (bool ends = false; !ends;) {
    uint64_t toL2 = times[dmaActor], toL1 = times[dmaActor + 1];
    uint64_t copies = std::min(toL1, toL2), gemm = times[redmuleActor];
    now = std::min(copies, gemm);
    if (now > limit)
      return;
    if (gemm == copies) {
      uint64_t decided = dmaDecided(copies);
      if (decided != rm.decided)
        redmuleBeforeDma = rm.decided < decided;
    }
    // The end of a job wakes a core, whose turn it may be then.
    if (gemm < copies || (gemm == copies && redmuleBeforeDma)) {
      ends = rm.phase >= RedmuleState::Phase::FirstEvent;
      runRedmule(std::min(limit, gemm < copies ? copies - 1 : copies));
      continue;
    }
    unsigned direction = toL1 <= toL2;
    ends = dma[direction].ending;
    uint64_t before = direction ? toL2 : toL1 - 1;
    runDma(direction,
           std::min({limit, before, copies < gemm ? gemm - 1 : gemm}));
  }
}

void Machine::poll() {
  uint64_t ms = hostMilliseconds();
  if (progress && ms - lastPoll >= 50) {
    lastPoll = ms;
    fp::FloatEnvironment foreign;
    progress(now);
  }
}

void Machine::stopAt(const Core &core, const std::string &what) {
  uint32_t pc = core.ip ? pcOf(core.ip) : 0;
  std::string symbol = elf.locate(pc);
  uint64_t time = times[core.index] == Never ? now : times[core.index];
  char place[160];
  std::snprintf(place, sizeof place, "%s%s at pc 0x%08x%s%s%s, cycle %llu",
                core.host ? "host core" : "core ",
                core.host ? "" : std::to_string(core.index).c_str(), pc,
                symbol.empty() ? "" : " (", symbol.c_str(),
                symbol.empty() ? "" : ")", (unsigned long long)time);
  throw Stop(what + ": " + place);
}

void Machine::cannotGoOn(const Turn &turn) {
  if (turn.start == Never)
    deadlock();
  stopAt(turn.actor < cores.size() ? cores[turn.actor] : cores[hostIndex],
         "cycle limit of " + std::to_string(maxCycles) + " reached");
}

void Machine::deadlock() {
  const Core *some = nullptr;
  std::string who;
  for (const Core &core : cores) {
    if (core.state == Core::State::Off)
      continue;
    if (!some || core.host)
      some = &core;
    char text[64];
    std::string symbol = elf.locate(pcOf(core.ip));
    std::snprintf(text, sizeof text, "%s%s%s pc 0x%08x",
                  who.empty() ? "" : ", ", core.host ? "host" : "core ",
                  core.host ? "" : std::to_string(core.index).c_str(),
                  pcOf(core.ip));
    who += text;
    if (!symbol.empty())
      who += " (" + symbol + ")";
  }
  if (!some)
    throw Stop("deadlock: no core is running");
  throw Stop("deadlock at cycle " + std::to_string(now) +
             ": every core waits and no engine is at work: " + who);
}

// --- Code -------------------------------------------------------------------

Insn *Machine::fetch(uint32_t pc) {
  uint32_t offset = pc - config.l2.base;
  if (offset < config.l2.size)
    return l2Code.get() + offset / 2;
  offset = pc - config.l1.base;
  if (offset < config.l1.size)
    return l1Code.get() + offset / 2;
  return nullptr;
}

uint32_t Machine::pcOf(const Insn *ip) const {
  if (ip >= l2Code.get() && ip < l2Code.get() + config.l2.size / 2 + 2)
    return config.l2.base + uint32_t(ip - l2Code.get()) * 2;
  return config.l1.base + uint32_t(ip - l1Code.get()) * 2;
}

uint32_t Machine::readHalf(uint32_t address) const {
  const std::vector<uint8_t> *memory = &l2;
  uint32_t offset = address - config.l2.base;
  if (offset >= config.l2.size) {
    memory = &l1;
    offset = address - config.l1.base;
  }
  if (offset + 2 > memory->size())
    return 0;
  return (*memory)[offset] | ((*memory)[offset + 1] << 8);
}

void Machine::decodeAt(Insn *ip) {
  uint32_t pc = pcOf(ip);
  auto word = [&](uint32_t at) {
    return readHalf(at) | (readHalf(at + 2) << 16);
  };
  uint32_t raw = word(pc);
  if (accessesFlags(raw) && !readsFlags)
    throw Stop("code that the program does not bring along accesses the "
               "floating-point flags, which were not kept");
  uint32_t length = (raw & 3) == 3 ? 4 : 2;
  bool entered = ip->real == Op::Entry;
  *ip = decode(config, pc, raw, word(pc + length), word(pc - 4));
  bool relative =
      ip->op == Op::Jal || (ip->op >= Op::Beq && ip->op <= Op::BneImm);
  uint32_t inLine = pc % InstructionCache::LineBytes;
  bool edge = inLine == 0 || inLine == InstructionCache::LineBytes - 2;
  if (relative) {
    uint32_t target = pc + uint32_t(ip->imm) * 2;
    const MemoryRange &home =
        pc - config.l2.base < config.l2.size ? config.l2 : config.l1;
    if (target - home.base >= home.size)
      ip->op = ip->real = Op::OutOfRegion;
    else
      markEntry(ip + ip->imm);
  }
  if (entered || edge)
    markEntry(ip);
}

/// Whether all cores of the cluster have what the cache must hold to execute
/// `ip`. An instruction in the last two bytes of a line takes the next line,
/// too.
bool Machine::cachedEverywhere(const Insn *ip) const {
  size_t half = size_t(ip - l2Code.get());
  constexpr size_t InLine = InstructionCache::LineBytes / 2;
  return half < config.l2.size / 2 && icache.everywhere(half / InLine) &&
         icache.everywhere((half + 1) / InLine);
}

/// Execution can come to `ip` from elsewhere.
void Machine::markEntry(Insn *ip) {
  if (ip->op == Op::Entry || ip->op == Op::HwLoopEnd)
    return;
  if (ip->op == Op::Undecoded || cachedEverywhere(ip))
    ip->real = Op::Entry;
  else
    ip->op = Op::Entry;
}

uint64_t Machine::refill(const Core &core, uint32_t line, uint64_t time) {
  auto [wait, replaced] = icache.refill(core.index, line, time);
  // Entries of a line are those in it and one that may reach into it.
  auto entries = [&](uint32_t line, auto visit) {
    Insn *first = l2Code.get() + line * (InstructionCache::LineBytes / 2);
    for (Insn *ip = first - (line != 0);
         ip < first + InstructionCache::LineBytes / 2; ++ip)
      visit(*ip);
  };
  if (replaced != InstructionCache::None)
    entries(replaced, [](Insn &insn) {
      if (insn.real == Op::Entry && insn.op != Op::Undecoded)
        std::swap(insn.op, insn.real);
    });
  if (icache.everywhere(line))
    entries(line, [&](Insn &insn) {
      if (insn.op == Op::Entry && cachedEverywhere(&insn))
        std::swap(insn.op, insn.real);
    });
  return wait;
}

void Machine::flushDecoded() {
  icache.flush();
  // Only the pages that hold code were ever touched, but which is not known:
  // fence.i is rare enough to sweep.
  for (uint32_t i = 0; i < config.l2.size / 2; ++i)
    l2Code.get()[i].op = Op::Undecoded;
  for (uint32_t i = 0; i < config.l1.size / 2; ++i)
    l1Code.get()[i].op = Op::Undecoded;
  for (Core &core : cores)
    for (unsigned loop = 0; loop < 2; ++loop)
      if (core.lpEnd[loop] && core.lpCount[loop]) {
        decodeAt(core.lpEnd[loop]);
        core.lpEnd[loop]->op = Op::HwLoopEnd;
      }
}

void Machine::setLoopEnd(Core &core, unsigned loop, uint32_t pc,
                         uint64_t time) {
  Insn *end = fetch(pc);
  if (!end) {
    times[core.index] = time;
    stopAt(core, "hardware loop ends outside of mapped memory");
  }
  // The decoded code is shared: the mark stays, and LoopCheck asks whether this
  // core has a loop that ends there.
  if (end->op == Op::Undecoded)
    decodeAt(end);
  if (end->real == Op::Entry)
    end->real = end->op;
  end->op = Op::HwLoopEnd;
  core.lpEnd[loop] = end;
}

void Machine::startCore(Core &core, uint32_t pc, uint64_t time) {
  core.ip = fetch(pc & ~1u);
  if (!core.ip) {
    char text[96];
    std::snprintf(text, sizeof text, "%s starts at 0x%08x, which is not memory",
                  core.host ? "the host core" : "a cluster core", pc);
    throw Stop(text);
  }
  markEntry(core.ip);
  core.state = Core::State::Running;
  core.started = time;
  times[core.index] = time;
}

void Machine::wake(Core &core, uint32_t value, uint64_t time) {
  if (!core.waitsForInterrupt)
    core.x[core.wakeRegister] = value;
  core.waitsForInterrupt = false;
  core.state = Core::State::Running;
  uint64_t resume = time + config.wakeUp;
  core.counters.asleep += resume - std::min(core.sleepStart, resume);
  times[core.index] = resume;
}

void Machine::trap(Core &core, uint32_t cause, uint64_t time) {
  uint32_t pc = pcOf(core.ip);
  Insn *handler = fetch(core.mtvec & ~3u);
  if (core.mtvec == 0 || !handler)
    stopAt(core, cause == 3 ? "ebreak with no trap handler in mtvec"
                            : "ecall with no trap handler in mtvec");
  core.mepc = pc;
  core.mcause = cause;
  core.mtval = cause == 3 ? pc : 0;
  core.mstatus = (core.mstatus & ~0x88u) | ((core.mstatus & 8) << 4) | 0x1800;
  core.ip = handler;
  times[core.index] = time + config.jump;
}

void Machine::noteJump(Core &core, uint32_t target, uint32_t link,
                       uint64_t time) {
  if (core.kernelReturn) {
    if (target != core.kernelReturn)
      return;
    core.kernelReturn = 0;
    mark(core, 4, 0, time);
  } else if (core.index && !core.host &&
             std::binary_search(kernels.begin(), kernels.end(), target)) {
    core.kernelReturn = link;
    mark(core, 3, 0, time);
  }
}

void Machine::mark(const Core &core, uint32_t kind, uint32_t value,
                   uint64_t time) {
  if (kind == 1)
    markedRegion = true;
  else if (kind == 2)
    markedRegion = false;
  if (checker && kind == 1)
    checker->beginStep();
  else if (checker && kind == 2)
    checker->endStep();
  if (kind == 1 && stepEnded)
    clearLogs();
  if (markers.size() < logLimit)
    markers.push_back({time, core.index, kind, value});
  else
    ++dropped;
  if (kind == 2 && stepEnded) {
    fp::FloatEnvironment foreign;
    stepEnded();
    clearLogs();
  }
}

void Machine::clearLogs() {
  dmaJobs.clear();
  hyperJobs.clear();
  redmuleJobs.clear();
  markers.clear();
}

// --- CSRs and counters ------------------------------------------------------

uint64_t Machine::instructions() const {
  uint64_t sum = 0;
  for (const Core &core : cores)
    sum += core.counters.instructions;
  return sum;
}

uint64_t Machine::activeCycles(unsigned index) const {
  const Core &core = cores[index];
  if (core.state == Core::State::Off)
    return 0;
  uint64_t end = core.state == Core::State::Running
                     ? std::max(now, core.started)
                     : std::max(core.sleepStart, core.started);
  return end - core.started -
         std::min(core.counters.asleep, end - core.started);
}

std::array<uint64_t, Core::PerfEvents>
Machine::perfValues(const Core &core, uint64_t time) const {
  const CoreCounters &c = core.counters;
  // RI5CY's events in order. Fetch stalls are those of a cache that is off.
  return {time - core.started - c.asleep,
          c.instructions,
          c.loadUseStalls,
          0, // jump register hazards: this core has none
          c.icacheStalls,
          c.loads,
          c.stores,
          c.jumps,
          c.branches,
          c.takenBranches,
          0, // compressed instructions are not told apart
          c.asleep,
          0,
          0,
          c.l2Stalls,
          0,
          c.bankStalls};
}

void Machine::syncPerf(Core &core, uint64_t time) {
  auto live = perfValues(core, time);
  if (core.pcmr & 1)
    for (unsigned i = 0; i < Core::PerfEvents; ++i)
      if ((core.pcer >> i) & 1)
        core.pccr[i] += uint32_t(live[i] - core.pccrLast[i]);
  core.pccrLast = live;
}

uint32_t Machine::readCsr(Core &core, uint32_t csr, uint64_t time) {
  if (csr >= 0x780 && csr < 0x780 + 32) {
    syncPerf(core, time);
    return core.pccr[csr - 0x780];
  }
  uint64_t cycle = time + core.cycleOffset;
  uint64_t instret = core.counters.instructions + core.instretOffset;
  switch (csr) {
  case 0x001:
    return core.fflags;
  case 0x002:
    return core.frm;
  case 0x003:
    return core.fflags | (core.frm << 5);
  case 0x300:
    return core.mstatus;
  case 0x301: // misa: RV32IMC with custom extensions
    return 0x40801104;
  case 0x304:
    return core.mie;
  case 0x305:
    return core.mtvec;
  case 0x340:
    return core.mscratch;
  case 0x341:
    return core.mepc;
  case 0x342:
    return core.mcause;
  case 0x343:
    return core.mtval;
  case 0x344:
  case 0xF11:
  case 0xF12:
  case 0xF13:
    return 0;
  case 0xF14:
    return core.hart;
  case 0x7B0:
  case 0x7B4:
    return core.lpStart[csr == 0x7B4] ? pcOf(core.lpStart[csr == 0x7B4]) : 0;
  case 0x7B1:
  case 0x7B5:
    return core.lpEnd[csr == 0x7B5] ? pcOf(core.lpEnd[csr == 0x7B5]) : 0;
  case 0x7B2:
  case 0x7B6:
    return core.lpCount[csr == 0x7B6];
  case 0xB00:
  case 0xC00:
  case 0xC01: // time, in cycles too
    return uint32_t(cycle);
  case 0xB80:
  case 0xC80:
  case 0xC81:
    return uint32_t(cycle >> 32);
  case 0xB02:
  case 0xC02:
    return uint32_t(instret);
  case 0xB82:
  case 0xC82:
    return uint32_t(instret >> 32);
  case 0xCC0:
    return core.pcer;
  case 0xCC1:
    return core.pcmr;
  default:
    char text[48];
    std::snprintf(text, sizeof text, "CSR 0x%03x does not exist", csr);
    stopAt(core, text);
  }
}

void Machine::writeCsr(Core &core, uint32_t csr, uint32_t value,
                       uint64_t time) {
  if (csr >= 0x780 && csr < 0x780 + 32) {
    syncPerf(core, time);
    if (csr == 0x79F) // all at once
      std::fill(std::begin(core.pccr), std::end(core.pccr), value);
    else
      core.pccr[csr - 0x780] = value;
    return;
  }
  auto setLow = [&](uint64_t &offset, uint64_t current) {
    uint64_t wanted = (current & ~0xFFFFFFFFull) | value;
    offset += wanted - current;
  };
  auto setHigh = [&](uint64_t &offset, uint64_t current) {
    uint64_t wanted = (current & 0xFFFFFFFFull) | (uint64_t(value) << 32);
    offset += wanted - current;
  };
  switch (csr) {
  case 0x001:
    core.fflags = value & 31;
    return;
  case 0x002:
    core.frm = value & 7;
    return;
  case 0x003:
    core.fflags = value & 31;
    core.frm = (value >> 5) & 7;
    return;
  case 0x300: // MIE, MPIE; MPP is machine mode always
    core.mstatus = (value & 0x88) | 0x1800;
    return;
  case 0x304:
    core.mie = value;
    return;
  case 0x305:
    core.mtvec = value;
    return;
  case 0x340:
    core.mscratch = value;
    return;
  case 0x341:
    core.mepc = value & ~1u;
    return;
  case 0x342:
    core.mcause = value;
    return;
  case 0x343:
    core.mtval = value;
    return;
  case 0x301:
  case 0x344:
    return;
  case 0xB00:
    return setLow(core.cycleOffset, time + core.cycleOffset);
  case 0xB80:
    return setHigh(core.cycleOffset, time + core.cycleOffset);
  case 0xB02:
    return setLow(core.instretOffset,
                  core.counters.instructions + core.instretOffset);
  case 0xB82:
    return setHigh(core.instretOffset,
                   core.counters.instructions + core.instretOffset);
  case 0xCC0:
    syncPerf(core, time);
    core.pcer = value;
    return;
  case 0xCC1:
    syncPerf(core, time);
    core.pcmr = value;
    return;
  default:
    char text[64];
    std::snprintf(text, sizeof text, "CSR 0x%03x cannot be written", csr);
    stopAt(core, text);
  }
}

} // namespace tdsim
