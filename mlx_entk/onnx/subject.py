"""What a verification is of: a model in MLX, inputs, and the graphs that were exported."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction, entk
from mlx_entk.onnx.derivatives import OUTPUT_TANGENT, What, derivative
from mlx_entk.tracing.functions import ParametricFunction


@dataclass(frozen=True)
class Subject:
    """What to verify.

    Attributes
    ----------
    model
        The model in MLX, with the weights that the graphs should have.
    x
        Inputs that the model was not trained on, shape (N, …).
    reduction
        Reduction of the kernel.
    graphs
        Paths of the graphs ``model``, ``jvp`` and ``entk``. Checks that need a missing one are
        not run.
    missing
        Why a graph could not be written.
    """

    model: ParametricFunction
    x: mx.array
    reduction: Reduction
    graphs: dict[What, Path]
    missing: dict[What, str] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> NDArray[Any]:
        """MLX's outputs, shape (N, C)."""
        return linalg.as_numpy(self.model.apply(self.model.params, self.x))

    @cached_property
    def kernel(self) -> NDArray[Any]:
        """MLX's kernel, in the shape of the reduction."""
        kernel: NDArray[Any] = entk(self.model, self.x, reduction=self.reduction)
        return kernel

    def push(self, direction: Arrays) -> NDArray[Any]:
        """Return MLX's own J u, shape (N, C), for a direction by parameter.

        Raises
        ------
        NotImplementedError
            If MLX cannot compute it.
        """
        model = self.model
        along = [mx.array(direction[name]).astype(w.dtype) for name, w in model.params.items()]
        try:
            exported = derivative(model, self.x, "jvp")
        except InputError as error:
            raise NotImplementedError(str(error)) from error
        return linalg.as_numpy(exported.function(model.params, self.x, *along)[OUTPUT_TANGENT])

    @property
    def is_half(self) -> bool:
        """Whether the model has parameters or inputs in half precision."""
        half = (mx.float16, mx.bfloat16)
        return any(value.dtype in half for value in (self.x, *self.model.params.values()))

    @property
    def has_spectrum(self) -> bool:
        """Whether the kernel is symmetric; that of a pair of different classes is not."""
        return isinstance(self.reduction, str) or self.reduction[0] == self.reduction[1]
