"""Parameters that are computed with before they are used, and numbers that are no parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.onnx.torch_modules.dense import mlp
from tests.onnx.torch_modules.example import BOTH, DYNAMO, TORCHSCRIPT, WIDTH, Example, Mean


def weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, WIDTH)), nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(WIDTH, 3)),
    )  # fmt: skip


def weight_norm_by_hook() -> nn.Module:
    """The older function, which people's code still has."""
    return nn.Sequential(
        nn.utils.weight_norm(nn.Conv1d(2, 4, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    )


def spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 3)
    )


class LowRank(nn.Module):
    """A weight plus a product of two thin ones, as adapters have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.down = nn.Parameter(torch.randn(2, 4))
        self.up = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + 0.5 * self.up @ self.down).tanh()


class Softplus(nn.Module):
    """Positive weights, as a function of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(4, 3))
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.log1p(x.square() @ functional.softplus(self.raw)))
        return output


class Equalized(nn.Module):
    """A weight that is scaled by a constant wherever it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * 0.5).tanh().mean(1)


class Half(nn.Module):
    """Weights in half precision, used in single precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, WIDTH).to(dtype))
        self.second = nn.Parameter(torch.randn(WIDTH, 3).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.first.to(x.dtype)) @ self.second.to(x.dtype)


class Temperature(nn.Module):
    """Parameters without an axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(x) / self.temperature.exp(), -1) + self.shift


def frozen() -> nn.Module:
    """What is frozen is a parameter of the module all the same."""
    module = mlp()
    for parameter in next(module.children()).parameters():
        parameter.requires_grad_(False)
    return module


class Normalised(nn.Module):
    """An MLP whose inputs are normalised by the statistics of its data."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("std", 1 + torch.rand(4))
        self.network = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network((x - self.mean) / self.std)
        return output


class Buffers(nn.Module):
    """Tables that are not trained: positions, a scale, a random projection, a literal."""

    positions: Tensor
    scale: Tensor
    projection: Tensor

    def __init__(self) -> None:
        super().__init__()
        places = torch.arange(5)[:, None] / 4 ** torch.arange(WIDTH // 2)
        self.register_buffer("positions", torch.cat([places.sin(), places.cos()], 1))
        self.register_buffer("scale", torch.tensor(1.7))
        self.register_buffer("projection", torch.randn(4, WIDTH), persistent=False)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.scale * (x @ self.projection) + self.positions
        h = h * torch.tensor([1.0, 0.5] * (WIDTH // 2))
        output: Tensor = self.head(torch.tanh(self.layer(h)).mean(1))
        return output


class FrozenNorm(nn.Module):
    """A batch norm whose weight and bias are buffers, as detectors have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            self.register_buffer(name, torch.full((width,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (part.view(1, -1, 1, 1) for part in self.buffers())
        return (x - mean) * (weight * (var + 1e-5).rsqrt()) + bias


def frozen_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), FrozenNorm(4), nn.ReLU(), Mean(2, 3), nn.Linear(4, 3))


def norm_without_parameters() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3), nn.Tanh())


EXAMPLES = (
    Example("weight_norm", weight_norm, ((4,),), lost_in=DYNAMO),
    Example("weight_norm by hook", weight_norm_by_hook, ((2, 6),), lost_in=DYNAMO),
    Example("spectral_norm", spectral_norm, ((4,),), lost_in=DYNAMO),
    Example("low-rank adapter", LowRank, ((4,),), lost_in=BOTH),
    Example("weights through softplus", Softplus, ((4,),), lost_in=BOTH),
    Example("weights times a constant", Equalized, ((5, 4),), lost_in=BOTH),
    Example("float16 weights", lambda: Half(torch.float16), ((4,),), lost_in=BOTH),
    Example("bfloat16 weights", lambda: Half(torch.bfloat16), ((4,),), lost_in=BOTH),
    Example("parameters without axes", Temperature, ((4,),), lost_in=BOTH),
    Example("MLP, half frozen", frozen, ((4,),)),
    Example("inputs normalised by buffers", Normalised, ((4,),), lost_in=TORCHSCRIPT),
    Example("tables in buffers", Buffers, ((5, 4),), lost_in=TORCHSCRIPT),
    Example("BatchNorm2d all of buffers", frozen_norm, ((2, 6, 6),), lost_in=TORCHSCRIPT),
    Example(
        "BatchNorm1d without parameters, any batch", norm_without_parameters, ((4,),), batch="free"
    ),
)
