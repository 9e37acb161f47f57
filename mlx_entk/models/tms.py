"""The toy model of superposition: an autoencoder with fewer hidden units than features."""

import math

import mlx.core as mx
import mlx.nn as nn


class ToyModel(nn.Module):
    """f(x) = ReLU(WᵀW x + b), with W from Xavier's normal distribution and b = 0 at first.

    The ReLU output model of Elhage et al., "Toy Models of Superposition" (2022). W is used twice.

    Parameters
    ----------
    n
        The number of features, which are both inputs and outputs.
    m
        The number of hidden units.
    seed
        Seed of W.
    """

    def __init__(self, n: int, m: int, seed: int = 0):
        super().__init__()
        scale = math.sqrt(2 / (n + m))
        self.W = scale * mx.random.normal((m, n), key=mx.random.key(seed))
        self.b = mx.zeros((n,))

    def hidden(self, x: mx.array) -> mx.array:
        """W x: shape (N, m) for x of shape (N, n)."""
        return x @ self.W.T

    def __call__(self, x: mx.array) -> mx.array:
        """Reconstructions of shape (N, n)."""
        return mx.maximum(self.hidden(x) @ self.W + self.b, 0)
