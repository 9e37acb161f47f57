"""The eNTK as matrix-vector products, for kernels too large to form.

K v = J (Jᵀ v): one reverse-mode product in batches of inputs, summed into a parameter vector,
and one forward-mode product along it. Memory is that of the parameters and of one batch, time
about five forward passes a product. This is the NTK-vector product of Novak, Sohl-Dickstein and
Schoenholz (2022).
"""

from collections.abc import Collection
from itertools import starmap
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from mlx_entk.distributed import Group, numbers_of_first, share, sum_over
from mlx_entk.errors import InputError
from mlx_entk.jacobian import Model, ParametricFunction, as_parametric, jvp_or_transpose
from mlx_entk.kernel.checks import check_inputs, check_model
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.memory import format_bytes
from mlx_entk.parameters import Params

# Inputs a batch: enough to keep a device busy, few enough for the activations of a small model.
BATCH = 256


class EntkOperator(LinearOperator):  # type: ignore[misc]
    """The eNTK of a model on N inputs as a SciPy operator; see :func:`entk_operator`.

    Attributes
    ----------
    shape
        (C·N, C·N) for the full kernel, flattened channel-major; (N, N) for a reduction.
    products
        How many matrix-vector products were made.
    batch
        Inputs a pass.
    """

    def __init__(
        self,
        function: ParametricFunction,
        x: mx.array,
        C: int,
        reduction: Reduction,
        params: Params,
        batch: int,
        group: Group | None,
    ):
        self.batch, self._group = batch, group
        self._x, self._params, self._C = x, params, C
        self._full = reduction == "full"
        cotangents = cotangents_of(reduction, C)
        if not cotangents.symmetric:
            raise InputError(f"reduction {reduction}: an operator needs a symmetric kernel")
        self._cotangents = cotangents.left
        self._slices = share([slice(i, i + batch) for i in range(0, x.shape[0], batch)], group)
        names = list(params)

        def outputs(inputs: mx.array, values: list[mx.array]) -> mx.array:
            return function.apply(dict(zip(names, values, strict=True)), inputs)

        def pull(inputs: mx.array, cotangent: mx.array) -> list[mx.array]:
            values = list(params.values())
            return mx.vjp(lambda *p: outputs(inputs, list(p)), values, [cotangent])[1]

        def push(inputs: mx.array, *tangent: mx.array) -> mx.array:
            values = list(params.values())
            return jvp_or_transpose(lambda *p: outputs(inputs, list(p)), values, list(tangent))

        self._pull, self._push = mx.compile(pull), mx.compile(push)
        self.products = 0
        size = x.shape[0] * (C if self._full else 1)
        super().__init__(np.dtype(np.float64), (size, size))

    def _matvec(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        self.products += 1
        v = mx.array(vector.reshape(-1).astype(np.float32))
        if self._full:
            return _host(self._product(v.reshape(self._C, -1).T).T)
        total = np.zeros(self.shape[0])
        for cotangent in self._cotangents:
            total += _host(self._product(v[:, None] * cotangent) @ cotangent)
        return total

    def _product(self, outputs: mx.array) -> mx.array:
        """J Jᵀ applied to a value for each output of each input, shape (N, C)."""
        tangent = [mx.zeros_like(value) for value in self._params.values()]
        for part in self._slices:
            pulled = self._pull(self._x[part], outputs[part])
            tangent = list(starmap(mx.add, zip(tangent, pulled, strict=True)))
            mx.eval(tangent)  # bounds the graph to one batch
        tangent = sum_over(tangent, self._group)
        found = mx.zeros((self._x.shape[0], self._C))
        for part in self._slices:
            found[part] = self._push(self._x[part], *tangent)
            mx.eval(found)
        return sum_over([found], self._group)[0]

    def _adjoint(self) -> "EntkOperator":
        return self


def entk_operator(
    model: Model,
    x: mx.array,
    *,
    reduction: Reduction = "full",
    parameters: Collection[str] | None = None,
    params: Any = None,
    batch: int | None = None,
    memory_limit: int | None = None,
    group: Group | None = None,
) -> EntkOperator:
    """The eNTK of a model on inputs x, as products with vectors, never formed.

    Parameters
    ----------
    model, x, reduction, params
        As for :func:`mlx_entk.entk`. A product with the full or the sum-of-logits kernel takes
        one reverse and one forward pass, with the trace C of each.
    parameters
        Names of the parameters that count; None for all. One name gives a layerwise kernel.
    batch
        Inputs a pass; None for as many as ``memory_limit`` allows, at most :data:`BATCH`.
    memory_limit
        Bytes that a pass may take, found by trying it on one input, two, four, …
    group
        Ranks of ``mx.distributed`` that share the batches; every rank makes the same calls and
        gets the same products. A product sends the parameters' and the outputs' size once.

    Returns
    -------
    EntkOperator
        A ``scipy.sparse.linalg.LinearOperator``, symmetric positive semidefinite. Vectors are
        float64, the products have float32 accuracy.

    Raises
    ------
    InputError
        For inputs or parameters that do not fit, and for a class (c, d) with c ≠ d.
    """
    function = as_parametric(model, params)
    check_inputs(x, None)
    C = check_model(function, x)
    chosen = function.params
    if parameters is not None:
        unknown = sorted(set(parameters) - chosen.keys())
        if unknown or not parameters:
            raise InputError(
                f"parameters has {', '.join(unknown) or 'no names'}: the model has "
                f"{', '.join(chosen)}"
            )
        chosen = {name: value for name, value in chosen.items() if name in set(parameters)}
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}: it needs at least one input")
    if batch is None and memory_limit is not None:
        batch = _batch_within(memory_limit, function, x, C, reduction, chosen)
    (batch,) = numbers_of_first([batch or BATCH], group)
    return EntkOperator(function, x, C, reduction, chosen, batch, group)


def _batch_within(
    limit: int,
    function: ParametricFunction,
    x: mx.array,
    C: int,
    reduction: Reduction,
    params: Params,
) -> int:
    """Inputs a pass that keep a product within a limit, by the peaks of passes of a few."""

    def peak(count: int) -> int:
        size = count * C if reduction == "full" else count
        trial = EntkOperator(function, x[:count], C, reduction, params, count, None)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        trial @ np.ones(size)
        return int(mx.get_peak_memory()) - before

    taken = peak(1)
    if taken > limit:
        raise InputError(
            f"a pass of one input takes {format_bytes(taken)}, the limit is {format_bytes(limit)}: "
            "raise the memory limit"
        )
    count, most = 1, min(BATCH, x.shape[0])
    each = float(taken)
    while count < most and taken + each * count <= limit:  # as far as the last passes tell
        twice = min(2 * count, most)
        found = peak(twice)
        count, taken, each = twice, found, max(1.0, (found - taken) / (twice - count))
    return max(1, min(most, int(count + (limit - taken) / each)))


def _host(values: mx.array) -> NDArray[np.float64]:
    return np.array(values.astype(mx.float32), dtype=np.float64).reshape(-1)
