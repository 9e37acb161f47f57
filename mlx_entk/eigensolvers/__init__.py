"""Leading eigenpairs and traces of kernels that exist only as matrix-vector products."""

from mlx_entk.eigensolvers.jacobian import jacobian_modes
from mlx_entk.eigensolvers.modes import Method, TopModes, top_modes
from mlx_entk.eigensolvers.nystrom import NystromModes, nystrom_modes
from mlx_entk.eigensolvers.operators import FormedOperator, as_operator
from mlx_entk.eigensolvers.recorded import RecordedOperator
from mlx_entk.eigensolvers.trace import TraceEstimate, estimate_trace

__all__ = [
    "FormedOperator",
    "Method",
    "NystromModes",
    "RecordedOperator",
    "TopModes",
    "TraceEstimate",
    "as_operator",
    "estimate_trace",
    "jacobian_modes",
    "nystrom_modes",
    "top_modes",
]
