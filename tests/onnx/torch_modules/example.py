"""What an example is, and the parts that several of them have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

WIDTH = 8
VOCABULARY = 11

# Exporters that change parameters, or leave out what they are.
DYNAMO = ("dynamo",)
TORCHSCRIPT = ("TorchScript",)
BOTH = DYNAMO + TORCHSCRIPT


@dataclass(frozen=True)
class Example:
    """A module and what it is tried on.

    Attributes
    ----------
    title
        What the module is, for a table.
    make
        Makes the module.
    shapes
        Shapes of the inputs without the batch axis.
    tokens
        Whether the inputs are token ids below ``VOCABULARY``.
    batch
        The batch of the exported file: that of one input, of all of them, or a free one.
    trained
        Whether parameters and buffers are moved, so that no two are equal.
    lost_in
        Exporters whose files do not hold all parameters as they are, or do not say which numbers
        are parameters, so that they may be refused.
    """

    title: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    tokens: bool = False
    batch: Literal["one", "all", "free"] = "one"
    trained: bool = True
    lost_in: tuple[str, ...] = ()

    def module(self) -> nn.Module:
        """The module in evaluation mode, the same at every call."""
        torch.manual_seed(0)
        module = self.make().eval()
        if self.trained:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.data.add_(0.3 * torch.rand_like(tensor))
        return module

    def inputs(self, N: int = 3) -> tuple[Tensor, ...]:
        """N inputs, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            return tuple(
                torch.randint(VOCABULARY, (N, *shape), generator=generator) for shape in self.shapes
            )
        return tuple(torch.randn(N, *shape, generator=generator) for shape in self.shapes)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.inner(x)
        return output


class Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)
