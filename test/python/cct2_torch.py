"""CCT-2 and ResNet8 in PyTorch, with the names of the built-in models."""

import numpy as np
import torch
from torch import nn

from examples_path import example
from traindeeploy.acceptance import LOSS_TOLERANCE, deviations, loss_deviation
from traindeeploy.models.cct2 import CLASSES
from traindeeploy.models.resnet8 import STAGES, resnet8_parameters

Cct2 = example("cct2").Cct2

F = nn.functional
LR = 0.01


class Stage(nn.Module):
    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 0 if stride == 2 else 1)
        self.norm1 = nn.BatchNorm2d(fan_out, eps=1e-3)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(fan_out, eps=1e-3)
        if stride > 1:
            self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride)

    def forward(self, x):
        padded = F.pad(x, (0, 1, 0, 1)) if self.stride == 2 else x
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(padded)))))
        return F.relu((self.shortcut(x) if self.stride > 1 else x) + y)


class ResNet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 16, 3, 1, 1), "norm": nn.BatchNorm2d(16, eps=1e-3)})
        self.stages = nn.ModuleList(Stage(*stage) for stage in STAGES)
        self.classifier = nn.Linear(STAGES[-1][1], CLASSES)
        load(self, resnet8_parameters())
        self.eval()

    def forward(self, input):
        x = F.relu(self.stem["norm"](self.stem["conv"](input)))
        for stage in self.stages:
            x = stage(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def load(module, parameters):
    values = {name: torch.from_numpy(value.copy()) for name, value in parameters.items()}
    missing, unexpected = module.load_state_dict(values, strict=False)
    assert not unexpected and all("running" in name or "num_batches" in name for name in missing), missing


def sgd(module, parameters, trained, batches, lr, adapters=None):
    """Losses and parameters after SGD in float64 with the mean cross-entropy.

    adapters: (A, B) names by the name of the weight that they are added to.
    """
    values = {name: torch.from_numpy(value.astype(np.float64)) for name, value in parameters.items()}
    buffers = {name: buffer.double() for name, buffer in module.named_buffers()}
    losses = []
    for x, labels in batches:
        leaves = {name: values[name].clone().requires_grad_() for name in trained}
        whole = {**values, **leaves}
        used = {name: whole[name] for name, _ in module.named_parameters()}
        for weight, (a, b) in (adapters or {}).items():
            used[weight] = used[weight] + whole[b] @ whole[a]
        logits = torch.func.functional_call(module, {**used, **buffers}, (torch.from_numpy(x).double(),))
        loss = F.cross_entropy(logits, torch.from_numpy(labels).long())
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        values.update((n, v.detach() - lr * g) for (n, v), g in zip(leaves.items(), gradients, strict=True))
        losses.append(loss.item())
    return {name: value.numpy() for name, value in values.items()}, losses


def train_and_compare(
    compiled, module, *, batch=1, steps=2, change=None, loss_tolerance=LOSS_TOLERANCE, **rule
):
    """Trains on the simulator and in PyTorch, asserts that they agree by the rule, and returns the report."""
    random = np.random.default_rng(1)
    # Adapters start at B = 0, where A has no gradient: from elsewhere.
    start = {
        name: random.standard_normal(value.shape).astype(np.float32) * np.float32(0.02)
        if "lora_B" in name
        else value
        for name, value in compiled.initial.items()
    } | (change or {})
    x = random.standard_normal((steps * batch, 3, 32, 32)).astype(np.float32)
    labels = random.integers(0, 10, steps * batch)
    if change:
        labels[:] = 0
    result = compiled.run({"input": x, "labels": labels}, steps=steps, lr=LR, init=start)

    adapters = {
        name.replace("lora_A.", ""): (name, name.replace("lora_A", "lora_B"))
        for name in start
        if "lora_A" in name
    }
    data = [(x[i : i + batch], labels[i : i + batch]) for i in range(0, steps * batch, batch)]
    expected, losses = sgd(module, start, list(result.params), data, float(np.float32(LR)), adapters)
    assert loss_deviation(result.losses, losses, loss_tolerance) <= 1
    reference = {name: expected[name] for name in result.params}
    for item in deviations(start, result.params, reference, steps=steps, **rule):
        assert item.worst <= 1, item
    for name in set(start) - set(result.params):
        assert result.all_params[name].tobytes() == start[name].tobytes()
    return result.report
