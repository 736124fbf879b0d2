"""The anomaly detection autoencoder of MLPerf Tiny in PyTorch.

    traindeeploy train examples.deep_ae:model --data data.npz --loss mse --optimizer sgd --lr 0.01 ...

trains it; `deep-ae` is the same model without PyTorch.
"""

import itertools

import torch
from torch import nn


class DeepAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*layers([640, 128, 128, 128, 128, 8]))
        self.decoder = nn.Sequential(*layers([8, 128, 128, 128, 128, 640])[:-1])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(input))


def layers(sizes: list[int]) -> list[nn.Module]:
    """A linear layer and a ReLU for each step from one size to the next."""
    pairs = itertools.pairwise(sizes)
    return [module for fan_in, fan_out in pairs for module in (nn.Linear(fan_in, fan_out), nn.ReLU())]


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The module and example inputs, a batch of one."""
    torch.manual_seed(0)
    return DeepAE(), (torch.zeros(1, 640),)
