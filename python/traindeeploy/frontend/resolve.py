"""From what a user calls a model to the imported model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traindeeploy.interrupts import interrupts_held
from traindeeploy.models import BUILT_IN

from .model import EVALUATION, ImportedModel, Mode, ModelError, check_batch_size


def import_model(
    model: Any,
    example_inputs: Any = None,
    batch_size: int | None = None,
    mode: Mode = EVALUATION,
    untie: Sequence[str] = (),
) -> ImportedModel:
    """Import whatever stands for a model.

    model: `file.onnx`, `package.module:callable`, or the name of a built-in model, as on the command
        line; a path of an ONNX file, an `onnx.ModelProto`, an `nn.Module` (with example inputs), an
        exported program, or an ImportedModel, which stays as it is.
    example_inputs: for an `nn.Module` only: a tensor, a tuple or list of tensors (positional
        arguments of the forward), or a dict of tensors (keyword arguments).
    batch_size: the size to change axis 0 of every input to; None leaves it as the model has it.
    mode: what the model does as in training: dropout, statistics of batch norm.
    untie: names or patterns of an ONNX model's parameters that several layers read; each gets its own.
    Errors: ModelError and its kinds, in one line.
    """
    check_batch_size(batch_size)
    if isinstance(model, ImportedModel):
        if batch_size not in (None, model.batch_size):
            raise ModelError(
                f"the model is already imported at batch size {model.batch_size}, not {batch_size}"
            )
        return model
    if isinstance(model, str | Path):
        return load_model(str(model), batch_size, mode, untie)
    if type(model).__name__ == "ModelProto":
        with interrupts_held():
            from .onnx_route import import_onnx

        return import_onnx(model, batch_size, mode=mode, untie=untie)
    _refuse_to_untie(untie)
    if "torch" in sys.modules:
        return _torch_route()(model, example_inputs, batch_size, mode=mode)
    raise ModelError(f"expected a model, got {type(model).__name__}")


def load_route(model: Any) -> None:
    """Imports what `import_model` needs for a model, without looking into it."""
    file = isinstance(model, str | Path) and ":" not in str(model)
    if file or type(model).__name__ == "ModelProto":
        from . import onnx_route  # noqa: F401
    elif "torch" in sys.modules:
        from . import torch_route  # noqa: F401


def _refuse_to_untie(untie: Sequence[str]) -> None:
    if untie:
        raise ModelError(
            "only parameters of an ONNX model can be untied: in PyTorch what is shared is meant to be"
        )


def load_model(
    spec: str, batch_size: int | None = None, mode: Mode = EVALUATION, untie: Sequence[str] = ()
) -> ImportedModel:
    """Import MODEL of the command line: `file.onnx`, `package.module:callable`, or a built-in name."""
    check_batch_size(batch_size)
    if spec in BUILT_IN:
        with interrupts_held():
            from .onnx_route import import_onnx

        return import_onnx(BUILT_IN[spec](batch_size or 1), batch_size, name=spec, mode=mode, untie=untie)
    if spec.endswith(".onnx"):
        with interrupts_held():
            from .onnx_route import load_onnx_file

        return load_onnx_file(Path(spec), batch_size, mode, untie)
    _refuse_to_untie(untie)
    module_name, colon, function_name = spec.partition(":")
    parts = [*module_name.split("."), *function_name.split(".")]
    if colon and all(part.isidentifier() for part in parts):
        return _load_callable(spec, module_name, function_name, batch_size, mode)
    built_in = ", ".join(sorted(BUILT_IN))
    raise ModelError(
        f"unknown model '{spec}'; a model is a file.onnx, a package.module:callable that returns "
        f"an nn.Module and example inputs, or one of: {built_in}"
    )


def _torch_route() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise ModelError(
            "a model in Python needs PyTorch, which is not installed: pip install 'traindeeploy[torch]', "
            "or export the model to ONNX"
        )
    with interrupts_held():
        from .torch_route import import_torch

    return import_torch


def _load_callable(
    spec: str, module_name: str, function_name: str, batch_size: int | None, mode: Mode
) -> ImportedModel:
    import_torch = _torch_route()
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model, example_inputs = _call(spec, module_name, function_name)
        # The forward may import as well.
        return import_torch(model, example_inputs, batch_size, mode=mode)
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _call(spec: str, module_name: str, function_name: str) -> tuple[Any, Any]:
    import torch

    try:
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ModelError(
                f"there is no module '{error.name}' for '{spec}' (looked in the current folder too)"
            ) from error
        raise ModelError(f"importing '{module_name}' fails: {_last_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"importing '{module_name}' fails: {_last_line(error)}") from error
    function = module
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if function is None:
        raise ModelError(f"module '{module_name}' has no '{function_name}'")
    if not callable(function):
        raise ModelError(f"'{spec}' is a {type(function).__name__}, not a callable")
    try:
        result = function()
    except (Exception, SystemExit) as error:
        raise ModelError(f"calling '{spec}' fails: {_last_line(error)}") from error
    expected = f"'{spec}' must return an nn.Module and example inputs"
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ModelError(f"{expected}, not {_kind(result)}")
    if not isinstance(result[0], torch.nn.Module):
        raise ModelError(f"{expected}; its first value is {_kind(result[0])}")
    return result[0], result[1]


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{name} of {len(value)}" if isinstance(value, tuple | list) else name


def _last_line(error: BaseException) -> str:
    """The error and where the user's code raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames or frames[-1].filename.startswith("<frozen"):
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
