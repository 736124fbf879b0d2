"""Trained parameters back in ONNX files and PyTorch modules."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import traindeeploy
from traindeeploy.cli import main
from traindeeploy.frontend.model import Adapter
from traindeeploy.trained_model import merge_adapters

torch = pytest.importorskip("torch")


def module(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).eval()


def data(samples):
    random = np.random.default_rng(0)
    return {
        "input": random.standard_normal((samples, 7)).astype(np.float32),
        "labels": random.integers(0, 3, samples),
    }


@pytest.mark.parametrize("recipe", ["full", "last:1", "lora:1"])
def test_a_module_that_is_loaded_goes_on_where_the_program_stopped(tmp_path, recipe):
    samples = data(3)
    program = traindeeploy.compile(
        module(0), (torch.zeros(3, 7),), loss="cross-entropy", recipe=recipe, lora=options(recipe)
    )
    result = program.run(samples, steps=5, lr=0.5)
    result.write(tmp_path)
    program.save(tmp_path / "program")
    for source, params in (
        (program, None),
        (traindeeploy.Program.load(tmp_path / "program"), tmp_path / "params.npz"),
    ):
        trained = module(0)
        source.load_into(trained, params)
        # The loss of the next step is that of the module.
        following = program.run(samples, steps=1, lr=0.0, init=result.params).losses[0]
        logits = trained(torch.from_numpy(samples["input"]))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(samples["labels"])).item()
        assert following == pytest.approx(loss, rel=1e-5)
        assert following < result.losses[0]
        program.run(samples, steps=5, lr=0.5)


def options(recipe):
    from traindeeploy.recipes import LoraOptions

    return LoraOptions(rank=2, alpha=3.0) if recipe.startswith("lora") else None


def test_a_module_of_another_shape_is_refused_and_not_touched():
    program = traindeeploy.compile(module(0), (torch.zeros(1, 7),), loss="cross-entropy")
    program.run(data(1), steps=1, lr=0.1)
    other = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    before = other[0].weight.detach().clone()
    with pytest.raises(
        traindeeploy.TrainDeeployError, match=r"'2.weight' of the module has shape \(2, 5\), not"
    ):
        program.load_into(other)
    assert torch.equal(other[0].weight, before)
    with pytest.raises(traindeeploy.TrainDeeployError, match=r"no parameter '0\.weight'"):
        program.load_into(torch.nn.Linear(7, 3))
    with pytest.raises(traindeeploy.TrainDeeployError, match="came from PyTorch"):
        program.save_onnx("never.onnx")


def test_save_onnx(tmp_path, capsys):
    """The saved file evaluates to the loss of the next step, and trains on from there."""
    np.savez(
        tmp_path / "d.npz", input=np.full((1, 640), 0.25, np.float32), target=np.zeros((1, 640), np.float32)
    )
    saved = tmp_path / "trained.onnx"
    common = ["--data", str(tmp_path / "d.npz"), "--steps", "1", "--lr", "0.05"]
    model = ["--loss", "mse", "--recipe", "last:2"]
    out = tmp_path / "out"
    assert main(["train", "deep-ae", *model, *common, "-o", str(out), "--save-onnx", str(saved)]) == 0
    proto = onnx.load(saved)
    onnx.checker.check_model(proto)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    trained = np.load(out / "params.npz")
    names = [name for name in trained.files if not name.startswith("optimizer/")]
    assert names and all(np.array_equal(values[name], trained[name]) for name in names)
    again = tmp_path / "again.onnx"
    assert main(["run", str(out), *common, "--init", str(out / "params.npz"), "--save-onnx", str(again)]) == 0
    assert main(["train", str(saved), *model, *common, "-o", str(tmp_path / "second")]) == 0
    first, second = (np.load(folder / "params.npz") for folder in (out, tmp_path / "second"))
    assert all(np.array_equal(first[name], second[name]) for name in names)
    assert main(["run", str(out), *common, "--save-onnx", str(tmp_path / "no" / "x.onnx")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_adapters_are_merged_either_way_round():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 5)), random.standard_normal((3, 2))
    for transposed in (False, True):
        shape = (5, 3) if transposed else (3, 5)
        values = {"w": np.ones(shape, np.float32), "a": a, "b": b}
        merged = merge_adapters(values, [Adapter("w", "a", "b", 0.5, transposed)])
        change = 0.5 * b @ a
        assert list(merged) == ["w"]
        np.testing.assert_allclose(merged["w"], 1 + (change.T if transposed else change), rtol=1e-6)
