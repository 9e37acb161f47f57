"""Which numbers of an ONNX file were trained: decided by evidence, which is shown.

A kernel is of the parameters that a network was trained by. A file holds them among other numbers:
statistics, constants of the code, tables that preprocessing fitted, and numbers that an exporter's
optimiser made of several parameters, of which the kernel is another one. Each exporter tells in
its own way, or not at all. Where a file cannot tell, it is refused, unless the caller chooses.
"""

from mlx_entk.onnx.parameters.candidates import (
    BOUND,
    WEIGHTS,
    Candidate,
    Candidates,
    candidates_of,
)
from mlx_entk.onnx.parameters.verdicts import KINDS

__all__ = ["BOUND", "KINDS", "WEIGHTS", "Candidate", "Candidates", "candidates_of"]
