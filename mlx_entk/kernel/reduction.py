"""What is kept of the class axes of the eNTK.

Every reduction is a choice of cotangents: combinations of the C outputs whose gradients are
taken on the left (for x) and on the right (for x2). The full kernel and the trace pull back
all C basis vectors; the sum of logits pulls back one, their mean; a class one basis vector a
side. What is not asked for is never computed.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import FloatArray
from mlx_entk.errors import InputError

Reduction = str | tuple[int, int]
"""``"full"``, ``"trace"``, ``"sum-of-logits"``, or a pair of classes (c, d)."""


@dataclass(frozen=True)
class Combinations:
    """R combinations of C outputs, of which a part is made when it is asked for.

    Attributes
    ----------
    outputs
        C.
    first, count
        The basis vectors first…first + R − 1; of a ``mean`` R is 1.
    scale
        What they are multiplied by.
    mean
        True for the mean of all outputs in place of basis vectors.
    """

    outputs: int
    first: int = 0
    count: int = 1
    scale: float = 1.0
    mean: bool = False

    def __len__(self) -> int:
        """R."""
        return self.count

    def __getitem__(self, part: slice) -> mx.array:
        """Some of them, shape (r, C): the C² numbers of a basis never exist at once."""
        rows = mx.arange(*part.indices(self.count))
        if self.mean:
            return mx.full((rows.size, self.outputs), self.scale)
        is_chosen = (rows[:, None] + self.first) == mx.arange(self.outputs)[None]
        return is_chosen.astype(mx.float32) * self.scale

    def spread(self, values: FloatArray) -> FloatArray:
        """Values (N, R) of the combinations as values of the outputs, shape (N, C)."""
        if self.mean:
            return np.repeat(self.scale * values, self.outputs, axis=1)
        outputs = np.zeros((len(values), self.outputs), dtype=values.dtype)
        outputs[:, self.first : self.first + self.count] = self.scale * values
        return outputs

    def gather(self, outputs: FloatArray) -> FloatArray:
        """The combinations of outputs (N, C), shape (N, R): the transpose of ``spread``."""
        if self.mean:
            return np.asarray(self.scale * outputs.sum(axis=1, keepdims=True))
        return np.asarray(self.scale * outputs[:, self.first : self.first + self.count])


@dataclass(frozen=True)
class Cotangents:
    """The cotangents of a reduction, and how their gradients are paired.

    Attributes
    ----------
    left, right
        R combinations of the outputs, for x and for x2.
    paired
        True: row r of ``left`` meets row r of ``right``, summed over r, giving (N, M).
        False: every row meets every row, giving (N, M, R, R).
    keeps_classes
        Whether the result keeps its two class axes.
    """

    left: Combinations
    right: Combinations
    paired: bool
    keeps_classes: bool

    @property
    def symmetric(self) -> bool:
        """Whether swapping the inputs transposes the kernel, so half of it suffices."""
        return self.left == self.right


def cotangents_of(reduction: Reduction, C: int) -> Cotangents:
    """Resolve a reduction for a model of C outputs.

    Raises
    ------
    InputError
        For an unknown reduction, or a class outside 0…C−1.
    """
    if reduction == "full":
        basis = Combinations(C, count=C)
        return Cotangents(basis, basis, paired=False, keeps_classes=True)
    if reduction == "trace":
        # The sum over r is then the mean over c.
        basis = Combinations(C, count=C, scale=C**-0.5)
        return Cotangents(basis, basis, paired=True, keeps_classes=False)
    if reduction == "sum-of-logits":
        mean = Combinations(C, scale=1 / C, mean=True)
        return Cotangents(mean, mean, paired=True, keeps_classes=False)
    if isinstance(reduction, tuple) and len(reduction) == 2:
        for index in reduction:
            if not isinstance(index, int | np.integer) or not 0 <= index < C:
                raise InputError(f"reduction {reduction}: class {index} is outside 0…{C - 1}")
        left, right = (Combinations(C, first=int(index)) for index in reduction)
        return Cotangents(left, right, paired=True, keeps_classes=False)
    raise InputError(
        f"reduction {reduction!r} is unknown: "
        'use "full", "trace", "sum-of-logits" or a pair of classes (c, d)'
    )


def require_kernel(reduction: Reduction) -> None:
    """Raise InputError for a pair of different classes, whose block has no spectrum of its own.

    K[n, m, c, d] is no symmetric positive semidefinite matrix over the inputs if c ≠ d.
    """
    if isinstance(reduction, tuple) and reduction[0] != reduction[1]:
        raise InputError(
            f"reduction {reduction_name(reduction)} is a block of the kernel, not a kernel: it has "
            "no spectrum; take one class (c, c), the trace or the full kernel"
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
