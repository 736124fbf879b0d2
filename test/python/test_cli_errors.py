"""Bad input of the command line: one clear line, a non-zero exit, no half-written output, no process left."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import traindeeploy
from traindeeploy.driver import Program
from traindeeploy.output import read_summed, write_summed
from traindeeploy.toolchain import how_ended

Command = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = ["--steps", 1, "--loss", "mse", "--lr", 0.01, "-o", "out"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled program."""
    folder = tmp_path_factory.mktemp("compiled") / "program"
    traindeeploy.compile("deep-ae", loss="mse").save(folder)
    return folder


@pytest.fixture
def small_program(compiled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(compiled, tmp_path / "program"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Samples for the built-in deep-ae."""
    x = np.random.default_rng(0).standard_normal((2, 640)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x, target=x)
    return tmp_path / "data.npz"


def processes_of_session(session: int) -> list[str]:
    """Processes that are left of a session."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            left.append(stat.parent.name)
    return left


def fails(cli: Command, folder: Path, *arguments: object, code: int = 1, says: str, **options: object) -> str:
    """Runs the command and asserts how it fails; returns its line."""
    before = sorted(folder.rglob("*"))
    done = cli(*arguments, **options)
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("traindeeploy: error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1 and lines[-1] == errors[0], done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    assert says in errors[0], errors[0]
    assert sorted(folder.rglob("*")) == before
    return errors[0]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"target": (2, 640)}, "no array 'input'"),
        ({"input": (2, 640)}, "'target'"),
        ({"input": (2, 641), "target": (2, 640)}, "(samples, 640)"),
        ({"input": (2, 640), "target": (3, 640)}, "number of samples"),
        ({"input": (0, 640), "target": (0, 640)}, "no samples"),
    ],
)
def test_arrays_that_do_not_fit(
    cli: Command, tmp_path: Path, arrays: dict[str, tuple[int, ...]], says: str
) -> None:
    np.savez(tmp_path / "data.npz", **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *OPTIONS, says=says)


@pytest.mark.parametrize("dtype", ["complex64", "U3"])
def test_wrong_element_type(cli: Command, tmp_path: Path, dtype: str) -> None:
    np.savez(tmp_path / "data.npz", input=np.zeros((2, 640), dtype), target=np.zeros((2, 640), np.float32))
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *OPTIONS, says="element type")


@pytest.mark.parametrize(("number", "dtype"), [(np.nan, "float32"), (-np.inf, "float16"), (1e300, "float64")])
def test_data_that_are_not_finite(cli: Command, tmp_path: Path, number: float, dtype: str) -> None:
    x = np.zeros((3, 640), dtype)
    x[1, 5] = number
    np.savez(tmp_path / "data.npz", input=np.zeros((3, 640), np.float32), target=x)
    says = "array 'target' of data.npz holds NaN or infinity (in float32), first in sample 1"
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *OPTIONS, says=says)


def test_one_array_without_a_name(cli: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((2, 640), np.float32))
    says = "data file data.npy is not an .npz archive of named arrays"
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npy", *OPTIONS, says=says)


def test_a_rate_that_float32_does_not_have(cli: Command, tmp_path: Path, data: Path) -> None:
    says = "learning rate 1e+60 is not a finite number of float32"
    fails(cli, tmp_path, "train", "deep-ae", "--data", data, *OPTIONS, "--lr", "1e60", says=says)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--lr", "1e39", "learning rate 1e+39 is not a finite number of float32"),
        ("--start-sample", 2**63 - 1, f"goes beyond sample {2**63 - 1}"),
        ("--steps", 2**63 - 1, "a run takes 1 to 4294967295"),
        ("--batch-size", 2**63 - 1, "samples has 36893488147419103228 bytes of inputs"),
        ("--batch-size", 2**20, "the training step needs"),
    ],
)
def test_numbers_beyond_reason(
    cli: Command, tmp_path: Path, data: Path, option: str, value: object, says: str
) -> None:
    arguments = ["train", "deep-ae", "--data", data, *OPTIONS, option, value]
    assert len(fails(cli, tmp_path, *arguments, says=says).splitlines()) == 1
    assert cli(*arguments).stderr.count("\n") == 1


def test_a_batch_beyond_reason_of_a_module(tmp_path: Path) -> None:
    import torch

    with pytest.raises(traindeeploy.TrainDeeployError, match="samples has 34359738368 bytes of inputs"):
        traindeeploy.compile(torch.nn.Linear(16, 2), (torch.zeros(2, 16),), loss="mse", batch_size=2**29)


def test_a_run_without_end_takes_no_disk(cli: Command, tmp_path: Path, data: Path) -> None:
    """All samples of so many steps would take 10 TB."""

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    arguments = ["train", "deep-ae", "--data", data, *OPTIONS, "--steps", 2**32 - 1, "--max-cycles", 10**7]
    fails(cli, tmp_path, *arguments, says="cycle limit of 10000000 reached", preexec_fn=no_large_files)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--timeline", "."], "cannot write .: it is a folder"),
        (["--save-onnx", "."], "cannot write .: it is a folder"),
        (["--timeline", "out"], "it is the output folder"),
        (["--timeline", "absent/t.json"], "there is no folder"),
        (["--timeline", "out/params.npz"], "it is a file of the output folder itself"),
        (["--timeline", "same", "--save-onnx", "./same"], "both name same"),
    ],
)
def test_files_that_cannot_be_written_are_said_before_the_work(
    cli: Command, tmp_path: Path, options: list[str], says: str
) -> None:
    """The data, which are read next, are not there."""
    fails(cli, tmp_path, "train", "deep-ae", "--data", "absent.npz", *OPTIONS, *options, says=says)


def test_standard_output_that_is_full() -> None:
    command = [sys.executable, "-m", "traindeeploy", "inspect", "deep-ae"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "traindeeploy: error: cannot write to standard output: the disk is full\n"


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 broken"])
def test_data_file_that_is_none(cli: Command, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "data.npz").write_bytes(content)
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *OPTIONS, says="data.npz")


def test_labels_out_of_range(cli: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input=np.zeros((1, 640), np.float32), labels=np.array([640]))
    options = [option if option != "mse" else "cross-entropy" for option in OPTIONS]
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *options, says="label 640")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["deep-ae", "--recipe", "lora-of-nothing"], "lora-of-nothing"),
        (["deep-ae", "--trainable", "no.such.parameter"], "no.such.parameter"),
        (["deep-ae", "--trainable-file", "absent.txt"], "absent.txt"),
        (["deep-ae", "--target", "no-such-target"], "no-such-target"),
        (["deep-ae", "--target", "absent.toml"], "absent.toml"),
        (["no-such-model"], "no-such-model"),
        (["absent.onnx"], "absent.onnx"),
        (["no_such_package.module:model"], "no_such_package"),
        (["os:no_such_callable"], "no_such_callable"),
        (["models:raises"], "the weights"),
        (["models:returns_nothing"], "returns_nothing"),
    ],
)
def test_names_that_are_not_there(
    cli: Command, tmp_path: Path, data: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "models.py").write_text(
        "def raises():\n    raise RuntimeError('the weights\\nare gone')\n"
        "def returns_nothing():\n    return None\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    fails(cli, tmp_path, "train", *arguments, "--data", data, *OPTIONS, says=says, env=environment)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["trane"], "trane"),
        (["train", "deep-ae"], "required"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--lr", "fast"], "'fast' is not a finite number"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--lr", "nan"], "'nan' is not a finite number"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--steps", "0"], "'0' is not a positive whole number"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--start-sample", "9" * 20], "of 63 bits"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--batch-size", "-1"], "not a positive whole number"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--momentum", "1"], "not a number from 0 up to"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--optimizer", "lyon"], "unknown optimizer 'lyon'"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--loss", "hinge"], "hinge"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--loss-reduction", "none"], "none"),
        (
            ["train", "deep-ae", "--data", "d", *OPTIONS, "--label-smoothing", "2"],
            "'2' is not a number from 0 to 1",
        ),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--dropout", "on"], "'on' is not a whole number"),
        (
            ["train", "deep-ae", "--data", "d", *OPTIONS, "--ignore-index", "all"],
            "'all' is not a whole number or none",
        ),
        (
            ["train", "deep-ae", "--data", "d", *OPTIONS, "--class-weights", "heavy"],
            "'heavy' is not a finite",
        ),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--batch-norm", "off"], "off"),
        (["train", "deep-ae", "--data", "d", *OPTIONS, "--simulator", "verilator"], "verilator"),
        (
            ["train", "deep-ae", "--data", "d", *OPTIONS, "--recipe", "full", "--trainable", "x"],
            "not allowed with",
        ),
    ],
)
def test_wrong_usage(cli: Command, tmp_path: Path, arguments: list[object], says: str) -> None:
    fails(cli, tmp_path, *arguments, code=2, says=says)


def test_a_loss_that_is_not_a_number(cli: Command, tmp_path: Path) -> None:
    x = np.zeros((3, 640), np.float32)
    x[1, 5] = 1e30
    np.savez(tmp_path / "data.npz", input=x, target=x)
    options = [*OPTIONS, "--steps", 3, "--batch-size", 1]
    fails(cli, tmp_path, "train", "deep-ae", "--data", "data.npz", *options, says="nan at step 2 of 3")


def test_a_program_that_is_none(cli: Command, tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(cli, tmp_path, "run", "empty", "--data", data, "--steps", 1, "--lr", 1, says="no compiled program")


@pytest.mark.parametrize("name", ["program.elf", "program.json", "initial.npz", "model.onnx", "SHA256SUMS"])
def test_a_program_of_which_a_file_was_changed(
    cli: Command, tmp_path: Path, data: Path, small_program: Path, name: str
) -> None:
    """The message has the file."""
    content = bytearray((small_program / name).read_bytes())
    content[len(content) * 2 // 3] ^= 4
    (small_program / name).write_bytes(content)
    says = {"SHA256SUMS": "damaged or was edited"}.get(
        name, f"{name} is damaged or was edited; compile again"
    )
    fails(cli, tmp_path, "run", small_program, "--data", data, "--steps", 1, "--lr", 1, says=says)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("operators", None, "program.json: operators is damaged or was edited: None is not list"),
        ("batch", 1.5, "program.json: batch is damaged or was edited: 1.5 is not int"),
        ("memory", {}, "program.json: memory is damaged or was edited: it has no peak"),
    ],
)
def test_a_program_that_was_edited_with_its_sums(
    small_program: Path, key: str, value: object, says: str
) -> None:
    files = read_summed(small_program, ())
    manifest = {**json.loads(files["program.json"]), key: value}
    write_summed(small_program, {**files, "program.json": json.dumps(manifest).encode()})
    with pytest.raises(traindeeploy.TrainDeeployError, match=says):
        Program.load(small_program)


def test_how_a_tool_has_ended() -> None:
    assert how_ended(3) == "exit code 3"
    assert how_ended(-signal.SIGBUS) == "killed by SIGBUS (a full disk can be why)"
    assert how_ended(-signal.SIGSEGV) == "killed by SIGSEGV"


@pytest.mark.parametrize("output", ["file", "file/out", "mine", "/proc/traindeeploy/out"])
def test_an_output_folder_that_cannot_be(cli: Command, tmp_path: Path, data: Path, output: str) -> None:
    (tmp_path / "file").write_text("of the user")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("of the user")
    options = [*OPTIONS[:-1], output]
    fails(cli, tmp_path, "train", "deep-ae", "--data", data, *options, says=output.split("/")[-1])


def test_a_full_disk(cli: Command, tmp_path: Path, data: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    fails(
        cli, tmp_path, "compile", "deep-ae", "--loss", "mse", "-o", "out", says="", preexec_fn=no_large_files
    )


def test_caches_that_cannot_be_written(cli: Command, tmp_path: Path) -> None:
    nowhere = "/proc/traindeeploy"
    names = ("HOME", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    done = cli(
        "compile",
        "deep-ae",
        "--loss",
        "mse",
        "-o",
        "out",
        env={**os.environ, **dict.fromkeys(names, nowhere)},
    )
    if done.returncode:
        assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    else:
        assert (tmp_path / "out" / "program.elf").is_file()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.3, 0.7, 2.0, 6.0])
def test_an_interrupt_in_the_middle(
    tmp_path: Path, data: Path, seconds: float, signum: signal.Signals
) -> None:
    arguments = ["train", "deep-ae", "--data", "data.npz", *map(str, OPTIONS), "--steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "traindeeploy", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # From the first sign of work on, at different stages of it.
    while process.poll() is None and len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    # Python may end itself by the signal after all is cleaned up; shells call both 130.
    assert process.returncode in ((130, -signal.SIGINT) if signum == signal.SIGINT else (143,)), errors
    assert (
        errors.strip().splitlines()[-1].startswith("traindeeploy: interrupted") and "Traceback" not in errors
    )
    time.sleep(0.2)
    assert processes_of_session(process.pid) == []
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_an_existing_program_survives_a_failure(cli: Command, tmp_path: Path, data: Path) -> None:
    assert cli("train", "deep-ae", "--data", data, *OPTIONS).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    np.savez(tmp_path / "bad.npz", input=np.zeros((1, 3), np.float32), target=np.zeros((1, 3), np.float32))
    fails(cli, tmp_path, "train", "deep-ae", "--data", "bad.npz", *OPTIONS, says="shape")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_error_is_one_line_also_from_python(tmp_path: Path) -> None:
    with pytest.raises(traindeeploy.TrainDeeployError) as caught:
        traindeeploy.compile("absent.onnx", loss="mse")
    assert "\n" not in str(caught.value)


def onnx_file(path: Path, operator: str = "", values: str = "float32", **choices: object) -> None:
    """A product of an input [3, 5] with a weight, and one more operator if it is named."""
    import onnx
    from onnx import helper

    weight = np.ones((5, 7), values)
    if choices.get("nan"):
        weight[2, 3] = np.nan
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if not operator else "m"], name="product")]
    domain = str(choices.get("domain", ""))
    if operator:
        nodes.append(helper.make_node(operator, ["m"], ["y"], name="last", domain=domain))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, choices.get("shape", (3, 5)))],
        [helper.make_tensor_value_info("y", 1, ("?",))],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    if choices.get("declared"):
        opsets.append(helper.make_opsetid(domain, 1))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    if choices.get("cut"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"nan": True}, "parameter 'w' holds NaN or infinity in 1 of 35 values"),
        ({"shape": (3, "tokens")}, "axis 1 of input 'x' has the dynamic size 'tokens'"),
        ({"cut": True}, "'net.onnx' is not an ONNX model, or is damaged"),
        (
            {"operator": "Frob", "domain": "org.example", "declared": True},
            "operator org.example.Frob at 'last (Frob)'",
        ),
        ({"operator": "Frob", "domain": "org.example"}, "'org.example' (operator Frob at 'last')"),
        (
            {"operator": "Frob"},
            "No Op registered for Frob with domain_version of 20 (operator Frob at 'last')",
        ),
        ({"operator": "Acosh"}, "operator Acosh at 'last (Acosh)'"),
        ({"operator": "Unique"}, "operator Unique at 'last (Unique)'"),
    ],
)
def test_onnx_files(cli: Command, tmp_path: Path, choices: dict[str, object], says: str) -> None:
    onnx_file(tmp_path / "net.onnx", **choices)  # type: ignore[arg-type]
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 5), np.float32), target=np.zeros((3, 7), np.float32))
    fails(cli, tmp_path, "train", "net.onnx", "--data", "data.npz", *OPTIONS, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cct2", "--recipe", "last:0"], "recipe 'last:0' needs a number from 1"),
        (["cct2", "--trainable", "classifier.*.nothing"], "no parameter matches 'classifier.*.nothing'"),
        (["cct2", "--recipe", "lora", "--lora-targets", "no.*"], "no parameter matches 'no.*'"),
        (
            ["cct2", "--recipe", "lora", "--lora-targets", "*norm1.weight"],
            "the targets of LoRA match no weight",
        ),
        (["cct2", "--recipe", "full", "--lora-rank", "2"], "lora"),
        (
            ["cct2", "--loss-reduction", "sum", "--label-smoothing", "0.1"],
            "label smoothing is for cross-entropy",
        ),
        (["cct2", "--dropout", str(2**31)], "the seed of dropout"),
    ],
)
def test_recipes_and_options(cli: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    np.savez(tmp_path / "data.npz", input=np.zeros((1, 3, 32, 32), np.float32), target=np.zeros((1, 10)))
    fails(cli, tmp_path, "train", *arguments, "--data", "data.npz", *OPTIONS, says=says)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_indices_of_a_table(cli: Command, tmp_path: Path, dtype: str) -> None:
    (tmp_path / "models.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def words():\n"
        "    return nn.Sequential(nn.Embedding(7, 3), nn.Flatten()), torch.zeros(1, 5, dtype=torch.int64)\n"
    )
    tokens = np.array([[0, 1, 2, 3, 7]]).astype(dtype)
    np.savez(tmp_path / "data.npz", input=tokens, target=np.zeros((1, 15), np.float32))
    says = {"float32": "an integer type is needed", "int64": "has index 7, but indices go from 0 to 6"}[dtype]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ["train", "models:words", "--data", "data.npz", *OPTIONS]
    fails(cli, tmp_path, *arguments, says=says, env=environment)
