"""Random convolutional networks, transformers and networks of sequences of odd sizes, in PyTorch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from degenerate_models import Products, windows

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


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Residual(nn.Module):
    """A separable convolution beside its input, which is used three times."""

    def __init__(self, channels: int, taps: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.along = nn.Conv2d(channels, channels, taps, padding="same", groups=channels)
        self.across = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.across(torch.tanh(self.along(self.norm(x)))) + torch.sigmoid(x)


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
        kind = int(random.integers(6))
        if kind == 0:
            more = int(random.integers(0, max(stride, dilation)))
            conv: nn.Module = nn.ConvTranspose2d(
                channels, wider, kernel, min(stride, 2), padding, 0, groups, bias, dilation
            )
            if more < min(stride, 2):
                conv.output_padding = (more, 0)
        else:
            mode = str(random.choice(["zeros", "zeros", "reflect", "circular"]))
            conv = nn.Conv2d(channels, wider, kernel, stride, padding, dilation, groups, bias, mode)
        if not add(conv):
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
        add([nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU, nn.SiLU][int(random.integers(5))]())
        if random.integers(3) == 0:
            size = int(random.choice([2, 3]))
            pool = [nn.MaxPool2d, nn.AvgPool2d][int(random.integers(2))]
            ceil = bool(random.integers(2))
            add(
                pool(size, int(random.choice([1, 2])), int(random.integers(0, size // 2 + 1)), ceil_mode=ceil)
            )
        if random.integers(5) == 0:
            add(Gate(channels, int(random.integers(1, 6))))
        if random.integers(5) == 0:
            add(Residual(channels, int(random.choice([1, 3, 5]))))
    if random.integers(3) == 0:
        add(nn.AdaptiveAvgPool2d((int(random.integers(1, 5)), int(random.integers(1, 5)))))
    add(nn.Flatten())
    add(nn.Linear(outcome()[1], int(random.integers(2, 12))))
    model = nn.Sequential(*layers)
    model.shape = shape
    return model


class Attention(nn.Module):
    """Causal or masked attention of queries that share keys; they may be fewer than the keys."""

    def __init__(self, random: np.random.Generator, width: int, tokens: int):
        super().__init__()
        self.shared, self.heads = int(random.integers(1, 4)), int(random.integers(1, 3))
        self.size = int(random.integers(2, 7))
        self.queries = int(random.integers(1, tokens + 1))
        self.q = nn.Linear(width, self.shared * self.heads * self.size)
        self.kv = nn.Linear(width, 2 * self.heads * self.size, bias=bool(random.integers(2)))
        self.out = nn.Linear(self.shared * self.heads * self.size, width)
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.causal = bool(random.integers(2))
        seen = torch.from_numpy(random.random((self.queries, tokens)) < 0.6)
        seen[:, 0] = True
        self.register_buffer("seen", None if self.causal or random.integers(2) else seen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, _ = x.shape
        y = self.norm(x)
        q = self.q(y[:, -self.queries :]).unflatten(-1, (-1, self.size)).transpose(1, 2)
        k, v = self.kv(y).view(n, tokens, 2, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.seen, is_causal=self.causal, enable_gqa=True
        )
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        return torch.cat([x[:, : tokens - self.queries], x[:, tokens - self.queries :] + mixed], 1)


class Convolved(nn.Module):
    """Gated causal convolution along the tokens, and back up where it has a stride."""

    def __init__(self, random: np.random.Generator, width: int):
        super().__init__()
        self.taps, self.dilation = int(random.integers(1, 5)), int(random.integers(1, 4))
        self.stride = int(random.integers(1, 3))
        groups = int(random.choice([1, width]))
        self.conv = nn.Conv1d(width, 2 * width, self.taps, self.stride, 0, self.dilation, groups)
        self.up = nn.ConvTranspose1d(width, width, self.stride + 1, self.stride, bias=False)
        self.scale = nn.Parameter(torch.rand(width, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.pad(x.transpose(1, 2), ((self.taps - 1) * self.dilation, 0))
        y, gate = self.conv(y).chunk(2, 1)
        y = self.up(y * torch.sigmoid(gate))[..., : x.shape[1]]
        return x + (y * self.scale).transpose(1, 2)


class Recurrent(nn.Module):
    """A gated cell over the tokens, from a state that trains."""

    def __init__(self, random: np.random.Generator, width: int):
        super().__init__()
        self.input, self.state = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.start = nn.Parameter(torch.randn(width) * 0.3)
        self.backwards = bool(random.integers(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (x.flip(1) if self.backwards else x).unbind(1)
        state, states = self.start.expand(x.shape[0], -1), []
        for part in parts:
            keep, fresh = (self.input(part) + self.state(state)).chunk(2, -1)
            keep = torch.sigmoid(keep)
            state = keep * state + (1 - keep) * torch.tanh(fresh)
            states.append(state)
        return torch.stack(states, 1)


class Mixed(nn.Module):
    """Products along the tokens and along the channels, with an activation that few models have."""

    def __init__(self, random: np.random.Generator, width: int, tokens: int):
        super().__init__()
        wider = int(random.integers(1, 20))
        self.along = nn.Parameter(torch.randn(tokens, tokens) / tokens**0.5)
        self.up, self.down = nn.Linear(width, wider), nn.Linear(wider, width)
        self.norm = nn.GroupNorm(1, tokens)
        self.factor = nn.Parameter(torch.tensor(0.7))
        choices = [F.silu, F.softplus, F.elu, F.mish, nn.PReLU(), F.hardswish, torch.exp]
        self.activation = choices[int(random.integers(len(choices)))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("st,ntc->nsc", self.along, self.norm(x))
        return x + self.factor * F.normalize(self.down(self.activation(self.up(y))), dim=-1) + y.mean(1, True)


class Sequence(nn.Module):
    """Tokens or vectors through blocks of these kinds; of tokens, the table is the last layer too."""

    def __init__(self, random: np.random.Generator):
        super().__init__()
        tokens, width = int(random.integers(2, 9)), int(random.integers(2, 20))
        self.words = int(random.integers(5, 30)) if random.integers(2) else 0
        inputs = int(random.integers(1, 9))
        self.shape = (tokens,) if self.words else (tokens, inputs)
        self.embed = nn.Embedding(self.words, width) if self.words else nn.Linear(inputs, width)
        self.positions = nn.Parameter(torch.randn(tokens, 1) * 0.3)
        kinds = random.integers(4, size=int(random.integers(1, 4)))
        self.blocks = nn.Sequential()
        for kind in kinds:
            self.blocks.append(
                Attention(random, width, tokens)
                if kind == 0
                else Convolved(random, width)
                if kind == 1
                else Recurrent(random, width)
                if kind == 2
                else Mixed(random, width, tokens)
            )
        self.pool = int(random.integers(4))
        self.head = nn.Linear(width, self.words or int(random.integers(2, 9)))
        if self.words:
            self.head.weight = self.embed.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.embed(input) + self.positions)
        pooled = (x[:, -1], x.mean(1), x.max(1)[0], torch.logsumexp(x, 1))[self.pool]
        return self.head(pooled)


KINDS = {
    "convolutional": convolutional,
    "transformer": Transformer,
    "sequence": Sequence,
    "windows": windows,
    "products": Products,
}


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
    """The model of a seed, of one of the KINDS."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = KINDS[kind](random).eval()
    batch, steps = int(random.choice([1, 1, 2, 3, 5])), int(random.integers(1, 4))
    loss = str(random.choice(["mse", "cross-entropy"]))
    options = {
        "loss": loss,
        "momentum": float(random.choice([0, 0, 0.9])),
        "recipe": str(random.choice(["full", "full", "last:2"])),
        "target": str(random.choice(["pulp-redmule", "pulp-redmule", "pulp"])),
    }
    if kind == "sequence":
        options["loss"] = loss = str(random.choice(["mse", "cross-entropy", "l1", "bce-with-logits"]))
        if random.integers(3) == 0:
            options["trainable"] = [
                str(random.choice(["*bias", "positions", "blocks.*", "embed.*", "head.*"]))
            ]
            del options["recipe"]
    if kind in ("windows", "products"):
        # Any shape is right for a target of numbers, and every target has its own way of products.
        options["loss"] = loss = str(random.choice(["mse", "l1"]))
        target = str(random.choice(["pulp-redmule", "pulp-redmule", "pulp", "pulp-redmule-fp16"]))
        options |= {"target": target, "precision": "mixed" if target.endswith("fp16") else "fp32"}
        options["recipe"] = "full"
    count = batch * steps
    data = random.standard_normal((count, *model.shape)).astype(np.float32)
    if words := getattr(model, "words", 0):
        data = random.integers(0, words, (count, *model.shape))
    with torch.no_grad():
        shape = model(torch.from_numpy(data[:1])).shape[1:]
    classes = shape[0]
    if loss != "cross-entropy":
        target = random.standard_normal((count, *shape)).astype(np.float32)
        target = 1 / (1 + np.exp(-target)) if loss == "bce-with-logits" else target
    else:
        target = random.integers(0, classes, count)
    return Sample(model, data, target, options, batch, steps)
