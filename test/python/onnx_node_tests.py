"""ONNX's own node tests as models that are trained: each is right, or refused in one line.

python onnx_node_tests.py [PATTERN]   the outcome of all tests, or of those whose name a pattern finds
python onnx_node_tests.py --write     of all, and write docs/onnx_node_tests.md
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from ml_dtypes import finfo
from mlir.ir import Module
from onnx import TensorProto, helper, numpy_helper

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import import_model, onnx_route  # noqa: F401  (once, before processes of their own)
from traindeeploy.host import graph_pipeline, make_context, run_on_host, run_pipeline, to_float64
from traindeeploy.isolation import run_apart
from traindeeploy.optimizers import SGD, attach

PAGE = Path(__file__).resolve().parents[2] / "docs" / "onnx_node_tests.md"
PROBE, ADDED = "probe", "added"
WRITTEN_OUT = "written out"


@dataclass(frozen=True)
class NodeTest:
    """A node test of ONNX as a model with one input, and what its output must be.

    The first input of float32 is the model's, plus a parameter of zeros; all others are initializers. To
    the output a parameter `probe` of zeros is added, after a Cast if it is not float32: the gradient of
    the sum of squares at it is twice the output.

    operator: the node's; name: the test's, and the output's where there are several.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    x: np.ndarray
    expected: np.ndarray
    rtol: float
    atol: float


def load() -> Iterator[NodeTest]:
    """All node tests of ONNX's own domain that have tensors as their inputs and outputs, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tests' own computations
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    for case in sorted(found, key=lambda case: case.name):
        graph = case.model.graph
        domains = {node.domain for node in graph.node}
        values = (*graph.input, *graph.output)
        arrays = all(isinstance(v, np.ndarray | np.generic) for part in case.data_sets[0] for v in part)
        tensors = all(value.type.HasField("tensor_type") for value in values)
        if domains != {""} or not (arrays and tensors and graph.input):
            continue
        for index, value in enumerate(graph.output):
            own = case.name.removeprefix("test_")
            yield _as_model(case, own if len(graph.output) == 1 else f"{own}:{value.name}", index)


def _as_model(case, name: str, index: int) -> NodeTest:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 8)
    graph = model.graph
    inputs, outputs = ([np.asarray(value) for value in part] for part in case.data_sets[0])
    floats = [i for i, v in enumerate(graph.input) if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    chosen = floats[0] if floats else 0
    source, x = graph.input[chosen], inputs[chosen]
    for i, (value, array) in enumerate(zip(graph.input, inputs, strict=False)):
        if i != chosen:
            graph.initializer.append(numpy_helper.from_array(array, value.name))
    kept = helper.make_tensor_value_info(source.name, source.type.tensor_type.elem_type, x.shape)
    del graph.input[:]
    graph.input.append(kept)
    nodes = list(graph.node)
    if floats:
        inside = f"{source.name}.{ADDED}"
        for node in nodes:
            node.input[:] = [inside if operand == source.name else operand for operand in node.input]
        graph.initializer.append(numpy_helper.from_array(np.zeros(x.shape or (1,), np.float32), ADDED))
        row = inside if x.shape else f"{inside}.row"
        first = [helper.make_node("Add", [source.name, ADDED], [row])]
        if not x.shape:
            graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), "scalar"))
            first.append(helper.make_node("Reshape", [row, "scalar"], [inside]))
        nodes = [*first, *nodes]
    result, expected = graph.output[index].name, outputs[index]
    if graph.output[index].type.tensor_type.elem_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [result], [f"{result}.float"], to=TensorProto.FLOAT))
        result = f"{result}.float"
    nodes.append(helper.make_node("Add", [result, PROBE], ["probed"]))
    graph.initializer.append(numpy_helper.from_array(np.zeros(expected.shape or (1,), np.float32), PROBE))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.output[:]
    graph.node.extend(copies)
    graph.output.append(helper.make_tensor_value_info("probed", TensorProto.FLOAT, expected.shape or (1,)))
    operator = _operator(case)
    return NodeTest(name, operator, model, x, expected, case.rtol, case.atol)


def _operator(case) -> str:
    """What a test is of; where its node is written out by others, the operator that they stand for."""
    return WRITTEN_OUT if "_expanded" in case.name else case.model.graph.node[-1].op_type


def output_of(test: NodeTest) -> np.ndarray:
    """What the training graph computes as the model's output, in float64 on this machine."""
    imported = import_model(test.model)
    with make_context():
        graph = Module.parse(to_float64(imported.module_text))
    attach(graph, SGD(), element="f64")
    run_pipeline(graph, graph_pipeline("mse", [PROBE]))
    values = {key: value.astype(np.float64) for key, value in imported.parameters.items()}
    sample = {imported.inputs[0].name: test.x, "target": np.zeros(imported.output.shape)}
    after, _ = run_on_host(graph, values, [sample], lr=1.0)
    return (values[PROBE] - after[PROBE]) / 2 * values[PROBE].size


def outcome(test: NodeTest) -> str:
    """ "right", "refused: ..." or what is wrong."""
    try:
        got = output_of(test)
    except TrainDeeployError as error:
        return f"refused: {error}" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"internal error: {type(error).__name__}: {error}"
    wanted = test.expected.astype(np.float64)
    if got.size != wanted.size:
        return f"wrong: shape {got.shape} instead of {wanted.shape}"
    got = got.reshape(wanted.shape)
    stored = 4 * float(finfo(test.expected.dtype).eps) if test.expected.dtype.kind in "fV" else 0
    tolerance = {"rtol": max(test.rtol, 1e-5, stored), "atol": max(test.atol, 1e-6)}
    got = np.where(np.isneginf(wanted) & (got <= -1e30), -np.inf, got)  # of masks
    close = np.allclose(got, wanted, equal_nan=True, **tolerance)
    return "right" if close else f"wrong: by up to {np.abs(got - wanted).max()}"


def outcomes(tests: Sequence[NodeTest]) -> list[str]:
    """Of several tests, in a process of their own; one that it does not survive is an internal error."""

    def nobody(text: str) -> None: ...

    try:
        return run_apart(lambda progress, notice: [outcome(test) for test in tests], nobody, nobody)
    except TrainDeeployError as error:
        if len(tests) == 1:
            return [f"internal error: {error}"]
    return [said for test in tests for said in outcomes([test])]


TEXT = """# ONNX's node tests

Written by `make onnx-node-tests` (`test/python/onnx_node_tests.py`), with onnx {version}. Each test of
a node of ONNX's own domain is a model that is trained, one for each of its outputs: a parameter is added
to the first input of float32, and to the output. *Right* is what gives the test's output, computed from
the training graph in float64 on the host (-1e30 or less is -infinity). All others are refused in one
line. CI checks of {sample} that they are one or the other, and right where this page says so.

| | right | refused |
|---|---|---|
| all {count} | {right} | {refused} |

By operator; tests that write an operator out by others are together. Names are those of what is refused.

| operator | right | refused | |
|---|---|---|---|
"""
SAMPLE = 120


def page(found: dict[str, tuple[str, str]]) -> str:
    """found: by test, its operator and whether it is right or refused."""
    by_operator: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"right": [], "refused": []})
    for name, (operator, words) in found.items():
        by_operator[operator][words].append(name)
    counts = Counter(words for _, words in found.values())
    text = TEXT.format(version=onnx.__version__, sample=SAMPLE, count=len(found), **counts)
    for operator in sorted(by_operator, key=lambda name: (name == WRITTEN_OUT, name)):
        right, refused = by_operator[operator]["right"], by_operator[operator]["refused"]
        names = "all" if not right else ", ".join(f"`{name}`" for name in refused)
        text += f"| {operator} | {len(right)} | {len(refused)} | {names} |\n"
    return text


def expected() -> tuple[str, Callable[[NodeTest], str]]:
    """What the page says: of which version of onnx it is, and of a test whether it is right or refused."""
    text = PAGE.read_text()
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \w[\w ]* \| \d", line)
    ]
    refused = {row[0]: (row[3] if len(row) > 3 else "") for row in rows if not row[0].startswith("all")}

    def of(test: NodeTest) -> str:
        names = refused.get(test.operator, "")
        return "refused" if names == "all" or f"`{test.name}`" in names else "right"

    return re.search(r"with onnx (\S+)\.\s", text)[1], of


def main() -> int:
    pattern = re.compile(next((a for a in sys.argv[1:] if not a.startswith("--")), ""))
    start = time.monotonic()
    every = list(load())
    tests = [test for test in every if pattern.search(test.name)]
    found: dict[str, tuple[str, str]] = {}
    for at in range(0, len(tests), 40):
        part = tests[at : at + 40]
        for test, words in zip(part, outcomes(part), strict=True):
            found[test.name] = test.operator, words.partition(":")[0]
            if words != "right":
                print(f"{test.name} [{test.operator}] {words[:400]}", flush=True)
    counts = Counter(words for _, words in found.values())
    print(f"{dict(counts)} in {time.monotonic() - start:.0f} s")
    if not set(counts) <= {"right", "refused"}:
        return 1
    if "--write" in sys.argv:
        if len(tests) < len(every):
            _, said = expected()
            found = {test.name: found.get(test.name, (test.operator, said(test))) for test in every}
        PAGE.write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
