"""Writes docs/operators.md, the list of supported operators, from the tables of the frontend."""

from pathlib import Path
from textwrap import wrap

from traindeeploy.frontend.onnx_route import SUPPORTED
from traindeeploy.frontend.table import supported_operators

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operators.md"

TEXT = """# Operators

Written by `tools/operators_page.py`; a test keeps it current. What depends on no input and no parameter is
computed at import, whatever its operators are. [frontend.md](frontend.md) says what becomes what.

## ONNX

Of the standard domain, and those of com.microsoft that are spelled out. Of each, what ONNX's own tests of its
nodes cover is right or refused in one line.

{onnx}

## PyTorch

By their names in `aten`. An operator that is not here is tried as PyTorch's own decomposition of it.

{torch}
"""


def page() -> str:
    def listed(names: list[str]) -> str:
        text = ", ".join(f"`{name}`" for name in names)
        return "\n".join(wrap(text, 110, break_long_words=False, break_on_hyphens=False))

    torch = sorted(name.removeprefix("aten.") for name in supported_operators())
    return TEXT.format(onnx=listed(list(SUPPORTED)), torch=listed(torch))


if __name__ == "__main__":
    PAGE.write_text(page())
