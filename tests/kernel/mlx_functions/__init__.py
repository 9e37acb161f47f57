"""The public functions of MLX as small models f(w, x), and those that have no derivative.

A case puts the weight where one argument of a function is: as the argument itself where the
function shares it between rows, as w ⊙ x where it has a batch axis, and once more by itself where
it is the only argument. Behind the function come a sine, so that derivatives differ between
inputs, and a matrix, so that a cotangent reaches all of the function's outputs.
"""

from tests.kernel.mlx_functions import (
    elementwise,
    numerics,
    products,
    reductions,
    shapes,
    transforms,
)
from tests.kernel.mlx_functions.names import WITHOUT_DERIVATIVE, public_functions
from tests.kernel.mlx_functions.registry import CASES, FunctionCase

__all__ = ["CASES", "WITHOUT_DERIVATIVE", "FunctionCase", "public_functions"]

for family in (elementwise, products, reductions, shapes, numerics, transforms):
    family.add()
