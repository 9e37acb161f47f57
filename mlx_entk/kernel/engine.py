"""The eNTK of any model, tile by tile."""

import math
from pathlib import Path
from typing import Any, Literal, get_args, overload

import mlx.core as mx

from mlx_entk.distributed import Group, numbers_of_first, share
from mlx_entk.errors import InputError
from mlx_entk.files import digest
from mlx_entk.graph import UntraceableError
from mlx_entk.jacobian import Model, ParametricFunction, as_parametric
from mlx_entk.kernel.checks import check_inputs, check_model
from mlx_entk.kernel.explain import explanation
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.kernel.store import FileStore, MemoryStore, Store
from mlx_entk.kernel.structure import Structure, find_structure
from mlx_entk.kernel.tiling import Tiling
from mlx_entk.kernel.work import WHOLE, Work
from mlx_entk.linalg import FloatArray
from mlx_entk.memory import default_limit, format_bytes
from mlx_entk.progress import Progress, silent

Strategy = Literal["auto", "jacobian-contraction", "ntk-vector-products", "structured-derivatives"]


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
    explain: bool = False,
    memory_limit: int | None = None,
    out: Path | None = None,
    group: Group | None = None,
    progress: Progress = silent,
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
    explain: bool = False,
    memory_limit: int | None = None,
    out: Path | None = None,
    group: Group | None = None,
    progress: Progress = silent,
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
    explain: bool = False,
    memory_limit: int | None = None,
    out: Path | None = None,
    group: Group | None = None,
    progress: Progress = silent,
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
        ``"jacobian-contraction"`` forms J of both sides. ``"ntk-vector-products"`` forms J of
        x2 alone and applies that of x by forward mode. ``"structured-derivatives"`` finds out
        from the model's graph how each parameter is used, and contracts a weight matrix,
        convolution or embedding as (a·a′)(δ·δ′), so that its parameter axis never exists; it is
        an error where that cannot be found out. ``"auto"`` takes the last for each parameter
        that allows it, the first for the others. All agree to rounding.
    explain
        True prints a table first: each parameter, its strategy, FLOPs and bytes.
    memory_limit
        Bytes that the call may take beside the model and its inputs; by default half of what
        is available. It tiles over inputs and cotangents to stay within.
    out
        A folder for the kernel, as ``kernel.npy`` or one ``.npy`` a parameter, for kernels
        beyond the limit. The same call goes on after an interruption.
    group
        Ranks of ``mx.distributed`` that share the tiles; each makes the same call and gets the
        whole. The limit is that of one rank, and ``out`` a folder that all of them see.
    progress
        Told of every tile.

    Returns
    -------
    numpy.ndarray, or dict of them
        float32, on the host; mapped from the files with ``out``.

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
    by_products = strategy == "ntk-vector-products"
    work = Work(function, structure, cotangents, by_layer, by_products)
    if explain:
        print(explanation(work, x, x.shape[0] if x2 is None else x2.shape[0]))

    columns = x if x2 is None else x2
    symmetric = x2 is None and cotangents.symmetric
    shape: tuple[int, ...] = (x.shape[0], columns.shape[0])
    if cotangents.keeps_classes:
        shape = (*shape, C, C)
    names = work.kernels
    size = 4 * len(names) * math.prod(shape)
    limit = default_limit() if memory_limit is None else memory_limit
    if out is None and size > limit / 2:
        raise InputError(
            f"the kernel takes {format_bytes(size)}, more than half of the memory limit of "
            f"{format_bytes(limit)}: pass out=FOLDER to put it into files, or a reduction"
        )
    fitted = work.fit(x, budget=limit - (size if out is None else 0))
    tiling = Tiling(*numbers_of_first([fitted.inputs, fitted.cotangents], group))
    store: Store
    if out is None:
        store = MemoryStore(names, shape, group)
    else:
        identity = _identity(function, x, columns, reduction, tiling)
        store = FileStore(out, names, shape, identity, group)

    tiles = share(tiling.tiles(x.shape[0], columns.shape[0], cotangents, symmetric), group)
    for done, tile in enumerate(tiles):
        progress("kernel", done, len(tiles))
        if not store.has(tile):
            store.put(tile, work.blocks(x, columns, tile, tiling, same=x2 is None), symmetric)
    progress("kernel", len(tiles), len(tiles))
    kernels = store.finish()
    return kernels if by_layer else kernels[WHOLE]


def _choose(function: ParametricFunction, x: mx.array, strategy: Strategy) -> Structure | None:
    if strategy not in get_args(Strategy):
        raise InputError(f"strategy {strategy!r} is unknown: use {', '.join(get_args(Strategy))}")
    if strategy in ("jacobian-contraction", "ntk-vector-products"):
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


def _identity(
    function: ParametricFunction, x: mx.array, x2: mx.array, reduction: Reduction, tiling: Tiling
) -> dict[str, Any]:
    """What tells one kernel, cut one way, from others."""
    return {
        "parameters": digest(function.params),
        "inputs": [digest({"x": x}), digest({"x": x2})],
        "reduction": reduction,
        "tiling": [tiling.inputs, tiling.cotangents],
    }
