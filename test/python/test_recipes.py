"""Recipes: which parameters they select, and what is refused in words."""

import numpy as np
import pytest

from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import ImportedModel, Layer, TensorSpec, import_model, load_model
from traindeeploy.recipes import resolve_recipe


@pytest.fixture(scope="module")
def deep_ae():
    return load_model("deep-ae")


def made(**fields):
    """A model of three layers, of which the parameters of the first are tied under other names."""
    names = ["a.weight", "a.bias", "b.weight", "table[0]", "head.weight", "head.bias", "mean"]
    layers = (("a", names[:2]), ("b", names[2:4]), ("head", names[4:6]))
    values = {
        "name": "net",
        "module_text": "",
        "parameters": {name: np.zeros(1, np.float32) for name in names},
        "inputs": (TensorSpec("x", (1, 1)),),
        "output": TensorSpec("y", (1, 1)),
        "batch_size": 1,
        "layers": tuple(Layer(name, tuple(members)) for name, members in layers),
        "constants": frozenset({"mean"}),
        "aliases": {"tied.weight": "a.weight"},
        "unused": ("left.weight",),
    }
    return ImportedModel(**(values | fields))


def refused(model, *args, **kwargs):
    with pytest.raises(TrainDeeployError) as error:
        resolve_recipe(model, *args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_named_recipes(deep_ae):
    names = list(deep_ae.parameters)
    assert resolve_recipe(deep_ae) == names
    assert resolve_recipe(deep_ae, "full") == names
    assert resolve_recipe(deep_ae, "linear-probe") == ["decoder.8.weight", "decoder.8.bias"]
    for n in range(1, 11):
        assert resolve_recipe(deep_ae, f"last:{n}") == names[-2 * n :]


def test_names_and_patterns(deep_ae):
    assert resolve_recipe(deep_ae, trainable=["encoder.0.bias"]) == ["encoder.0.bias"]
    both = ["encoder.0.weight", "encoder.0.bias"]
    assert resolve_recipe(deep_ae, trainable=["encoder.0.bias", "encoder.0.weight"]) == both
    assert resolve_recipe(deep_ae, trainable=["encoder.[02].weight"]) == [
        "encoder.0.weight",
        "encoder.2.weight",
    ]
    assert resolve_recipe(deep_ae, trainable=["*.?.bias", "encoder.0.bias"]) == [
        name for name in deep_ae.parameters if name.endswith("bias")
    ]
    assert resolve_recipe(deep_ae, trainable=["*"]) == list(deep_ae.parameters)


def test_a_name_with_the_characters_of_a_pattern():
    assert resolve_recipe(made(), trainable=["table[0]"]) == ["table[0]"]


def test_file_of_names(deep_ae, tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("# the ends\nencoder.0.*   # in\n\n  decoder.8.bias\n")
    expected = ["encoder.0.weight", "encoder.0.bias", "decoder.8.bias"]
    assert resolve_recipe(deep_ae, trainable_file=path) == expected
    assert resolve_recipe(deep_ae, trainable_file=str(path)) == expected


def test_constants_are_never_trained():
    model = made()
    assert "mean" not in resolve_recipe(model, "full")
    assert "mean" not in resolve_recipe(model, trainable=["*"])
    assert refused(model, trainable=["mean"]) == (
        "'mean' is a constant of the model (a buffer), not a parameter that can be trained"
    )


def test_tied_names():
    assert resolve_recipe(made(), trainable=["tied.*"]) == ["a.weight"]
    assert resolve_recipe(made(), trainable=["tied.weight", "a.weight"]) == ["a.weight"]


def test_frozen_parameters_need_a_name():
    model = made(frozen=frozenset({"head.weight", "head.bias", "a.bias"}))
    assert resolve_recipe(model, "full") == ["a.weight", "b.weight", "table[0]"]
    assert resolve_recipe(model, "linear-probe") == ["b.weight", "table[0]"]
    assert resolve_recipe(model, trainable=["head.*"]) == ["head.weight", "head.bias"]
    assert "1 to 2" in refused(model, "last:3")


def test_nothing_to_train():
    everything = frozenset(made().parameters) - {"mean"}
    message = "the recipe trains nothing: net has no parameter that it selects"
    assert refused(made(frozen=everything), "full") == message
    assert refused(made(frozen=everything), "linear-probe") == message
    assert refused(made(), trainable=[]) == message


@pytest.mark.parametrize("number", ["0", "11", "-1", "x", "", "1.5", "²"])
def test_numbers_out_of_range(deep_ae, number):
    message = (
        f"recipe 'last:{number}' needs a number from 1 to 10: there are 10 layers with parameters in deep-ae"
    )
    assert refused(deep_ae, f"last:{number}") == message


@pytest.mark.parametrize(
    "recipe, hint", [("fulll", "full"), ("linear_probe", "linear-probe"), ("last", "last:1")]
)
def test_unknown_recipes(deep_ae, recipe, hint):
    recipes = "full, linear-probe, last:N, blocks:N, bias-only, norm-only, lora, lora:N"
    there_are = f"there are: {recipes}, or names of parameters to train"
    assert refused(deep_ae, recipe) == f"unknown recipe '{recipe}' (did you mean {hint}?); {there_are}"
    assert refused(deep_ae, "zzz") == f"unknown recipe 'zzz'; {there_are}"


def test_patterns_without_a_match(deep_ae):
    message = refused(deep_ae, trainable=["decoder.8.bias", "encoder.0.wieght"])
    assert message.startswith("no parameter matches 'encoder.0.wieght'; near: encoder.0.weight, ")
    message = refused(deep_ae, trainable=["#####"])
    assert (
        message
        == "no parameter matches '#####'; near: encoder.0.weight, encoder.0.bias, encoder.2.weight, ..."
    )
    assert refused(made(), trainable=["left.weight"]) == (
        "parameter 'left.weight' is not used by the forward of net, so it cannot be trained"
    )


def test_one_way_at_a_time(deep_ae):
    message = refused(deep_ae, "full", ["*"])
    assert (
        message == "only one of recipe, trainable and trainable file can be given, not recipe and trainable"
    )


def test_files_that_cannot_be_read(deep_ae, tmp_path):
    missing = tmp_path / "missing.txt"
    message = f"cannot read the file of trainable parameters '{missing}': No such file or directory"
    assert refused(deep_ae, trainable_file=missing) == message
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    assert refused(deep_ae, trainable_file=binary) == f"'{binary}' is not a text file of parameter names"
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    assert refused(deep_ae, trainable_file=empty).startswith("the recipe trains nothing")


@pytest.mark.parametrize("name", ["cct2", "deep-ae", "resnet8"])
def test_biases_and_norms(name):
    model = load_model(name)
    biases = [n for n in model.parameters if n.endswith(".bias")]
    norms = [n for n in model.parameters if "norm" in n.rpartition(".")[0]]
    assert resolve_recipe(model, "bias-only") == biases
    if norms:
        assert resolve_recipe(model, "norm-only") == norms
    else:
        said = f"recipe 'norm-only': {name} has no norm with parameters that can be trained"
        assert refused(model, "norm-only") == said


@pytest.mark.parametrize("opset", [11, 17])
def test_biases_and_norms_without_names(opset):
    """Norms in primitives (opset 11) and as operators, with transposed weights and batch norm in front."""
    torch = pytest.importorskip("torch")
    from torch import nn

    from onnx_export import PRESERVE, exported

    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(5, 6), nn.LayerNorm(6)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 2)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    file = exported(module, torch.zeros(2, 3, 5), opset, PRESERVE)
    values = {name: p.detach().numpy() for name, p in module.named_parameters()}
    names = {tensor.name: f"val_{i}" for i, tensor in enumerate(file.graph.initializer)}
    for tensor in file.graph.initializer:
        tensor.name = names[tensor.name]
    for node in file.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.name = ""
    for model in (import_model(file), import_model(module, (torch.zeros(2, 3, 5),))):
        own = {
            n: next(k for k, v in values.items() if np.array_equal(v, model.parameters[n]))
            for n in model.trainable_names()
        }
        assert {own[n] for n in resolve_recipe(model, "norm-only")} == {
            "1.weight",
            "1.bias",
            "4.weight",
            "4.bias",
        }
        assert {own[n] for n in resolve_recipe(model, "bias-only")} == {f"{i}.bias" for i in (0, 1, 3, 4, 6)}
