"""The page to browse the modes of modular addition: each mode is a map over all pairs."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlx_entk._files import Arrays
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, orthonormal_basis
from mlx_entk.analysis import WHOLE, KernelAnalysis, bases_of, part_shares
from mlx_entk.cliffs import Cliff
from mlx_entk.controls import Controls
from mlx_entk.data import ModularAddition
from mlx_entk.errors import InputError
from mlx_entk.features import center
from mlx_entk.report import Draw, Inputs, KernelView, Pairs, drawn, modes_that_fit
from mlx_entk.studies.browsing import families_of, kernel_view


def arrays_of_modes(
    analysis: KernelAnalysis, kernels: Mapping[str, FloatArray], top: int
) -> Arrays:
    """What the page needs of an analysis: eigenvectors, and the shares of parameters in modes.

    Parameters
    ----------
    kernels
        That were analysed: the whole one, and those that it is the sum of.
    top
        How many modes of each to keep at most; fewer if a page cannot hold so many.
    """
    fit = modes_that_fit(len(kernels[WHOLE]), len(kernels), whole=True)
    vectors = {
        name: analysis.spectra[name].vectors[:, : min(top, most)]
        for name, most in zip(kernels, fit, strict=True)
    }
    layers = {name: kernel for name, kernel in kernels.items() if name != WHOLE}
    shares, _ = part_shares(vectors[WHOLE], layers)
    return {
        "layers": shares,
        **{f"vectors/{name}": columns.astype(np.float32) for name, columns in vectors.items()},
    }


def pairs_drawn(data: ModularAddition, x: ArrayLike, draw: Draw | None) -> Inputs:
    """The inputs of the study: pairs, or what was asked for."""
    if draw not in (None, "pairs"):
        return drawn(x, draw)
    p = int(data.n.max()) + 1
    return Pairs(data.n, data.m, p, f"Each input is a pair (n, m) of numbers below {p}.")


def names_of_pairs(data: ModularAddition) -> list[str]:
    """Which pairs the network was trained on."""
    trained = set(data.train.tolist())
    return ["trained on" if i in trained else "held out" for i in range(data.n.size)]


def views(
    values: Mapping[str, FloatArray],
    arrays: Arrays,
    cliffs: Mapping[str, Sequence[Cliff]],
    bank: Mapping[str, ArrayLike],
    planes: Mapping[str, ArrayLike],
    controls: Controls,
) -> list[KernelView]:
    """The modes of the kernels of a run.

    Parameters
    ----------
    values
        All eigenvalues, by kernel.
    arrays
        Of the run: those that ``arrays_of_modes`` gives.
    cliffs
        By kernel.
    bank
        Families of features, by name.
    planes
        Fourier families whose single frequencies are features as well.
    controls
        Of the families of the bank.

    Raises
    ------
    InputError
        For a run of an earlier version.
    """
    if "layers" not in arrays:
        raise InputError(
            "an earlier version made this run, without the eigenvectors that a page of modes "
            "shows: run its command again with another --out"
        )
    bases: dict[str, Float64Array] = {**bases_of(bank), **_single_frequencies(planes)}
    N = len(arrays[f"vectors/{WHOLE}"])
    families = families_of({name: b.shape[1] for name, b in bases.items()}, N, controls)
    layers = [name for name in values if name != WHOLE]
    return [
        kernel_view(
            name,
            of_kernel,
            arrays[f"vectors/{name}"],
            trace=float(of_kernel.sum()),
            groups=[cliff.modes for cliff in cliffs[name]],
            families=families,
            bases=bases,
            parts=dict(zip(layers, arrays["layers"].T, strict=True)) if name == WHOLE else None,
        )
        for name, of_kernel in values.items()
    ]


def _single_frequencies(planes: Mapping[str, ArrayLike]) -> dict[str, Float64Array]:
    """The plane of each frequency of each family."""
    bases = {}
    for name, family in planes.items():
        columns = center(family)
        K = columns.shape[1] // 2
        for k in range(K):
            bases[f"{name}, k = {k + 1}"] = orthonormal_basis(columns[:, [k, K + k]])
    return bases
