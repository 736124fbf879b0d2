"""Operators of very many operands: what a split or a sum of some hundred parts becomes."""

import copy

import numpy as np
import pytest

import traindeeploy
from traindeeploy.acceptance import LOSS_TOLERANCE, deviations

torch = pytest.importorskip("torch")


class Pieces(torch.nn.Module):
    """A split into `count` parts, a sum over each, and all of them side by side."""

    def __init__(self, count):
        super().__init__()
        self.a, self.b = torch.nn.Linear(5, 2 * count), torch.nn.Linear(count, 3)

    def forward(self, x):
        return self.b(torch.cat([part.sum(1, keepdim=True) for part in self.a(x).split(2, 1)], 1))


class Sum(torch.nn.Module):
    """A sum of `count` tensors, each of them used once."""

    def __init__(self, count):
        super().__init__()
        self.a = torch.nn.Linear(5, 3 * count)

    def forward(self, x):
        return sum(torch.relu(part) for part in self.a(x).split(3, 1))


@pytest.mark.parametrize("kind, count", [(Pieces, 7), (Pieces, 60), (Sum, 70)])
def test_step(kind, count):
    """A step of SGD beside PyTorch in float64; without bounds on operands these end by limits of kernels."""
    torch.manual_seed(0)
    net = kind(count).eval()
    random = np.random.default_rng(0)
    x, goal = (random.standard_normal((2, n)).astype(np.float32) for n in (5, 3))
    program = traindeeploy.compile(
        net, (torch.from_numpy(x),), loss="mse", loss_reduction="sum", target="pulp"
    )
    result = program.run({"x": x, "target": goal}, steps=1, lr=0.05)
    exact = copy.deepcopy(net).double()
    prediction = exact(torch.from_numpy(x).double())
    loss = torch.nn.functional.mse_loss(prediction, torch.from_numpy(goal).double(), reduction="sum")
    loss.backward()
    before = {name: value.detach().numpy() for name, value in net.named_parameters()}
    after = {n: v.detach().numpy() - 0.05 * v.grad.numpy() for n, v in exact.named_parameters()}
    worst = max(deviations(before, result.params, after, steps=1), key=lambda found: found.worst)
    assert worst.worst <= 1, worst
    assert result.losses[0] == pytest.approx(loss.item(), rel=LOSS_TOLERANCE)
