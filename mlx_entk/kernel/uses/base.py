"""What a use of a parameter is, and what every kind of use has to answer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import Factor, Outers
from mlx_entk.kernel.outer import Outer
from mlx_entk.kernel.sides import Side
from mlx_entk.tracing.graph import Graph, Node

# Primitives of one input that only rearrange a parameter on its way to a use.
VIEWS = frozenset(
    {"AsType", "Broadcast", "ExpandDims", "Flatten", "Full", "Reshape", "Squeeze", "Transpose",
     "Unflatten"}
)  # fmt: skip

# Primitives that multiply their first input with their second.
_PRODUCTS = frozenset({"AddMM", "Convolution", "GatherMM", "Matmul"})

# The last two axes of a transpose, of a matrix and of a stack of them, that swap them.
_SWAPPED = ([1, 0], [2, 1])


@dataclass(frozen=True)
class Use:
    """A parameter as one input of a primitive.

    Attributes
    ----------
    node
        The primitive.
    slot
        Which of its inputs.
    views
        The rearrangements that the parameter went through on the way.
    tap
        The value that is perturbed: what the primitive gives or, if only an addition takes that,
        the sum, which has the same derivative. A weight and its bias so share theirs.
    """

    node: Node
    slot: int
    views: tuple[Node, ...]
    tap: str

    @property
    def parameter(self) -> str:
        """The parameter, as a value of the graph."""
        return self.views[0].inputs[0] if self.views else self.node.inputs[self.slot]

    @property
    def met(self) -> str | None:
        """What a product multiplies the parameter with; None for any other primitive."""
        return self.node.inputs[1 - self.slot] if self._is_factor else None

    @property
    def _is_factor(self) -> bool:
        return self.node.primitive in _PRODUCTS and self.slot < 2

    @property
    def plain(self) -> bool:
        """Whether the parameter arrives as it is."""
        return all(view.primitive == "AsType" for view in self.views)

    @property
    def transposed(self) -> bool:
        """Whether a matrix, or every matrix of a stack, arrives as its transpose."""
        swaps = [axes for axes in self._transposes if axes[-2:] in _SWAPPED]
        return len(swaps) % 2 == 1

    @property
    def is_stack(self) -> bool:
        """Whether the parameter is a stack of matrices, which arrive as they are or transposed."""
        return self._only_transposed and all(
            axes in ([0, 1, 2], [0, 2, 1]) for axes in self._transposes
        )

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter arrives as it is or as its transpose."""
        return self._only_transposed and all(len(axes) == 2 for axes in self._transposes)

    @property
    def _only_transposed(self) -> bool:
        return all(view.primitive in ("AsType", "Transpose") for view in self.views)

    @property
    def _transposes(self) -> list[list[int]]:
        return [list(view.arguments[0]) for view in self.views if view.primitive == "Transpose"]


@dataclass(frozen=True)
class Batch:
    """What uses of parameters meet on n inputs.

    Attributes
    ----------
    inputs
        n.
    parameters
        Arrays, by their value in the graph.
    values
        What primitives are given along with a parameter, by value in the graph, shapes (n, …).
    deltas
        By tap.
    """

    inputs: int
    parameters: Mapping[str, mx.array]
    values: Mapping[str, mx.array]
    deltas: Mapping[str, Delta]


class Kind(ABC):
    """One way for a primitive to use a parameter."""

    @abstractmethod
    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether a use is of this kind."""

    @abstractmethod
    def merges(self, use: Use) -> bool:
        """Whether ``Delta.merged`` may stand for δ when a factor is contracted in pairs.

        It may if the contraction multiplies δ with δ′ entry by entry.
        """

    @abstractmethod
    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The Jacobian by this use, for δ of its tap."""


def matrix_shape(parameter: mx.array) -> tuple[int, int]:
    """The shape of a parameter as a matrix: its first axis and the rest."""
    first = parameter.shape[0] if parameter.ndim else 1
    return first, parameter.size // first


def outer_product(
    parameter: mx.array, first: Side, second: Side, delta: Delta, blocks: mx.array | None = None
) -> Outers:
    """The factor of one use that is an outer product; see ``Outer`` for the arguments."""
    return Outers((Outer(first, second, delta.fixed, blocks),), matrix_shape(parameter))


def counted_from_the_start(indices: mx.array, size: int) -> mx.array:
    """Indices as MLX means them: it counts negative ones from the end."""
    indices = indices.astype(mx.int64)
    return mx.where(indices < 0, indices + size, indices)


def positions_of(values: mx.array) -> mx.array:
    """Values of shape (n, …, A) as a side of an outer product, shape (n, 1, T, A)."""
    return values.reshape(values.shape[0], 1, math.prod(values.shape[1:-1]), values.shape[-1])
