"""The task that ``mlx_entk.eigensolvers.top_modes`` gives to a solver, and what it gives back."""

from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import Float64Array
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
    tolerance, iterations, products
        As for ``mlx_entk.eigensolvers.top_modes``.
    generator
        Draws the random vectors.
    block
        How many products a solver best asks for at a time.
    """

    multiply: Product
    size: int
    k: int
    tolerance: float
    iterations: int
    products: int | None
    generator: np.random.Generator
    block: int


@dataclass(frozen=True)
class Solution:
    """The largest eigenpairs that a solver found.

    Attributes
    ----------
    values, vectors
        Shapes (k,) and (N, k), the largest first.
    remainders
        ‖Kv − λv‖ of each, shape (k,).
    """

    values: Float64Array
    vectors: Float64Array
    remainders: Float64Array
