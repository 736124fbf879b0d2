// Job records and the runtime's layout: what the compiler (C++) and the
// executor (C) agree on. See docs/runtime.md.
#ifndef TD_RUNTIME_JOBS_H
#define TD_RUNTIME_JOBS_H

// First word of a record: kind | words << 8 | operator << 16.
// The words that follow are listed behind each kind.
#define TD_JOB_CALL 0    // function, arguments
#define TD_JOB_BARRIER 1 //
#define TD_JOB_DMA                                                             \
  2 // slot, then per command: command, L1, L2 and, for 2D, line and stride
    // bytes
#define TD_JOB_DMA_WAIT 3  // slot
#define TD_JOB_GEMM 4      // X, W, Z, K << 16 | M, N, arithmetic
#define TD_JOB_GEMM_WAIT 5 //
#define TD_JOB_L3                                                              \
  6 // slot, to L3, L3, L2, bytes, line and stride bytes (0, 0: one line)
#define TD_JOB_L3_WAIT 7 // slot
#define TD_JOB_NEXT 8    // ends a chunk; the jobs go on in the next one
#define TD_JOB_LOOP                                                            \
  9 // runs left, then pairs: word offset in the chunk, increment
#define TD_JOB_END 10 // ends the step

// A chunk begins with two words, the address and the bytes of the next chunk
// (0 after the last), and is copied to L1 as a whole. There are two chunks in
// L1.
#define TD_CHUNK_BYTES 1024
#define TD_CHUNK_WORDS (TD_CHUNK_BYTES / 4)
#define TD_CHUNK_HEADER_WORDS 2
#define TD_MAX_RECORD_WORDS 255
// Words of a NEXT record, which every chunk has room for.
#define TD_NEXT_WORDS 1

// DMA transfer identifiers: one is the executor's, for chunks.
#define TD_DMA_IDS 16
#define TD_DMA_SLOTS (TD_DMA_IDS - 1)
// Bytes that one DMA command can move, and commands that share a slot at most.
#define TD_DMA_MAX_BYTES 131071
#define TD_DMA_MAX_COMMANDS 8
// DMA command word.
#define TD_DMA_TO_L1 (1u << 17)
#define TD_DMA_INCREMENT (1u << 18)
#define TD_DMA_2D (1u << 19)
#define TD_DMA_EVENT (1u << 20)

// Channels of the HyperRAM controller: a slot each. A transfer is a whole
// number of 32-bit words, and its size register has 20 bits.
#define TD_L3_SLOTS 8
#define TD_L3_MAX_BYTES 1048572

// What the executor counts for each operator, 32-bit words in this order:
// cycles of the step that passed in its jobs, of those the cycles in kernels,
// and the cycles from the trigger of its GEMM jobs to the end of their wait.
#define TD_COUNTERS 3

// Words of the executor's own state in L1.
#define TD_STATE_WORDS 32

// Roles of buffers, as in the tile dialect.
#define TD_ROLE_PARAMETER 0
#define TD_ROLE_STATE 1
#define TD_ROLE_INPUT 2
#define TD_ROLE_OUTPUT 3
#define TD_ROLE_CONSTANT 4
#define TD_ROLE_TEMPORARY 5

#endif
