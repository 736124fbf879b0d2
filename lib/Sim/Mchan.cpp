//===- Mchan.cpp - The cluster's DMA --------------------------------------===//
//
// Each direction moves one command at a time, in bursts. A burst to L1 is
// requested from L2, arrives after a latency and is written word by word
// through the DMA's ports; several are in flight. A burst to L2 is read from
// L1, then the next one: a latency lies between them. Commands follow each
// other without a gap.
//
//===----------------------------------------------------------------------===//
#include "Machine.h"
#include "Registers.h"
#include <algorithm>
#include <cstdio>
#include <cstring>

namespace tdsim {

Machine::Outcome Machine::mchan(Core &core, unsigned index, uint32_t offset,
                                bool write, uint32_t &value, uint64_t time) {
  DmaChannel &channel = dmaChannels[index];
  auto block = [&] {
    core.state = Core::State::Blocked;
    core.sleepStart = time;
    return Outcome::Blocked;
  };
  if (offset == mchan::Status) {
    if (write) { // frees ids
      if (checker)
        for (unsigned id = 0; id < mchan::Ids; ++id)
          if ((value >> id) & 1) {
            bool taken = !((dmaFreeIds >> id) & 1);
            if (!taken || dmaPending[id])
              stopAt(core, "DMA identifier " + std::to_string(id) +
                               (taken ? " is freed, and its transfer is in "
                                        "flight"
                                      : " is waited for and freed, and no "
                                        "transfer has it"));
            checker->retire(Checker::Engine::Dma, id);
          }
      dmaFreeIds |= value & 0xFFFF;
      unblock(time);
      return Outcome::Done;
    }
    value = (~dmaFreeIds & 0xFFFF) << 16;
    for (unsigned i = 0; i < mchan::Ids; ++i)
      value |= uint32_t(dmaPending[i] != 0) << i;
    return Outcome::Done;
  }
  if (offset != mchan::Command)
    badRegister(core, offset, write, "DMA");
  if (!write) { // takes an id
    if (!dmaFreeIds)
      return block();
    channel.id = unsigned(__builtin_ctz(dmaFreeIds));
    dmaFreeIds &= ~(1u << channel.id);
    value = channel.id;
    return Outcome::Done;
  }
  if (channel.queue.size() >= config.dmaCoreQueue)
    return block();
  channel.words[channel.count++] = value;
  uint32_t command = channel.words[0];
  if (channel.count < (command & mchan::TwoD ? 5u : 3u))
    return Outcome::Done;
  channel.count = 0;

  uint32_t length = command & mchan::LengthMask, a = channel.words[1];
  if (command & mchan::TwoDL1)
    stopAt(core, "DMA command is 2D on the L1 side, which is not supported");
  if (!(command & mchan::Increment))
    stopAt(core, "DMA command without address increment is not supported");
  if (length == 0)
    stopAt(core, "DMA command of 0 bytes");
  uint32_t line = length, stride = 0;
  if (command & mchan::TwoD) {
    line = channel.words[3];
    stride = channel.words[4];
    if (line == 0)
      stopAt(core, "DMA command with lines of 0 bytes");
  }
  uint32_t lines = (length + line - 1) / line;
  uint32_t extent = (lines - 1) * stride + (length - (lines - 1) * line);
  uint32_t l1Offset = a - config.l1.base;
  uint32_t l2Offset = channel.words[2] - config.l2.base;
  bool fits = l1Offset < config.l1.size && length <= config.l1.size - l1Offset;
  if (!fits || l2Offset >= config.l2.size ||
      extent > config.l2.size - l2Offset) {
    char text[128];
    std::snprintf(text, sizeof text,
                  "DMA of %u bytes between L1 0x%08x and L2 0x%08x leaves %s",
                  length, a, channel.words[2], fits ? "L2" : "L1");
    stopAt(core, text);
  }
  if (checker) {
    bool toL1 = command & mchan::ToL1;
    Checker::Region near = {1, a, length, length, 1, toL1, "L1 side"};
    Checker::Region far = {2,     channel.words[2], line, stride, lines,
                           !toL1, "L2 side"};
    std::vector<Checker::Region> regions = {near, far};
    // The last line may be shorter.
    if (uint32_t rest = length - (lines - 1) * line; lines > 1 && rest < line) {
      regions[1].lines = lines - 1;
      regions.push_back({2, channel.words[2] + (lines - 1) * stride, rest, rest,
                         1, !toL1, "L2 side"});
    }
    requireRight(core,
                 checker->start(Checker::Engine::Dma, channel.id,
                                toL1 ? 'L' : 'S', std::move(regions), time));
  }
  DmaCommand queued{};
  std::copy(std::begin(channel.words), std::end(channel.words), queued.words);
  queued.channel = index;
  queued.id = channel.id;
  queued.queued = time;
  dmaPending[channel.id] += length;
  channel.queue.push_back(queued);
  dmaMoveQueues(time);
  return Outcome::Done;
}

void Machine::unblock(uint64_t time) {
  for (Core &core : cores)
    if (core.state == Core::State::Blocked) {
      core.state = Core::State::Running;
      uint64_t resume = std::max(time, core.sleepStart);
      core.counters.deviceStalls += resume - core.sleepStart;
      times[core.index] = resume;
    }
}

void Machine::dmaMoveQueues(uint64_t time) {
  bool moved = false;
  for (bool again = true; again;) {
    again = false;
    for (DmaChannel &channel : dmaChannels) {
      if (channel.queue.empty())
        continue;
      bool toL1 = channel.queue.front().words[0] & mchan::ToL1;
      DmaDirection &direction = dma[toL1];
      if (direction.queue.size() >= config.dmaGlobalQueue)
        continue;
      direction.queue.push_back(channel.queue.front());
      channel.queue.erase(channel.queue.begin());
      if (!direction.active)
        dmaBegin(direction, toL1);
      again = moved = true;
    }
  }
  if (moved)
    unblock(time);
}

void Machine::dmaBegin(DmaDirection &direction, bool toL1) {
  DmaCommand &command = direction.current;
  command = direction.queue.front();
  direction.queue.erase(direction.queue.begin());
  // A DMA that was idle looks at its queue in the cycle after the command, and
  // at something each cycle from then on.
  if (!dma[0].active && !dma[1].active && command.queued >= now)
    redmuleBeforeDma =
        rm.decided < command.queued && times[redmuleActor] > command.queued;
  direction.active = true;
  direction.ports.resize(config.dmaBytesPerCycle / 4, 0);
  direction.left = command.words[0] & mchan::LengthMask;
  direction.l1 = command.words[1];
  direction.line = direction.l2 = command.words[2];
  direction.lineLeft =
      command.words[0] & mchan::TwoD ? command.words[3] : direction.left;
  direction.burst = 0;
  // A command that waited in the queue starts right behind the one before.
  uint64_t start = command.queued + config.dmaTransfer - config.dmaLatency;
  direction.issue = std::max(direction.issue, start - 1);
  direction.started = std::max(command.queued, now);
  direction.ending = false;
  times[dmaActor + toL1] = std::max(now, direction.issue + 1);
}

/// When it was clear that the DMA would come to the banks at `time`. It looks
/// at its ports each cycle, unless all are busy: then when the first is free
/// again.
uint64_t Machine::dmaDecided(uint64_t time) const {
  for (const DmaDirection &direction : dma)
    for (uint64_t free : direction.ports)
      if (free < time)
        return time - 1;
  return std::max(dma[0].lastByte, dma[1].lastByte) - 1;
}

void Machine::runDma(unsigned index, uint64_t limit) {
  DmaDirection &direction = dma[index];
  bool toL1 = index == 1;
  uint64_t &actorTime = times[dmaActor + index];
  if (direction.ending) {
    dmaFinish(direction, toL1);
    return;
  }
  constexpr uint32_t Word = 4; // of a bank and of a port
  const uint32_t bankMask = config.l1Banks - 1;
  const uint32_t ports = uint32_t(direction.ports.size());
  const uint32_t *words = direction.current.words;
  for (;;) {
    if (!direction.burst) {
      // A line ends a burst, and so does the number of bursts in flight.
      direction.burst =
          std::min({direction.left, direction.lineLeft, config.dmaBurst});
      uint64_t &oldest =
          direction.completed[direction.bursts % config.dmaOutstanding];
      direction.issue = std::max(direction.issue + 1, oldest);
      if (!toL1)
        direction.issue = std::max(direction.issue, direction.lastByte);
      // Words on their way to L1 keep the ports at work, which saves the time
      // until they see a burst to L2.
      const DmaDirection &other = dma[1];
      bool awake = !toL1 && other.active && !other.ending &&
                   other.available <= direction.issue;
      direction.available = direction.issue + (awake ? 0 : config.dmaLatency);
    }
    auto move = [&](uint32_t size) {
      uint8_t *near = l1.data() + (direction.l1 - config.l1.base);
      uint8_t *far = l2.data() + (direction.l2 - config.l2.base);
      uint8_t *to = toL1 ? near : far, *from = toL1 ? far : near;
      if (size == 2 * Word) // most are, and need no call
        std::memcpy(to, from, 2 * Word);
      else
        std::memcpy(to, from, size);
      direction.l1 += size;
      direction.l2 += size;
      direction.left -= size;
      direction.lineLeft -= size;
      direction.burst -= size;
    };
    while (direction.burst) {
      auto [port, last] =
          std::minmax_element(direction.ports.begin(), direction.ports.end());
      uint64_t at = std::max(*port, direction.available);
      if (at > limit) {
        actorTime = at;
        return;
      }
      direction.lastByte = at + 1;
      uint32_t bank = ((direction.l1 - config.l1.base) >> 2) & bankMask;
      // Mostly all ports are free, and so are the banks of a word for each.
      if (*last <= at && direction.burst >= Word * ports &&
          direction.l1 % Word == 0 && bank + ports <= config.l1Banks &&
          banks.takeFree(at, ((2u << (ports - 1)) - 1) << bank)) {
        std::fill(direction.ports.begin(), direction.ports.end(), at + 1);
        move(Word * ports);
        continue;
      }
      *port = bookBanks(1u << bank, at) + 1;
      move(std::min(direction.burst, Word - direction.l1 % Word));
    }
    direction.completed[direction.bursts++ % config.dmaOutstanding] =
        direction.lastByte;
    if (!direction.left) {
      // The event comes with the last word, and must not be early: it waits for
      // its turn.
      direction.ending = true;
      actorTime = std::max(now, direction.lastByte - 1);
      return;
    }
    if (!direction.lineLeft) {
      direction.lineLeft = words[3];
      direction.l2 = direction.line += words[4];
    }
  }
}

void Machine::dmaFinish(DmaDirection &direction, bool toL1) {
  const DmaCommand &command = direction.current;
  uint32_t length = command.words[0] & mchan::LengthMask;
  logJob(dmaJobs, DmaJob{direction.started, now + 1, length, toL1,
                         command.words[1], command.words[2]});
  direction.active = direction.ending = false;
  times[dmaActor + toL1] = Never;
  dmaPending[command.id] -= length;
  if (dmaPending[command.id] == 0) {
    if (command.channel == config.clusterCores)
      raiseHostInterrupt(interrupts::DmaLine, now);
    else if (command.words[0] & mchan::Event)
      raise(1u << event_unit::DmaEvent,
            command.words[0] & mchan::Broadcast ? 0 : 1u << command.channel,
            now);
  }
  if (!direction.queue.empty())
    dmaBegin(direction, toL1);
  dmaMoveQueues(now);
  if (checker)
    checkWaits();
}

} // namespace tdsim
