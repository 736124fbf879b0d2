"""What a MODEL of the command line is: a file, a callable, a built-in name; and locations in td-opt."""

import itertools
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from traindeeploy.frontend import ModelError, import_model, load_model
from traindeeploy.models import BUILT_IN
from traindeeploy.models.deep_ae import deep_ae_parameters
from traindeeploy.tools import find_program


def refused(spec, batch_size=None):
    with pytest.raises(ModelError) as error:
        load_model(spec, batch_size)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a module of a name of its own; writes it and returns the name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"user_model_{tmp_path.name.replace('-', '_')}"

    def write(text):
        (tmp_path / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + text)
        return name

    yield write
    sys.modules.pop(name, None)


def test_deep_ae():
    imported = load_model("deep-ae")
    sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    weights = [value.shape for value in imported.parameters.values() if value.ndim == 2]
    assert weights == [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(sizes)]
    assert imported.module_text.count("train.linear") == 10
    assert imported.module_text.count("train.relu") == 9
    assert imported.batch_size == 1 and imported.notes == ()
    assert load_model("deep-ae", 16).inputs[0].shape == (16, 640)
    for name, value in deep_ae_parameters().items():
        assert np.array_equal(imported.parameters[name], value)
        fan_in = 8 if "decoder.0" in name else 640 if "encoder.0" in name else 128
        assert 0.9 / np.sqrt(fan_in) < np.abs(value).max() + 0.05 <= 1 / np.sqrt(fan_in) + 0.05


def test_the_same_text_every_time():
    program = "from traindeeploy.frontend import load_model; print(load_model('deep-ae').module_text)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_import_without_the_start_of_the_process():
    load_model("deep-ae")
    start = time.process_time()
    load_model("deep-ae")
    assert time.process_time() - start < 1


def test_locations_reach_td_opt():
    command = [str(find_program("td-opt")), "--mlir-print-debuginfo", "--mlir-print-local-scope"]
    text = load_model("deep-ae").module_text
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    lines = [line for line in result.stdout.splitlines() if "train.linear" in line]
    assert lines[0].endswith('loc("encoder.0 (Gemm)")')
    assert len(lines) == 10


def test_callable_in_the_current_folder(here):
    name = here("def make():\n    return nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3)\n")
    before = list(sys.path)
    imported = load_model(f"{name}:make")
    assert imported.inputs[0].shape == (2, 3)
    assert imported.name == "Sequential"
    assert sys.path == before
    assert load_model(f"{name}:make", 5).batch_size == 5


@pytest.mark.parametrize(
    "body, message",
    [
        ("    raise ValueError('no\\nluck')", "calling '{}:make' fails: ValueError: no ({}.py, line 4)"),
        ("    raise SystemExit(3)", "calling '{}:make' fails: SystemExit: 3 ({}.py, line 4)"),
        ("    return nn.Linear(3, 4)", "'{}:make' must return an nn.Module and example inputs, not Linear"),
        ("    return 1, 2, 3", "'{}:make' must return an nn.Module and example inputs, not tuple of 3"),
        ("    return 1, 2", "'{}:make' must return an nn.Module and example inputs; its first value is int"),
        (
            "    return nn.Linear(3, 4), 7",
            "example inputs must be tensors (a tensor, a tuple or a dict), got int",
        ),
        ("    return nn.Linear(3, 4), ()", "a module needs example inputs, a tensor or a tuple of tensors"),
    ],
)
def test_callables_that_do_something_else(here, body, message):
    name = here(f"def make():\n{body}\n")
    assert refused(f"{name}:make") == message.format(name, name)


def test_callables_that_are_not_there(here):
    name = here("value = 3\n")
    assert refused(f"{name}:make") == f"module '{name}' has no 'make'"
    assert refused(f"{name}:value") == f"'{name}:value' is a int, not a callable"
    assert refused("no_such_module:make").startswith(
        "there is no module 'no_such_module' for 'no_such_module:make'"
    )
    assert refused(f"{name}.inner:make").startswith(f"there is no module '{name}.inner' for ")


def test_modules_that_cannot_be_imported(here):
    name = here("import no_such_module_either\n")
    assert refused(f"{name}:make").startswith(
        f"importing '{name}' fails: ModuleNotFoundError: No module named "
    )
    sys.modules.pop(name, None)
    name = here("1 / 0\n")
    assert (
        refused(f"{name}:make")
        == f"importing '{name}' fails: ZeroDivisionError: division by zero ({name}.py, line 3)"
    )
    name = here("def make(:\n")
    assert refused(f"{name}:make").startswith(f"importing '{name}' fails: SyntaxError: ")


@pytest.mark.parametrize("spec", ["resnet-9000", "", "a.onnxx", "dir/file:call", "a:", ":b", "model.py"])
def test_unknown_models(spec):
    names = ", ".join(sorted(BUILT_IN))
    assert refused(spec) == (
        f"unknown model '{spec}'; a model is a file.onnx, a package.module:callable that returns "
        f"an nn.Module and example inputs, or one of: {names}"
    )


def test_batch_sizes_below_one():
    assert refused("deep-ae", 0) == "the batch size must be at least 1, not 0"
    assert refused("deep-ae", -2) == "the batch size must be at least 1, not -2"


def test_an_imported_model_stays_as_it_is():
    imported = load_model("deep-ae", 2)
    assert import_model(imported) is imported
    with pytest.raises(ModelError, match="already imported at batch size 2, not 3"):
        import_model(imported, None, 3)


def test_without_torch(tmp_path):
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "from traindeeploy.frontend import ModelError, import_model\n"
        "for model in ('a.b:c', object()):\n"
        "    try:\n"
        "        import_model(model)\n"
        "    except ModelError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "a model in Python needs PyTorch, which is not installed: pip install 'traindeeploy[torch]', "
        "or export the model to ONNX",
        "expected a model, got object",
    ]


def test_an_array_that_nothing_addresses() -> None:
    """What a layer makes may be larger than its inputs."""
    torch = pytest.importorskip("torch")
    wide = torch.nn.Sequential(torch.nn.Linear(1, 1 << 18), torch.nn.ReLU())
    with pytest.raises(ModelError, match=r"shape \[16384, 262144\] has 17179869184 bytes, and an address"):
        import_model(wide, torch.zeros(4, 1), batch_size=2**14)
