"""Find the features inside trained networks by eigenanalysis of their empirical NTK."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

# First of all: MLX gets a fast BLAS before it is imported, and full products before it computes.
from mlx_entk import _blas as _blas  # isort: skip
from mlx_entk import _precision as _precision  # isort: skip
from mlx_entk._linalg import orthonormal_basis
from mlx_entk.analysis import KernelAnalysis, analyze_kernels
from mlx_entk.cliffs import Cliff, find_cliffs
from mlx_entk.eigensolvers import (
    NystromModes,
    TopModes,
    TraceEstimate,
    estimate_trace,
    jacobian_modes,
    nystrom_modes,
    top_modes,
)
from mlx_entk.errors import (
    ConversionWarning,
    InputError,
    MlxEntkError,
    RowsLeftOutWarning,
    RunFailedError,
    SlowPathWarning,
)
from mlx_entk.kernel import (
    Explanation,
    activations,
    entk,
    entk_operator,
    explain,
    flatten,
    layer_factors,
    layerwise_entk,
)
from mlx_entk.sketch import EntkSketch, SketchError, entk_sketch, open_sketch
from mlx_entk.spectrum import Spectrum, effective_rank, eigendecompose
from mlx_entk.tracing.jacobian import jacobian
from mlx_entk.tracker import KernelTracker

if _TYPE_CHECKING:
    from mlx_entk.studies.kernel.analyze import Analysis, analyze

__version__ = _version("mlx-entk")

__all__ = [
    "Analysis",
    "Cliff",
    "ConversionWarning",
    "EntkSketch",
    "Explanation",
    "InputError",
    "KernelAnalysis",
    "KernelTracker",
    "MlxEntkError",
    "NystromModes",
    "RowsLeftOutWarning",
    "RunFailedError",
    "SketchError",
    "SlowPathWarning",
    "Spectrum",
    "TopModes",
    "TraceEstimate",
    "activations",
    "analyze",
    "analyze_kernels",
    "effective_rank",
    "eigendecompose",
    "entk",
    "entk_operator",
    "entk_sketch",
    "estimate_trace",
    "explain",
    "find_cliffs",
    "flatten",
    "jacobian",
    "jacobian_modes",
    "layer_factors",
    "layerwise_entk",
    "nystrom_modes",
    "open_sketch",
    "orthonormal_basis",
    "top_modes",
]


def __getattr__(name: str) -> _Any:
    """Import what draws figures and pages only once somebody uses it."""
    if name in ("Analysis", "analyze"):
        from mlx_entk.studies.kernel import analyze

        return getattr(analyze, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
