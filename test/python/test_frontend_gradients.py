"""Imported models through td-graph on the host, against PyTorch's autograd in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mlir.ir import Module
from torch import nn

from test_frontend_torch import FUNCTIONS, Functional, Tied, normal
from traindeeploy.frontend import import_model
from traindeeploy.host import graph_pipeline, make_context, run_on_host, run_pipeline, to_float64
from traindeeploy.optimizers import SGD, attach
from traindeeploy.recipes import resolve_recipe


class Shared(nn.Module):
    """One linear, used three times, and a residual."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return self.fc(torch.tanh(self.fc(torch.relu(self.fc(x))) + x))


def functional(name):
    return Functional(FUNCTIONS[name], w=normal(7, 5), b=normal(7, seed=1))


MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(5, 31), nn.ReLU(), nn.Linear(31, 1), nn.Sigmoid(), nn.Linear(1, 13)
    ),
    "shared": Shared,
    "tied": lambda: nn.Sequential(nn.Linear(5, 6), Tied()),
    "images": lambda: nn.Sequential(nn.Unflatten(1, (5, 1, 1)), nn.Flatten(), nn.Linear(5, 3, bias=False)),
} | {
    name: lambda name=name: functional(name)
    for name in (
        *(
            "addmm scaled",
            "matmul",
            "left transposed",
            "both transposed",
            "three dimensions, plain",
            "numbers",
        ),
        *("a vector of weights", "linear to a number", "alpha", "rsub", "parameter scale"),
        *("broadcast of a column", "broadcast of a matrix", "bias of another shape"),
    )
}


@pytest.mark.parametrize("name", MODELS)
def test_one_step_agrees_with_autograd(name):
    torch.manual_seed(0)
    module = MODELS[name]().eval()
    x = normal(3, 5, seed=2)
    imported = import_model(module, x)
    trainable = resolve_recipe(imported, "full")
    with make_context():
        graph = Module.parse(to_float64(imported.module_text))
    attach(graph, SGD(), element="f64")
    run_pipeline(graph, graph_pipeline("mse", trainable))
    target = normal(*imported.output.shape, seed=3).double()
    sample = {imported.inputs[0].name: x.double().numpy(), "target": target.numpy()}
    values = {key: value.astype(np.float64) for key, value in imported.parameters.items()}
    after, losses = run_on_host(graph, values, [sample], lr=1.0)

    module = module.double()
    loss = F.mse_loss(module(x.double()), target)
    loss.backward()
    assert losses[0] == pytest.approx(loss.item(), rel=1e-12)
    gradients = {key: parameter.grad for key, parameter in module.named_parameters()}
    gradients = {key: gradient for key, gradient in gradients.items() if gradient is not None}
    assert set(gradients) == set(trainable)
    for key, gradient in gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        np.testing.assert_allclose(values[key] - after[key], gradient.numpy(), rtol=0, atol=1e-12 * scale)
