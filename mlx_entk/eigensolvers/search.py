"""The task that ``mlx_entk.eigensolvers.top_modes`` gives to a solver."""

from dataclasses import dataclass

import numpy as np

from mlx_entk.eigensolvers.operators import Product


@dataclass(frozen=True)
class Search:
    """A search for the largest eigenpairs of an operator.

    Attributes
    ----------
    multiply
        Multiplies by the operator, as ``mlx_entk.eigensolvers.operators.products_of`` gives.
    size
        N, for an operator of shape (N, N).
    k
        How many eigenpairs to find.
    tolerance, iterations
        As for ``mlx_entk.eigensolvers.top_modes``.
    generator
        Draws the random vectors.
    """

    multiply: Product
    size: int
    k: int
    tolerance: float
    iterations: int
    generator: np.random.Generator
