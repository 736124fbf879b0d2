// What td-lower-table says of a program, and the runtime's place in L1.
#ifndef TD_RUNTIME_PROGRAM_H
#define TD_RUNTIME_PROGRAM_H

#include "device.h"

struct buffer {
  uint32_t role, level, address, bytes;
  const uint32_t *content; // of a constant
};

extern const struct program {
  const uint32_t *jobs; // the first chunk
  uint32_t jobs_bytes;
  uint32_t operators;
  uint32_t buffer_count;
  const struct buffer *buffers;
} td_program;

// L1: stacks, two chunks, state, functions' tables, counters
// (td::RuntimeLayout, lib/Runtime/Layout.h).
#define L1_CHUNKS (TARGET_L1_BASE + TARGET_CORES * TARGET_CORE_STACK)
#define L1_STATE (L1_CHUNKS + 2 * TD_CHUNK_BYTES)
// Functions' tables, and where they are loaded, in L2: by the linker.
extern uint32_t td_tables[], td_tables_end[];
extern const uint32_t td_tables_image[];
#define L1_COUNTERS ((uint32_t)td_tables_end)

// Between the host and the cluster, in L2.
struct mailbox {
  uint32_t steps_done;
  uint32_t cycles; // of the last step
};
extern volatile struct mailbox td_mailbox;

#endif
