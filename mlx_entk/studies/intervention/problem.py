"""What an intervention on the network of a run needs to know, which each study says itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, orthonormal_basis
from mlx_entk._parameters import Params
from mlx_entk.features import center
from mlx_entk.kernel import Reduction
from mlx_entk.spectrum import Modes
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs

# Leading modes from which other groups of equal size are drawn.
HEAD = 240

# Numbers that say how well a network does, by name, from its outputs (N, C).
Measure = Callable[[Float64Array], dict[str, float]]

# The least cos² with a family for which a direction inside some modes counts as one of its own.
_LEAST = 0.5
SINGLE_RULE = (
    "the directions inside the modes that have cos² of at least "
    f"{_LEAST:g} with the feature's family"
)


@dataclass(frozen=True)
class Features:
    """Single features that edits take out one at a time.

    Attributes
    ----------
    vectors
        By feature, the modes that are taken out for it, in columns.
    strengths
        How much of each of these features the outputs hold, by the same names.
    inputs
        By feature, which inputs have it, shape (N,); empty if the features are on all inputs.
    rule
        How the modes of a feature were found.
    """

    vectors: Mapping[str, Float64Array]
    strengths: Measure
    inputs: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    rule: str = SINGLE_RULE


@dataclass(frozen=True)
class InterventionProblem:
    """A network, the modes of its eNTK, and how to tell what an edit did.

    Attributes
    ----------
    function, x
        The trained network, and the inputs of the kernel.
    initial
        Its parameters before training; None if they are not known.
    reduction
        Of the kernel.
    vectors, values
        Modes in columns and their eigenvalues, the leading ones; of a rescaled kernel
        D^(β/2) K D^(β/2) the columns are D^(β/2) v.
    groups
        The groups of modes that the study looks at.
    measures
        How well the network does. The first is the one that figures show; more of it is better.
    features
        Single features; None if none are known.
    by_class
        One number for each class or output; None if there are no classes.
    grid
        A number for each input, on a grid of two summands; None if the inputs are on no grid.
    """

    function: ParametricFunction
    x: Inputs
    initial: Params | None
    reduction: Reduction
    vectors: Float64Array
    values: Float64Array
    groups: Sequence[Modes]
    measures: Measure
    features: Features | None = None
    by_class: Callable[[Float64Array], list[float]] | None = None
    grid: Callable[[Float64Array], Float64Array] | None = None


def along(modes: Float64Array, family: ArrayLike) -> Float64Array:
    """The directions inside a span of orthonormal modes that belong to a family; see the rule.

    Parameters
    ----------
    modes
        Shape (N, k).
    family
        Features over the N inputs, shape (N, d).

    Returns
    -------
    numpy.ndarray
        Orthonormal, shape (N, at most min(k, d)).
    """
    basis = orthonormal_basis(center(family))
    inside, cosines, _ = np.linalg.svd(modes.T @ basis, full_matrices=False)
    kept: Float64Array = modes @ inside[:, cosines**2 >= _LEAST]
    return kept


def strength_in(families: Mapping[str, ArrayLike]) -> Measure:
    """How much of each family outputs hold: the norm of their projection on it, ‖Fᵀf‖."""
    bases = {name: orthonormal_basis(center(family)) for name, family in families.items()}

    def strengths(outputs: Float64Array) -> dict[str, float]:
        return {name: float(np.linalg.norm(basis.T @ outputs)) for name, basis in bases.items()}

    return strengths
