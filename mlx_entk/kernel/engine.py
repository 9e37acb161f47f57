"""The eNTK of any model, tile by tile."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mlx_entk._files import digest
from mlx_entk._linalg import FloatArray
from mlx_entk._memory import format_bytes, limit_in_bytes
from mlx_entk.distributed import Group, share
from mlx_entk.errors import InputError
from mlx_entk.kernel.checks import check_second, check_some
from mlx_entk.kernel.explanation import Explanation, explanation_of
from mlx_entk.kernel.finite import require_finite_blocks, require_finite_rows_and_columns
from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.guard import Ways, find_ways
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.kernel.store import FileStore, MemoryStore, Store
from mlx_entk.kernel.work import WHOLE, Work, half_names, halves_of
from mlx_entk.progress import Progress, silent
from mlx_entk.tracing.functions import Model, Output, ParametricFunction, Selection, bind
from mlx_entk.tracing.inputs import Inputs, different, joined, part
from mlx_entk.tracing.jacobian import Probe

Strategy = Literal["auto", "jacobian-contraction", "ntk-vector-products", "structured-derivatives"]


def entk(
    model: Model,
    x: Any,
    x2: Any = None,
    *,
    reduction: Reduction = "full",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    strategy: Strategy = "auto",
    memory_limit: int | str | None = None,
    out: Path | str | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> FloatArray:
    """The empirical neural tangent kernel K[n, m, c, d] = Σ_p J[n, c, p] J[m, d, p].

    Parameters
    ----------
    model
        An ``mlx.nn.Module`` called as ``model(x)``, of which the trainable parameters count,
        or a function called as ``model(params, x)``. Outputs of shape (N, …) are read as
        (N, C). The output of an input must not depend on the rest of the batch.
    x, x2
        N and M inputs, batch axis first, as arrays of MLX or NumPy; a tuple or dictionary of
        arrays for a model called as ``model(*x)`` or ``model(**x)``. ``x2`` has the names,
        shapes and types of x; None is x itself, and symmetry then saves half.
    reduction
        - ``"full"``: shape (N, M, C, C).
        - ``"trace"``: the mean over c of K[n, m, c, c], shape (N, M); up to the factor C, the
          trNTK of Engel et al. (arXiv 2305.14585).
        - ``"sum-of-logits"``: the mean over c and d of K[n, m, c, d], shape (N, M): the kernel
          of the mean output; up to the factor C, the pseudo-NTK of Mohamadi, Bae and Sutherland
          (arXiv 2206.12543).
        - ``(c, d)``: K[n, m, c, d] of one pair of classes, shape (N, M).
    params
        The parameter tree of a function; None for a module.
    output
        Which part of what the model returns counts: a place in a tuple, a key or field, or a
        function of it, such as ``lambda y: y[:, -1]`` for the last position of a sequence.
    parameters
        Which parameters count: a name or pattern such as ``layers.*.weight``, several of them,
        or a predicate on names; None for all.
    strategy
        ``"jacobian-contraction"`` forms J of both sides. ``"ntk-vector-products"`` forms J of
        x2 alone and applies that of x by forward mode. ``"structured-derivatives"`` finds out
        from the model's graph how each parameter is used, and contracts a weight matrix,
        convolution or embedding as (a·a′)(δ·δ′), so that its parameter axis never exists; it is
        an error if that cannot be found out. ``"auto"`` takes the last for each parameter
        that allows it, the first for the others. All agree to rounding.
    memory_limit
        Bytes that the call may take, apart from the model and its inputs, as a number or as
        ``"4GB"``; by default half of what is available. It tiles over inputs and cotangents to
        stay within.
    out
        A folder for the kernel, as ``kernel.npy``, for kernels beyond the limit. The same call
        goes on after an interruption, with another limit too.
    group
        Ranks of ``mx.distributed`` that share the tiles; each makes the same call and gets the
        whole. The limit is that of one rank, and ``out`` a folder that all of them see.
    progress
        Told of every tile.

    Returns
    -------
    numpy.ndarray
        float32, on the host; mapped from the file with ``out``.

    Raises
    ------
    InputError
        For inputs or parameters that do not fit together; the message names the argument. For
        a kernel that is not finite; the message names the inputs and the parameter.

    Warns
    -----
    SlowPathWarning
        If a parameter goes by a backward pass for each input and output, because MLX's
        ``vmap`` is wrong for it.

    Notes
    -----
    What is computed is held against plain gradients first; ``mlx_entk.kernel.guard`` says how,
    and what that does not see. ``mx.stop_gradient`` and custom derivatives count as MLX's own
    reverse mode takes them.

    Time for a dense weight of shape (O, I), in FLOPs: C backward passes, and 2·N·M·(I + C·O)
    for the trace or 2·N·M·(I + C²·O) for the full kernel; Jacobian contraction takes
    2·N·M·C·O·I and 2·N·M·C²·O·I. See Novak, Sohl-Dickstein and Schoenholz (2022), table 1.
    """
    work = prepare(model, x, x2, reduction, params, output, parameters, strategy)
    return _form(work, reduction, memory_limit, out, group, progress)[WHOLE]


def layerwise_entk(
    model: Model,
    x: Any,
    x2: Any = None,
    *,
    reduction: Reduction = "full",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    strategy: Strategy = "auto",
    memory_limit: int | str | None = None,
    out: Path | str | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> dict[str, FloatArray]:
    """The layerwise kernels: the part of the eNTK that comes from each parameter.

    Parameters
    ----------
    model, x, x2, reduction, params, output, parameters, strategy, memory_limit, group, progress
        As for ``entk``.
    out
        A folder, as for ``entk``; each kernel has a ``.npy`` file of its own.

    Returns
    -------
    dict of numpy.ndarray
        By dotted parameter name, each float32 and of the shape that ``entk`` returns; they add
        up to its kernel.

    Raises
    ------
    InputError
        As ``entk`` does.
    """
    work = prepare(model, x, x2, reduction, params, output, parameters, strategy, by_layer=True)
    return _form(work, reduction, memory_limit, out, group, progress)


@dataclass(frozen=True)
class LayerFactors:
    """The two Gram matrices that make up the kernel of a weight.

    Attributes
    ----------
    activations
        Of what the weight is multiplied with, shape (N, N).
    backward
        Of the derivative of the outputs by the product, summed as the reduction says, shape
        (N, N).
    is_product
        Whether the kernel is their product, entry by entry, as it is for a weight that every input
        meets once. A weight that meets several positions of an input (a convolution, a sequence)
        pairs them: its kernel is a sum of such products, and these are the Gram matrices of all
        positions together that the outputs read.
    """

    activations: FloatArray
    backward: FloatArray
    is_product: bool


def layer_factors(
    model: Model,
    x: Any,
    *,
    reduction: Reduction = "trace",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    memory_limit: int | str | None = None,
    progress: Progress = silent,
) -> dict[str, LayerFactors]:
    """Split layerwise kernels into activations and derivatives: K = (a·a′)(δ·δ′).

    The first factor is the conjugate kernel of the layer; which of the two holds a feature says
    whether it is in what the layer is given or in what the network makes of it.

    Parameters
    ----------
    model, x, reduction, params, output, parameters, memory_limit, progress
        As for ``entk``, but not the reduction ``"full"``.

    Returns
    -------
    dict of LayerFactors
        By parameter, of dense and convolutional weights that are used once. Biases, embeddings,
        scales and weights used several times do not have one such pair.

    Raises
    ------
    InputError
        As ``entk`` does, and for the reduction ``"full"``.
    """
    if reduction == "full":
        raise InputError("reduction is full: the factors of a kernel are over inputs alone")
    every = prepare(model, x, None, reduction, params, output, parameters, "auto", by_layer=True)
    structure = every.ways.structure
    if structure is None:
        return {}
    two = joined(*[part(every.x, slice(1))] * 2)
    tried = structure.factors(two, every.cotangents.left[:1], paired=True, outer=True)
    positions = {
        name: factor.uses[0].positions
        for name, factor in tried.items()
        if all(use.met for use in structure.uses[name]) and halves_of(factor) is not None
    }
    if not positions:
        return {}
    work = prepare(
        model, x, None, reduction, params, output, positions.__contains__, "auto", by_layer=True
    )
    grams = _form(replace(work, halves=True), reduction, memory_limit, None, None, progress)
    return {
        name: LayerFactors(grams[forward], grams[backward], is_product=T == 1)
        for name, T in positions.items()
        for forward, backward in [half_names(name)]
    }


def explain(
    model: Model,
    x: Any,
    x2: Any = None,
    *,
    reduction: Reduction = "full",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    strategy: Strategy = "auto",
) -> Explanation:
    """How ``entk`` would compute a kernel: by parameter the strategy, FLOPs and bytes.

    Parameters
    ----------
    model, x, x2, reduction, params, output, parameters, strategy
        As for ``entk``.

    Returns
    -------
    Explanation
        Printed, it is a table.

    Raises
    ------
    InputError
        As ``entk`` does.
    """
    work = prepare(model, x, x2, reduction, params, output, parameters, strategy)
    return explanation_of(work)


def prepare(
    model: Model,
    x: Any,
    x2: Any,
    reduction: Reduction,
    params: Any,
    output: Output | None,
    parameters: Selection | None,
    strategy: Strategy,
    by_layer: bool = False,
) -> Work:
    """How a kernel is computed, with everything checked that ``entk`` is given."""
    function, rows = bind(model, x, params, output, parameters)
    columns = None if x2 is None else check_second(x, x2)
    C = check_some(function, rows, model)
    cotangents = cotangents_of(reduction, C)
    ways = _ways(function, rows, columns, C, strategy)
    push = None
    if strategy == "ntk-vector-products":
        push = find_push(ways.examined, Probe.of(ways.function, rows, C))
    return Work(ways, cotangents, rows, columns, by_layer, push)


def _ways(
    function: ParametricFunction, x: Inputs, x2: Inputs | None, C: int, strategy: Strategy
) -> Ways:
    """How each parameter is taken, by a strategy."""
    if strategy not in get_args(Strategy):
        raise InputError(f"strategy {strategy!r} is unknown: use {', '.join(get_args(Strategy))}")
    structured = strategy in ("auto", "structured-derivatives")
    ways = find_ways(function, x, C, structured, x if x2 is None else joined(x, x2))
    if strategy == "structured-derivatives":
        instead = "use strategy auto, which takes Jacobian contraction instead"
        if ways.structure is None:
            raise InputError(
                f"the model has no known structure ({ways.examined.untraceable}): {instead}"
            )
        missing = sorted(set(function.params) - ways.structure.uses.keys())
        if missing:
            raise InputError(f"no structure is known for {', '.join(missing)}: {instead}")
    return ways


def _form(
    work: Work,
    reduction: Reduction,
    memory_limit: int | str | None,
    out: Path | str | None,
    group: Group | None,
    progress: Progress,
) -> dict[str, FloatArray]:
    """The kernels of some work, tile by tile."""
    limit = limit_in_bytes(memory_limit)
    held = work.bytes if out is None else 0
    if held > limit / 2:
        raise InputError(
            f"the kernel takes {format_bytes(held)}, more than half of the memory limit of "
            f"{format_bytes(limit)}: pass out=FOLDER to put it into files, or a reduction"
        )
    work = work.cut(limit - held, group)
    # Ahead of files, and of what several ranks do together; else along with the factors.
    ahead = out is not None or group is not None or work.push is not None
    if ahead:
        require_finite_rows_and_columns(work)
    store: Store
    if out is None:
        store = MemoryStore(work.kernels, work.shape, work.tiling, group)
    else:
        identity = _identity(work, reduction)
        store = FileStore(Path(out), work.kernels, work.shape, identity, work.tiling, group)
    # Tiles that were begun with another limit keep their sizes, but are computed in pieces.
    tiles = share(work.tiles(store.tiling), group)
    for done, (tile, pieces) in enumerate(tiles):
        progress("kernel", done, len(tiles))
        if not store.has(tile):
            for piece in pieces:
                blocks = work.blocks(piece)
                require_finite_blocks(blocks, work, piece)
                store.put(piece, blocks, work.symmetric)
            store.note(tile)
    progress("kernel", len(tiles), len(tiles))
    if not ahead and not work.outputs_are_finite:
        require_finite_rows_and_columns(work)
    return store.finish()


def _identity(work: Work, reduction: Reduction) -> dict[str, Any]:
    """What tells one kernel from others."""
    function = work.function
    outputs = function.apply({}, *different(work.x))
    return {
        "parameters": digest(function.params),
        "model": work.ways.fingerprint or digest({"outputs": outputs}),
        "inputs": [
            digest({f"x{k}": a for k, a in enumerate(batch)}) for batch in (work.x, work.columns)
        ],
        "reduction": reduction,
    }
