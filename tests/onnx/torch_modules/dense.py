"""Dense layers, alone, side by side and chosen by the input."""

import torch
from torch import Tensor, nn

from tests.onnx.torch_modules.example import DYNAMO, TORCHSCRIPT, WIDTH, Example


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(),
        nn.Linear(WIDTH, 3),
    )  # fmt: skip


def wide_mlp() -> nn.Module:
    """A weight above the 8192 entries up to which PyTorch's optimiser folds."""
    return nn.Sequential(
        nn.Linear(4, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 2)
    )


def mlp_with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False),
        nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 3), nn.LayerNorm(3, elementwise_affine=False),
    )  # fmt: skip


class Unused(nn.Module):
    """With a layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class TwoInputs(nn.Module):
    """Two inputs of their own shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, WIDTH)
        self.right = nn.Linear(3, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.left(left)) * torch.sigmoid(self.right(right)))
        return output


class Bilinear(nn.Module):
    """A product of two vectors through a tensor of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.bilinear = nn.Bilinear(3, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.bilinear(torch.tanh(self.first(x)), x)
        return output


class Mixer(nn.Module):
    """Dense layers along tokens and along channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.tokens = nn.Sequential(nn.Linear(6, WIDTH), nn.GELU("tanh"), nn.Linear(WIDTH, 6))
        self.channels = nn.Sequential(nn.Linear(4, WIDTH), nn.Mish(), nn.Linear(WIDTH, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        output: Tensor = self.head((x + self.channels(x)).mean(1))
        return output


class MixtureOfExperts(nn.Module):
    """The two best of four experts for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4, 3))
        self.bias = nn.Parameter(torch.zeros(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = torch.topk(self.router(x), 2)
        outputs = torch.einsum("ni,nkio->nko", x, self.weight[chosen]) + self.bias[chosen]
        return (torch.softmax(scores, -1)[..., None] * outputs).sum(1)


class ByShape(nn.Module):
    """Another layer for long inputs than for short ones."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Linear(4, 3)
        self.short = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.long(x) if x.shape[1] > 3 else self.short(x)
        return output.tanh().mean(1)


class ByValue(nn.Module):
    """A layer chosen by the values of the input, by ``torch.cond`` where it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(4, 3)
        self.negative = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        def positive(x: Tensor) -> Tensor:
            return torch.tanh(self.positive(x))

        def negative(x: Tensor) -> Tensor:
            return torch.sigmoid(self.negative(x))

        if torch.onnx.is_in_onnx_export():
            output: Tensor = torch.cond(x.sum() > 0, positive, negative, (x,))
            return output
        return positive(x) if x.sum() > 0 else negative(x)


EXAMPLES = (
    Example("MLP", mlp, ((4,),)),
    Example("MLP, any batch", mlp, ((4,),), batch="free"),
    Example("MLP, batch of 3", mlp, ((4,),), batch="all"),
    Example("MLP with 9,216 weights in a layer", wide_mlp, ((4,),)),
    Example("MLP with an unused head", Unused, ((4,),)),
    Example("MLP with BatchNorm1d", mlp_with_batch_norm, ((4,),), lost_in=DYNAMO),
    Example("LayerNorm, RMSNorm", norms, ((4,),)),
    Example("two inputs", TwoInputs, ((4,), (3,))),
    Example("two inputs, any batch", TwoInputs, ((4,), (3,)), batch="free"),
    Example("Bilinear", Bilinear, ((4,),), lost_in=DYNAMO),
    Example("MLP-Mixer, any batch", Mixer, ((6, 4),), batch="free", lost_in=TORCHSCRIPT),
    Example("mixture of experts, top 2", MixtureOfExperts, ((4,),), lost_in=DYNAMO),
    Example(
        "mixture of experts, top 2, any batch",
        MixtureOfExperts,
        ((4,),),
        batch="free",
        lost_in=DYNAMO,
    ),
    Example("layer chosen by shape", ByShape, ((5, 4),), lost_in=TORCHSCRIPT),
    Example("layer chosen by `torch.cond`", ByValue, ((4,),)),
)
