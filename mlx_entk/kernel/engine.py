"""The eNTK of any model, tile by tile."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, overload

import mlx.core as mx
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.graph import UntraceableError
from mlx_entk.jacobian import (
    Model,
    ParametricFunction,
    as_parametric,
    jacobian_rows,
)
from mlx_entk.kernel.checks import check_inputs, check_model
from mlx_entk.kernel.factors import Factor, Rows
from mlx_entk.kernel.reduction import Cotangents, Reduction, cotangents_of
from mlx_entk.kernel.structure import Structure, find_structure
from mlx_entk.linalg import FloatArray, as_numpy

Strategy = Literal["auto", "jacobian-contraction", "structured-derivatives"]

# Working memory of a tile, in bytes, beside the kernel itself.
TILE_BYTES = 2**29


@overload
def entk(
    model: Model,
    x: mx.array,
    x2: mx.array | None = None,
    *,
    reduction: Reduction = "full",
    by_layer: Literal[False] = False,
    params: Any = None,
    strategy: Strategy = "auto",
) -> FloatArray: ...


@overload
def entk(
    model: Model,
    x: mx.array,
    x2: mx.array | None = None,
    *,
    reduction: Reduction = "full",
    by_layer: Literal[True],
    params: Any = None,
    strategy: Strategy = "auto",
) -> dict[str, FloatArray]: ...


def entk(
    model: Model,
    x: mx.array,
    x2: mx.array | None = None,
    *,
    reduction: Reduction = "full",
    by_layer: bool = False,
    params: Any = None,
    strategy: Strategy = "auto",
) -> FloatArray | dict[str, FloatArray]:
    """Empirical neural tangent kernel K[n, m, c, d] = Σ_p J[n, c, p] J[m, d, p].

    Parameters
    ----------
    model
        An ``mlx.nn.Module`` called as ``model(x)``, of which the trainable parameters count,
        or a function called as ``model(params, x)``. Outputs of shape (N, …) are read as
        (N, C). The output of an input must not depend on the rest of the batch.
    x, x2
        N and M inputs, batch axis first; ``x2`` None is x itself, and symmetry then saves half.
    reduction
        - ``"full"``: shape (N, M, C, C).
        - ``"trace"``: the mean over c of K[n, m, c, c], shape (N, M). The pseudo-NTK of the
          literature is C times this, or this, by author.
        - ``"sum-of-logits"``: the mean over c and d of K[n, m, c, d], shape (N, M): the kernel
          of the mean output.
        - ``(c, d)``: K[n, m, c, d] of one pair of classes, shape (N, M).
    by_layer
        True returns the layerwise kernels, by dotted parameter name; they add up to the whole.
    params
        The parameter tree of a function; None for a module.
    strategy
        ``"jacobian-contraction"`` forms J. ``"structured-derivatives"`` finds out from the
        model's graph how each parameter is used, and contracts a weight matrix, convolution or
        embedding as (a·a′)(δ·δ′), so that its parameter axis never exists; it is an error where
        that cannot be found out. ``"auto"`` takes the second for each parameter that allows it,
        the first for the others. All agree to rounding.

    Returns
    -------
    numpy.ndarray, or dict of them
        float32, on the host.

    Raises
    ------
    InputError
        For inputs or parameters that do not fit together; the message names the argument.

    Notes
    -----
    Time for a dense weight of shape (O, I), in FLOPs: C backward passes, and 2·N·M·(I + C·O)
    for the trace or 2·N·M·(I + C²·O) for the full kernel; Jacobian contraction takes
    2·N·M·C·O·I and 2·N·M·C²·O·I. See Novak, Sohl-Dickstein and Schoenholz (2022), table 1.
    """
    function = as_parametric(model, params)
    check_inputs(x, x2)
    C = check_model(function, x)
    cotangents = cotangents_of(reduction, C)
    structure = _choose(function, x, strategy)
    symmetric = x2 is None and cotangents.symmetric
    columns = x if x2 is None else x2

    shape: tuple[int, ...] = (x.shape[0], columns.shape[0])
    if cotangents.keeps_classes:
        shape = (*shape, C, C)
    names = list(function.params) if by_layer else ["sum"]
    kernels = {name: np.zeros(shape, np.float32) for name in names}

    def factors(inputs: mx.array, side: mx.array) -> dict[str, Factor]:
        return _factors(function, structure, inputs, side, cotangents.paired)

    tile = _tile_size(function, structure, x, cotangents)
    for rows, cols, left, right in _tiles(x, columns, cotangents, tile, symmetric, factors):
        for name, factor in left.items():
            block = as_numpy(factor.contract(right[name], cotangents.paired))
            if cotangents.paired:
                block = block / np.float32(cotangents.left.shape[0])
            kernel = kernels[name if by_layer else "sum"]
            kernel[rows, cols] += block
            if symmetric and rows != cols:
                # K[m, n, d, c] = K[n, m, c, d]
                mirrored = block.swapaxes(0, 1)
                kernel[cols, rows] += (
                    mirrored.swapaxes(2, 3) if cotangents.keeps_classes else mirrored
                )
    return kernels if by_layer else kernels["sum"]


def _choose(function: ParametricFunction, x: mx.array, strategy: Strategy) -> Structure | None:
    if strategy not in ("auto", "jacobian-contraction", "structured-derivatives"):
        raise InputError(
            f"strategy {strategy!r} is unknown: use auto, jacobian-contraction or "
            "structured-derivatives"
        )
    if strategy == "jacobian-contraction":
        return None
    instead = "use strategy auto, which takes Jacobian contraction instead"
    try:
        structure = find_structure(function, x)
    except UntraceableError as error:
        if strategy == "structured-derivatives":
            raise InputError(f"the model has no known structure ({error}): {instead}") from error
        return None
    missing = sorted(set(function.params) - structure.uses.keys())
    if strategy == "structured-derivatives" and missing:
        raise InputError(f"no structure is known for {', '.join(missing)}: {instead}")
    return structure


def _factors(
    function: ParametricFunction,
    structure: Structure | None,
    x: mx.array,
    cotangents: mx.array,
    paired: bool,
) -> dict[str, Factor]:
    found: dict[str, Factor] = {}
    if structure is not None:
        found |= structure.factors(x, cotangents, paired)
    rest = [name for name in function.params if name not in found]
    if rest:
        for name, rows in jacobian_rows(function, x, cotangents, rest).items():
            found[name] = Rows(rows.reshape(*rows.shape[:2], -1).astype(mx.float32))
    return {name: found[name] for name in function.params}


def _tile_size(
    function: ParametricFunction, structure: Structure | None, x: mx.array, cotangents: Cotangents
) -> int:
    """Inputs a side of a tile, such that factors and block stay within ``TILE_BYTES``."""
    one = _factors(function, structure, x[:1], cotangents.left, cotangents.paired).values()
    floats = sum(factor.size for factor in one)
    block = max(factor.block(cotangents.paired) for factor in one)
    # Half for the factors of two sides and a copy of each, half for three blocks.
    by_factors = TILE_BYTES / 2 / (4 * 4 * floats)
    by_block = math.sqrt(TILE_BYTES / 2 / (3 * 4 * block))
    return max(1, min(x.shape[0], int(by_factors), int(by_block)))


def _tiles(
    x: mx.array,
    x2: mx.array,
    cotangents: Cotangents,
    tile: int,
    symmetric: bool,
    factors: Callable[[mx.array, mx.array], dict[str, Factor]],
) -> Iterator[tuple[slice, slice, dict[str, Factor], dict[str, Factor]]]:
    """Walk over the tiles of the kernel; of a symmetric one over the upper half."""
    for i in range(0, x.shape[0], tile):
        rows = slice(i, min(i + tile, x.shape[0]))
        left = factors(x[rows], cotangents.left)
        for j in range(i if symmetric else 0, x2.shape[0], tile):
            cols = slice(j, min(j + tile, x2.shape[0]))
            same = symmetric and i == j
            yield rows, cols, left, left if same else factors(x2[cols], cotangents.right)
