"""CCT-2, the Compact Convolutional Transformer of the TrainDeeploy paper, in PyTorch.

    traindeeploy train examples.cct2:model --data data.npz --loss cross-entropy --recipe blocks:2 ...

trains it; `cct2` is the same model without PyTorch.
"""

import torch
from torch import nn

from traindeeploy.models.cct2 import BLOCKS, CHANNELS, CLASSES, HEADS, TOKENS, WIDTH, cct2_parameters

F = nn.functional


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = (
            p(x).reshape(n, t, HEADS, c // HEADS).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(WIDTH)
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, WIDTH)
        self.linear2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.self_attn(self.pre_norm(x)))
        return x + self.linear2(F.gelu(self.linear1(x)))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positional_emb = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention_pool = nn.Linear(WIDTH, 1)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.positional_emb
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        weights = F.softmax(self.attention_pool(x), dim=1).transpose(1, 2)
        return self.fc((weights @ x).squeeze(1))


class Tokenizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS[i], CHANNELS[i + 1], 3, padding=1, bias=False),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, 1),
            )
            for i in range(len(CHANNELS) - 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return x.flatten(2).transpose(1, 2)


class Cct2(nn.Module):
    """Compact Convolutional Transformer for images of 3x32x32; its first weights are those of `cct2`."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = Tokenizer()
        self.classifier = Classifier()
        self.load_state_dict({name: torch.from_numpy(value) for name, value in cct2_parameters().items()})

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.tokenizer(input))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The module and example inputs, a batch of one."""
    return Cct2().eval(), (torch.zeros(1, 3, 32, 32),)
