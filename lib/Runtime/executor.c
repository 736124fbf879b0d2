// The cluster: every core walks the table of jobs; core 0 programs the DMA, the
// uDMA and RedMulE and waits for them, all cores run kernels and meet at
// barriers.
#include "program.h"

typedef void kernel(const uint32_t *arguments, uint32_t core);

static uint32_t *const slot_ids = (uint32_t *)L1_STATE;
static uint32_t *const counters = (uint32_t *)L1_COUNTERS;

static uint32_t *chunk_buffer(unsigned i) {
  return (uint32_t *)(L1_CHUNKS + i * TD_CHUNK_BYTES);
}

static inline uint32_t kind(uint32_t header) { return header & 0xFF; }
static inline uint32_t words(uint32_t header) { return header >> 8 & 0xFF; }
static inline uint32_t operator_of(uint32_t header) { return header >> 16; }

// Starts the copy of a chunk to L1 and returns the transfer's identifier.
static inline uint32_t fetch_chunk(uint32_t *to, const uint32_t *from,
                                   uint32_t bytes) {
  uint32_t id = dma_take_id();
  dma_push(bytes | TD_DMA_TO_L1 | TD_DMA_INCREMENT | TD_DMA_EVENT);
  dma_push((uint32_t)to);
  compiler_barrier();
  dma_push((uint32_t)from);
  return id;
}

// The end of a loop: where to go on. All cores have read the runs that are left
// before one of them changes anything.
static inline uint32_t *loop(uint32_t *chunk, uint32_t *record, uint32_t core) {
  uint32_t size = words(record[0]), runs = record[2];
  if (!runs)
    return record + size;
  uint32_t *start = chunk + record[1];
  barrier();
  for (uint32_t i = 3 + 2 * core; i < size; i += 2 * TARGET_CORES)
    chunk[record[i]] += record[i + 1];
  if (core == 0)
    record[2] = runs - 1;
  barrier();
  return start;
}

static void follow(uint32_t core) {
  barrier(); // the first chunk is there
  uint32_t *chunk = chunk_buffer(0), *other = chunk_buffer(1);
  for (uint32_t *p = chunk + TD_CHUNK_HEADER_WORDS;;) {
    uint32_t *record = p, header = *p;
    p += words(header);
    switch (kind(header)) {
    case TD_JOB_CALL:
      ((kernel *)record[1])(record + 2, core);
      break;
    case TD_JOB_BARRIER:
      barrier();
      break;
    case TD_JOB_NEXT: {
      barrier();
      uint32_t *left = chunk;
      chunk = other;
      other = left;
      p = chunk + TD_CHUNK_HEADER_WORDS;
      break;
    }
    case TD_JOB_LOOP:
      p = loop(chunk, record, core);
      break;
    case TD_JOB_END:
      barrier();
      return;
    default: // core 0's
      break;
    }
  }
}

// Most jobs are one command, of three words or, in 2D, five.
static inline void start_dma(const uint32_t *record) {
  uint32_t count = words(record[0]) - 2;
  uint32_t id = dma_take_id();
  const uint32_t *word = record + 2;
  compiler_barrier();
  for (; count >= 5; count -= 5, word += 5) {
    uint32_t a = word[0], b = word[1], c = word[2], d = word[3], e = word[4];
    dma_push(a);
    dma_push(b);
    dma_push(c);
    dma_push(d);
    dma_push(e);
  }
  if (count >= 3) {
    uint32_t a = word[0], b = word[1], c = word[2];
    dma_push(a);
    dma_push(b);
    dma_push(c);
    count -= 3;
    word += 3;
  }
  for (; count; --count)
    dma_push(*word++);
  slot_ids[record[1]] = id;
}

// The cycles that have passed since `before` belong to an operator.
static inline uint32_t account(uint32_t op, uint32_t before) {
  uint32_t now = cycle_count();
  counters[TD_COUNTERS * op] += now - before;
  return now;
}

static void lead(void) {
  uint32_t *chunk = chunk_buffer(0), *other = chunk_buffer(1);
  dma_wait(fetch_chunk(chunk, td_program.jobs, td_program.jobs_bytes));
  barrier();
  uint32_t next_id = 0, gemm_start = 0;
  if (chunk[0])
    next_id = fetch_chunk(other, (const uint32_t *)chunk[0], chunk[1]);
  uint32_t *p = chunk + TD_CHUNK_HEADER_WORDS;
  uint32_t op = operator_of(*p), before = cycle_count();
  while (1) {
    uint32_t *record = p, header = *p;
    p += words(header);
    if (operator_of(header) != op) {
      before = account(op, before);
      op = operator_of(header);
    }
    switch (kind(header)) {
    case TD_JOB_CALL: {
      uint32_t begin = cycle_count();
      MARK(MARK_CALL_BEGIN, header);
      ((kernel *)record[1])(record + 2, 0);
      MARK(MARK_CALL_END, header);
      counters[TD_COUNTERS * op + 1] += cycle_count() - begin;
      break;
    }
    case TD_JOB_BARRIER:
      barrier();
      break;
    case TD_JOB_DMA:
      start_dma(record);
      break;
    case TD_JOB_DMA_WAIT:
      dma_wait(slot_ids[record[1]]);
      break;
#ifdef TARGET_REDMULE
    case TD_JOB_GEMM:
      redmule_start(record + 1);
      gemm_start = cycle_count();
      break;
    case TD_JOB_GEMM_WAIT:
      redmule_wait();
      counters[TD_COUNTERS * op + 2] += cycle_count() - gemm_start;
      break;
#endif
    case TD_JOB_L3:
      hyper_start(record[1], record[2], record[3], record[4], record[5],
                  record[6], record[7]);
      break;
    case TD_JOB_L3_WAIT:
      hyper_wait(record[1]);
      break;
    case TD_JOB_NEXT: {
      dma_wait(next_id);
      barrier();
      uint32_t *left = chunk;
      chunk = other;
      other = left;
      if (chunk[0])
        next_id = fetch_chunk(other, (const uint32_t *)chunk[0], chunk[1]);
      p = chunk + TD_CHUNK_HEADER_WORDS;
      break;
    }
    case TD_JOB_LOOP:
      p = loop(chunk, record, 0);
      break;
    default: // TD_JOB_END
      barrier();
      account(op, before);
      return;
    }
  }
}

void cluster_main(uint32_t core) {
  set_event_mask(1u << EVENT_BARRIER);
  if (core)
    while (1)
      follow(core);

  setup_barrier();
  while (1) {
    wait_event(EVENT_SOFTWARE);
    compiler_barrier();
    // Only now: the host has read those of the step before.
    for (uint32_t i = 0; i < TD_COUNTERS * td_program.operators; ++i)
      counters[i] = 0;
    MARK(MARK_STEP_BEGIN, 0);
    uint32_t begin = cycle_count();
    lead();
    uint32_t end = cycle_count();
    MARK(MARK_STEP_END, 0);
    td_mailbox.cycles = end - begin;
    compiler_barrier();
    td_mailbox.steps_done += 1;
  }
}
