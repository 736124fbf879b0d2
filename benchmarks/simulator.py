"""Speed of the embedded simulator: instructions a second on a plain matmul on every core.

python benchmarks/simulator.py [repetitions]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from traindeeploy.sim import Simulator
from traindeeploy.target import load_target

LINK = """
ENTRY(_start)
SECTIONS {
  . = 0x1C010000;
  .text : { *(.text.start) *(.text*) }
  .data : { *(.data*) *(.rodata*) *(.sdata*) *(.bss*) }
  /DISCARD/ : { *(.riscv.attributes) *(.comment) *(.eh_frame*) }
}
"""

# The host starts the cluster; each core multiplies rows of 64 x 64 matrices in L1.
SOURCE = r"""
typedef volatile unsigned *reg;
__attribute__((section(".text.start"), naked)) void _start(void) {
  __asm__ volatile("csrr a0, mhartid\n"
                   "li sp, 0x1001f000\n"
                   "slli t0, a0, 10\n"
                   "sub sp, sp, t0\n"
                   "li t0, 0x3e0\n"
                   "bne a0, t0, 1f\n"
                   "li sp, 0x1c010000\n"
                   "1: j entry");
}
static void multiply(unsigned core) {
  const float *a = (const float *)0x10000000, *b = a + 4096;
  float *c = (float *)b + 4096;
  for (unsigned i = core; i < 64; i += 8)
    for (unsigned j = 0; j < 64; ++j) {
      float sum = 0;
      for (unsigned k = 0; k < 64; ++k)
        sum += a[64 * i + k] * b[64 * k + j];
      c[64 * i + j] = sum;
    }
}
__attribute__((used)) void entry(unsigned hart) {
  if (hart == 0x3e0) {
    *(reg)0x10201400 = 1;
    *(reg)0x1a108800 = 1;
    for (unsigned i = 0; i < 8; ++i)
      *(reg)(0x10200040 + 4 * i) = 0x1c010000;
    *(reg)0x10200008 = 0xff;
    for (;;)
      __asm__ volatile("wfi");
  }
  *(reg)0x10204008 = 1 << 16;
  *(reg)0x10204200 = 0xff;
  *(reg)0x1020420c = 0xff;
  for (unsigned i = hart; i < 8192; i += 8)
    ((float *)0x10000000)[i] = (float)(i % 61) * 0.125f;
  for (unsigned i = 0; i < REPETITIONS; ++i) {
    __asm__ volatile(".insn i 0x03, 6, x0, 0x21c(%0)" ::"r"(0x10204000) : "memory");
    multiply(hart);
  }
  __asm__ volatile(".insn i 0x03, 6, x0, 0x21c(%0)" ::"r"(0x10204000) : "memory");
  *(reg)0x1a1040a0 = 0x80000000;
  for (;;)
    ;
}
"""


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "matmul.c").write_text(SOURCE)
        (folder / "link.ld").write_text(LINK)
        # fmt: off
        subprocess.run([
            sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-freestanding-none",
            "-mcpu=generic_rv32+m+c+zicsr+zfinx+zhinx", "-O3", "-nostdlib", "-ffreestanding",
            "-ffp-contract=fast",
            f"-DREPETITIONS={repetitions}", "-T", "link.ld", "matmul.c", "-o", "matmul.elf",
        ], cwd=folder, check=True)
        # fmt: on
        start = time.process_time()  # not wall time: the machine may be busy
        result = Simulator(load_target("pulp")).run(folder / "matmul.elf", folder)
        seconds = time.process_time() - start
    # Each repetition is 64^3 multiply-adds.
    print(
        f"{result.instructions / 1e6:.0f} M instructions, {result.cycles / 1e6:.1f} M cycles "
        f"in {seconds:.2f} s: {result.instructions / seconds / 1e6:.0f} MIPS, "
        f"{result.cycles / seconds / 1e6:.1f} M cycles/s; "
        f"{64**3 * repetitions / result.cycles:.2f} MAC/cycle"
    )


if __name__ == "__main__":
    main()
