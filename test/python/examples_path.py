"""The models of examples/, which is no package that is installed."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def deep_ae_module():
    spec = importlib.util.spec_from_file_location("deep_ae_example", EXAMPLES / "deep_ae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.model()
