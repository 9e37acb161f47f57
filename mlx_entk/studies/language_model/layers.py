"""Modes of a layer's kernel; every product is kept on disk until the layer is done."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

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
    square_root_of_readout,
)
from mlx_entk.lm.scoring import mode_scores
from mlx_entk.progress import Progress
from mlx_entk.studies.language_model.records import LMConfig

# Inputs of a forward pass that is not differentiated.
FORWARD = 32
# Of the memory limit, the part for one pass; the cached stream and the solver's vectors take the
# rest.
_PASS = 0.5


@dataclass(frozen=True)
class LayerModes:
    """Leading modes of one layer's kernel.

    Attributes
    ----------
    values, residuals
        Shape (k,) each.
    scores
        Of each input by each mode, shape (N, k).
    shares
        Of the square norm of each mode, what the scores explain, shape (k,).
    products
        Matrix-vector products, read from disk or made.
    seconds
        Of each product that was made.
    batch
        Inputs of one pass.
    """

    values: Float64Array
    residuals: Float64Array
    scores: Float64Array
    shares: Float64Array
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
            scores=arrays["scores"],
            shares=arrays["shares"],
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
    """

    config: LMConfig
    tokens: mx.array
    folder: Path
    memory_limit: int
    progress: Progress
    group: Group | None

    def modes(self, name: str, layer: int, make: Callable[[], LanguageModel]) -> LayerModes | None:
        """The modes of a layer, from their file if that is there.

        Parameters
        ----------
        name
            Of the model, which tells its files from those of another.
        make
            Gives the model if it is needed.

        Returns
        -------
        LayerModes
            None on the ranks beyond the first.
        """
        done, products = self.folder / f"{name}-{layer}.npz", self.folder / f"{name}-{layer}"
        if first_says(done.exists(), self.group):
            return _stored(done) if is_first(self.group) else None
        config, stage, start = self.config, f"{name}, layer {layer}", time.perf_counter()
        operator = layer_operator(make(), config, layer, self.tokens, self.memory_limit, self.group)

        def told(products: int) -> None:
            # How many it takes in the end is not known.
            self.progress(stage, products, products + 1, "products")

        recorded = RecordedOperator(operator, products, told, self.group)
        solved = top_modes(recorded, config.modes, tolerance=config.tolerance, seed=config.seed)
        self.progress(stage, recorded.products, recorded.products, "products")
        if not is_first(self.group):
            return None
        N = self.tokens.shape[0]
        reduced = [mode_scores(vector, N) for vector in solved.spectrum.vectors.T]
        modes = LayerModes(
            values=solved.spectrum.values,
            residuals=solved.residuals,
            scores=np.stack([mode.scores for mode in reduced], axis=1),
            shares=np.array([mode.share for mode in reduced]),
            products=recorded.products,
            seconds=(time.perf_counter() - start) / max(operator.products, 1),
            batch=operator.batch,
        )
        write_arrays(done, modes.as_arrays())
        shutil.rmtree(products, ignore_errors=True)
        return modes


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
    tokens: mx.array,
    memory_limit: int,
    group: Group | None = None,
) -> EntkOperator:
    """S^{1/2} J Jᵀ S^{1/2} of a layer, with J of the last hidden state and S of the unembedding."""
    hidden = hidden_before(model, tokens, layer, FORWARD)
    root = square_root_of_readout(model.unembedding)
    function = layer_function(model, layer, config.selection, root)
    return entk_operator(function, hidden, memory_limit=int(_PASS * memory_limit), group=group)
