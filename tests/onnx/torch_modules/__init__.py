"""Small PyTorch modules as people write them, one for each thing an exporter does its own way."""

from tests.onnx.torch_modules import convolutions, dense, equal, parameters, sequences
from tests.onnx.torch_modules.example import Example

EXAMPLES: tuple[Example, ...] = (
    *dense.EXAMPLES,
    *convolutions.EXAMPLES,
    *sequences.EXAMPLES,
    *parameters.EXAMPLES,
    *equal.EXAMPLES,
)

__all__ = ["EXAMPLES", "Example"]
