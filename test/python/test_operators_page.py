"""docs/operators.md is what tools/operators_page.py writes."""

import importlib.util
from pathlib import Path

from traindeeploy.frontend.operators import PAGE, not_supported

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_operators_is_current():
    spec = importlib.util.spec_from_file_location("operators_page", ROOT / "tools" / "operators_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE == ROOT / PAGE
    assert module.PAGE.read_text() == module.page(), "run tools/operators_page.py"


def test_messages():
    """The operator, its place, what to do instead or what is nearest, where the list is; never the list."""
    known = ["aten.amax", "aten.relu", "Tanh"]
    where = "docs/operators.md lists what is"
    assert not_supported("aten.topk", "net: topk", known) == (
        f"operator aten.topk at 'net: topk' is not supported: the largest element is aten.amax; {where}"
    )
    assert not_supported("Tan", "t", known) == f"operator Tan at 't' is not supported; nearest: Tanh; {where}"
    assert not_supported("Unheard", "u", known) == f"operator Unheard at 'u' is not supported; {where}"
    assert not_supported("aten.relu.out", "r", known) == (
        "operator aten.relu.out at 'r' is not supported with these operands; see docs/operators.md"
    )
