"""Where a step of CCT-2 lives: all of it in L2, for every strategy."""

import pytest

from traindeeploy.driver import compile as compile_program
from traindeeploy.toolchain import Elf


@pytest.mark.parametrize("recipe", ["linear-probe", "blocks:1", "lora:1", "blocks:2", "lora:2"])
def test_a_step_stays_in_l2(recipe: str) -> None:
    program = compile_program("cct2", loss="cross-entropy", recipe=recipe, batch_size=1)
    elf = Elf(program.elf)
    assert elf.manifest["jobs"]["hyperram"] == []
    assert {buffer["level"] for buffer in elf.manifest["buffers"]} == {"l2"}
    begin = program.target.description["memory"]["l2"]["base"]
    assert begin + elf.program_bytes <= elf.manifest["l2_begin"]
    memory = program.manifest["memory"]
    assert memory["peak"]["l3"] == 0
    assert memory["peak"]["l2"] <= program.target.capacity("l2")
    assert memory["dynamic_peak"] <= 800 * 1024
