"""Sketch a kernel, in memory or into a store, and open a store again."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._files import digest
from mlx_entk._linalg import FloatArray, as_numpy, whole_number
from mlx_entk._memory import format_bytes, limit_in_bytes
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.progress import Progress, silent
from mlx_entk.sketch.error import SAMPLED, SketchError, error_of, sampled
from mlx_entk.sketch.features import Sketcher, Subject
from mlx_entk.sketch.result import EntkSketch
from mlx_entk.sketch.store import FeatureStore, Record
from mlx_entk.tracing.functions import Model, Output, Selection
from mlx_entk.tracing.inputs import count, different, part

# How far features of the same input may be apart on two machines, over their norm: far more than
# rounding, even in half precision, and far less than features of another projection.
_SAME = 0.05


def entk_sketch(
    model: Model,
    x: Any,
    k: int = 4096,
    *,
    reduction: Reduction = "trace",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    seed: int = 0,
    memory_limit: int | str | None = None,
    out: Path | str | None = None,
    progress: Progress = silent,
) -> EntkSketch:
    """The eNTK from random projections of the gradients to k numbers: K ≈ (J S)(J S)ᵀ.

    Time and memory grow with N·k, not with N². Entries are right on average over the seeds, with a
    standard deviation of at most √((K[n, n] K[m, m] + K[n, m]²)/k), that of a projection by
    independent signs (Johnson and Lindenstrauss; for gradients, TRAK: Park et al., 2023, arXiv
    2303.14186). ``error`` tells what it is for this model and these inputs.

    Parameters
    ----------
    model, x, params, output, parameters
        As for ``mlx_entk.entk``.
    k
        Features an input, or an input and an output for the full kernel. The error falls as 1/√k.
        A power of two makes the Fourier transforms fast.
    reduction
        As for ``mlx_entk.entk``, but not a pair of different classes. The trace sums over the
        outputs while it projects: it takes k features, not C·k.
    seed
        Of the projection. The features of an input follow from the seed, k and the model alone,
        whatever the other inputs and the memory limit are.
    memory_limit
        Bytes that this call and each query of the result may take, as for ``mlx_entk.entk``.
    out
        A folder for the features, a store: they are mapped from a file of 4·N·k bytes. The same
        call goes on after an interruption, and gives what is there once it is done;
        ``open_sketch`` opens it without the inputs.
    progress
        Told of every tile.

    Raises
    ------
    InputError
        As ``mlx_entk.entk`` does; for a pair of different classes; for features that do not fit
        into half of the memory limit, without ``out``; and for a folder that holds anything else
        or was damaged.

    Notes
    -----
    The projection is a CountSketch whose places follow the structure of each parameter, so that
    neither the gradient nor the projection's P × k numbers exist; ``mlx_entk.sketch.projection``
    says how. Parameters without structure take their exact Jacobian, a few inputs at a time. If
    the gradients have no more than k entries, they are kept as they are, and the kernel is exact.

    Modes whose eigenvalues lie close together are mixed by errors larger than their distance:
    look at ``EntkSketch.residuals`` before you read single modes.
    """
    k, seed = whole_number(k, "k"), whole_number(seed, "seed")
    if k < 1:
        raise InputError(f"k is {k}: pass at least one column")
    limit = limit_in_bytes(memory_limit)
    sketcher = Sketcher(Subject(model, params, output, parameters), x, reduction, k, seed)
    N = count(sketcher.x)
    shape = (N, *sketcher.row)
    held = 4 * int(np.prod(shape))
    if out is None:
        if held > limit / 2:
            raise InputError(
                f"the features take {format_bytes(held)}, more than half of the memory limit of "
                f"{format_bytes(limit)}: pass out=FOLDER to put them into a file, or a smaller k"
            )
        features = np.empty(shape, np.float32)
        for rows, made in sketcher.tiles(limit - held):
            progress("sketch", rows.start, N)
            features[rows] = made
        progress("sketch", N, N)
        return EntkSketch(features, _error(sketcher, features, limit), sketcher, limit, True)
    store = _begin(Path(out), sketcher, k, seed, shape, limit)
    for rows, made in sketcher.tiles(limit, store.done):
        progress("sketch", rows.start, N)
        store.put(rows, made)
    progress("sketch", N, N)
    error = store.record.error or _error(sketcher, store.features, limit)
    store.finish(error)
    return EntkSketch(store.features, error, sketcher, limit, True)


def open_sketch(
    folder: Path | str,
    model: Model,
    *,
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    memory_limit: int | str | None = None,
) -> EntkSketch:
    """Open a store that ``entk_sketch`` has written, to query it with other inputs.

    Parameters
    ----------
    folder
        The store.
    model, params, output, parameters
        As they were when the store was written.
    memory_limit
        Bytes that each query may take.

    Raises
    ------
    InputError
        If the folder is no store, is unfinished or was damaged; or if the model, its parameters
        or what counts of it are others. Two inputs of the store are projected again: if other
        features come out, it is refused too.
    """
    limit = limit_in_bytes(memory_limit)
    store = FeatureStore.read(Path(folder))
    record = store.record
    if record.error is None:
        raise InputError(f"{folder} is unfinished: make the same call of entk_sketch to go on")
    anchors = store.anchors()
    stored = as_numpy(anchors.pop("features"))
    inputs = tuple(anchors[f"x{number}"] for number in range(len(anchors)))
    x = inputs if record.names is None else dict(zip(record.names, inputs, strict=True))
    subject = Subject(model, params, output, parameters)
    sketcher = Sketcher(subject, x, record.reduction, record.columns, record.seed)
    for key, said in (("parameters", "other values"), ("model", "another graph")):
        if sketcher.identity[key] != record.identity.get(key):
            raise InputError(f"{folder} is of a model with {said}: sketch this one anew")
    features = np.concatenate([made for _, made in sketcher.tiles(limit)])
    apart = np.linalg.norm(features - stored) if features.shape == stored.shape else np.inf
    if sketcher.identity != record.identity or not apart <= _SAME * np.linalg.norm(stored):
        raise InputError(
            f"{folder} has features that this model does not give any more (another output, "
            "version or device?): sketch it anew"
        )
    return EntkSketch(store.features, record.error, sketcher, limit, False)


def _begin(
    folder: Path, sketcher: Sketcher, k: int, seed: int, shape: tuple[int, ...], limit: int
) -> FeatureStore:
    """A store for the features of a sketcher's inputs."""
    two = different(sketcher.x)
    of_two = sketcher.of_other(sketcher.as_given(two))
    features = np.concatenate([made for _, made in of_two.tiles(limit)])
    anchors = {f"x{number}": array for number, array in enumerate(two)}
    anchors["features"] = mx.array(features)
    reduction = sketcher.reduction
    record = Record(
        columns=k,
        seed=seed,
        reduction=reduction if isinstance(reduction, str) else (reduction[0], reduction[1]),
        identity=sketcher.identity,
        inputs=digest({f"x{number}": array for number, array in enumerate(sketcher.x)}),
        names=sketcher.names,
        shape=list(shape),
        anchors=digest(anchors),
        tiles=[],
    )
    return FeatureStore.begin(folder, record, anchors)


def _error(sketcher: Sketcher, features: FloatArray, limit: int) -> SketchError:
    chosen = sampled(len(features), SAMPLED)
    exact = sketcher.exact_kernel(part(sketcher.x, mx.array(chosen)), None, limit)
    some = np.asarray(features[chosen], dtype=np.float64)
    sketched = some @ some.T if some.ndim == 2 else np.einsum("nck,mdk->nmcd", some, some)
    return error_of(sketched, exact, len(features))
