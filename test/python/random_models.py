"""Random convolutional networks and transformers of odd sizes, in PyTorch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

F = nn.functional


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = (part.squeeze(2).transpose(1, 2) for part in qkv.split(1, dim=2))
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, random: np.random.Generator):
        super().__init__()
        heads = int(random.integers(1, 4))
        width, classes = heads * int(random.integers(3, 20)), int(random.integers(2, 9))
        self.shape = (int(random.integers(2, 40)), int(random.integers(1, 12)))
        self.embed = nn.Linear(self.shape[1], width)
        self.positions = nn.Parameter(torch.randn(1, self.shape[0], width) * 0.3)
        count = int(random.integers(1, 3))
        self.blocks = nn.ModuleList(Block(width, heads, bool(random.integers(2))) for _ in range(count))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.embed(input) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def convolutional(random: np.random.Generator) -> nn.Sequential:
    """Convolutions of any kind with norms, activations and pooling; the result has `shape`."""
    channels = int(random.integers(1, 9))
    shape = (channels, int(random.integers(5, 24)), int(random.integers(5, 24)))
    layers: list[nn.Module] = []

    def outcome() -> torch.Size:
        with torch.no_grad():
            return nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape

    def add(layer: nn.Module) -> bool:
        """Adds a layer, if something is left of the image."""
        layers.append(layer)
        try:
            outcome()
        except RuntimeError:
            layers.pop()
            return False
        return True

    for _ in range(int(random.integers(1, 5))):
        kernel = (int(random.choice([1, 2, 3, 5])), int(random.choice([1, 3])))
        groups = int(random.choice([count for count in (1, 1, 2, channels) if channels % count == 0]))
        wider = groups * int(random.integers(1, max(2, 24 // groups)))
        stride, dilation = int(random.choice([1, 1, 2, 3])), int(random.choice([1, 1, 2]))
        padding = int(random.integers(0, kernel[0] // 2 + 1))
        bias = bool(random.integers(2))
        if not add(nn.Conv2d(channels, wider, kernel, stride, padding, dilation, groups, bias)):
            continue
        channels = wider
        if random.integers(2):
            norm = nn.BatchNorm2d(channels)
            with torch.no_grad():
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                norm.weight.normal_(1, 0.2)
                norm.bias.normal_()
            add(norm)
        add([nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU][int(random.integers(4))]())
        if random.integers(3) == 0:
            size = int(random.choice([2, 3]))
            pool = [nn.MaxPool2d, nn.AvgPool2d][int(random.integers(2))]
            add(pool(size, int(random.choice([1, 2])), int(random.integers(0, size // 2 + 1))))
    add(nn.Flatten())
    add(nn.Linear(outcome()[1], int(random.integers(2, 12))))
    model = nn.Sequential(*layers)
    model.shape = shape
    return model


@dataclass
class Sample:
    """A model with all that a run of it needs."""

    model: nn.Module
    data: np.ndarray
    target: np.ndarray
    options: dict[str, object]
    """Of traindeeploy.compile."""
    batch: int
    steps: int


def sample(seed: int, kind: str) -> Sample:
    """The model of a seed, "convolutional" or "transformer"."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = convolutional(random) if kind == "convolutional" else Transformer(random)
    model.eval()
    batch, steps = int(random.choice([1, 1, 2, 3, 5])), int(random.integers(1, 4))
    loss = str(random.choice(["mse", "cross-entropy"]))
    options = {
        "loss": loss,
        "momentum": float(random.choice([0, 0, 0.9])),
        "recipe": str(random.choice(["full", "full", "last:2"])),
        "target": str(random.choice(["pulp-redmule", "pulp-redmule", "pulp"])),
    }
    count = batch * steps
    data = random.standard_normal((count, *model.shape)).astype(np.float32)
    with torch.no_grad():
        classes = model(torch.from_numpy(data[:1])).shape[1]
    if loss == "mse":
        target = random.standard_normal((count, classes)).astype(np.float32)
    else:
        target = random.integers(0, classes, count)
    return Sample(model, data, target, options, batch, steps)
