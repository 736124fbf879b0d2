// The cluster: every core walks the table of jobs; core 0 programs the DMA, the
// uDMA and RedMulE and waits for them, all cores run kernels and meet at
// barriers.
#include "program.h"

typedef void kernel(const uint32_t *arguments, uint32_t core);

static uint32_t *const slot_ids = (uint32_t *)L1_STATE;
static uint32_t *const counters = td_tables_end;

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

// Core 0. A handler a kind, found by a table in L1, and each ends in a jump to
// the next: all that goes from job to job stays in registers, and reading a
// record costs about ten cycles. It is the time of the whole cluster, as jobs
// wait for the core that issues them.
#define JOB_STATE                                                              \
  uint32_t *record, uint32_t header, uint32_t op, uint32_t *count,             \
      uint32_t before
typedef void job_handler(JOB_STATE);

#define JOB_KINDS (TD_JOB_END + 1)
struct leader {
  job_handler *handlers[JOB_KINDS];
  uint32_t *chunk, *other;
  uint32_t next_id; // transfer of the next chunk
  uint32_t gemm_start;
};
_Static_assert(4 * TD_DMA_SLOTS + sizeof(struct leader) <= 4 * TD_STATE_WORDS,
               "the executor's state is larger than its place in L1");
static struct leader *const leader =
    (struct leader *)(L1_STATE + 4 * TD_DMA_SLOTS);

#define CONTINUE(next)                                                         \
  __attribute__((musttail)) return dispatch(next, 0, op, count, before)

// The cycles that have passed since `before` belong to an operator.
static void dispatch(JOB_STATE) {
  header = *record;
  if (operator_of(header) != op) {
    uint32_t now = cycle_count();
    *count += now - before;
    before = now;
    op = operator_of(header);
    count = counters + TD_COUNTERS * op;
  }
  __attribute__((musttail)) return leader->handlers[kind(header)](
      record, header, op, count, before);
}

static void job_call(JOB_STATE) {
  uint32_t begin = cycle_count();
  MARK(MARK_CALL_BEGIN, header);
  ((kernel *)record[1])(record + 2, 0);
  MARK(MARK_CALL_END, header);
  count[1] += cycle_count() - begin;
  CONTINUE(record + words(header));
}

static void job_barrier(JOB_STATE) {
  barrier();
  CONTINUE(record + 1);
}

// Most jobs are one command, of three words or, in 2D, five.
static void job_dma(JOB_STATE) {
  uint32_t size = words(header), id = dma_take_id(), *word = record + 2;
  slot_ids[record[1]] = id;
  compiler_barrier();
  if (size == 5) {
    uint32_t a = word[0], b = word[1], c = word[2];
    dma_push(a);
    dma_push(b);
    dma_push(c);
    CONTINUE(record + 5);
  }
  uint32_t *end = record + size;
  for (; end - word >= 5; word += 5) {
    uint32_t a = word[0], b = word[1], c = word[2], d = word[3], e = word[4];
    dma_push(a);
    dma_push(b);
    dma_push(c);
    dma_push(d);
    dma_push(e);
  }
  while (word != end)
    dma_push(*word++);
  CONTINUE(end);
}

static void job_dma_wait(JOB_STATE) {
  dma_wait(slot_ids[record[1]]);
  CONTINUE(record + 2);
}

#ifdef TARGET_REDMULE
static void job_gemm(JOB_STATE) {
  redmule_start(record + 1);
  leader->gemm_start = cycle_count();
  CONTINUE(record + 7);
}

static void job_gemm_wait(JOB_STATE) {
  redmule_wait();
  count[2] += cycle_count() - leader->gemm_start;
  CONTINUE(record + 1);
}
#endif

static void job_l3(JOB_STATE) {
  hyper_start(record[1], record[2], record[3], record[4], record[5], record[6],
              record[7]);
  CONTINUE(record + 8);
}

static void job_l3_wait(JOB_STATE) {
  hyper_wait(record[1]);
  CONTINUE(record + 2);
}

static void fetch_next(void) {
  uint32_t *chunk = leader->chunk;
  if (chunk[0])
    leader->next_id =
        fetch_chunk(leader->other, (const uint32_t *)chunk[0], chunk[1]);
}

static void job_next(JOB_STATE) {
  dma_wait(leader->next_id);
  barrier();
  uint32_t *left = leader->chunk;
  leader->chunk = leader->other;
  leader->other = left;
  fetch_next();
  CONTINUE(leader->chunk + TD_CHUNK_HEADER_WORDS);
}

static void job_loop(JOB_STATE) { CONTINUE(loop(leader->chunk, record, 0)); }

static void job_end(JOB_STATE) {
  barrier();
  *count += cycle_count() - before;
}

static void copy_tables(void) {
  volatile uint32_t *to = td_tables;
  for (const uint32_t *from = td_tables_image; to != td_tables_end;)
    *to++ = *from++;
}

static void setup_leader(void) {
  leader->handlers[TD_JOB_CALL] = job_call;
  leader->handlers[TD_JOB_BARRIER] = job_barrier;
  leader->handlers[TD_JOB_DMA] = job_dma;
  leader->handlers[TD_JOB_DMA_WAIT] = job_dma_wait;
#ifdef TARGET_REDMULE
  leader->handlers[TD_JOB_GEMM] = job_gemm;
  leader->handlers[TD_JOB_GEMM_WAIT] = job_gemm_wait;
#endif
  leader->handlers[TD_JOB_L3] = job_l3;
  leader->handlers[TD_JOB_L3_WAIT] = job_l3_wait;
  leader->handlers[TD_JOB_NEXT] = job_next;
  leader->handlers[TD_JOB_LOOP] = job_loop;
  leader->handlers[TD_JOB_END] = job_end;
}

static void lead(void) {
  leader->chunk = chunk_buffer(0);
  leader->other = chunk_buffer(1);
  dma_wait(fetch_chunk(leader->chunk, td_program.jobs, td_program.jobs_bytes));
  barrier();
  fetch_next();
  uint32_t *record = leader->chunk + TD_CHUNK_HEADER_WORDS;
  uint32_t op = operator_of(*record);
  dispatch(record, 0, op, counters + TD_COUNTERS * op, cycle_count());
}

void cluster_main(uint32_t core) {
  set_event_mask(1u << EVENT_BARRIER);
  if (core)
    while (1)
      follow(core);

  setup_barrier();
  copy_tables();
  setup_leader();
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
