"""What ONNX does not say of its initializers: buffers, and parameters that an exporter has merged."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from traindeeploy import host
from traindeeploy.cli import main
from traindeeploy.driver import inspection, inspection_table, training_graph
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import import_model
from traindeeploy.recipes import apply_recipe
from traindeeploy.recipes.blocks import find_blocks
from traindeeploy.trained_model import onnx_with

RANDOM = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def model_of(nodes, x, y, initializers):
    """A model from `x` to `y`, which are shapes."""
    nodes = [helper.make_node(op, inputs, [output], **more) for op, inputs, output, more in nodes]
    values = [numpy_helper.from_array(np.asarray(v), name) for name, v in initializers.items()]
    ends = ([helper.make_tensor_value_info(name, FLOAT, shape)] for name, shape in (("x", x), ("y", y)))
    graph = helper.make_graph(nodes, "net", *ends, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def trained(model, recipe="full"):
    return apply_recipe(model, recipe)[1]


@pytest.mark.parametrize("second", ["Div", "Mul"])
def test_mean_and_deviation_of_the_input_are_left_alone(second):
    nodes = [
        ("Sub", ["x", "mean"], "a", {}),
        (second, ["a", "deviation"], "b", {}),
        ("Conv", ["b", "w"], "c", {"kernel_shape": [4, 4]}),
        ("Flatten", ["c"], "y", {}),
    ]
    parameters = {"mean": normal(1, 3, 1, 1), "deviation": normal(3, 1, 1) + 4, "w": normal(2, 3, 4, 4)}
    model = import_model(model_of(nodes, (2, 3, 4, 4), (2, 2), parameters))
    assert trained(model) == ["w"] == trained(model, "last:1")
    assert model.frozen == {"mean", "deviation"}
    assert model.notes[0].startswith("mean, deviation: taken for buffers")
    assert apply_recipe(model, trainable=["mean", "w"])[1] == ["mean", "w"]


@pytest.mark.parametrize(
    ("operator", "shape"),
    [("Mul", (3, 1, 1)), ("Add", (1, 3, 4, 4)), ("Sub", (2, 3, 1, 1))],
    ids=["scale", "positions", "samples"],
)
def test_what_else_meets_the_input_is_trained(operator, shape):
    """A scale or table of positions of one's own, and what differs between the samples of a batch."""
    nodes = [(operator, ["x", "p"], "a", {}), ("Flatten", ["a"], "b", {}), ("MatMul", ["b", "w"], "y", {})]
    model = import_model(model_of(nodes, (2, 3, 4, 4), (2, 2), {"p": normal(*shape), "w": normal(48, 2)}))
    assert trained(model) == ["p", "w"] and not model.notes


def angles(positions=5, width=6):
    return np.arange(positions)[:, None] / 10 ** np.linspace(0, 2, width // 2)


TABLES = {
    "alternating": np.stack([np.sin(angles()), np.cos(angles())], -1).reshape(1, 5, 6),
    "halves": np.concatenate([np.sin(angles()), np.cos(angles())], -1),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_sines_are_left_alone(table):
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Add", ["a", "table"], "y", {})]
    values = {"w": normal(4, 6), "table": TABLES[table].astype(np.float32)}
    model = import_model(model_of(nodes, (2, 5, 4), (2, 5, 6), values))
    assert trained(model) == ["w"] and "table" in model.frozen and "sines" in model.notes[0]
    values["table"] = np.clip(normal(*TABLES[table].shape), -1, 1)
    assert trained(import_model(model_of(nodes, (2, 5, 4), (2, 5, 6), values))) == ["w", "table"]


def test_rotary_tables_are_left_alone():
    nodes = [
        ("MatMul", ["x", "w"], "a", {}),
        ("Mul", ["a", "cos"], "b", {}),
        ("Mul", ["a", "sin"], "c", {}),
        ("Add", ["b", "c"], "y", {}),
    ]
    wide = np.concatenate([angles(), angles()], -1)
    values = {"w": normal(4, 6), "cos": np.cos(wide), "sin": np.sin(wide)}
    values = {name: value.astype(np.float32) for name, value in values.items()}
    model = import_model(model_of(nodes, (2, 5, 4), (2, 5, 6), values))
    assert trained(model) == ["w"] and model.frozen == {"cos", "sin"}


@pytest.mark.parametrize("low", [-np.inf, -1e9, -65504.0, -1e4, -100.0])
def test_masks_are_constants(low):
    mask = np.triu(np.full((5, 5), low), 1).astype(np.float32)
    nodes = [
        ("MatMul", ["x", "w"], "a", {}),
        ("Add", ["a", "mask"], "b", {}),
        ("Softmax", ["b"], "c", {"axis": -1}),
        ("MatMul", ["c", "v"], "y", {}),
    ]
    values = {"w": normal(4, 5), "mask": mask, "v": normal(5, 3)}
    file = model_of(nodes, (2, 5, 4), (2, 5, 3), values)
    model = import_model(file)
    assert trained(model) == ["w", "v"] and "mask" in model.constants
    assert model.notes == ("mask: constants (buffers or masks), never trained",)
    x, target = normal(2, 5, 4), normal(2, 5, 3)
    text, imported = training_graph(file, loss="mse")
    _, (loss,) = host.run_on_host(text, imported.parameters, [{"x": x, "target": target}], 0.0)
    (y,) = ReferenceEvaluator(file).run(None, {"x": x})
    assert loss == pytest.approx(np.square(y - target).mean(), rel=1e-5)


def test_zeros_and_ones_are_a_mask_where_they_multiply_elements():
    ones = np.tril(np.ones((5, 5), np.float32))
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Mul", ["a", "m"], "y", {})]
    model = import_model(model_of(nodes, (5, 4), (5, 5), {"w": normal(4, 5), "m": ones}))
    assert trained(model) == ["w"] and "m" in model.constants
    # As a matrix it is a weight that starts as one, such as an identity.
    nodes = [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["a", "m"], "y", {})]
    model = import_model(
        model_of(nodes, (5, 4), (5, 5), {"w": normal(4, 5), "m": np.eye(5, dtype=np.float32)})
    )
    assert trained(model) == ["w", "m"] and not model.notes


def test_buffers_that_the_exporter_has_marked():
    nodes = [
        ("MatMul", ["x", "w"], "a", {}),
        ("Add", ["a", "table"], "b", {}),
        ("Mul", ["b", "val_3"], "y", {}),
    ]
    values = {"w": normal(4, 6), "table": normal(5, 6), "val_3": np.array([0.5], np.float32)}
    file = model_of(nodes, (2, 5, 4), (2, 5, 6), values)
    assert trained(import_model(file)) == ["w", "table", "val_3"]
    for name, kind in (("w", "PARAMETER"), ("table", "BUFFER")):
        info = file.graph.value_info.add()
        info.CopyFrom(helper.make_tensor_value_info(name, FLOAT, values[name].shape))
        key = "pkg.torch.export.graph_signature.InputSpec.kind"
        info.metadata_props.append(onnx.StringStringEntryProto(key=key, value=kind))
    model = import_model(file)
    assert trained(model) == ["w"]
    # What the exporter has computed itself is no parameter either.
    assert "table, val_3: constants" in model.notes[0] or "table: constants" in model.notes[0]


def encoder():
    """An encoder whose layers start equal, as torch.nn.TransformerEncoder makes them, and its export."""
    torch = pytest.importorskip("torch")
    from onnx_export import exported

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
    stack = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    module = torch.nn.Sequential(stack, torch.nn.Flatten(), torch.nn.Linear(24, 3)).eval()
    return module, exported(module, torch.zeros(2, 3, 8), 17)


def test_merged_parameters_are_said_and_can_be_untied(tmp_path):
    module, file = encoder()
    own = {name: p.detach().numpy() for name, p in module.named_parameters()}
    merged = import_model(file)
    assert len(merged.trainable_names()) < len(own)
    (note,) = [note for note in merged.notes if "--untie" in note]
    assert "trained as one each" in note and "layers.0" in note and "layers.1" in note
    untied = import_model(file, untie=["*"])
    assert not untied.notes and len(untied.trainable_names()) == len(own)
    assert len(find_blocks(untied).members) == 2
    x, target = normal(2, 3, 8), normal(2, 3)
    text, imported = training_graph(file, loss="mse", untie=["*"])
    sample = {"x": x, "target": target}
    values, _ = host.run_on_host(text, imported.parameters, [sample] * 2, 0.1)

    # As in PyTorch, where nothing is tied.
    import torch

    optimizer = torch.optim.SGD(module.double().parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(
            module(torch.from_numpy(x).double()), torch.from_numpy(target).double()
        )
        loss.backward()
        optimizer.step()
    saved = onnx.ModelProto.FromString(onnx_with(imported.onnx, values))
    onnx.checker.check_model(saved)
    (y,) = ReferenceEvaluator(saved).run(None, {"x": x})
    np.testing.assert_allclose(y, module(torch.from_numpy(x).double()).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_some_are_untied():
    _, file = encoder()
    merged = import_model(file)
    name = next(n for n in merged.parameters if n.endswith("linear1.bias"))
    some = import_model(file, untie=[name])
    assert len(some.parameters) == len(merged.parameters) + 1
    with pytest.raises(
        TrainDeeployError, match=r"'no\.x' is no parameter that several layers read; there are: "
    ):
        import_model(file, untie=["no.x"])
    with pytest.raises(TrainDeeployError, match="is no parameter that several layers read"):
        import_model("deep-ae", untie=["*"])
    with pytest.raises(TrainDeeployError, match="only parameters of an ONNX model"):
        import_model("somewhere:module", untie=["*"])


def test_layers_that_share_on_purpose_are_no_surprise():
    """Parts of one weight, and a module that is applied twice, are read at one place."""
    nodes = [
        ("MatMul", ["x", "w"], "a", {"name": "/fc/MatMul"}),
        ("Tanh", ["a"], "b", {"name": "/Tanh"}),
        ("MatMul", ["b", "w"], "c", {"name": "/fc/MatMul_1"}),
        ("Split", ["v"], "q", {"axis": 1}),
        ("MatMul", ["c", "q"], "y", {"name": "/MatMul"}),
    ]
    model = import_model(model_of(nodes, (2, 4), (2, 3), {"w": normal(4, 4), "v": normal(4, 3)}))
    assert not model.notes


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
def test_probabilities_under_a_loss_of_logits_are_said(last):
    nodes = [("MatMul", ["x", "w"], "a", {}), (last, ["a"], "y", {"name": "/prob"})]
    file = model_of(nodes, (2, 4), (2, 3), {"w": normal(4, 3)})
    for loss in ("cross-entropy", "bce-with-logits", "mse"):
        notes = []
        training_graph(file, loss=loss, notice=notes.append)
        assert len(notes) == (loss != "mse")
        if notes:
            assert f"ends in a {last.lower()} ('/prob ({last})'), and {loss} is of logits" in notes[0]
    assert f"ends in a {last.lower()}" in inspection_table(inspection(file))


def test_inspect_shows_layers_blocks_and_adapters():
    text = inspection_table(inspection("cct2", recipe="lora:1"))
    lines = [line.split() for line in text.splitlines()]
    rows = {line[1]: line[-3:] for line in lines if line[:1] == ["parameter"]}
    assert rows["classifier.blocks.1.linear1.weight"] == ["5", "1", "adapted"]
    assert rows["classifier.blocks.1.linear1.lora_A.weight"] == ["5", "1", "trained"]
    assert rows["classifier.blocks.0.linear1.weight"] == ["13", "2", "frozen"]
    assert rows["classifier.fc.bias"][1:] == ["1", "trained"]
    assert "22 layers; the last is 'classifier.fc'" in text
    assert "2 blocks, found by the names of parameters" in text
    assert "no blocks" in inspection_table(inspection("deep-ae"))


def test_a_parameter_that_was_expanded_to_the_batch_is_said():
    nodes = [("MatMul", ["x", "w"], "a", {}), ("Concat", ["expand", "a"], "y", {"axis": 1})]
    for token in (normal(1, 1, 6), np.zeros((1, 1, 6), np.float32)):
        values = {"w": normal(4, 6), "expand": np.repeat(token, 2, 0)}
        model = import_model(model_of(nodes, (2, 5, 4), (2, 6, 6), values))
        assert "expand: the same for each sample" in model.notes[0]
    values["expand"] = normal(2, 1, 6)
    assert not import_model(model_of(nodes, (2, 5, 4), (2, 6, 6), values)).notes


def test_the_command_line_unties_and_takes_targets(tmp_path, capsys):
    _, file = encoder()
    onnx.save(file, tmp_path / "encoder.onnx")
    command = [
        "inspect",
        str(tmp_path / "encoder.onnx"),
        "--recipe",
        "lora:1",
        "--lora-targets",
        "linear1,linear2",
    ]
    assert main(command) == 0
    assert "--untie '*'" in capsys.readouterr().out
    assert main([*command, "--untie", "*"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    adapted = [row[1] for row in rows if row[-1] == "adapted"]
    assert adapted == ["0.layers.1.linear1.weight", "0.layers.1.linear2.weight"]
