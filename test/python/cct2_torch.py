"""CCT-2 and ResNet8 in PyTorch, with the names of the built-in models."""

import numpy as np
import torch
from torch import nn

from traindeeploy.models.cct2 import BLOCKS, CHANNELS, CLASSES, HEADS, TOKENS, WIDTH, cct2_parameters
from traindeeploy.models.resnet8 import STAGES, resnet8_parameters

F = nn.functional


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = (
            p(x).reshape(n, t, HEADS, c // HEADS).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.pre_norm = nn.LayerNorm(WIDTH)
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, WIDTH)
        self.linear2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.norm1(x + self.self_attn(self.pre_norm(x)))
        return x + self.linear2(F.gelu(self.linear1(x)))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.positional_emb = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention_pool = nn.Linear(WIDTH, 1)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = x + self.positional_emb
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        weights = F.softmax(self.attention_pool(x), dim=1).transpose(1, 2)
        return self.fc((weights @ x).squeeze(1))


class Tokenizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS[i], CHANNELS[i + 1], 3, padding=1, bias=False),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, 1),
            )
            for i in range(len(CHANNELS) - 1)
        )

    def forward(self, x):
        for layer in self.conv_layers:
            x = layer(x)
        return x.flatten(2).transpose(1, 2)


class Cct2(nn.Module):
    def __init__(self, parameters=None):
        super().__init__()
        self.tokenizer = Tokenizer()
        self.classifier = Classifier()
        load(self, cct2_parameters() if parameters is None else parameters)

    def forward(self, input):
        return self.classifier(self.tokenizer(input))


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
