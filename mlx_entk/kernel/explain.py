"""Say how a kernel is computed, before it is: parameter, strategy, FLOPs, bytes."""

from mlx_entk._memory import format_bytes
from mlx_entk.kernel.factors import Outers
from mlx_entk.kernel.work import Work
from mlx_entk.tracing.inputs import Inputs, count, joined, part

# Cotangents whose factors are looked at; what all of them take is in proportion.
_TRIED = 64


def explanation(work: Work, x: Inputs, M: int) -> str:
    """A table of what each parameter takes for a kernel of the inputs x and M others.

    FLOPs are those of the contraction; the backward passes that give δ are common to all
    parameters. Bytes are those of the factors of the inputs x.
    """
    paired, N = work.cotangents.paired, count(x)
    two = joined(*[part(x, slice(1))] * 2)  # one input does not show what all inputs share
    structured = work.ways.structure.uses if work.ways.structure is not None else {}
    rows = [("parameter", "shape", "strategy", "FLOPs", "bytes")]
    R = len(work.cotangents.left)
    tried = min(R, _TRIED)
    times = R / tried if paired else (R / tried) ** 2
    for name, factor in work.factors(two, work.cotangents.left[:tried]).items():
        if work.push is not None:
            strategy = "NTK-vector products"
        elif isinstance(factor, Outers):
            uses = len(factor.uses)
            strategy = "structured: (a·a′)(δ·δ′)" + (f" over {uses} uses" if uses > 1 else "")
        elif name in structured:
            strategy = "structured: Jacobian from δ"
        else:
            one_by_one = ", input by input" if name in work.ways.looped else ""
            strategy = f"Jacobian contraction{one_by_one}"
        shape = "×".join(str(size) for size in work.function.params[name].shape)
        flops = f"{float(factor.flops(paired)) * times * N * M:.2g}"
        rows.append((name, shape, strategy, flops, format_bytes(2.0 * N * factor.size * R / tried)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
