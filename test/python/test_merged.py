"""What a recipe trains is what is merged: the updates are PyTorch's, and the loss is the merged model's.

Models whose weights are used more than once, and not only by linear layers.
"""

import copy

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import traindeeploy
from traindeeploy import host
from traindeeploy.acceptance import deviations
from traindeeploy.driver import training_graph
from traindeeploy.recipes import LoraOptions
from traindeeploy.trained_model import load_into_module, merge_adapters, onnx_with

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnx_export import exported  # noqa: E402

F = nn.functional
SAMPLES, STEPS, LR = 5, 3, 0.1


class Tied(nn.Module):
    """An embedding that is a linear layer's weight, too."""

    def __init__(self):
        super().__init__()
        self.emb, self.mid, self.head = nn.Embedding(7, 6), nn.Linear(6, 7), nn.Linear(7, 3)
        self.mid.weight = self.emb.weight

    def forward(self, x):
        return self.head(torch.tanh(self.mid(self.emb(x).mean(1))))


class LanguageModel(nn.Module):
    """Blocks between an embedding and its transpose; the embedding comes last, so it is the head."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 6)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(6), "up": nn.Linear(6, 9), "down": nn.Linear(9, 6)})
            for _ in range(3)
        )

    def forward(self, x):
        y = self.emb(x)
        for block in self.blocks:
            y = y + block["down"](F.gelu(block["up"](block["norm"](y))))
        return y.mean(1) @ self.emb.weight.T


class Autoencoder(nn.Module):
    """A matrix forth and back."""

    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(x @ self.w.T) @ self.w)


class Backwards(nn.Module):
    """The same, stored the other way round, and first used as [in, out]."""

    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(8, 5)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(x @ self.w) @ self.w.T)


class Gram(nn.Module):
    """A product of a weight with itself, and its norm."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        w = self.fc.weight
        y = torch.tanh(self.fc(x)) @ (w @ w.T)
        return self.head(y / (w * w).sum().sqrt())


class Shared(nn.Module):
    """One layer that is applied twice, and its weight without its bias."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = torch.tanh(self.fc(torch.tanh(self.fc(torch.tanh(self.stem(x))))))
        return self.head(y + F.linear(y, self.fc.weight))


class SharedInBlocks(nn.Module):
    """Blocks with a layer of their own and one that all of them share, of tokens."""

    def __init__(self):
        super().__init__()
        shared = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"own": nn.Linear(8, 8, bias=False), "more": nn.Linear(8, 8), "shared": shared})
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = x.view(-1, 2, 4).repeat(1, 1, 2)
        for block in self.blocks:
            y = y + block["shared"](torch.tanh(block["more"](block["own"](y))))
        return self.head(y.mean(1))


class Narrow(nn.Module):
    """A weight of one row, which is used as a column, too."""

    def __init__(self):
        super().__init__()
        self.gate, self.wide, self.head = nn.Linear(8, 1), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.tanh(self.wide(x)) * torch.sigmoid(self.gate(x))
        return self.head(y + self.gate(y) @ self.gate.weight)


MODELS = (Tied, LanguageModel, Autoencoder, Backwards, Gram, Shared, SharedInBlocks, Narrow)
RECIPES = ("full", "linear-probe", "last:2", "blocks:1", "lora", "lora:1", "pattern")
RANK = {"Narrow": 1}
# All recipes on some of the models, and on all models what makes them another one.
CASES = [(m, r) for m in (LanguageModel, SharedInBlocks) for r in RECIPES]
CASES += [(m, r) for m in MODELS[:1] for r in RECIPES if r != "blocks:1"]
CASES += [(m, "lora") for m in MODELS if all(m is not other for other, _ in CASES)]


def made(kind):
    """The module, inputs and targets."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    module = kind().eval()
    if kind in (Tied, LanguageModel):
        x = random.integers(0, 7, (SAMPLES, 4))
    else:
        x = random.standard_normal((SAMPLES, 8)).astype(np.float32)
    shape = module(torch.from_numpy(x)).shape
    return module, x, random.standard_normal(shape).astype(np.float32)


def options(kind, recipe):
    """The arguments of the driver."""
    if recipe == "pattern":
        return {"trainable": ["*e*", "*w*"]}
    lora = LoraOptions(rank=RANK.get(kind.__name__, 2), alpha=3.0) if recipe.startswith("lora") else None
    return {"recipe": recipe, "lora": lora}


def trained(model, inputs, x, target, **choices):
    """The model with adapters, and the values and losses of some steps and one more that changes nothing."""
    text, imported = training_graph(model, inputs, loss="mse", batch_size=None, **choices)
    sample = {imported.inputs[0].name: x, "target": target}
    step = host.HostStep(text)
    values = {**step.initial_state(), **imported.parameters}
    losses = []
    for rate in [LR] * STEPS + [0.0]:
        loss, values = step(values, {**sample, "lr": np.asarray(rate)})
        losses.append(loss)
    assert losses[-1] < losses[0]
    return imported, {name: values[name] for name in imported.parameters}, losses[-1]


def merged(imported, values):
    return merge_adapters({n: v for n, v in values.items() if n not in imported.constants}, imported.adapters)


def loss_of(module, x, target):
    return F.mse_loss(module(torch.from_numpy(x)), torch.from_numpy(target)).item()


def in_torch(module, imported, x, target):
    """The same steps in float64: parameters with each weight as the sum of itself and its adapters."""
    exact = copy.deepcopy(module).double()
    leaves = {n: torch.from_numpy(v.astype(np.float64)) for n, v in imported.parameters.items()}
    names = {*imported.parameters} - imported.constants
    for name in names:
        leaves[name].requires_grad_()
    for _ in range(STEPS):
        whole = {name: leaves[name] for name in names}
        for adapter in imported.adapters:
            change = adapter.scale * whole.pop(adapter.b) @ whole.pop(adapter.a)
            whole[adapter.weight] = whole[adapter.weight] + (change.T if adapter.transposed else change)
        inputs = torch.from_numpy(x)
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        loss = F.mse_loss(torch.func.functional_call(exact, whole, inputs), torch.from_numpy(target).double())
        wanted = sorted(names)
        for name, gradient in zip(
            wanted, torch.autograd.grad(loss, [leaves[n] for n in wanted]), strict=True
        ):
            leaves[name] = (leaves[name] - LR * gradient).detach().requires_grad_()
    return {name: leaves[name].detach().numpy() for name in names}


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_merged_modules_have_the_loss_of_the_trained_program(kind, recipe):
    module, x, target = made(kind)
    imported, values, loss = trained(module, (torch.from_numpy(x),), x, target, **options(kind, recipe))
    result = copy.deepcopy(module)
    load_into_module(result, merged(imported, values))
    assert loss_of(result, x, target) == pytest.approx(loss, rel=2e-6)
    if recipe.startswith("lora"):
        assert imported.adapters and all(values[a.b].any() for a in imported.adapters)


@pytest.mark.parametrize("kind", MODELS)
def test_adapters_are_trained_as_in_pytorch(kind):
    """With everything trained, also weights beside adapters, so that each use has its gradient checked."""
    from traindeeploy.frontend import import_model
    from traindeeploy.recipes import apply_recipe

    module, x, target = made(kind)
    model = import_model(module, (torch.from_numpy(x),))
    adapted, _ = apply_recipe(model, "lora", lora=LoraOptions(rank=RANK.get(kind.__name__, 2), alpha=3.0))
    # B is not at zero, so that A has a gradient from the first step on.
    random = np.random.default_rng(1)
    for adapter in adapted.adapters:
        shape = adapted.parameters[adapter.b].shape
        adapted.parameters[adapter.b] = 0.3 * random.standard_normal(shape).astype(np.float32)
    text, _ = training_graph(adapted, loss="mse")
    sample = {model.inputs[0].name: x, "target": target}
    got, _ = host.run_on_host(text, adapted.parameters, [sample] * STEPS, LR)
    reference = in_torch(module, adapted, x, target)
    found = deviations(adapted.parameters, got, reference, steps=STEPS)
    assert max(d.worst for d in found) <= 1, found
    assert all(d.update > 0 for d in found)


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_saved_onnx_models_have_the_loss_of_the_trained_program(kind, recipe):
    module, x, target = made(kind)
    source = exported(module, torch.from_numpy(x), 17)
    choices = options(kind, recipe)
    if recipe == "pattern":
        choices = {"trainable": ["*"]}
    imported, values, loss = trained(source, None, x, target, **choices)
    saved = onnx.ModelProto.FromString(onnx_with(imported.onnx, merged(imported, values)))
    onnx.checker.check_model(saved)
    (output,) = ReferenceEvaluator(saved).run(None, {"x": x})
    assert np.square(output - target, dtype=np.float64).mean() == pytest.approx(loss, rel=2e-6)


def test_the_whole_way_through_a_program(tmp_path):
    """From a compiled program of a tied model to a module, and to an ONNX file."""
    module, x, target = made(Tied)
    samples = {"x": x, "target": target}
    lora = LoraOptions(rank=2, alpha=8.0)
    program = traindeeploy.compile(module, (torch.from_numpy(x),), loss="mse", recipe="lora", lora=lora)
    result = program.run(samples, steps=STEPS, lr=LR)
    following = program.run(samples, steps=1, lr=0.0, init=result.params).losses[0]
    changed = copy.deepcopy(module)
    program.load_into(changed, result.params)
    assert loss_of(changed, x, target) == pytest.approx(following, rel=2e-6)
    program = traindeeploy.compile(
        exported(module, torch.from_numpy(x), 17), loss="mse", recipe="lora", lora=lora
    )
    result = program.run(samples, steps=STEPS, lr=LR)
    following = program.run(samples, steps=1, lr=0.0, init=result.params).losses[0]
    program.save_onnx(tmp_path / "saved.onnx", result.params)
    (output,) = ReferenceEvaluator(str(tmp_path / "saved.onnx")).run(None, {"x": x})
    assert np.square(output - target, dtype=np.float64).mean() == pytest.approx(following, rel=2e-6)
