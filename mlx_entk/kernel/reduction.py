"""What is kept of the class axes of the eNTK.

Every reduction is a choice of cotangents: combinations of the C outputs whose gradients are
taken on the left (for x) and on the right (for x2). The full kernel and the trace pull back
all C basis vectors; the sum of logits pulls back one, their mean; a class one basis vector a
side. What is not asked for is never computed.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import FloatArray

Reduction = str | tuple[int, int]


@dataclass(frozen=True)
class Cotangents:
    """The cotangents of a reduction, shapes (R, C), and how their gradients are paired.

    Attributes
    ----------
    left, right
        Combinations of the outputs, for x and for x2.
    paired
        True: row r of ``left`` meets row r of ``right``, summed over r, giving (N, M).
        False: every row meets every row, giving (N, M, R, R).
    keeps_classes
        True where the result keeps its two class axes.
    """

    left: mx.array
    right: mx.array
    paired: bool
    keeps_classes: bool

    @property
    def symmetric(self) -> bool:
        """Whether swapping the inputs transposes the kernel, so half of it suffices."""
        return self.left is self.right


def cotangents_of(reduction: Reduction, C: int) -> Cotangents:
    """Resolve a reduction for a model of C outputs.

    Raises
    ------
    InputError
        For an unknown reduction, or a class outside 0…C−1.
    """
    if reduction == "full":
        basis = mx.eye(C)
        return Cotangents(basis, basis, paired=False, keeps_classes=True)
    if reduction == "trace":
        basis = mx.eye(C) / C**0.5  # the sum over r is then the mean over c
        return Cotangents(basis, basis, paired=True, keeps_classes=False)
    if reduction == "sum-of-logits":
        mean = mx.full((1, C), 1 / C)
        return Cotangents(mean, mean, paired=True, keeps_classes=False)
    if isinstance(reduction, tuple) and len(reduction) == 2:
        for index in reduction:
            if not 0 <= index < C:
                raise InputError(f"reduction {reduction}: class {index} is outside 0…{C - 1}")
        basis = mx.eye(C)
        c, d = reduction
        left = basis[c : c + 1]
        right = left if c == d else basis[d : d + 1]
        return Cotangents(left, right, paired=True, keeps_classes=False)
    raise InputError(
        f"reduction {reduction!r} is unknown: "
        'use "full", "trace", "sum-of-logits" or a pair of classes (c, d)'
    )


def reduction_name(reduction: Reduction) -> str:
    """A reduction as a command line writes it: ``trace``, or ``0,1`` for a pair of classes."""
    return reduction if isinstance(reduction, str) else ",".join(map(str, reduction))


def flatten(kernel: FloatArray) -> FloatArray:
    """The full eNTK as a matrix, channel-major: row c·N + n.

    Parameters
    ----------
    kernel
        Shape (N, M, C, C).

    Returns
    -------
    numpy.ndarray
        Shape (C·N, C·M).
    """
    N, M, C, D = kernel.shape
    return np.ascontiguousarray(kernel.transpose(2, 0, 3, 1)).reshape(C * N, D * M)
