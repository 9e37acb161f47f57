"""The eNTK as matrix-vector products, for kernels too large to form.

K v = J (Jᵀ v): one reverse-mode product in batches of inputs, summed into a parameter vector,
and one forward-mode product along it. This is the NTK-vector product of Novak, Sohl-Dickstein and
Schoenholz (2022). Activations and whatever else does not depend on v are kept from product to
product, as far as memory goes, and only those entries are computed that the outputs read.
"""

from collections.abc import Iterator
from itertools import starmap
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from mlx_entk._memory import default_limit, format_bytes, limit_of, peak_bytes
from mlx_entk._parameters import Params
from mlx_entk.distributed import Group, numbers_of_first, share, sum_over
from mlx_entk.errors import InputError
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.passes import Batch, Passes, PlainPasses, find_passes
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.tracing.functions import Model, Output, Selection, bind
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import Probe
from mlx_entk.tracing.rules import examine

# Inputs a batch: enough to keep a device busy, few enough for the activations of a small model.
BATCH = 256
# The share of a memory limit for the inputs of one pass; what products share takes the rest.
_PASS = 0.25


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
    tangent
        Jᵀ v of the last product K v, of a reduction by several cotangents for the last of them:
        one array for each parameter.
    params
        The parameters that count, by name.
    outputs
        C.
    full
        Whether it is of the full kernel, whose vectors are over outputs and inputs.
    cotangents
        The combinations of the outputs that the reduction takes.
    """

    def __init__(
        self,
        passes: Passes,
        x: Inputs,
        C: int,
        reduction: Reduction,
        batch: int,
        budget: int,
        group: Group | None,
    ):
        self.batch, self._group = batch, group
        self._passes, self._x = passes, x
        self.full = reduction == "full"
        cotangents = cotangents_of(reduction, C)
        if not cotangents.symmetric:
            raise InputError(f"reduction {reduction}: an operator needs a symmetric kernel")
        self.params, self.outputs = passes.function.params, C
        self.cotangents, N = cotangents.left, count(x)
        self._slices = share([slice(i, i + batch) for i in range(0, N, batch)], group)
        self._batches: list[Batch] = []
        self._budget = budget
        self.products = 0
        self.tangent: list[mx.array] = []
        size = N * (C if self.full else 1)
        super().__init__(np.dtype(np.float64), (size, size))

    def _matvec(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        self.products += 1
        v = mx.array(vector.reshape(-1).astype(np.float32))
        if self.full:
            return _host(self._product(v.reshape(self.outputs, -1).T).T)
        total = np.zeros(self.shape[0])
        for number in range(len(self.cotangents)):
            (cotangent,) = self.cotangents[number : number + 1]
            total += _host(self._product(v[:, None] * cotangent) @ cotangent)
        return total

    @property
    def inputs(self) -> int:
        """N."""
        return count(self._x)

    def pull(self, cotangent: mx.array) -> Params:
        """Jᵀ applied to a value for each output of each input, shape (N, C), by parameter."""
        tangent = [mx.zeros_like(value) for value in self.params.values()]
        for rows, batch in self._parts():
            pulled = self._passes.pull(cotangent[rows], batch)
            tangent = list(starmap(mx.add, zip(tangent, pulled, strict=True)))
            mx.eval(tangent)  # bounds the graph to one batch
        return dict(zip(self.params, sum_over(tangent, self._group), strict=True))

    def push(self, tangent: Params) -> mx.array:
        """J applied to a change of every parameter: the change of the outputs, shape (N, C)."""
        ordered = [tangent[name] for name in self.params]
        products = mx.zeros((self.inputs, self.outputs))
        for rows, batch in self._parts():
            products[rows] = self._passes.push(ordered, batch)
            mx.eval(products)
        return sum_over([products], self._group)[0]

    def _product(self, outputs: mx.array) -> mx.array:
        """J Jᵀ applied to a value for each output of each input, shape (N, C)."""
        tangent = self.pull(outputs)
        self.tangent = list(tangent.values())
        return self.push(tangent)

    def _parts(self) -> Iterator[tuple[slice, Batch]]:
        """Every batch, with what products share, which is computed when it is first needed."""
        if not self._batches:
            left = self._budget
            for rows in self._slices:
                batch = self._passes.prepare(part(self._x, rows), left)
                self._batches.append(batch)
                left -= batch.size
        return zip(self._slices, self._batches, strict=True)

    def _adjoint(self) -> "EntkOperator":
        return self


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
        Bytes that products may take, as a number or as ``"4GB"``: a part for a pass, found by
        trying it on one input, four, sixteen, …, and the rest for what products share. None for
        batches of ``BATCH``, and half of the available memory for what products share.
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
    passes = find_passes(examined, C, probe)
    limit = limit_of(memory_limit)
    taken = 0
    if batch is None and limit is not None:
        batch, taken = _batch_within(limit, passes, inputs, C, reduction)
    budget = default_limit() if limit is None else max(0, limit - taken)
    (batch,) = numbers_of_first([batch or BATCH], group)
    # A pass is compiled for a size of batch, with the model as it is now: the last may be smaller.
    N = count(inputs)
    for start in {0, (N - 1) // batch * batch}:
        rows = part(inputs, slice(start, start + batch))
        if not passes.are_right(rows):
            passes = PlainPasses(find_push(examined, probe))
        tried = EntkOperator(passes, rows, C, reduction, batch, budget, None)
        _require_symmetry(tried, probe.tolerance)
    return EntkOperator(passes, inputs, C, reduction, batch, budget, group)


def _require_symmetry(operator: EntkOperator, tolerance: float) -> None:
    """Raise InputError if uᵀKv and vᵀKu differ on two random vectors."""
    u, v = np.random.default_rng(0).standard_normal((2, operator.shape[0]))
    Ku, Kv = operator @ u, operator @ v
    size = np.linalg.norm(Ku) * np.linalg.norm(v) + np.linalg.norm(Kv) * np.linalg.norm(u)
    if not abs(u @ Kv - v @ Ku) <= tolerance * size:
        raise InputError(
            "products with the kernel of this model are not symmetric: form it by entk instead"
        )


def _batch_within(
    limit: int, passes: Passes, x: Inputs, C: int, reduction: Reduction
) -> tuple[int, int]:
    """Inputs a pass that keep a product within a limit, and the bytes that they take.

    Found by the peaks of passes of a few. If one input fits, a part of the limit is left for what
    products share.
    """

    def peak(inputs: int) -> int:
        size = inputs * C if reduction == "full" else inputs
        trial = EntkOperator(passes, part(x, slice(inputs)), C, reduction, inputs, limit, None)
        return peak_bytes(lambda: trial @ np.ones(size))

    taken = peak(1)
    if taken > limit:
        raise InputError(
            f"a pass of one input takes {format_bytes(taken)}, the limit is {format_bytes(limit)}: "
            "raise the memory limit"
        )
    allowed = taken + int(_PASS * (limit - taken))
    tried, most = 1, min(BATCH, count(x))
    each = float(taken)
    # As far as the last passes tell; the first does not tell what only one more input takes.
    while tried < most and taken + 3 * each * tried <= (limit if tried == 1 else allowed):
        larger = min(4 * tried, most)
        more = peak(larger)
        tried, taken, each = larger, more, max(1.0, (more - taken) / (larger - tried))
    batch = max(1, min(most, int(tried + (allowed - taken) / each)))
    return batch, int(taken + each * (batch - tried))


def _host(values: mx.array) -> NDArray[np.float64]:
    return np.array(values.astype(mx.float32), dtype=np.float64).reshape(-1)
