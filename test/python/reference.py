"""An independent reference for tests: training of multilayer perceptrons in numpy, float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np


@dataclass
class Mlp:
    """A multilayer perceptron by its sizes, with an activation between layers.

    shared: layers that use the parameters of layer 0 instead of their own.
    """

    sizes: list[int]
    bias: bool = True
    activation: str = "relu"
    loss: str = "mse"
    seed: int = 0
    shared: tuple[int, ...] = ()
    params: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        for i, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            if i in self.shared:
                continue
            bound = (2 / fan_in) ** 0.5
            self.params[f"layers.{i}.weight"] = random.uniform(-bound, bound, (fan_out, fan_in)).astype(
                np.float32
            )
            if self.bias:
                self.params[f"layers.{i}.bias"] = random.uniform(-0.5, 0.5, fan_out).astype(np.float32)

    def key(self, layer: int, what: str) -> str:
        """Name of a layer's "weight" or "bias"."""
        return f"layers.{0 if layer in self.shared else layer}.{what}"

    def data(self, samples: int) -> dict[str, np.ndarray]:
        """Random samples and targets that fit the model and its loss."""
        random = np.random.default_rng(self.seed + 1000)
        x = random.standard_normal((samples, self.sizes[0])).astype(np.float32)
        if self.loss == "cross-entropy":
            return {"x": x, "labels": random.integers(0, self.sizes[-1], samples)}
        return {"x": x, "target": random.standard_normal((samples, self.sizes[-1])).astype(np.float32)}

    def module(self, batch: int) -> tuple[object, tuple[object, ...]]:
        """The same model in PyTorch, and example inputs."""
        import torch
        from torch import nn

        mlp = self
        functions = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}

        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleDict(
                    {
                        str(i): nn.Linear(a, b, bias=mlp.bias)
                        for i, (a, b) in enumerate(pairwise(mlp.sizes))
                        if i not in mlp.shared
                    }
                )

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                last = len(mlp.sizes) - 2
                for i in range(last + 1):
                    x = self.layers[str(0 if i in mlp.shared else i)](x)
                    if i < last:
                        x = functions[mlp.activation](x)
                return x

        module = Module()
        module.load_state_dict({name: torch.from_numpy(value) for name, value in self.params.items()})
        return module.eval(), (torch.zeros(batch, self.sizes[0]),)


@dataclass
class Trained:
    """What a reference run gives."""

    params: dict[str, np.ndarray]
    losses: list[float]
    kink: float
    """Smallest distance of an input of ReLU from 0, relative to the largest input of its layer."""


def train(
    mlp: Mlp,
    data: dict[str, np.ndarray],
    *,
    batch: int,
    steps: int,
    lr: float,
    momentum: float = 0.0,
    trained: list[str] | None = None,
    start: int = 0,
) -> Trained:
    """SGD as PyTorch defines it: v = momentum v + g, w = w - lr v; samples in order, again when they end."""
    lr = float(np.float32(lr))
    params = {name: value.astype(np.float64) for name, value in mlp.params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    names = list(params) if trained is None else trained
    count = len(data["x"])
    layers = len(mlp.sizes) - 1
    losses, kink = [], np.inf
    for step in range(steps):
        rows = (start + step * batch + np.arange(batch)) % count
        inputs, pre = [data["x"][rows].astype(np.float64)], []
        for i in range(layers):
            z = inputs[-1] @ params[mlp.key(i, "weight")].T
            if mlp.bias:
                z = z + params[mlp.key(i, "bias")]
            pre.append(z)
            if i == layers - 1:
                break
            if mlp.activation == "relu":
                kink = min(kink, float(np.abs(z).min() / np.abs(z).max()))
                inputs.append(np.maximum(z, 0))
            else:
                inputs.append(np.tanh(z) if mlp.activation == "tanh" else 1 / (1 + np.exp(-z)))
        out = pre[-1]
        if mlp.loss == "mse":
            difference = out - data["target"][rows]
            losses.append(float((difference**2).mean()))
            gradient = 2 * difference / difference.size
        else:
            shifted = out - out.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            labels = data["labels"][rows]
            losses.append(float(-logs[np.arange(batch), labels].mean()))
            gradient = np.exp(logs)
            gradient[np.arange(batch), labels] -= 1
            gradient /= batch
        grads = {name: np.zeros_like(value) for name, value in params.items()}
        for i in reversed(range(layers)):
            grads[mlp.key(i, "weight")] += gradient.T @ inputs[i]
            if mlp.bias:
                grads[mlp.key(i, "bias")] += gradient.sum(axis=0)
            if i == 0:
                break
            gradient = gradient @ params[mlp.key(i, "weight")]
            if mlp.activation == "relu":
                gradient = gradient * (pre[i - 1] > 0)
            elif mlp.activation == "tanh":
                gradient = gradient * (1 - inputs[i] ** 2)
            else:
                gradient = gradient * inputs[i] * (1 - inputs[i])
        for name in names:
            velocity[name] = momentum * velocity[name] + grads[name]
            params[name] = params[name] - lr * velocity[name]
    return Trained(params, losses, kink)


def away_from_kinks(make: object, run: object, margin: float = 3e-6) -> tuple[Mlp, Trained]:
    """The first model of `make(seed)` whose reference `run(model)` keeps ReLU's inputs away from 0.

    Nearer than rounding can tell, two right programs may disagree on which side of 0 an input is.
    """
    for seed in range(50):
        mlp = make(seed)  # type: ignore[operator]
        result = run(mlp)  # type: ignore[operator]
        if result.kink > margin:
            return mlp, result
    raise AssertionError("no seed keeps the inputs of ReLU away from 0")
