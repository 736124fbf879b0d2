"""Random networks whose sizes coincide: small, equal, prime and 1 in any place.

What decides by a size or a coefficient (which loops are rows, whether two walk as one) goes wrong where
two of them are equal by chance, which models of reasonable sizes hardly ever have.
"""

import numpy as np
import torch
from torch import nn

F = nn.functional


class Sizes:
    """Draws sizes: small, prime or 1, and often one that was drawn before."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.known: list[int] = []

    def draw(self, most: int = 17, least: int = 1) -> int:
        """A size from `least` to `most`."""
        known = [size for size in self.known if least <= size <= most]
        if known and self.random.random() < 0.5:
            return int(self.random.choice(known))
        drawn = [size for size in (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 11, 13, 16, 17) if least <= size <= most]
        self.known.append(int(self.random.choice(drawn)))
        return self.known[-1]

    def maybe(self, chance: float = 0.5) -> bool:
        """True in so many cases."""
        return bool(self.random.random() < chance)


ACTIVATIONS = (nn.Identity, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU)


def windows(random: np.random.Generator) -> nn.Sequential:
    """Convolutions of one or two dimensions, transposed ones and poolings, made from the outputs back."""
    sizes = Sizes(random)
    rank = 1 + int(sizes.maybe())
    most = 17 if rank == 1 else 7
    conv = (nn.Conv1d, nn.Conv2d)[rank - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)[rank - 1]
    extents = [sizes.draw(most) for _ in range(rank)]
    channels = sizes.draw(13)
    layers: list[nn.Module] = []
    for _ in range(int(random.integers(1, 4))):
        kind = int(random.integers(8))
        groups = sizes.draw(channels) if sizes.maybe(0.3) else 1
        groups = groups if channels % groups == 0 else channels
        before = (
            channels if groups == channels and sizes.maybe() else groups * sizes.draw(max(1, 12 // groups))
        )
        axes = []
        for extent in extents:
            for _ in range(50):
                taps, dilation, stride = sizes.draw(5), sizes.draw(most), sizes.draw(4)
                if sizes.maybe(0.3):
                    dilation = extent
                if sizes.maybe(0.3):
                    stride = taps
                reach = dilation * (taps - 1)
                padding, more = (sizes.draw(reach + 1) - 1 if sizes.maybe() else 0), 0
                if kind < 5:  # a convolution
                    size = (extent - 1) * stride + reach + 1 - 2 * padding
                    size += int(random.integers(stride))  # what no window reaches
                elif kind < 7:  # a transposed one
                    left = extent - reach - 1 + 2 * padding
                    more = left % stride if sizes.maybe(0.7) else left - left // stride * stride
                    size = (left - more) // stride + 1
                    if left < more or more >= max(stride, dilation):
                        continue
                else:  # a pooling
                    padding = min(padding, taps // 2)
                    size = (extent - 1) * stride + reach + 1 - 2 * padding
                if 1 <= size <= 4 * most:
                    break
            else:
                taps = stride = dilation = 1
                padding = more = 0
                size = extent
            axes.append((taps, stride, padding, dilation, more, size))
        taps, stride, padding, dilation, more, extents = (list(values) for values in zip(*axes, strict=True))
        bias = sizes.maybe()
        if kind < 5:
            layer: nn.Module = conv(before, channels, taps, stride, padding, dilation, groups, bias)
        elif kind < 7:
            layer = transposed(before, channels, taps, stride, padding, more, groups, bias, dilation)
        else:
            layer = (nn.MaxPool1d, nn.MaxPool2d)[rank - 1](
                tuple(taps), tuple(stride), tuple(padding), tuple(dilation)
            )
            before = channels
        channels = before
        layers[:0] = [layer, ACTIVATIONS[int(random.integers(len(ACTIVATIONS)))]()]
    # A maximum in front has nothing to train before it.
    layers.insert(0, conv(channels, channels, 1))
    model = nn.Sequential(*layers)
    model.shape = (channels, *extents)
    if sizes.maybe():
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, *model.shape)).numel()
        shape = model.shape
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, sizes.draw(13)))
        model.shape = shape
    return model


class Products(nn.Module):
    """Products of matrices, norms and views along any axis of (batch, a, b, c)."""

    def __init__(self, random: np.random.Generator):
        super().__init__()
        sizes = Sizes(random)
        self.shape = (sizes.draw(8), sizes.draw(8), sizes.draw(13))
        shape = list(self.shape)
        self.first = nn.Linear(shape[2], shape[2])
        self.steps: list[tuple[str, int, str]] = []
        for index in range(int(random.integers(1, 6))):
            kind = int(random.integers(9))
            axis = int(random.integers(3))
            name = f"p{index}"
            if kind == 0:
                made = sizes.draw(17)
                self.add_module(name, nn.Linear(shape[2], made, bias=sizes.maybe()))
                shape[2] = made
                self.steps.append(("linear", 2, name))
            elif kind == 1:
                made = sizes.draw(8)
                self.register_parameter(
                    name, nn.Parameter(torch.randn(made, shape[axis]) / shape[axis] ** 0.5)
                )
                shape[axis] = made
                self.steps.append(("along", axis, name))
            elif kind == 2:  # a product of samples' own matrices
                shape = [shape[0], shape[1], shape[1]]
                self.steps.append(("gram", 0, ""))
            elif kind == 3:
                order = [int(k) for k in random.permutation(3)]
                shape = [shape[k] for k in order]
                self.steps.append(("permute", 0, "".join(map(str, order))))
            elif kind == 4:
                self.steps.append(("softmax", axis, ""))
            elif kind == 5:
                self.add_module(name, nn.LayerNorm(shape[2]))
                self.steps.append(("norm", 2, name))
            elif kind == 6:
                at = [shape[k] if sizes.maybe() else 1 for k in range(3)]
                self.add(name, *at)
                self.steps.append(("scale", 0, name))
            elif kind == 7:
                # Two axes as one and back in the other order of their sizes.
                shape = [shape[1], shape[0], shape[2]]
                self.steps.append(("swap", 0, ""))
            else:
                self.register_parameter(
                    name, nn.Parameter(torch.randn(shape[0], shape[2], sizes.draw(8)) * 0.4)
                )
                shape = [shape[0], shape[1], getattr(self, name).shape[2]]
                self.steps.append(("batched", 0, name))
        self.outcome = tuple(shape)

    def add(self, name: str, *shape: int) -> None:
        """A parameter of this shape."""
        self.register_parameter(name, nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.first(input)
        for kind, axis, name in self.steps:
            if kind in ("linear", "norm"):
                x = getattr(self, name)(x)
            elif kind == "along":
                equation = ("ij,njbc->nibc", "ij,najc->naic", "ij,nabj->nabi")[axis]
                x = torch.einsum(equation, getattr(self, name), x)
            elif kind == "gram":
                x = x @ x.transpose(2, 3) / x.shape[3]
            elif kind == "permute":
                x = x.permute(0, *(int(k) + 1 for k in name))
            elif kind == "softmax":
                x = torch.softmax(x, axis + 1) + 0.1 * x
            elif kind == "scale":
                x = x * getattr(self, name) + 0.3
            elif kind == "swap":
                x = x.reshape(x.shape[0], x.shape[2], x.shape[1], x.shape[3])
            else:
                x = x @ getattr(self, name)
        return x
