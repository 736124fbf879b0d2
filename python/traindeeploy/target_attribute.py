"""A target description as an MLIR attribute.

Used by the driver at run time and, run as a script, by the build, which embeds
the built-in targets into the compiler: `target_attribute.py OUT.h A.toml ...`.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any


def mlir_attribute(value: Any) -> str:
    """The text of the MLIR attribute that mirrors a TOML value: tables become
    dictionaries, numbers i64 or f64, in the order of the keys."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} : i64"
    if isinstance(value, float):
        return f"{value!r} : f64" if "." in repr(value) or "inf" in repr(value) else f"{value:.1f} : f64"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(mlir_attribute(item) for item in value) + "]"
    if isinstance(value, dict):
        items = (f'"{key}" = {mlir_attribute(value[key])}' for key in sorted(value))
        return "{" + ", ".join(items) + "}"
    raise TypeError(f"no MLIR attribute for a TOML value of type {type(value).__name__}")


def main() -> None:
    """Writes a header with the built-in targets as {name, attribute} pairs."""
    lines = []
    for path in sorted(sys.argv[2:]):
        attribute = mlir_attribute(tomllib.loads(Path(path).read_text()))
        lines.append(f'{{"{Path(path).stem}", R"mlir({attribute})mlir"}},')
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
