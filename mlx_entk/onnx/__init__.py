"""Models, derivatives and kernels as ONNX graphs; verification by other frameworks; import."""

from mlx_entk.onnx.agreement import Agreement, all_passed
from mlx_entk.onnx.assembly import OPSET
from mlx_entk.onnx.derivatives import derivative
from mlx_entk.onnx.export import export
from mlx_entk.onnx.importer import OnnxFunction, load
from mlx_entk.onnx.subject import Subject
from mlx_entk.onnx.verify import CHECKERS, installed_checkers, require_checkers, verify

__all__ = [
    "CHECKERS",
    "OPSET",
    "Agreement",
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
