"""Modes of a layer's kernel; every product is kept on disk until the layer is done."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from mlx_entk._files import Arrays, read_arrays, write_arrays
from mlx_entk._linalg import Float64Array
from mlx_entk.distributed import Group, first_says, is_first
from mlx_entk.eigensolvers import RecordedOperator, top_modes
from mlx_entk.errors import InputError
from mlx_entk.kernel import EntkOperator, entk_operator
from mlx_entk.lm.model import (
    LanguageModel,
    hidden_before,
    layer_function,
    readout_roots,
    square_root_of_readout,
)
from mlx_entk.lm.positions import position_shares
from mlx_entk.lm.scoring import mode_scores
from mlx_entk.progress import Progress
from mlx_entk.report import ends
from mlx_entk.studies.language_model.records import LMConfig

# Inputs of a forward pass that is not differentiated.
FORWARD = 32
# Of the memory limit, the part for one pass; the cached stream and the solver's vectors take the
# rest.
_PASS = 0.7


@dataclass(frozen=True)
class LayerModes:
    """Leading modes of one layer's kernel.

    Attributes
    ----------
    values, residuals
        Shape (k,) each.
    vectors
        The modes themselves, channel-major, shape (d·N, k), in single precision.
    scores
        Of each input by each mode, shape (N, k).
    shares
        Of the square norm of each mode, what the scores explain, shape (k,).
    ends
        Numbers of the inputs at the ends of each mode, shape (k, e).
    positions
        What each position of these inputs adds to their scores, shape (m, e, T), for the leading
        m modes: those above the noise floor, or none if the weights do not let scores be split.
    products
        Matrix-vector products, read from disk or made.
    seconds
        Of each product that was made.
    batch
        Inputs of one pass.
    """

    values: Float64Array
    residuals: Float64Array
    vectors: NDArray[np.float32]
    scores: Float64Array
    shares: Float64Array
    ends: NDArray[np.int64]
    positions: Float64Array
    products: int
    seconds: float
    batch: int

    def as_arrays(self) -> Arrays:
        """By field, for a file."""
        return {name: np.asarray(value) for name, value in asdict(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "LayerModes":
        """Again from what ``as_arrays`` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            For other arrays.
        """
        return cls(
            values=arrays["values"],
            residuals=arrays["residuals"],
            vectors=arrays["vectors"],
            scores=arrays["scores"],
            shares=arrays["shares"],
            ends=arrays["ends"],
            positions=arrays["positions"],
            products=int(arrays["products"]),
            seconds=float(arrays["seconds"]),
            batch=int(arrays["batch"]),
        )


@dataclass(frozen=True)
class LayerSolver:
    """Finds modes of layers, and keeps them in a folder.

    Attributes
    ----------
    config
        Which modes.
    tokens
        Of all inputs, shape (N, T).
    folder
        For the products of a layer, and for its modes once they are found.
    memory_limit
        Bytes.
    progress
        Told of every product.
    group
        Ranks that share the work; the first one alone writes.
    readouts
        By name of a model, what ``readout_of`` gave for it.
    """

    config: LMConfig
    tokens: mx.array
    folder: Path
    memory_limit: int
    progress: Progress
    group: Group | None
    readouts: dict[str, mx.array] = field(default_factory=dict)

    def modes(
        self, name: str, layer: int, make: Callable[[], LanguageModel], explained: bool
    ) -> LayerModes | None:
        """The modes of a layer, from their file if that is there.

        Parameters
        ----------
        name
            Of the model, which tells its files from those of another.
        make
            Gives the model if it is needed.
        explained
            Whether to split the scores at the ends of each mode by position.

        Returns
        -------
        LayerModes
            None on the ranks beyond the first.
        """
        done, products = self.folder / f"{name}-{layer}.npz", self.folder / f"{name}-{layer}"
        if first_says(done.exists(), self.group):
            return _stored(done) if is_first(self.group) else None
        config, stage = self.config, f"{name}, layer {layer}"
        model = make()
        hidden = hidden_before(model, self.tokens, layer, FORWARD)
        if name not in self.readouts:  # of the whole model: the same for all its layers
            self.readouts[name] = readout_of(model, self.tokens, self.memory_limit)
        readout = self.readouts[name]
        operator = layer_operator(
            model, config, layer, hidden, readout, self.memory_limit, self.group
        )

        def told(products: int) -> None:
            # How many it takes in the end is not known.
            self.progress(stage, products, products + 1, "products")

        start = time.perf_counter()
        aside = partial(_tangent, operator) if explained else dict
        recorded = RecordedOperator(operator, products, told, self.group, aside)
        watched = _Watched(recorded)
        solved = top_modes(
            watched, config.modes, tolerance=config.tolerance, products=config.products,
            seed=config.seed,
        )  # fmt: skip
        seconds = (time.perf_counter() - start) / max(operator.products, 1)
        self.progress(stage, recorded.products, recorded.products, "products")
        if not is_first(self.group):
            return None
        N = self.tokens.shape[0]
        reduced = [mode_scores(vector, N) for vector in solved.spectrum.vectors.T]
        scores = np.stack([mode.scores for mode in reduced], axis=1)
        at_ends = [[i for end in ends(of_mode) for i in end] for of_mode in scores.T]
        positions: list[Float64Array] = []
        splittable = explained and readout.ndim == 2
        tangents = watched.tangents(solved.spectrum.vectors) if splittable else ()
        for number, tangent in enumerate(tangents):
            value = float(solved.spectrum.values[number])
            if value <= solved.spectrum.noise_floor:
                break
            numbers = mx.array(at_ends[number])
            try:
                split = position_shares(
                    model, layer, config.selection, hidden[numbers], readout,
                    mx.array(reduced[number].direction.astype(np.float32)),
                    [array / value for array in tangent], FORWARD,
                )  # fmt: skip
            except InputError:  # weights other than a linear module's: shown without
                break
            positions.append(np.array(split, dtype=np.float64))
            self.progress(f"{stage}, positions", number + 1, config.modes)
        modes = LayerModes(
            values=solved.spectrum.values,
            residuals=solved.residuals,
            vectors=solved.spectrum.vectors.astype(np.float32),
            scores=scores,
            shares=np.array([mode.share for mode in reduced]),
            ends=np.array(at_ends, np.int64),
            positions=np.array(positions).reshape(
                len(positions), len(at_ends[0]), self.tokens.shape[1]
            ),
            products=recorded.products,
            seconds=seconds,
            batch=operator.batch,
        )
        write_arrays(done, modes.as_arrays())
        shutil.rmtree(products, ignore_errors=True)
        return modes


class _Watched(LinearOperator):  # type: ignore[misc]
    """An operator whose vectors are kept, with what each is pulled back to."""

    def __init__(self, recorded: RecordedOperator):
        self._recorded = recorded
        self._vectors: list[NDArray[np.float32]] = []
        self._pulled: list[Arrays] = []
        super().__init__(np.dtype(np.float64), recorded.shape)

    def _matvec(self, vector: Float64Array) -> Float64Array:
        product: Float64Array = self._recorded @ vector
        self._vectors.append(vector.reshape(-1).astype(np.float32))
        self._pulled.append(self._recorded.beside)
        return product

    def _adjoint(self) -> "_Watched":
        return self

    def tangents(self, modes: Float64Array) -> Iterator[list[mx.array]]:
        """Jᵀ v of modes, shape (N, k), which are combinations of the vectors so far."""
        vectors = np.stack(self._vectors, axis=1)
        along = vectors.T @ modes.astype(np.float32)
        parts = np.linalg.lstsq(vectors.T @ vectors, along, rcond=1e-6)[0]
        for column in parts.T:
            yield [
                mx.array(
                    sum(c * arrays[name] for c, arrays in zip(column, self._pulled, strict=True))
                )
                for name in sorted(self._pulled[0])
            ]


def _tangent(operator: EntkOperator) -> Arrays:
    return {f"tangent{i:03d}": np.array(array) for i, array in enumerate(operator.tangent)}


def _stored(path: Path) -> LayerModes:
    arrays = read_arrays(path)
    try:
        return LayerModes.from_arrays(arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and go on") from error


def layer_operator(
    model: LanguageModel,
    config: LMConfig,
    layer: int,
    hidden: mx.array,
    readout: mx.array,
    memory_limit: int,
    group: Group | None = None,
) -> EntkOperator:
    """S^½ J Jᵀ S^½ of a layer, with J of the last hidden state and S of the unembedding.

    ``hidden`` is what the layer reads, and ``readout`` is S^½, or that of each input.
    """
    limit = int(_PASS * memory_limit)
    if readout.ndim == 2:
        function = layer_function(model, layer, config.selection, readout)
        return entk_operator(function, hidden, memory_limit=limit, group=group)
    function = layer_function(model, layer, config.selection, None)
    return entk_operator(function, (hidden, readout), memory_limit=limit, group=group)


def readout_of(model: LanguageModel, tokens: mx.array, memory_limit: int) -> mx.array:
    """S^½, shape (d, d); of soft-capped logits that of each input, shape (N, d, d)."""
    if model.cap is None:
        return square_root_of_readout(model.unembedding)
    parts = [model.hidden(tokens[i : i + FORWARD]) for i in range(0, tokens.shape[0], FORWARD)]
    return readout_roots(model, mx.concatenate(parts), memory_limit // 4)
