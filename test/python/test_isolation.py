"""A compilation that native code ends is an error of one line, and the caller goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from traindeeploy import TrainDeeployError, ir_facts, isolation
from traindeeploy.errors import UsageError

Tell = Callable[[str], None]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where reproducers go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def fail(expression: str) -> Any:
    """Ends the process as the C library's assert does."""
    os.write(2, f"python: Some.cpp:12: void f(): Assertion `{expression}' failed.\n".encode())
    os.abort()


def test_what_is_returned_and_told_arrives(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []

    def work(progress: Tell, notice: Tell) -> dict[str, int]:
        progress("first")
        notice("second")
        os.write(2, b"said by native code\n")
        return {"process": os.getpid()}

    assert isolation.run_apart(work, told.append, told.append)["process"] != os.getpid()
    assert told == ["first", "second"]
    assert "said by native code" in capfd.readouterr().err


def test_errors_keep_their_kind() -> None:
    def refuses(progress: Tell, notice: Tell) -> None:
        raise UsageError("no")

    with pytest.raises(UsageError, match=r"^no$"):
        isolation.run_apart(refuses, print, print)


def test_an_assertion_names_stage_operator_and_reproducer(folders: Path, capfd: Any) -> None:
    def work(progress: Tell, notice: Tell) -> None:
        progress("planning")
        isolation.at(lambda: "operator linear at 'fc1'")
        isolation.keep("plan.mlir", lambda: "module {}", "td-opt plan.mlir")
        fail("a < b && 'c'")

    told: list[str] = []
    with pytest.raises(TrainDeeployError) as error:
        isolation.run_apart(work, told.append, print)
    (folder,) = folders.iterdir()
    assert str(error.value) == (
        "planning: internal error: the compiler stopped at an assertion (a < b && 'c') at operator linear at"
        f" 'fc1'; what leads there is in {folder}, please report it"
    )
    assert (folder / "plan.mlir").read_text() == "module {}"
    assert (folder / "command").read_text() == "td-opt plan.mlir\n"
    assert "Assertion" in (folder / "stderr").read_text()
    assert told == ["planning"] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGFPE])
def test_other_signals(number: signal.Signals) -> None:
    with pytest.raises(TrainDeeployError, match=f"the compiler stopped by {number.name}"):
        isolation.run_apart(lambda progress, notice: os.kill(os.getpid(), number), print, print)


def test_a_killed_compiler_is_no_internal_error(folders: Path) -> None:
    with pytest.raises(TrainDeeployError, match=r"killed \(SIGKILL\); is there enough memory"):
        isolation.run_apart(lambda progress, notice: os.kill(os.getpid(), signal.SIGKILL), print, print)
    assert not list(folders.iterdir())


def test_what_goes_well_the_second_time_is_returned(folders: Path) -> None:
    mark = folders / "mark"

    def work(progress: Tell, notice: Tell) -> int:
        if not mark.exists():
            mark.touch()
            os.abort()
        return 3

    assert isolation.run_apart(work, print, print) == 3
    assert list(folders.iterdir()) == [mark]


def test_an_interrupt_ends_the_child() -> None:
    def work(progress: Tell, notice: Tell) -> None:
        progress(str(os.getpid()))
        signal.pause()

    def interrupt(text: str) -> None:
        children.append(int(text))
        raise KeyboardInterrupt

    children: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        isolation.run_apart(work, interrupt, print)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_a_compilation_keeps_the_ir_before_the_pipeline(folders: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ir_facts, "add_jobs", lambda *_: fail("x"))
    with pytest.raises(TrainDeeployError, match=r"compiling: tile: .*assertion \(x\)"):
        traindeeploy.compile("deep-ae", loss="mse")
    (folder,) = folders.iterdir()
    assert "tile.group" in (folder / "tile.mlir").read_text()
    assert (folder / "command").read_text() == "td-opt tile.mlir --pass-pipeline='builtin.module(td-tile)'\n"


def test_a_converter_that_ends_the_process_is_asked_for_the_node(folders: Path, monkeypatch: Any) -> None:
    from traindeeploy.frontend import onnx_route

    convert = onnx_route._to_torch_dialect

    def converted(model: Any, naming: Any) -> Any:
        if any(node.output[0] == "h5" for node in model.graph.node):
            fail("root->getBlock()")
        return convert(model, naming)

    monkeypatch.setattr(onnx_route, "_to_torch_dialect", converted)
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["h0"])]
    nodes += [helper.make_node("Tanh", [f"h{i}"], [f"h{i + 1}"], name=f"act{i + 1}") for i in range(7)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, (2, 3))],
        [value("h7", TensorProto.FLOAT, (2, 3))],
        initializer=[numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(
        TrainDeeployError, match=r"assertion \(root->getBlock\(\)\) at operator Tanh at 'act5"
    ):
        traindeeploy.compile(model, loss="mse")
    (folder,) = folders.iterdir()
    assert (folder / "model.onnx").stat().st_size > 0
