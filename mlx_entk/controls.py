"""Controls without a kernel: what activations and outputs alone tell of the features.

That modes of an eNTK hold a feature says little about the eNTK if the activations hold it as
well. So the same overlaps are taken of the modes of Gram matrices of activations and outputs:
of a control, with the group of equal size that overlaps a family the most, wherever it lies in
the spectrum. What the eNTK's group has beyond the best control is what the eNTK adds, the
*margin*.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    FloatArray,
    as_columns,
    as_floats,
    epsilon_of,
)
from mlx_entk.eigensolvers import FormedOperator, jacobian_modes, top_modes
from mlx_entk.errors import InputError
from mlx_entk.features import Alignment
from mlx_entk.features.alignment import require_varying
from mlx_entk.kernel import LayerFactors, activations, half_names
from mlx_entk.spectrum import Modes, Spectrum, eigendecompose
from mlx_entk.tracing.functions import Model, Output, Selection, bind

# As they are; minus their means over the inputs; and divided by their deviations as well.
Scaling = Literal["raw", "centred", "standardised"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

# The control that every model has.
OUTPUTS = "outputs"

CONTROL_RULE = (
    "a control is the Gram matrix of activations or outputs, with every coordinate as it is (raw), "
    "minus its mean over the inputs (centred), or divided by its standard deviation as well "
    "(standardised); of its modes, the group of equal size that overlaps the family the most"
)

# By how much rounding may change entries of a Gram matrix, as a share of the largest.
_SAME = 1e-5

# Up to this many inputs or coordinates all modes of a Gram matrix are found; above, this many.
_DENSE, _LEADING = 4000, 500


@dataclass(frozen=True)
class ControlAlignment:
    """The best overlap of a group of modes of a control with one feature family.

    Attributes
    ----------
    control
        Its name.
    scaling
        How its coordinates were scaled.
    size
        Modes of the eNTK's group that it is compared with.
    modes
        First and last mode of the group with the largest overlap; there are fewer than ``size``
        if the control does not have so many.
    family, overlap, dimension, percent
        As in ``mlx_entk.features.Alignment``; the dimension is that of the eNTK's group.
    """

    control: str
    scaling: Scaling
    size: int
    modes: Modes
    family: str
    overlap: float
    dimension: int
    percent: float


@dataclass(frozen=True)
class Controls:
    """What activations and outputs hold, to compare an eNTK with.

    Attributes
    ----------
    rule
        What a control is.
    rows
        A row for each control, scaling, size of a group (with 1, for single modes), and family.
    factors
        The same for the two factors of layerwise kernels; ``control`` names the factor.
    equal_to_activations
        Layerwise kernels that are, up to scale, the Gram matrix of what their weight meets.
    """

    rule: str
    rows: list[ControlAlignment]
    factors: list[ControlAlignment]
    equal_to_activations: list[str]

    def best(
        self, row: Alignment, of: Literal["all", "activations", "outputs"] = "all"
    ) -> ControlAlignment | None:
        """The control with the largest overlap with the family of a row, for its group's size.

        None if there is none.
        """
        return self.strongest(row.family, row.modes[1] - row.modes[0] + 1, of)

    def strongest(
        self, family: str, size: int, of: Literal["all", "activations", "outputs"] = "all"
    ) -> ControlAlignment | None:
        """The control with the largest overlap with a family, of so many consecutive modes.

        None if there is none.
        """
        same = [c for c in self.rows if (c.size, c.family) == (size, family)]
        if of != "all":
            same = [c for c in same if (c.control == OUTPUTS) == (of == "outputs")]
        return max(same, key=lambda control: control.overlap, default=None)

    def margin(self, row: Alignment) -> float | None:
        """What a row has beyond the best control, in points of its percentage."""
        best = self.best(row)
        return None if best is None else row.percent - best.percent


def scaled(values: ArrayLike, scaling: Scaling) -> Float64Array:
    """Coordinates scaled over the inputs, shape (N, D); those that do not vary become zero.

    Raises
    ------
    InputError
        For an unknown scaling, and for values that are not finite or have another shape.
    """
    if scaling not in SCALINGS:
        raise InputError(f"scaling {scaling!r} is unknown: use {', '.join(SCALINGS)}")
    columns = as_columns(values, "activations")
    if scaling == "raw":
        return columns
    centred: Float64Array = columns - columns.mean(axis=0)
    if scaling == "centred":
        return centred
    deviations = centred.std(axis=0)
    # Rounding leaves a constant a deviation of about its size times the spacing of floats.
    varies = deviations > 1e-6 * np.abs(columns).max(axis=0, initial=0)
    return np.where(varies, centred / np.where(varies, deviations, 1), 0)


def gram_modes(values: ArrayLike, epsilon: float | None = None) -> Spectrum:
    """Modes of the Gram matrix H Hᵀ of coordinates H, shape (N, D), above its noise floor.

    If N and D are both more than ``4000``, the leading 500 modes alone.

    Parameters
    ----------
    values
        H.
    epsilon
        Relative spacing of the type that H was computed in, whatever type it has now; by default
        that of its type. Rounding of H has singular values of about epsilon · √N · its largest
        row, whose squares are the floor.
    """
    columns = as_columns(values, "activations")
    epsilon = epsilon_of(values) if epsilon is None else epsilon
    least = min(columns.shape)
    if least > _DENSE:
        operator = FormedOperator(len(columns), lambda v: columns @ (columns.T @ v))
        return top_modes(operator, _LEADING).spectrum
    found = jacobian_modes(columns, least)[0]
    largest = float(np.einsum("nd,nd->n", columns, columns).max())
    floor = max(found.noise_floor, 4 * len(columns) * epsilon**2 * largest)
    kept = int((found.values > floor).sum())
    return Spectrum(found.values[:kept], found.vectors[:, :kept], floor)


def best_group(spectrum: Spectrum, basis: Float64Array, size: int) -> tuple[Modes, float]:
    """The group of consecutive modes that overlaps a family the most, and its overlap.

    Parameters
    ----------
    basis
        Orthonormal columns, shape (N, k).
    size
        How many modes; all of them if the spectrum has fewer.
    """
    if spectrum.rank == 0:
        return (0, 0), 0.0
    shares = ((spectrum.vectors[:, : spectrum.rank].T @ basis) ** 2).sum(axis=1)
    size = min(size, shares.size)
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    windows = sums[size:] - sums[:-size]
    # Sums that differ by rounding alone are equal: the leading group of them is taken.
    first = int(np.flatnonzero(windows >= windows.max() - 1e-9)[0])
    return (first, first + size - 1), float(windows[first])


def controls_of(
    model: Model,
    x: Any,
    *,
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    every_layer: bool = True,
    memory_limit: int | str | None = None,
) -> dict[str, FloatArray]:
    """The activations of a model and its outputs, by the names that controls have.

    Parameters
    ----------
    model, x, params, output, parameters
        As for ``mlx_entk.entk``.
    every_layer
        Whether to take what every weight meets, or what the last one does.
    memory_limit
        As for ``mlx_entk.activations``.

    Returns
    -------
    dict of numpy.ndarray
        Shape (N, D) each: ``input of NAME`` for a weight (see ``mlx_entk.activations``), and
        ``outputs``.
    """
    function, rows = bind(model, x, params, output, parameters)
    met = activations(function, rows, memory_limit=memory_limit, last=not every_layer)
    named = {f"input of {name}": values for name, values in met.items()}
    outputs = as_columns(np.asarray(as_floats(function.apply({}, *rows), OUTPUTS)), OUTPUTS)
    return {**named, OUTPUTS: outputs}


def align_controls(
    controls: Mapping[str, ArrayLike], bases: Mapping[str, Float64Array], sizes: Iterable[int]
) -> list[ControlAlignment]:
    """Align every control, in every scaling, with every family, by groups of some sizes.

    Parameters
    ----------
    controls
        Activations by name, shape (N, D) each.
    bases
        Orthonormal bases of centred families over the N inputs.
    sizes
        Numbers of modes.

    Raises
    ------
    InputError
        For activations over other inputs, and for NaN or infinite ones.
    """
    rows: list[ControlAlignment] = []
    sizes = sorted(set(sizes))
    for name, values in controls.items():
        columns = as_columns(values, f"activations {name}")
        for family, basis in bases.items():
            require_varying(basis, family)
            if len(basis) != len(columns):
                raise InputError(
                    f"activations {name} are of {len(columns)} inputs, features {family} of "
                    f"{len(basis)}"
                )
        for scaling in SCALINGS if bases and sizes else ():
            spectrum = gram_modes(scaled(columns, scaling), epsilon_of(values))
            rows += _align(name, scaling, spectrum, bases, sizes)
    return rows


def align_factors(
    factors: Mapping[str, LayerFactors], bases: Mapping[str, Float64Array], sizes: Iterable[int]
) -> list[ControlAlignment]:
    """Align both factors of layerwise kernels with every family, as ``align_controls`` does.

    A row's ``control`` is the factor, as ``mlx_entk.kernel.half_names`` calls it.
    """
    rows: list[ControlAlignment] = []
    sizes = sorted(set(sizes))
    for name, pair in factors.items():
        for half, gram in zip(half_names(name), (pair.activations, pair.backward), strict=True):
            rows += _align(half, "raw", eigendecompose(gram), bases, sizes)
    return rows


def _align(
    control: str,
    scaling: Scaling,
    spectrum: Spectrum,
    bases: Mapping[str, Float64Array],
    sizes: Iterable[int],
) -> Iterator[ControlAlignment]:
    for size in sizes:
        for family, basis in bases.items():
            modes, overlap = best_group(spectrum, basis, size)
            dimension = min(size, basis.shape[1])
            percent = 100 * overlap / dimension
            yield ControlAlignment(
                control, scaling, size, modes, family, overlap, dimension, percent
            )


def equal_to_activations(factors: Mapping[str, LayerFactors]) -> list[str]:
    """Layerwise kernels that are, up to scale, the Gram matrix of what their weight meets.

    So it is for a readout without an activation behind it: all inputs have the same δ.
    """
    return [
        name
        for name, pair in factors.items()
        if pair.is_product and np.ptp(pair.backward) <= _SAME * np.abs(pair.backward).max() > 0
    ]
