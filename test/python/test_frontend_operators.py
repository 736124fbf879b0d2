"""The operators that issue 3 lists, from both frontends to loss and gradients, against PyTorch in float64.

Each case is a small module of odd and prime sizes. It takes PyTorch's route, and the ONNX route through
the exporter's file of opset 12 and of a newer one; every parameter's gradient is compared.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mlir.ir import Module
from torch import nn

from onnx_export import exported
from traindeeploy.frontend import import_model
from traindeeploy.host import graph_pipeline, make_context, run_on_host, run_pipeline, to_float64
from traindeeploy.optimizers import SGD, attach
from traindeeploy.recipes import resolve_recipe


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Function(nn.Module):
    """A function of the input and of `w`, which are added first, so that both sides of it have gradients."""

    def __init__(self, function, shape, low=None):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(normal(*shape, seed=5))
        self.low = low

    def forward(self, x):
        y = x + self.w
        if self.low is not None:
            y = torch.exp(y) * 0.5 + self.low
        return self.function(y)


class Affine(nn.Module):
    """A product of its own before a layer: the gradient with respect to the layer's input counts."""

    def __init__(self, layer, shape):
        super().__init__()
        self.layer = layer
        self.w = nn.Parameter(1 + 0.3 * normal(*shape, seed=6))

    def forward(self, x):
        return self.layer(x * self.w)


def function(call, *shape, low=None):
    return lambda: (Function(call, shape[1:], low), normal(*shape, seed=1))


def layer(make, *shape):
    return lambda: (Affine(make(), shape[1:]), normal(*shape, seed=1))


class Attention(nn.Module):
    def __init__(self, causal=False, separate=False):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.causal, self.separate = causal, separate

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.separate:
            scores = q @ k.transpose(-2, -1) * (c // 2) ** -0.5
            y = scores.softmax(dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return y.transpose(1, 2).reshape(n, t, c)


class MaskedAttention(nn.Module):
    """Causal attention by a mask in a buffer, as small language models write it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.register_buffer("mask", torch.tril(torch.ones(11, 11)).view(1, 1, 11, 11))

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (item.view(n, t, 2, c // 2).transpose(1, 2) for item in (q, k, v))
        scores = q @ k.transpose(-2, -1) / 3**0.5
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        return (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(n, t, c)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 7, 0.0, batch_first=True)
        self.positions = nn.Parameter(0.1 * normal(1, 5, 6))

    def forward(self, x):
        return self.layer(x + self.positions)


class CrossAttention(nn.Module):
    """Queries of another length than keys, a known mask, and keys that several heads share."""

    def __init__(self, mask=None, causal=False):
        super().__init__()
        self.q, self.kv, self.causal = nn.Linear(6, 12), nn.Linear(6, 12), causal
        self.register_buffer("mask", mask)

    def forward(self, x):
        n, t, _ = x.shape
        q = self.q(x[:, :3]).view(n, 3, 4, 3).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.causal, enable_gqa=True, scale=0.3
        )
        return y.transpose(1, 2).reshape(n, 3, 12)


SEEN = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0]], dtype=torch.bool)


class Recurrent(nn.Module):
    """A cell of torch.nn, unrolled."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = x.new_zeros(x.shape[0], 7)
        if isinstance(self.cell, nn.LSTMCell):
            state = (state, state)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return state[0] if isinstance(state, tuple) else state


class WrittenOut(nn.Module):
    """Layer norm, softmax and GELU in primitives."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)
        self.scale, self.shift = nn.Parameter(normal(7, seed=2)), nn.Parameter(normal(7, seed=3))

    def forward(self, x):
        x = self.fc(x)
        d = x - x.mean(-1, keepdim=True)
        x = d / torch.sqrt((d**2).mean(-1, keepdim=True) + 1e-5) * self.scale + self.shift
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
        e = torch.exp(x - x.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True)


class Words(nn.Module):
    def __init__(self, padding=None):
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=padding)
        self.positions = nn.Embedding(7, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens):
        at = torch.arange(tokens.shape[1])
        return self.fc(torch.tanh(self.words(tokens) + self.positions(at)).mean(1))


def words(padding=None):
    return Words(padding), torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(1))


class Relative(nn.Module):
    """A table of parameters read by constant indices, as relative positions are."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(normal(7, 3))
        self.register_buffer("at", torch.arange(5)[:, None] - torch.arange(3)[None, :] + 2)

    def forward(self, x):
        return x * self.table[self.at.view(-1)].view(5, 3, 3).permute(2, 0, 1)


CASES = {
    "conv2d": layer(lambda: nn.Conv2d(3, 5, 3, padding=1), 1, 3, 7, 5),
    "conv2d stride 2": layer(lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), 2, 2, 9, 7),
    "conv2d dilation": layer(lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2, bias=False), 1, 2, 7, 9),
    "conv2d groups": layer(lambda: nn.Conv2d(4, 6, 3, groups=2), 1, 4, 5, 7),
    "conv2d depthwise": layer(lambda: nn.Conv2d(5, 5, 3, padding=1, groups=5), 1, 5, 7, 5),
    "conv2d depthwise twice": layer(lambda: nn.Conv2d(3, 6, 3, stride=2, groups=3), 1, 3, 7, 5),
    "conv2d same": layer(lambda: nn.Conv2d(3, 2, (4, 3), padding="same"), 1, 3, 5, 7),
    "conv1d": layer(lambda: nn.Conv1d(3, 5, 3, stride=2, padding=1), 2, 3, 11),
    "conv1d dilation groups": layer(lambda: nn.Conv1d(4, 6, 3, dilation=3, groups=2), 1, 4, 13),
    "conv1d without a batch": layer(lambda: nn.Conv1d(3, 5, 3), 3, 3, 7),
    "conv transpose 1d": layer(lambda: nn.ConvTranspose1d(3, 5, 3, stride=2, padding=1), 2, 3, 7),
    "conv transpose 2d": layer(lambda: nn.ConvTranspose2d(3, 2, 3), 1, 3, 5, 3),
    "conv transpose 2d stride": layer(
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), 1, 3, 3, 5
    ),
    "conv transpose 2d groups": layer(
        lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=3, dilation=2, groups=2, bias=False), 1, 4, 3, 5
    ),
    "max pool 2d": layer(lambda: nn.MaxPool2d(3, 2, 1), 1, 3, 7, 9),
    "max pool 2d ceil": layer(lambda: nn.MaxPool2d(2, 2, ceil_mode=True), 1, 3, 7, 5),
    "max pool 2d dilation": layer(lambda: nn.MaxPool2d(2, 1, dilation=2), 1, 3, 7, 5),
    "max pool 1d": layer(lambda: nn.MaxPool1d(3, 2), 2, 3, 11),
    "average pool 2d": layer(lambda: nn.AvgPool2d((3, 2), 2, (1, 0)), 1, 3, 7, 9),
    "average pool 2d without padding": layer(
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), 1, 3, 7, 5
    ),
    "average pool 1d": layer(lambda: nn.AvgPool1d(3, 2, 1), 2, 3, 11),
    "average pool ceil": layer(lambda: nn.AvgPool2d(2, 2, ceil_mode=True), 1, 3, 7, 5),
    "average pool with a divisor": layer(lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5), 1, 3, 7, 5),
    "adaptive average pool 1": layer(lambda: nn.AdaptiveAvgPool2d(1), 2, 3, 7, 5),
    "adaptive average pool 3x2": layer(lambda: nn.AdaptiveAvgPool2d((3, 2)), 2, 3, 7, 5),
    "adaptive average pool even": layer(lambda: nn.AdaptiveAvgPool2d((3, 5)), 2, 3, 9, 5),
    "adaptive average pool 1d": layer(lambda: nn.AdaptiveAvgPool1d(3), 2, 3, 7),
    "adaptive max pool": layer(lambda: nn.AdaptiveMaxPool2d((3, 2)), 1, 3, 7, 5),
    "adaptive max pool 1d": layer(lambda: nn.AdaptiveMaxPool1d(1), 2, 3, 7),
    "layer norm": layer(lambda: nn.LayerNorm(7), 3, 5, 7),
    "layer norm of two axes": layer(lambda: nn.LayerNorm((5, 7), elementwise_affine=False), 3, 5, 7),
    "rms norm": layer(lambda: nn.RMSNorm(7), 3, 5, 7),
    "group norm": layer(lambda: nn.GroupNorm(2, 6), 2, 6, 5),
    "instance norm": layer(lambda: nn.InstanceNorm2d(3, affine=True), 2, 3, 5, 7),
    "batch norm 2d frozen": layer(lambda: running(nn.BatchNorm2d(3)), 2, 3, 5, 7),
    "batch norm 1d frozen": layer(lambda: running(nn.BatchNorm1d(3)), 5, 3),
    "weight norm": layer(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(7, 3)), 2, 7),
    "softmax": function(lambda x: F.softmax(x, -1), 3, 5, 7),
    "softmax of another axis": function(lambda x: F.softmax(x, 1), 3, 5, 7),
    "log-softmax": function(lambda x: F.log_softmax(x, -1), 3, 7),
    "attention": lambda: (Attention(), normal(2, 5, 6)),
    "attention, causal": lambda: (Attention(causal=True), normal(2, 5, 6)),
    "attention in separate operators": lambda: (Attention(separate=True), normal(2, 5, 6)),
    "attention with a mask": lambda: (MaskedAttention(), normal(2, 5, 6)),
    "attention, other keys, masked": lambda: (CrossAttention(SEEN), normal(2, 5, 6)),
    "attention, other keys, added mask": lambda: (
        CrossAttention(torch.where(SEEN, 0.5, float("-inf"))),
        normal(2, 5, 6),
    ),
    "attention, other keys, causal": lambda: (CrossAttention(causal=True), normal(2, 5, 6)),
    "gru cell": lambda: (Recurrent(nn.GRUCell(5, 7)), normal(2, 3, 5)),
    "lstm cell": lambda: (Recurrent(nn.LSTMCell(5, 7)), normal(2, 3, 5)),
    "transformer layer": lambda: (Encoder(), normal(2, 5, 6)),
    "written out": lambda: (WrittenOut(), normal(3, 7)),
    "gelu": function(F.gelu, 3, 7),
    "gelu tanh": function(lambda x: F.gelu(x, approximate="tanh"), 3, 7),
    "relu": function(F.relu, 3, 7),
    "relu6": function(lambda x: F.relu6(3 * x), 3, 7),
    "hard-swish": function(lambda x: F.hardswish(3 * x), 3, 7),
    "hard-sigmoid": function(lambda x: F.hardsigmoid(3 * x), 3, 7),
    "leaky relu": function(lambda x: F.leaky_relu(x, 0.1), 3, 7),
    "elu": function(lambda x: F.elu(x, 0.7), 3, 7),
    "selu": function(F.selu, 3, 7),
    "celu": function(lambda x: F.celu(x, 1.3), 3, 7),
    "prelu": layer(lambda: nn.PReLU(), 2, 5, 7),
    "prelu of channels": layer(lambda: nn.PReLU(5), 2, 5, 7),
    "softplus": function(lambda x: F.softplus(20 * x) + F.softplus(x, beta=2), 3, 7),
    "log-sigmoid": function(F.logsigmoid, 3, 7),
    "softsign": function(F.softsign, 3, 7),
    "mish": function(F.mish, 3, 7),
    "silu": function(F.silu, 3, 7),
    "tanh": function(torch.tanh, 3, 7),
    "sigmoid": function(torch.sigmoid, 3, 7),
    "exp": function(torch.exp, 3, 7),
    "log": function(torch.log, 3, 7, low=0.1),
    "sqrt": function(torch.sqrt, 3, 7, low=0.1),
    "rsqrt": function(torch.rsqrt, 3, 7, low=0.1),
    "reciprocal": function(torch.reciprocal, 3, 7, low=0.1),
    "pow 2": function(lambda x: x**2, 3, 7),
    "pow 3": function(lambda x: x**3, 3, 7),
    "pow 0.5": function(lambda x: x**0.5, 3, 7, low=0.1),
    "pow 1.7": function(lambda x: x**1.7, 3, 7, low=0.1),
    "pow -2.3": function(lambda x: x**-2.3, 3, 7, low=0.1),
    "pow 0": function(lambda x: x**0 + x, 3, 7),
    "2 to a power": function(lambda x: 2**x + torch.exp2(x), 3, 7),
    "logarithms": function(lambda x: torch.log2(x) + torch.log10(x), 3, 7, low=0.1),
    "lerp": function(lambda x: torch.lerp(x, x * x, 0.3), 3, 7),
    "abs": function(torch.abs, 3, 7),
    "clamp": function(lambda x: torch.clamp(x, -0.5, 0.7), 3, 7),
    "maximum": function(lambda x: torch.maximum(x, x[:, :1]) * torch.minimum(x, x[:1]), 3, 7),
    "div": function(lambda x: x / (1 + x * x), 3, 7),
    "div of a number": function(lambda x: 2 / x, 3, 7, low=0.5),
    "mean": function(lambda x: x.mean((1, 2), keepdim=True), 3, 5, 7),
    "mean of all": function(lambda x: x.mean() * x, 3, 5),
    "sum": function(lambda x: x.sum(1), 3, 5, 7),
    "max": function(lambda x: x.amax(1), 3, 5, 7),
    "max of all": function(lambda x: x * x.max() + x.min(), 3, 5),
    "min": function(lambda x: x.amin(-1), 3, 5, 7),
    "max along an axis": function(lambda x: x.max(1)[0] - x.min(dim=-1).values[:, :1], 3, 5, 7),
    "logsumexp": function(lambda x: torch.logsumexp(30 * x, (1, 2)), 3, 5, 7),
    "norms": function(lambda x: F.normalize(x, dim=1) + x.norm(p=1, dim=-1, keepdim=True), 3, 5, 7),
    "cosine similarity": function(lambda x: F.cosine_similarity(x, x[:, :1] * x, -1), 3, 5, 7),
    "variance": function(lambda x: x.var(-1), 3, 7),
    "variance and mean": function(lambda x: (p := torch.var_mean(x, -1))[0] + p[1], 3, 7),
    "deviation": function(lambda x: x.std((1, 2), unbiased=False), 3, 5, 7),
    "matmul of batches": function(lambda x: x @ x.transpose(1, 2), 2, 5, 7),
    "matmul of broadcast batches": function(lambda x: x[:1] @ x.transpose(1, 2), 3, 5, 7),
    "bmm": function(lambda x: torch.bmm(x.transpose(1, 2), x), 2, 5, 7),
    "einsum": function(lambda x: torch.einsum("bij,bkj->bik", x, x), 2, 5, 7),
    "transpose": function(lambda x: x.transpose(1, 2).tanh(), 2, 5, 7),
    "permute": function(lambda x: x.permute(2, 0, 1).tanh(), 2, 5, 7),
    "view": function(lambda x: x.view(2, 7, 5).tanh(), 2, 5, 7),
    "flatten": function(lambda x: x.flatten(1).tanh(), 2, 5, 7),
    "squeeze": function(lambda x: x.squeeze(1).unsqueeze(-1).tanh(), 2, 1, 7),
    "slice": function(lambda x: x[:, 1:6:2] * x[:, 2:5], 2, 7),
    "negative slice": function(lambda x: x[:, -3:] + x[..., :1], 2, 7),
    "select": function(lambda x: x[:, 0] * x[:, -1], 2, 5, 7),
    "split": function(lambda x: torch.cat(list(x.split(3, 1))[::-1], 1) * x, 2, 7),
    "split into sizes": function(lambda x: (p := x.split([2, 5], 1))[1][:, :2] * p[0], 2, 7),
    "chunk": function(lambda x: (p := x.chunk(2, -1))[0] * torch.sigmoid(p[1]), 2, 3, 10),
    "unbind": function(lambda x: (p := x.unbind(1))[0] * p[2], 2, 3, 5),
    "glu": function(lambda x: F.glu(x, -1), 2, 3, 10),
    "concat": function(lambda x: torch.cat([x, 2 * x, x[:, :3]], 1), 2, 7),
    "concat of nothing": function(lambda x: torch.cat([x[:, :0], x, x[:, 7:]], 1) * x, 2, 7),
    "stack": function(lambda x: torch.stack([x, x * x], 1), 2, 7),
    "broadcast": function(lambda x: x.expand(3, 5, 7) * 2, 3, 1, 7),
    "repeat": function(lambda x: x.repeat(1, 3), 2, 5),
    "pad": function(lambda x: F.pad(x, (1, 2)), 2, 7),
    "pad with a number": function(lambda x: F.pad(x, (1, 2, 0, 1), value=1.5), 2, 5, 7),
    "pad and cut": function(lambda x: F.pad(x, (-1, 2)), 2, 7),
    "pad by reflection": layer(lambda: nn.Conv2d(3, 2, 3, padding=2, padding_mode="reflect"), 1, 3, 5, 7),
    "pad by repetition": layer(lambda: nn.ReplicationPad2d((2, 1, 0, 3)), 1, 3, 5, 7),
    "pad in a circle": layer(lambda: nn.Conv1d(3, 2, 3, padding=1, padding_mode="circular"), 2, 3, 7),
    "flip": function(lambda x: x.flip(1, 2) * x, 2, 5, 7),
    "triangles": function(lambda x: x.tril(1) @ x.triu(), 2, 5, 5),
    "upsample nearest": function(lambda x: F.interpolate(x, scale_factor=2), 1, 3, 5, 7),
    "upsample nearest to a size": function(lambda x: F.interpolate(x, size=(7, 3)), 1, 3, 5, 7),
    "upsample bilinear": function(
        lambda x: F.interpolate(x, scale_factor=(2, 1.5), mode="bilinear"), 1, 3, 5, 7
    ),
    "upsample linear": function(
        lambda x: F.interpolate(x, size=11, mode="linear", align_corners=True), 2, 3, 7
    ),
    "product with whole numbers": function(lambda x: x * torch.arange(7), 2, 7),
    "as strided": function(lambda x: x.as_strided((2, 3, 3), (20, 5, 2), 1) ** 2, 3, 5, 4),
    "unfold": function(lambda x: x.unfold(1, 3, 2).tanh(), 2, 8, 3),
    "roll": function(lambda x: torch.roll(x, 2, 1) * x, 2, 7),
    "where": function(lambda x: torch.where(torch.arange(7) > 3, x, 2 * x), 2, 7),
    "dropout off": layer(lambda: nn.Dropout(0.5), 2, 7),
    "embedding": words,
    "embedding with padding": lambda: words(3),
    "relative positions": lambda: (Relative(), normal(3, 5, 3)),
    "pixel shuffle": layer(lambda: nn.PixelShuffle(2), 1, 8, 3, 5),
}


def running(norm):
    norm.running_mean.copy_(normal(norm.num_features, seed=7))
    norm.running_var.copy_(normal(norm.num_features, seed=8) ** 2 + 0.3)
    return norm


def made(name):
    """The module of a case, no two parameters of it equal (the exporter shares such), and its input."""
    torch.manual_seed(0)
    module, x = CASES[name]()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter += 0.1 * normal(*parameter.shape, seed=100 + number)
    return module.eval(), x


def reference(module, x, seed=3):
    """Loss and gradients in float64, and the target."""
    module = module.double()
    y = module(x.double() if x.is_floating_point() else x)
    target = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = F.mse_loss(y, target)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
    return loss.item(), gradients, target.numpy()


def check_on_host(imported, x, loss, gradients, target):
    with make_context():
        graph = Module.parse(to_float64(imported.module_text))
    attach(graph, SGD(), element="f64")
    run_pipeline(graph, graph_pipeline("mse", resolve_recipe(imported, "full")))
    values = {key: value.astype(np.float64) for key, value in imported.parameters.items()}
    sample = {
        imported.inputs[0].name: x.double().numpy() if x.is_floating_point() else x.numpy(),
        "target": target,
    }
    after, losses = run_on_host(graph, values, [sample], lr=1.0)
    # Constants like 1 / 3 are float32 in the graph.
    assert losses[0] == pytest.approx(loss, rel=2e-6)
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    found = {name: values[name] - after[name] for name in values}
    assert set(gradients) <= set(found)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_from_torch(name):
    module, x = made(name)
    imported = import_model(module, x)
    check_on_host(imported, x, *reference(module, x))


# What ONNX has no operator for, a differing one, or one that is not supported (Resize, Einsum).
NOT_IN_ONNX = {
    "einsum", "embedding with padding", "average pool with a divisor", "logsumexp", "upsample nearest",
    "upsample nearest to a size", "upsample bilinear", "upsample linear", "as strided", "unfold",
}  # fmt: skip


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_IN_ONNX))
def test_from_onnx(name, opset):
    module, x = made(name)
    try:
        proto = exported(module, x, opset)
    except Exception as error:
        pytest.skip(f"the exporter has no opset {opset} of it: {type(error).__name__}")
    imported = import_model(proto)
    loss, gradients, target = reference(module, x)
    names = set(imported.parameters)
    assert set(gradients) <= names
    check_on_host(imported, x, loss, gradients, target)


@pytest.mark.parametrize("forward", [lambda x: x.norm(dim=-1), lambda x: x.std(-1), lambda x: F.normalize(x)])
def test_gradients_of_norms_of_zeros(forward):
    """A root of 0 has the gradient 0 in PyTorch, not infinity times 0."""

    class Zeros(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(normal(3, 7))
            self.register_buffer("mask", torch.tensor([[1.0], [0.0], [1.0]]))

        def forward(self, x):
            return forward(x * self.w * self.mask)

    x = normal(3, 7, seed=1)
    check_on_host(import_model(Zeros(), x), x, *reference(Zeros(), x))


def test_slopes_on_bounds():
    """What saturates is flat where it begins to; torch.clamp has the slope 1 there."""
    functions = [
        (F.relu6, (0.0, 6.0)),
        (F.hardtanh, (-1.0, 1.0)),
        (lambda x: F.hardtanh(x, 0.25, 0.5), (0.25, 0.5)),
        (F.hardsigmoid, (-3.0, 3.0)),
        (F.hardswish, (-3.0, 3.0)),
        (lambda x: x.clamp(-1, 1), (-1.0, 1.0)),
        (lambda x: F.leaky_relu(x, 0.1), (0.0, 1.0)),
        (lambda x: F.threshold(x, 0.5, 0.25), (0.5, 1.0)),
    ]

    class Bounds(nn.Module):
        def __init__(self):
            super().__init__()
            near = [
                [np.nextafter(np.float32(b), np.float32([-9, b, 9])) for b in bounds]
                for _, bounds in functions
            ]
            self.w = nn.ParameterList(torch.from_numpy(np.concatenate(numbers)) for numbers in near)

        def forward(self, x):
            values = [function(w) for (function, _), w in zip(functions, self.w, strict=True)]
            return x + torch.stack(values)

    x = normal(1, len(functions), 6)
    check_on_host(import_model(Bounds(), x), x, *reference(Bounds(), x))


def test_equal_maxima():
    """Of max along an axis the first takes the gradient, of amax all share it."""

    class Ties(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 0.0]]))

        def forward(self, x):
            return x * self.w.max(-1)[0] + x * x * self.w.amax(-1) + self.w.min(0).values[:2]

    x = normal(3, 2)
    check_on_host(import_model(Ties(), x), x, *reference(Ties(), x))
