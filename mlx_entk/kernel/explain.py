"""Say how a kernel is computed, before it is: parameter, strategy, FLOPs, bytes."""

import mlx.core as mx

from mlx_entk.kernel.factors import Outers
from mlx_entk.kernel.work import Work
from mlx_entk.memory import format_bytes


def explanation(work: Work, x: mx.array, M: int) -> str:
    """A table of what each parameter takes for a kernel of the inputs x and M others.

    FLOPs are those of the contraction; the backward passes that give δ are common to all
    parameters. Bytes are those of the factors of the inputs x.
    """
    paired, N = work.cotangents.paired, x.shape[0]
    two = mx.concatenate([x[:1], x[:1]])  # one input does not show what all inputs share
    rows = [("parameter", "shape", "strategy", "FLOPs", "bytes")]
    for name, factor in work.factors(two, work.cotangents.left).items():
        if work.by_products:
            strategy = "NTK-vector products"
        elif isinstance(factor, Outers):
            uses = len(factor.uses)
            strategy = "structured: (a·a′)(δ·δ′)" + (f" over {uses} uses" if uses > 1 else "")
        elif work.structure is not None and name in work.structure.uses:
            strategy = "structured: Jacobian from δ"
        else:
            strategy = "Jacobian contraction"
        shape = "×".join(str(size) for size in work.function.params[name].shape)
        flops = f"{float(factor.flops(paired)) * N * M:.2g}"
        rows.append((name, shape, strategy, flops, format_bytes(2.0 * N * factor.size)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
