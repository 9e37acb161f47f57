"""δ: the derivative of the outputs by a value inside the network."""

import math
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.tail import envelope


@dataclass(frozen=True)
class Base:
    """The derivative of R combinations of the outputs by a value, the same for every input.

    Attributes
    ----------
    rows
        Shape (R, *value).
    """

    rows: mx.array

    @cached_property
    def envelope(self) -> mx.array | None:
        """One row, shape (*value), that stands for all in a sum over r of products; None if none.

        See ``mlx_entk.kernel.tail.envelope``.
        """
        return envelope(self.rows) if self.rows.shape[0] > 1 else None


@dataclass(frozen=True)
class Delta:
    """The derivative of R combinations of the outputs by one tap, on n inputs.

    Attributes
    ----------
    name
        The tap, and what was done to its derivative.
    base
        Shape (n, R, *tap); or the same for all inputs.
    scale
        Shape (n, *tap): what the entries of a base for all inputs are multiplied with for each of
        them; None for nothing.
    """

    name: str
    base: mx.array | Base
    scale: mx.array | None = None

    @property
    def fixed(self) -> bool:
        """Whether it is the same for every input."""
        return isinstance(self.base, Base) and self.scale is None

    @cached_property
    def rows(self) -> mx.array:
        """Shape (n, R, *tap), or (1, R, *tap) if fixed."""
        base = self.base.rows[None] if isinstance(self.base, Base) else self.base
        return base if self.scale is None else self.scale[:, None] * base

    @cached_property
    def by_position(self) -> mx.array:
        """The same, float32, all axes but the last as one: shape (n or 1, R, T, entries)."""
        inputs, R, *shape = self.rows.shape
        entries = shape[-1] if shape else 1
        return self.rows.astype(mx.float32).reshape(inputs, R, math.prod(shape[:-1]), entries)

    @cached_property
    def merged(self) -> "Delta":
        """One row, which stands for all in a sum over r of products entry by entry, if it can."""
        one = self.base.envelope if isinstance(self.base, Base) else None
        if one is None:
            return self
        return Delta(f"{self.name} merged", Base(one[None]), self.scale)

    def side(self, factor: float = 1.0) -> Side:
        """It, times a factor, as a side of an outer product."""
        values = self.by_position if factor == 1 else self.by_position * factor
        return Side(values, (self.name, factor), backward=True)
