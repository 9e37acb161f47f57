"""How often smooth spectra have a cliff, and which cliffs the modular MLP has by other constants.

``python -m benchmarks.cliffs`` stores ``results/cliffs.json`` and puts two tables into the docs.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx_entk  # isort: skip  # noqa: F401  (BLAS before NumPy's first product)
import numpy as np
from numpy.random import Generator

from benchmarks.pages import HERE, insert
from mlx_entk._linalg import Float64Array
from mlx_entk._records import to_json
from mlx_entk.cliffs import find_cliffs
from mlx_entk.runs import Run
from mlx_entk.spectrum import noise_floor
from mlx_entk.studies import STUDIES
from mlx_entk.studies.modular_mlp import MLPConfig

SPECTRA = 1000
SEEDS = (0, 1, 2)
EXPONENTS = (0.5, 1.0, 1.5)

Family = Callable[[Generator], Float64Array]


def power_law(generator: Generator) -> Float64Array:
    """i^−α from i = 1, α from 0.3 to 3."""
    return _ranks(generator) ** -generator.uniform(0.3, 3)


def symmetric_power_law(generator: Generator) -> Float64Array:
    """The same with pairs or quadruples of equal eigenvalues, as symmetries make them."""
    return np.repeat(power_law(generator), generator.choice([2, 4]))


def exponential(generator: Generator) -> Float64Array:
    """e^(−c i), c from 0.001 to 1."""
    return np.exp(-_ranks(generator) * 10 ** generator.uniform(-3, 0))


def independent(generator: Generator) -> Float64Array:
    """Independent draws whose logarithms are normal: the null hypothesis itself."""
    logs = generator.uniform(0.3, 3) * generator.standard_normal(int(generator.integers(20, 1001)))
    return np.exp(np.sort(logs)[::-1])


def gram_matrix(exponent: float) -> Family:
    """Gram matrices of N inputs with the covariance i^−exponent in D dimensions."""

    def draw(generator: Generator) -> Float64Array:
        N, D = generator.integers(100, 1001, 2)
        scales = np.arange(1, D + 1) ** (-exponent / 2)
        x = (generator.standard_normal((N, D)) * scales).astype(np.float64)
        return np.asarray(np.linalg.svd(x, compute_uv=False) ** 2)

    return draw


FAMILIES: dict[str, Family] = {
    "power law i^−α, α from 0.3 to 3": power_law,
    "the same in pairs or quadruples": symmetric_power_law,
    "exponential": exponential,
    "independent draws, log-normal": independent,
    "white Wishart": gram_matrix(0.0),
    **{f"Gram matrix, covariance i^−{a:g}": gram_matrix(a) for a in EXPONENTS},
}


# What the null hypothesis leaves out: spacings of zero are none of its exponential ones.
EXCEPTIONS: dict[str, Family] = {
    "independent draws, each in a pair": lambda generator: np.repeat(independent(generator), 2),
    "independent draws, each four times": lambda generator: np.repeat(independent(generator), 4),
}


def _ranks(generator: Generator) -> Float64Array:
    return np.arange(1.0, generator.integers(20, 1001) + 1)


def draw(family: Family, spectra: int, seed: int = 0) -> list[Float64Array]:
    """Spectra of a family."""
    generator = np.random.default_rng(seed)
    return [family(generator) for _ in range(spectra)]


def share_with_cliffs(spectra: Sequence[Float64Array], **constants: Any) -> float:
    """The share of some spectra that have a cliff."""
    epsilon = float(np.finfo(np.float64).eps)
    floors = [noise_floor(values.size, float(values[0]), epsilon) for values in spectra]
    found = [
        bool(find_cliffs(values, floor, **constants))
        for values, floor in zip(spectra, floors, strict=True)
    ]
    return sum(found) / len(found)


def spectra_of_mlps() -> dict[int, tuple[Float64Array, float]]:
    """Eigenvalues and noise floor of the whole kernel of the trained MLP, by seed."""
    study = STUDIES["modular-mlp"]
    spectra = {}
    for seed in SEEDS:
        config = MLPConfig(seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            run = Run.create(Path(folder) / "run", study.name, to_json(config))
            study.complete(config, run)
            values = np.asarray(run.arrays["values/full"], dtype=np.float64)
        # The largest entry of a kernel is at most its largest eigenvalue.
        floor = noise_floor(values.size, float(values[0]), float(np.finfo(np.float32).eps))
        spectra[seed] = values, floor
    return spectra


# What each constant is changed to, one at a time.
CHANGES: dict[str, tuple[float, ...]] = {
    "level": (0.01, 0.1),
    "min_drop": (1.1, 1.4),
    "neighbourhood": (10, 50),
    "quantile": (0.75, 0.95),
}


def variants() -> dict[str, dict[str, float]]:
    """The rule as it is, and with each change, by what a table calls it."""
    changed = {
        f"{name} = {value:g}": {name: value} for name, values in CHANGES.items() for value in values
    }
    return {"as it is": {}, **changed}


def measure() -> dict[str, Any]:
    """Both tables as numbers."""
    spectra = spectra_of_mlps()
    drawn = {name: draw(family, SPECTRA) for name, family in FAMILIES.items()}

    def found(known: int | None, **constants: Any) -> list[list[int]]:
        return [
            [cliff.before for cliff in find_cliffs(v[:known], floor, **constants)]
            for v, floor in spectra.values()
        ]

    return {
        "spectra": SPECTRA,
        "false positives": {
            name: share_with_cliffs(of_family) for name, of_family in drawn.items()
        },
        "exceptions": {
            name: share_with_cliffs(draw(family, SPECTRA)) for name, family in EXCEPTIONS.items()
        },
        "constants": {
            name: {
                "false positives": max(
                    share_with_cliffs(of_family, **constants) for of_family in drawn.values()
                ),
                "found": found(None, **constants),
            }
            for name, constants in variants().items()
        },
        "known": {str(known): found(known) for known in (10, 20, 60, 80, 120, 200)},
    }


def main() -> None:
    """Measure, store, and write the tables."""
    result = measure()
    (HERE / "results" / "cliffs.json").write_text(json.dumps(result, indent=1) + "\n")
    page = HERE.parent / "docs" / "method.md"
    shares = result["false positives"] | result["exceptions"]
    rows = [f"| {name} | {share:.1%} |" for name, share in shares.items()]
    head = f"| {result['spectra']:,} spectra each | with a cliff |\n| --- | ---: |\n"
    insert(page, "false positives", head + "\n".join(rows))
    head = (
        "| constants | cliffs of three seeds, before modes | with a cliff, worst family |\n"
        "| --- | --- | ---: |\n"
    )
    rows = [
        f"| {name} | {_positions(row['found'])} | {row['false positives']:.1%} |"
        for name, row in result["constants"].items()
    ]
    rows += [
        f"| the leading {known} eigenvalues alone | {_positions(found)} | |"
        for known, found in result["known"].items()
    ]
    insert(page, "cliff constants", head + "\n".join(rows))


def _positions(found: list[list[int]]) -> str:
    each = [", ".join(map(str, of_seed)) or "none" for of_seed in found]
    return each[0] if len(set(each)) == 1 else "; ".join(each)


if __name__ == "__main__":
    main()
