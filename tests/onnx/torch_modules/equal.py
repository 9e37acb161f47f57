"""Parameters that are one, and parameters that are equal and are not."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.onnx.torch_modules.example import BOTH, DYNAMO, WIDTH, Example, Mean


def tied_layers() -> nn.Module:
    """One weight and one bias under two names."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight, second.bias = first.weight, first.bias
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 2))


class TiedAutoencoder(nn.Module):
    """One weight up and down again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 4) / 2)
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


def copied_layers() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.load_state_dict(first.state_dict())
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 2))


class CopiedHeads(nn.Module):
    """Two equal layers on one input: one and the same node, once their weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)
        self.other.load_state_dict(self.one.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.one(x)) * torch.sigmoid(self.other(x))


class UntrainedNorms(nn.Module):
    """Norms and biases of equal values."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(4, 4) for _ in range(3)]
        for layer in layers:
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.tanh(layer(norm(x)))
        return x


def untrained_batch_norm() -> nn.Module:
    """Statistics equal to the weight and the bias, with no layer before to be folded into."""
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Tanh())


def untrained_group_norm() -> nn.Module:
    """A weight and bias equal to those of the operator that the exporters build the norm from."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), Mean(2, 3), nn.Linear(4, 3)
    )


class UntrainedScale(nn.Module):
    """A scale of one, in a graph that holds other ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.gelu(self.layer(x)) + 1.0 / (1.0 + x[:, :3] ** 2)


EXAMPLES = (
    Example("tied layers", tied_layers, ((4,),)),
    Example("tied autoencoder", TiedAutoencoder, ((4,),), lost_in=BOTH),
    Example("copied layers", copied_layers, ((4,),), trained=False, lost_in=DYNAMO),
    Example("copied heads", CopiedHeads, ((4,),), trained=False, lost_in=DYNAMO),
    Example("LayerNorm before training", UntrainedNorms, ((4,),), trained=False, lost_in=DYNAMO),
    Example(
        "BatchNorm1d before training", untrained_batch_norm, ((4,),), trained=False, lost_in=DYNAMO
    ),
    Example(
        "GroupNorm before training", untrained_group_norm, ((2, 6, 6),), trained=False, lost_in=BOTH
    ),
    Example("scale before training", UntrainedScale, ((4,),), trained=False, lost_in=BOTH),
)
