// Entry points: of the host core at reset and of the cluster's cores, and the
// trap handler of both.
#include "jobs.h"
#include "target.h"

// Where functions' tables lie in L1, behind the executor's state; program.h
// says what comes before.
  .globl td_tables_begin
  .equ td_tables_begin, TARGET_L1_BASE + TARGET_CORES * TARGET_CORE_STACK + 2 * TD_CHUNK_BYTES + 4 * TD_STATE_WORDS

  .section .text.start, "ax"
  .globl _start
_start:
  la t0, trap_entry
  csrw mtvec, t0
  la sp, td_host_stack_end
  call host_main

  .globl cluster_start
cluster_start:
  la t0, trap_entry
  csrw mtvec, t0
  csrr a0, mhartid
  // The stacks lie at the start of L1, core 0's first.
  li sp, TARGET_L1_BASE + TARGET_CORE_STACK
  li t0, TARGET_CORE_STACK
  mul t0, t0, a0
  add sp, sp, t0
  call cluster_main

// Reports the trap and ends the program. The stack is not trusted: core and
// registers are lost anyway, so the handler runs on a stack of its own.
  .balign 256
trap_entry:
  csrr a0, mcause
  csrr a1, mepc
  csrr a2, mtval
  la sp, td_host_stack_end
  call trap_report

// Semihosting: a0 is the operation, a1 its arguments; the result is in a0. The
// three instructions are the mark that a debugger looks for.
  .globl semihosting_call
  .balign 16
  .option push
  .option norvc
semihosting_call:
  slli x0, x0, 0x1f
  ebreak
  srai x0, x0, 7
  ret
  .option pop
