// The registers of the SoC, as functions. What a block's registers are is
// written here, once; where blocks are comes from the target description
// through target.h, which the compiler driver generates.
#ifndef TD_RUNTIME_DEVICE_H
#define TD_RUNTIME_DEVICE_H

#include "jobs.h"
#include "target.h"
#include <stdint.h>

// Nothing may move across the trigger of a device or the wait for one.
static inline void compiler_barrier(void) { asm volatile("" ::: "memory"); }

static inline uint32_t read_register(uint32_t address) {
  return *(volatile uint32_t *)address;
}
static inline void write_register(uint32_t address, uint32_t value) {
  *(volatile uint32_t *)address = value;
}

static inline uint32_t hart_id(void) {
  uint32_t id;
  asm volatile("csrr %0, mhartid" : "=r"(id));
  return id;
}

// Cycles since reset; asleep or not.
static inline uint32_t cycle_count(void) {
  uint32_t cycles;
  asm volatile("csrr %0, mcycle" : "=r"(cycles)::"memory");
  return cycles;
}

// What simulators may note with its time: a hint without effect, and, where
// only accesses can be observed, a software event that no core waits for.
#define MARK(kind, value)                                                      \
  do {                                                                         \
    asm volatile("slti x0, %0, %1" ::"r"(value), "i"(kind) : "memory");        \
    write_register(TARGET_EVENT_UNIT + EVENT_SOFTWARE_TRIGGERS +               \
                       4 * EVENT_MARK,                                         \
                   (uint32_t)(kind) << 24);                                    \
  } while (0)
#define MARK_STEP_BEGIN 1
#define MARK_STEP_END 2
#define MARK_CALL_BEGIN 3
#define MARK_CALL_END 4

// --- Event unit: the core's own view ---------------------------------------

#define EVENT_SOFTWARE 0
#define EVENT_MARK 7
#define EVENT_DMA 8
#define EVENT_REDMULE 12
#define EVENT_BARRIER 16

#define EVENT_MASK 0x00
#define EVENT_BUFFER_CLEAR 0x28
#define EVENT_WAIT_CLEAR 0x3C
#define EVENT_SOFTWARE_TRIGGERS 0x100
#define EVENT_BARRIERS 0x200
#define BARRIER_TRIGGER_MASK 0x00
#define BARRIER_TARGET_MASK 0x0C
#define BARRIER_WAIT_CLEAR 0x1C
// The host's view has the registers that raise software events here.
#define EVENT_HOST_SOFTWARE 0x600

// p.elw: a load that puts the core to sleep until an event of its mask arrives.
static inline void sleep_on(uint32_t address) {
  uint32_t events;
  asm volatile(".insn i 0x03, 6, %0, 0(%1)"
               : "=r"(events)
               : "r"(address)
               : "memory");
  (void)events;
}

static inline void set_event_mask(uint32_t mask) {
  write_register(TARGET_EVENT_UNIT + EVENT_MASK, mask);
}

// The mask is that of barriers but for the time of a wait.
static inline void wait_event(unsigned event) {
  set_event_mask(1u << event);
  sleep_on(TARGET_EVENT_UNIT + EVENT_WAIT_CLEAR);
  set_event_mask(1u << EVENT_BARRIER);
}

static inline void setup_barrier(void) {
  write_register(TARGET_EVENT_UNIT + EVENT_BARRIERS + BARRIER_TRIGGER_MASK,
                 (1u << TARGET_CORES) - 1);
  write_register(TARGET_EVENT_UNIT + EVENT_BARRIERS + BARRIER_TARGET_MASK,
                 (1u << TARGET_CORES) - 1);
}

static inline void barrier(void) {
  sleep_on(TARGET_EVENT_UNIT + EVENT_BARRIERS + BARRIER_WAIT_CLEAR);
}

// From the host: software event 0 to core 0.
static inline void wake_cluster(void) {
  compiler_barrier();
  write_register(
      TARGET_EVENT_UNIT_HOST + EVENT_HOST_SOFTWARE + 4 * EVENT_SOFTWARE, 1);
}

// --- Cluster DMA (MCHAN) ----------------------------------------------------

static inline uint32_t dma_take_id(void) { return read_register(TARGET_DMA); }

static inline void dma_push(uint32_t word) { write_register(TARGET_DMA, word); }

static inline void dma_wait(uint32_t id) {
  while (read_register(TARGET_DMA + 4) >> id & 1)
    wait_event(EVENT_DMA);
  write_register(TARGET_DMA + 4, 1u << id);
  compiler_barrier();
}

// --- RedMulE ----------------------------------------------------------------

#ifdef TARGET_REDMULE
// `job` holds the six registers from 0x40 on.
static inline void redmule_start(const uint32_t *job) {
  for (unsigned i = 0; i < 6; ++i)
    write_register(TARGET_REDMULE + 0x40 + 4 * i, job[i]);
  // The event of the job before may have come twice.
  write_register(TARGET_EVENT_UNIT + EVENT_BUFFER_CLEAR, 1u << EVENT_REDMULE);
  compiler_barrier();
  write_register(TARGET_REDMULE, 0);
}

static inline void redmule_wait(void) {
  do
    wait_event(EVENT_REDMULE);
  while (read_register(TARGET_REDMULE + 0x0C));
  compiler_barrier();
}
#endif

// --- uDMA and HyperRAM ------------------------------------------------------

#define HYPER_CHANNEL_STRIDE 0x80
#define HYPER_RX 0x00
#define HYPER_TX 0x0C
#define HYPER_COMMAND 0x18
#define HYPER_EXTERNAL_ADDRESS 0x1C
#define HYPER_STATUS 0x24
#define HYPER_2D 0x28
#define HYPER_CLOCK_BIT 8
#define HYPER_ENABLE 0x10
#define HYPER_LINEAR 1
#define HYPER_READ 4

static inline void hyper_enable(void) {
  write_register(TARGET_UDMA_CLOCK_GATE,
                 read_register(TARGET_UDMA_CLOCK_GATE) | 1u << HYPER_CLOCK_BIT);
}

// A transfer on channel `slot`; with a line of 0 bytes, of one line.
static inline void hyper_start(uint32_t slot, uint32_t to_l3, uint32_t l3,
                               uint32_t l2, uint32_t bytes, uint32_t line,
                               uint32_t stride) {
  uint32_t channel = TARGET_HYPERRAM + slot * HYPER_CHANNEL_STRIDE;
  uint32_t side = channel + (to_l3 ? HYPER_TX : HYPER_RX);
  write_register(channel + HYPER_COMMAND,
                 (to_l3 ? 0 : HYPER_READ) | HYPER_LINEAR);
  write_register(channel + HYPER_EXTERNAL_ADDRESS, l3);
  write_register(channel + HYPER_2D, line != 0);
  if (line) {
    write_register(channel + HYPER_2D + 4, line);
    write_register(channel + HYPER_2D + 8, stride);
  }
  write_register(side, l2);
  write_register(side + 4, bytes);
  compiler_barrier();
  write_register(side + 8, HYPER_ENABLE);
}

// Time passes in few instructions.
static inline void pause(void) {
  uint32_t quotient;
  asm volatile(
      "div %0, %1, %1\n\tdiv %0, %1, %1\n\tdiv %0, %1, %1\n\tdiv %0, %1, %1"
      : "=&r"(quotient)
      : "r"(1)
      : "memory");
}

static inline void hyper_wait(uint32_t slot) {
  while (read_register(TARGET_HYPERRAM + slot * HYPER_CHANNEL_STRIDE +
                       HYPER_STATUS) &
         1)
    asm volatile("nop");
  compiler_barrier();
}

// --- Start-up, output, exit -------------------------------------------------

static inline void enable_instruction_caches(void) {
  write_register(TARGET_CLUSTER_ICACHE, 1);
  write_register(TARGET_HOST_ICACHE, 1);
}

static inline void start_cluster(uint32_t entry) {
  for (unsigned core = 0; core < TARGET_CORES; ++core)
    write_register(TARGET_CLUSTER_CONTROL + 0x40 + 4 * core, entry);
  compiler_barrier();
  write_register(TARGET_CLUSTER_CONTROL + 0x08, (1u << TARGET_CORES) - 1);
}

static inline void put_character(char c) {
  uint32_t hart = hart_id();
  write_register(TARGET_STANDARD_OUTPUT + (hart >> 5) * 0x80 + (hart & 31) * 8,
                 (uint32_t)c);
}

static inline __attribute__((noreturn)) void exit_program(uint32_t code) {
  compiler_barrier();
  write_register(TARGET_EXIT, 0x80000000u | code);
  while (1)
    pause();
}

#endif
