"""Modules that take no derivative of some values. ONNX has no word for that.

The exporter that goes by torch.export notes it; the older one leaves no trace, and none of them
does of ``torch.no_grad`` in a forward pass.
"""

import torch
from torch import Tensor, nn

from tests.onnx.torch_modules.example import DYNAMO, VOCABULARY, WIDTH, Example


class Detached(nn.Module):
    """A target that is taken from the same layer without its derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return torch.tanh(h) * torch.sigmoid(h).detach() + h


class StraightThrough(nn.Module):
    """Rounding whose derivative passes straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return h + (torch.round(h) - h).detach()


class Padded(nn.Module):
    """Tokens, one of which only fills up."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=3)
        self.readout = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.readout(self.embedding(x).mean(1))
        return output


EXAMPLES = (
    Example("a value without its derivative", Detached, ((4,),), lost_in=DYNAMO),
    Example("rounding straight through", StraightThrough, ((4,),), lost_in=DYNAMO),
    Example("embedding with a padding token", Padded, ((9,),), tokens=True),
)
