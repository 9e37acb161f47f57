"""How a kernel would be computed: by parameter the strategy, its FLOPs and its bytes."""

from dataclasses import dataclass

from mlx_entk._memory import format_bytes
from mlx_entk._text import visible
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.work import Work
from mlx_entk.tracing.fast_convolutions import is_fast
from mlx_entk.tracing.inputs import count, joined, part

# Cotangents whose factors are looked at; what all of them take is in proportion.
_TRIED = 64

# The most characters of a name that the table shows.
_LONGEST = 80


@dataclass(frozen=True)
class Cost:
    """What one parameter takes.

    Attributes
    ----------
    name
        The parameter.
    shape
        Its shape.
    strategy
        How its part of the kernel is computed, in words.
    flops
        FLOPs of the contraction, for all pairs of inputs; the backward passes that give δ are
        common to all parameters and not counted.
    bytes
        Bytes of the Jacobian factors of the inputs x.
    """

    name: str
    shape: tuple[int, ...]
    strategy: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Explanation:
    """What each parameter takes for a kernel; as text, a table.

    Attributes
    ----------
    rows
        One for each parameter, in the order of the model.
    """

    rows: tuple[Cost, ...]

    def __str__(self) -> str:
        cells = [("parameter", "shape", "strategy", "FLOPs", "bytes")]
        for row in self.rows:
            shape = "×".join(str(size) for size in row.shape)
            flops = f"{row.flops:.2g}"
            cells.append(
                (visible(row.name, _LONGEST), shape, row.strategy, flops, format_bytes(row.bytes))
            )
        widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        )


def _strategy(work: Work, name: str, factor: Factor) -> str:
    if work.push is not None:
        return "NTK-vector products"
    structure = work.ways.structure
    uses = structure.uses.get(name, []) if structure is not None else []
    if all(use.node.primitive != "Convolution" for use in uses):
        return factor.strategy
    how = "matrix products" if is_fast() else "MLX's own"
    return f"{factor.strategy}, convolutions by {how}"


def explanation_of(work: Work) -> Explanation:
    """What each parameter takes for the kernel of some work."""
    paired, N, M = work.cotangents.paired, count(work.x), count(work.columns)
    two = joined(*[part(work.x, slice(1))] * 2)  # one input does not show what all inputs share
    R = len(work.cotangents.left)
    tried = min(R, _TRIED)
    times = R / tried if paired else (R / tried) ** 2
    costs = [
        Cost(
            name=name,
            shape=work.function.params[name].shape,
            strategy=_strategy(work, name, factor),
            flops=float(factor.flops(paired)) * times * N * M,
            bytes=2.0 * N * factor.size * R / tried,
        )
        for name, factor in work.factors(two, work.cotangents.left[:tried]).items()
    ]
    return Explanation(tuple(costs))
