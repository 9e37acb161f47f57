"""What each ONNX operator computes, in MLX: one registry, ``OPERATORS``.

An operator gets its inputs (MLX arrays; NumPy arrays if they are known without the model's inputs,
as shapes are; None if left out), its attributes, and the number of outputs to return. To import
another operator, write it in the file of its family and add a line to that file's table.
"""

from mlx_entk.onnx.operators.activations import ACTIVATIONS
from mlx_entk.onnx.operators.attention import ATTENTION
from mlx_entk.onnx.operators.convolutions import CONVOLUTIONS
from mlx_entk.onnx.operators.elementwise import ELEMENTWISE
from mlx_entk.onnx.operators.indexing import INDEXING
from mlx_entk.onnx.operators.linear import LINEAR
from mlx_entk.onnx.operators.ml import ML
from mlx_entk.onnx.operators.normalisation import NORMALISATION
from mlx_entk.onnx.operators.pooling import POOLING
from mlx_entk.onnx.operators.quantised import QUANTISED
from mlx_entk.onnx.operators.recurrent import RECURRENT
from mlx_entk.onnx.operators.reductions import REDUCTIONS
from mlx_entk.onnx.operators.resizing import RESIZING
from mlx_entk.onnx.operators.sampling import SAMPLING
from mlx_entk.onnx.operators.shapes import SHAPES
from mlx_entk.onnx.operators.values import Operator, Value, as_mlx, from_numpy

OPERATORS: dict[str, Operator] = {
    **ELEMENTWISE,
    **ACTIVATIONS,
    **REDUCTIONS,
    **SHAPES,
    **INDEXING,
    **LINEAR,
    **CONVOLUTIONS,
    **NORMALISATION,
    **POOLING,
    **QUANTISED,
    **RECURRENT,
    **ATTENTION,
    **ML,
    **RESIZING,
    **SAMPLING,
}

__all__ = ["OPERATORS", "Operator", "Value", "as_mlx", "from_numpy"]
