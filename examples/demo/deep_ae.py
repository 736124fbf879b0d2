"""Deep-AE, the autoencoder of MLPerf Tiny's anomaly detection, as an ordinary PyTorch module."""

from itertools import pairwise

import torch
from torch import nn

SIZES = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]


class DeepAE(nn.Module):
    """Ten linear layers with ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(SIZES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """What `traindeeploy train deep_ae:model` takes: the module and example inputs."""
    torch.manual_seed(0)
    return DeepAE().eval(), (torch.zeros(16, SIZES[0]),)
