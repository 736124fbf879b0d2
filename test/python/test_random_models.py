"""Random models on the simulator against PyTorch in float64.

python test/python/test_random_models.py FIRST COUNT [KIND...]    tries more seeds than the tests do, every
tenth under --check
"""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from traindeeploy import driver
from traindeeploy.acceptance import MIXED, MIXED_LOSS_TOLERANCE, deviations, loss_deviation

torch = pytest.importorskip("torch")

from random_models import KINDS, Sample, sample  # noqa: E402
from small_target import small_memory  # noqa: E402

LR = 0.05
nn = torch.nn
F = nn.functional


def reference(item: Sample, names: list[str]) -> tuple[dict[str, np.ndarray], list[float]]:
    """Parameters and losses after the same steps in PyTorch, float64."""
    module = copy.deepcopy(item.model).double()
    parameters = dict(module.named_parameters())
    optimizer = torch.optim.SGD(
        [parameters[name] for name in names],
        lr=float(np.float32(LR)),
        momentum=float(np.float32(item.options["momentum"])),
    )
    losses = []
    function = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "bce-with-logits": F.binary_cross_entropy_with_logits,
        "cross-entropy": F.cross_entropy,
    }[str(item.options["loss"])]
    x, target = (
        values.double() if values.is_floating_point() else values
        for values in (torch.from_numpy(item.data), torch.from_numpy(item.target))
    )
    for images, wanted in zip(x.split(item.batch), target.split(item.batch), strict=True):
        loss = function(module(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {name: parameters[name].detach().numpy() for name in names}, losses


def trained(item: Sample, check: bool | None = None) -> tuple[traindeeploy.Program, Any]:
    """The program of a sample, and its run."""
    example = torch.from_numpy(item.data[: item.batch])
    program = traindeeploy.compile(item.model, (example,), **item.options)
    image, target = program.fields
    return program, program.run(
        {image.name: item.data, target.name: item.target}, steps=item.steps, lr=LR, check=check
    )


def agreement(item: Sample, program: traindeeploy.Program, result: Any) -> float:
    """The worst deviation from the reference; agreement is at most 1."""
    expected, losses = reference(item, list(result.params))
    mixed = item.options.get("precision") == "mixed"
    rule = MIXED if mixed else {}
    found = deviations(program.initial, result.params, expected, steps=item.steps, **rule)
    tolerance = {"tolerance": MIXED_LOSS_TOLERANCE} if mixed else {}
    return max(loss_deviation(result.losses, losses, **tolerance), *(tensor.worst for tensor in found))


def deviation(item: Sample, check: bool | None = None) -> float:
    """The same for a sample."""
    return agreement(item, *trained(item, check))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_random_model(kind: str, seed: int) -> None:
    assert deviation(sample(seed, kind)) <= 1


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuses whatever fits."""
    run = driver._Lowering.run

    def fuse_always(lowering: Any, border: str, options: str = "") -> None:
        if border == "plan":
            border, options = "plan-step", "fuse-always=true"
        run(lowering, border, options)

    monkeypatch.setattr(driver._Lowering, "run", fuse_always)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(("base", "kibibytes"), [("pulp-redmule", 40), ("pulp", 64)])
@pytest.mark.parametrize("seed", [1, 4])
def test_rows_on_the_tiles_of_products(base: str, kibibytes: int, seed: int, tmp_path: Path) -> None:
    """Norms, softmaxes and sums share the tiles of the products before them where that fits."""
    item = sample(seed, "transformer")
    item.options["target"] = str(small_memory(tmp_path, base, "l1", kibibytes))
    program, result = trained(item)
    names = [layer["name"] for layer in result.report["layers"]]
    assert any("out (Linear)" in name and "norm2 (LayerNorm)" in name for name in names)
    assert agreement(item, program, result) <= 1


def layers(*modules: torch.nn.Module, shape: tuple[int, ...], batch: int = 1) -> Sample:
    """These layers and a linear one."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(*modules, torch.nn.Flatten())
    with torch.no_grad():
        features = body(torch.zeros(1, *shape)).shape[1]
    model = torch.nn.Sequential(*body, torch.nn.Linear(features, 3)).eval()
    model.shape = shape
    data = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    labels = np.arange(1, batch + 1) % 3
    return Sample(model, data, labels, {"loss": "cross-entropy", "momentum": 0.0}, batch, 1)


def test_tiles_without_a_hole_delay_their_operator_only() -> None:
    """Long filters on long rows leave L1 in pieces; the rest of the step overlaps all the same."""
    item = layers(
        *(nn.Conv2d(1, 4, (1, 4), padding=(0, 2)), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((1, 8))),
        *(nn.Conv2d(4, 16, (1, 16), padding=(0, 8)), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((1, 4))),
        *(nn.Conv2d(16, 16, (1, 8), padding=(0, 4)), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((1, 4))),
        *(nn.Conv2d(16, 16, (16, 1), padding=(8, 0)), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((4, 1))),
        *(nn.Conv2d(16, 16, (8, 1), padding=(4, 0)), nn.BatchNorm2d(16), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        shape=(1, 4, 768),
    )
    item.options["target"] = "pulp-redmule"
    program, result = trained(item)
    engines = result.report["engines"]
    assert engines["dma_hidden"] > engines["dma"] / 2
    assert agreement(item, program, result) <= 1


POOLINGS = {
    "overlapping": [nn.Conv2d(3, 11, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "side by side": [nn.Conv2d(3, 8, 5, stride=2, bias=False), nn.MaxPool2d(2), nn.Tanh()],
    "left over": [nn.Conv2d(3, 8, 1, stride=2), nn.AvgPool2d(3)],
    "means with padding": [nn.Conv2d(3, 8, 3, dilation=2), nn.AvgPool2d(3, 2, 1)],
    "wide windows": [nn.Conv2d(3, 6, 3), nn.MaxPool2d((4, 5), (3, 2), (1, 2))],
    "every pixel": [nn.Conv2d(3, 7, 3), nn.ReLU(), nn.MaxPool2d((2, 3), 1, (1, 1))],
    "all pixels": [nn.Conv2d(3, 9, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1)],
    "depthwise": [nn.Conv2d(3, 3, 3, groups=3), nn.MaxPool2d(2)],
}


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    ("base", "kibibytes"),
    [("pulp-redmule", 24), ("pulp", 28), ("pulp-redmule-fp16", 28)],
)
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_on_the_tiles_of_a_convolution(base: str, kibibytes: int, name: str, tmp_path: Path) -> None:
    """Lines that windows share are kept from tile to tile, and padding is where there is none."""
    item = layers(*copy.deepcopy(POOLINGS[name]), shape=(3, 26, 29), batch=2)
    item.options["target"] = str(small_memory(tmp_path, base, "l1", kibibytes))
    for recipe in ("full", "linear-probe"):
        item.options["recipe"] = recipe
        program, result = trained(item)
        names = [layer["name"] for layer in result.report["layers"]]
        apart = name == "every pixel"
        assert apart != any("(Conv2d)" in layer and "Pool2d)" in layer for layer in names), names
        assert agreement(item, program, result) <= 1


def test_pooling_keeps_a_large_array_out_of_l3(tmp_path: Path) -> None:
    """What a convolution makes for a pooling alone needs no room, however large it is."""
    conv = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(2)]
    item = layers(*conv, shape=(3, 48, 48))
    item.options |= {
        "recipe": "linear-probe",
        "target": str(small_memory(tmp_path, "pulp-redmule", "l2", 330)),
    }
    program, result = trained(item)
    assert result.report["transfers"]["l3_to_l2"] == 0
    assert agreement(item, program, result) <= 1


def test_a_product_of_one_term_behind_a_sum() -> None:
    """Both start from zero, so the second must not start in the tile that it reads the first from."""
    first = torch.nn.Conv2d(6, 6, (1, 3), groups=6)
    second = torch.nn.Conv2d(6, 6, 1, groups=6, bias=False)
    assert deviation(layers(first, second, torch.nn.Tanh(), shape=(6, 9, 10))) <= 1


COINCIDENCES = {
    "as many results as the dilation": (nn.Conv1d(1, 4, 3, dilation=2), (1, 6)),
    "and as channels": (nn.Conv1d(1, 16, 2, dilation=16), (1, 32)),
    "transposed": (nn.ConvTranspose1d(1, 1, 2, dilation=2, bias=False), (1, 2)),
    "along one axis": (nn.Conv2d(4, 1, (1, 2), 1, (0, 1), (1, 2), bias=False), (4, 3, 2)),
    "patches side by side": (nn.Conv1d(1, 5, 4, stride=4), (1, 12)),
    "output padding of a stride": (nn.ConvTranspose2d(2, 3, 3, 1, 0, 1, dilation=2), (2, 4, 4)),
    "and of more than the padding": (
        nn.ConvTranspose2d(2, 2, 2, (2, 1), (1, 3), (3, 2), 1, True, (4, 3)),
        (2, 3, 4),
    ),
}


@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
@pytest.mark.parametrize("name", COINCIDENCES)
def test_sizes_that_coincide(name: str, target: str) -> None:
    """Loops of a convolution are told apart by what they walk, not by sizes or coefficients."""
    layer, shape = COINCIDENCES[name]
    item = layers(nn.Tanh(), copy.deepcopy(layer), shape=shape, batch=2)
    item.options["target"] = target
    assert deviation(item) <= 1


@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_a_convolution_with_one_column(target: str) -> None:
    """A loop of one run which only a sum of loops walks."""
    conv = torch.nn.Conv2d(7, 21, (1, 3), stride=3, bias=False)
    item = layers(torch.nn.Tanh(), conv, torch.nn.GELU(), shape=(7, 9, 4))
    item.options["target"] = target
    assert deviation(item) <= 1


def test_every_l2_size_is_right_or_diagnosed(tmp_path: Path) -> None:
    """With less L2, first what is cheap is computed twice, then arrays go to L3, then it is diagnosed."""
    runs = {}
    for kibibytes in (2000, 460, 400, 270, 200):
        item = sample(1, "transformer")
        item.options |= {
            "recipe": "full",
            "target": str(small_memory(tmp_path, "pulp-redmule", "l2", kibibytes)),
        }
        try:
            program, result = trained(item)
        except traindeeploy.TrainDeeployError as error:
            assert kibibytes == 200 and "does not fit in l2: needs" in str(error)
            continue
        assert agreement(item, program, result) <= 1
        transfers = result.report["transfers"]
        assert result.report["memory"]["l2"]["peak"] <= 1024 * kibibytes
        runs[kibibytes] = (result.report["memory"]["dynamic_peak"], transfers["l3_to_l2"])
    assert runs[2000][1] == runs[460][1] == 0 and runs[460][0] < runs[2000][0]
    assert 0 < runs[400][1] < runs[270][1]


def test_l2_is_full_in_several_places() -> None:
    """Once what is there where it is fullest has gone to L3, it is fullest elsewhere."""
    assert deviation(sample(5038, "convolutional")) <= 1


if __name__ == "__main__":
    first, count = (int(argument) for argument in sys.argv[1:3])
    for seed in range(first, first + count):
        for kind in sys.argv[3:] or KINDS:
            try:
                worst = f"{deviation(sample(seed, kind), check=seed % 10 == 0 or None):.3f}"
            except traindeeploy.TrainDeeployError as error:
                worst = f"refused: {error}"
            print(seed, kind, worst, flush=True)
