"""The eNTK as matrix-vector products, for kernels too large to form.

K v = J (Jᵀ v): one reverse-mode product in batches of inputs, summed into a parameter vector,
and one forward-mode product along it. Memory is that of the parameters and of one batch, time
about five forward passes a product. This is the NTK-vector product of Novak, Sohl-Dickstein and
Schoenholz (2022).
"""

from itertools import starmap
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from mlx_entk._memory import format_bytes, limit_of
from mlx_entk.distributed import Group, numbers_of_first, share, sum_over
from mlx_entk.errors import InputError
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.forward import Push, find_push
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.tracing.functions import Model, Output, Selection, bind
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import Probe, gradient
from mlx_entk.tracing.rules import examine

# Inputs a batch: enough to keep a device busy, few enough for the activations of a small model.
BATCH = 256


class EntkOperator(LinearOperator):  # type: ignore[misc]
    """The eNTK of a model on N inputs as a SciPy operator; see ``entk_operator``.

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
        passes: "_Passes",
        x: Inputs,
        C: int,
        reduction: Reduction,
        batch: int,
        group: Group | None,
    ):
        function = passes.function
        self.batch, self._group = batch, group
        self._x, self._params, self._C = x, function.params, C
        self._full = reduction == "full"
        cotangents = cotangents_of(reduction, C)
        if not cotangents.symmetric:
            raise InputError(f"reduction {reduction}: an operator needs a symmetric kernel")
        self._cotangents, N = cotangents.left, count(x)
        self._slices = share([slice(i, i + batch) for i in range(0, N, batch)], group)
        self._pull, self._push = passes.pull, passes.push
        self.products = 0
        size = N * (C if self._full else 1)
        super().__init__(np.dtype(np.float64), (size, size))

    def _matvec(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        self.products += 1
        v = mx.array(vector.reshape(-1).astype(np.float32))
        if self._full:
            return _host(self._product(v.reshape(self._C, -1).T).T)
        total = np.zeros(self.shape[0])
        for number in range(len(self._cotangents)):
            (cotangent,) = self._cotangents[number : number + 1]
            total += _host(self._product(v[:, None] * cotangent) @ cotangent)
        return total

    def _product(self, outputs: mx.array) -> mx.array:
        """J Jᵀ applied to a value for each output of each input, shape (N, C)."""
        tangent = [mx.zeros_like(value) for value in self._params.values()]
        for rows in self._slices:
            pulled = self._pull(outputs[rows], *part(self._x, rows))
            tangent = list(starmap(mx.add, zip(tangent, pulled, strict=True)))
            mx.eval(tangent)  # bounds the graph to one batch
        tangent = sum_over(tangent, self._group)
        products = mx.zeros((count(self._x), self._C))
        for rows in self._slices:
            products[rows] = self._push(part(self._x, rows), tangent)
            mx.eval(products)
        return sum_over([products], self._group)[0]

    def _adjoint(self) -> "EntkOperator":
        return self


class _Passes:
    """A backward and a forward pass, compiled once for all operators that use them."""

    def __init__(self, push: Push):
        self.function = function = push.function
        names = list(function.params)

        def pull(cotangent: mx.array, *inputs: mx.array) -> list[mx.array]:
            return gradient(function, names, inputs, cotangent)

        def forward(inputs: Inputs, tangent: list[mx.array]) -> mx.array:
            return push(inputs, names, tangent)

        self.pull, self.push = mx.compile(pull), mx.compile(forward)


def entk_operator(
    model: Model,
    x: Any,
    *,
    reduction: Reduction = "full",
    parameters: Selection | None = None,
    params: Any = None,
    output: Output | None = None,
    batch: int | None = None,
    memory_limit: int | str | None = None,
    group: Group | None = None,
) -> EntkOperator:
    """The eNTK of a model on inputs x, as products with vectors, never formed.

    Parameters
    ----------
    model, x, reduction, params, output
        As for ``mlx_entk.entk``. A product with the full or the sum-of-logits kernel takes
        one reverse and one forward pass, with the trace C of each.
    parameters
        Which parameters count, as for ``mlx_entk.entk``. One name gives a layerwise kernel.
    batch
        Inputs a pass; None for as many as ``memory_limit`` allows, at most ``BATCH``.
    memory_limit
        Bytes that a pass may take, as a number or as ``"4GB"``, found by trying it on one input,
        two, four, …
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
        For inputs or parameters that do not fit, for a class (c, d) with c ≠ d, and for a model
        for which no way of MLX to push a tangent forward agrees with its reverse mode.

    Notes
    -----
    Before it is handed out, forward products are held against gradients one by one on two inputs,
    and products with the kernel of the first batch are checked to be symmetric.
    """
    function, inputs = bind(model, x, params, output, parameters)
    C = check_model(function, inputs, model)
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}: it needs at least one input")
    cotangents_of(reduction, C)
    examined = examine(function, inputs, C)
    probe = Probe.of(examined.function, inputs, C)
    passes = _Passes(find_push(examined, probe))
    limit = limit_of(memory_limit)
    if batch is None and limit is not None:
        batch = _batch_within(limit, passes, inputs, C, reduction)
    (batch,) = numbers_of_first([batch or BATCH], group)
    # A pass is compiled for a size of batch, with the model as it is now: the last may be smaller.
    N = count(inputs)
    for start in {0, (N - 1) // batch * batch}:
        rows = part(inputs, slice(start, start + batch))
        tried = EntkOperator(passes, rows, C, reduction, batch, None)
        _require_symmetry(tried, probe.tolerance)
    return EntkOperator(passes, inputs, C, reduction, batch, group)


def _require_symmetry(operator: EntkOperator, tolerance: float) -> None:
    """Raise InputError if uᵀKv and vᵀKu differ on two random vectors."""
    u, v = np.random.default_rng(0).standard_normal((2, operator.shape[0]))
    Ku, Kv = operator @ u, operator @ v
    size = np.linalg.norm(Ku) * np.linalg.norm(v) + np.linalg.norm(Kv) * np.linalg.norm(u)
    if not abs(u @ Kv - v @ Ku) <= tolerance * size:
        raise InputError(
            "products with the kernel of this model are not symmetric: form it by entk instead"
        )


def _batch_within(limit: int, passes: _Passes, x: Inputs, C: int, reduction: Reduction) -> int:
    """Inputs a pass that keep a product within a limit, by the peaks of passes of a few."""

    def peak(inputs: int) -> int:
        size = inputs * C if reduction == "full" else inputs
        trial = EntkOperator(passes, part(x, slice(inputs)), C, reduction, inputs, None)
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
    tried, most = 1, min(BATCH, count(x))
    each = float(taken)
    while tried < most and taken + each * tried <= limit:  # as far as the last passes tell
        twice = min(2 * tried, most)
        more = peak(twice)
        tried, taken, each = twice, more, max(1.0, (more - taken) / (twice - tried))
    return max(1, min(most, int(tried + (limit - taken) / each)))


def _host(values: mx.array) -> NDArray[np.float64]:
    return np.array(values.astype(mx.float32), dtype=np.float64).reshape(-1)
