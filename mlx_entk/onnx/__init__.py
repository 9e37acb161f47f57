"""Models, derivatives and kernels as ONNX graphs; verification by other frameworks; import."""

from mlx_entk.onnx.derivatives import derivative
from mlx_entk.onnx.export import OPSET, export
from mlx_entk.onnx.importer import OnnxFunction, load
from mlx_entk.onnx.verify import (
    CHECKERS,
    Comparison,
    Subject,
    all_passed,
    installed_checkers,
    require_checkers,
    verify,
)

__all__ = [
    "CHECKERS",
    "OPSET",
    "Comparison",
    "OnnxFunction",
    "Subject",
    "all_passed",
    "derivative",
    "export",
    "installed_checkers",
    "load",
    "require_checkers",
    "verify",
]
