"""A two-layer network with a quadratic activation that learns modular addition."""

import math

import mlx.core as mx
import mlx.nn as nn


class QuadraticMLP(nn.Module):
    """f(x) = (1/H) W₂ (W₁ x / √(2p))², without biases, weights drawn from N(0, 1).

    The network of Gromov, "Grokking modular arithmetic" (2023), with the scales of Lin,
    arXiv 2510.00468.

    Parameters
    ----------
    p
        The number of classes; inputs have 2p entries.
    width
        H, the number of hidden units.
    seed
        Seed of the weights.
    """

    def __init__(self, p: int, width: int, seed: int = 0):
        super().__init__()
        first, second = mx.random.split(mx.random.key(seed))
        self.hidden = nn.Linear(2 * p, width, bias=False)
        self.hidden.weight = mx.random.normal((width, 2 * p), key=first)
        self.readout = nn.Linear(width, p, bias=False)
        self.readout.weight = mx.random.normal((p, width), key=second)

    def preactivations(self, x: mx.array) -> mx.array:
        """W₁ x / √(2p): shape (N, H) for x of shape (N, 2p)."""
        return self.hidden(x) / math.sqrt(x.shape[-1])

    def __call__(self, x: mx.array) -> mx.array:
        """Logits of shape (N, p) for x of shape (N, 2p)."""
        h = self.preactivations(x)
        return self.readout(h * h) / h.shape[-1]
