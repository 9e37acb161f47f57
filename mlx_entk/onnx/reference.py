"""ONNX's reference implementation, in double precision throughout."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy import special

from mlx_entk._files import Arrays


class Erf(OpRun):
    """The error function, which the onnx package rounds to single precision for every type."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (special.erf(x).astype(x.dtype),)


# Every other operator that the exporter writes already keeps the precision of its inputs.
PRECISE = (Erf,)


def evaluator(model: onnx.ModelProto) -> Callable[[str, Arrays], NDArray[np.float64]]:
    """Return ``run(output, inputs)`` for a model, by ONNX's own definition of the operators."""
    reference = ReferenceEvaluator(model, new_ops=list(PRECISE))

    def run(output: str, feed: Arrays) -> NDArray[np.float64]:
        # A graph computes both branches of a choice, and one of them may be out of range.
        with np.errstate(all="ignore"):
            results: Any = reference.run([output], feed)
        return np.asarray(results[0], dtype=np.float64)

    return run
