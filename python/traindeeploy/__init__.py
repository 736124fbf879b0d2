"""TrainDeeploy: on-device fine-tuning for PULP clusters with RedMulE.

import traindeeploy
program = traindeeploy.compile(model, example_inputs, loss="mse", recipe="full")
result = program.run({"input": x, "target": y}, steps=10, lr=0.01)
"""

from typing import TYPE_CHECKING, Any

from .errors import TrainDeeployError

if TYPE_CHECKING:
    from .driver import Program, Result, compile

__version__ = "0.1.0"
__all__ = ["Program", "Result", "TrainDeeployError", "__version__", "compile"]


def __getattr__(name: str) -> Any:
    """Loads the driver, and with it MLIR, only when something asks for it."""
    if name in ("Program", "Result", "compile"):
        from . import driver

        return getattr(driver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
