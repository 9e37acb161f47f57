"""What a sketch answers: kernels, modes, residuals, neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array, FloatArray, as_numpy, eigh, gram, whole_number
from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError
from mlx_entk.sketch.error import SAMPLED, SketchError, sampled
from mlx_entk.sketch.features import Sketcher
from mlx_entk.spectrum import Spectrum, noise_floor
from mlx_entk.tracing.inputs import count, part

# Rows of features that are read at a time.
_ROWS = 4096


@dataclass(frozen=True)
class Nearest:
    """The stored inputs whose gradients are most like those of each of M inputs.

    Attributes
    ----------
    indices
        Shape (M, count), most similar first.
    similarity
        K[m, n]/√(K[m, m] K[n, n]), shape (M, count).
    """

    indices: NDArray[np.int64]
    similarity: FloatArray


class EntkSketch:
    """A kernel as inner products of k features an input; see ``entk_sketch``.

    Attributes
    ----------
    features
        Shape (N, k), or (N, C, k) for the full kernel; float32, mapped from the file of a store.
    error
        How far the kernel is from the exact one.
    reduction
        Of the kernel.
    exact
        Whether the features are the gradients themselves, since they have at most k entries.
    """

    def __init__(
        self,
        features: FloatArray,
        error: SketchError,
        sketcher: Sketcher,
        limit: int,
        has_inputs: bool,
    ):
        self.features, self.error = features, error
        self.reduction, self.exact = sketcher.reduction, sketcher.exact
        self._sketcher, self._limit, self._has_inputs = sketcher, limit, has_inputs

    def project(self, x: Any) -> FloatArray:
        """The features of other inputs, shape (M, k) or (M, C, k).

        Parameters
        ----------
        x
            M inputs, as for ``mlx_entk.entk``.

        Raises
        ------
        InputError
            For inputs that do not fit the model, or gradients that are not finite.
        """
        other = self._sketcher.of_other(x)
        self._require_room(4 * count(other.x) * int(np.prod(other.row)), "the features take")
        return np.concatenate([features for _, features in other.tiles(self._limit)])

    def kernel(self, x2: Any = None, *, rows: slice = slice(None)) -> FloatArray:
        """The sketched kernel of stored inputs and others: K[n, m] ≈ ``entk(model, x, x2)``.

        Parameters
        ----------
        x2
            M inputs; None for the stored ones, without computing anything of the model.
        rows
            Which of the stored inputs are the rows.

        Returns
        -------
        numpy.ndarray
            float32, shape (N, M), or (N, M, C, C) for the full kernel.

        Raises
        ------
        InputError
            As ``project`` does, and for a kernel that takes more memory than the limit.
        """
        one = self.features[rows]
        other = self.features if x2 is None else self.project(x2)
        shape = (*one.shape[:-1], *other.shape[:-1])
        self._require_room(4 * int(np.prod(shape)), "the kernel takes", ": ask for fewer rows")
        left = mx.array(_matrix(one))
        flat = np.empty((left.shape[0], int(np.prod(other.shape[:-1]))), np.float32)
        for place, block in _blocks(other):
            flat[:, place] = as_numpy(gram(left, mx.array(block)))
        kernel = flat.reshape(shape)
        return kernel if kernel.ndim == 2 else kernel.transpose(0, 2, 1, 3)

    def spectrum(self, top: int) -> Spectrum:
        """The leading modes of the sketched kernel, by the smaller of its two Gram matrices.

        Those of the full kernel are of the flattened one, as ``mlx_entk.flatten`` gives it. How
        far the modes are from those of the exact kernel is another matter: see ``residuals``.

        Parameters
        ----------
        top
            How many, at most k and at most the kernel's rows.

        Raises
        ------
        InputError
            For a ``top`` out of range.
        """
        top = whole_number(top, "top")
        columns, rows = self.features.shape[-1], int(np.prod(self.features.shape[:-1]))
        if not 0 < top <= min(rows, columns):
            raise InputError(
                f"top is {top}: {columns} features of {rows} rows have 1 to {min(rows, columns)} "
                "modes"
            )
        by_class = self.features[:, None] if self.features.ndim == 2 else self.features
        planes = [by_class[:, c] for c in range(by_class.shape[1])]  # channel-major
        if rows <= columns:
            values, vectors = eigh(as_numpy(gram(mx.array(np.concatenate(planes)))), top)
        else:
            total = np.zeros((columns, columns))
            for plane in planes:
                for _, block in _blocks(plane):
                    total += as_numpy(gram(mx.array(np.ascontiguousarray(block.T))))
            values, small = eigh(total, top)
            # A mode without an eigenvalue of its own is arbitrary anyway.
            scaled = small / np.sqrt(np.maximum(values, np.finfo(np.float32).eps * values[0]))
            parts = [block @ scaled for plane in planes for _, block in _blocks(plane)]
            vectors = np.concatenate(parts)
        largest = max(float(np.square(block).sum(axis=1).max()) for _, block in _blocks(by_class))
        floor = noise_floor(rows, largest, float(np.finfo(np.float32).eps))
        return Spectrum(np.maximum(values, 0.0), vectors, floor)

    def residuals(self, spectrum: Spectrum, inputs: int = SAMPLED) -> Float64Array:
        """‖Kv − λv‖/λ of modes with the exact kernel K, from its rows of some inputs alone.

        Parameters
        ----------
        spectrum
            Modes over the inputs of the sketch, such as ``spectrum`` gives.
        inputs
            How many inputs are drawn, s. The norm over all inputs follows from the entries of
            these, to about 1/√(2·s) of itself. The rows take a backward pass for each input and
            output, as the sketch did.

        Returns
        -------
        numpy.ndarray
            One for each mode; infinite for an eigenvalue of 0.

        Raises
        ------
        InputError
            For a sketch that was opened from its store: it does not keep the inputs.
        """
        if not self._has_inputs:
            raise InputError(
                "the store does not keep its inputs: call entk_sketch with them and out=FOLDER"
            )
        x, N = self._sketcher.x, len(self.features)
        chosen = sampled(N, whole_number(inputs, "inputs"))
        if chosen.size == 0:
            raise InputError(f"inputs is {inputs}: draw at least one")
        kernel = self._sketcher.exact_kernel(part(x, mx.array(chosen)), x, self._limit)
        vectors = spectrum.vectors.reshape(-1, N, spectrum.values.size)  # c, n, mode
        products = (
            np.einsum("sncd,dnk->csk", kernel, vectors, optimize=True)
            if kernel.ndim == 4
            else (kernel @ vectors[0])[None]
        )
        remainders = products - spectrum.values * vectors[:, chosen]
        norms = np.sqrt((remainders**2).sum(axis=(0, 1)) * N / chosen.size)
        with np.errstate(divide="ignore"):
            return np.asarray(norms / spectrum.values)

    def nearest(self, x: Any, neighbours: int = 10) -> Nearest:
        """The stored inputs whose gradients have the largest cosine with those of other inputs.

        Parameters
        ----------
        x
            M inputs.
        neighbours
            How many for each, at most N.

        Raises
        ------
        InputError
            As ``kernel`` does, and for the full kernel, which has a value for each pair of
            outputs.
        """
        if self.reduction == "full":
            raise InputError("the full kernel has no single value for a pair: sketch the trace")
        neighbours, N = whole_number(neighbours, "neighbours"), len(self.features)
        if not 0 < neighbours <= N:
            raise InputError(f"neighbours is {neighbours}: the store has {N} inputs")
        projected = self.project(x)
        self._require_room(4 * N * len(projected), "the similarities take")
        wanted = mx.array(_normalised(projected))
        similarity = np.empty((len(projected), N), np.float32)
        for place, block in _blocks(self.features):
            similarity[:, place] = as_numpy(gram(wanted, mx.array(_normalised(block))))
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        return Nearest(order, np.take_along_axis(similarity, order, axis=1))

    def _require_room(self, size: int, said: str, remedy: str = "") -> None:
        if size > self._limit:
            raise InputError(
                f"{said} {format_bytes(size)}, the memory limit is {format_bytes(self._limit)}"
                f"{remedy}"
            )


def _matrix(features: FloatArray) -> FloatArray:
    """A row for each input, or for each input and output."""
    return np.ascontiguousarray(features.reshape(-1, features.shape[-1]))


def _blocks(features: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Rows of features as a matrix, a few inputs at a time, and where they are."""
    each = int(np.prod(features.shape[1:-1]))
    step = max(1, _ROWS // each)
    for start in range(0, len(features), step):
        some = features[start : start + step]
        yield slice(start * each, (start + len(some)) * each), _matrix(some)


def _normalised(features: FloatArray) -> FloatArray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(norms > 0, norms, 1), dtype=np.float32)
