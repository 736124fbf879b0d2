"""Target files that differ from a built-in one."""

import re
from pathlib import Path

import traindeeploy


def small_memory(folder: Path, base: str, level: str, kibibytes: int) -> Path:
    """A target file: `base` with another size of a memory, "l1" or "l2"."""
    text = (Path(traindeeploy.__file__).parent / "targets" / f"{base}.toml").read_text()
    size = rf"(\[memory\.{level}\][^\[]*size = )\S+"
    changed, count = re.subn(size, rf"\g<1>{1024 * kibibytes}", text)
    assert count == 1
    path = folder / f"{base}-{level}-{kibibytes}.toml"
    path.write_text(changed)
    return path
