"""Say which inputs and which parameter put a kernel beyond single precision."""

import numpy as np

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk.errors import InputError
from mlx_entk.kernel.checks import require_finite_outputs
from mlx_entk.kernel.reduction import Combinations
from mlx_entk.kernel.tiling import Tile, ranges
from mlx_entk.kernel.work import WHOLE, Work
from mlx_entk.tracing.inputs import Inputs, part

# So many inputs are named, and so many cotangents looked at together.
_NAMED, _COTANGENTS = 5, 64


def require_finite_rows_and_columns(work: Work) -> None:
    """Raise InputError if an output of the inputs on either side is not finite."""
    require_finite_outputs(work.function, work.x)
    if work.x2 is not None:
        require_finite_outputs(work.function, work.x2)


def require_finite_blocks(blocks: dict[str, FloatArray], work: Work, tile: Tile) -> None:
    """Raise InputError for blocks that single precision does not hold.

    NaN and infinite entries are followed to the inputs and parameters that they come from. A block
    around the diagonal that is zero although its gradients are not has fallen below what single
    precision holds.
    """
    if work.symmetric and tile.diagonal and tile.left == tile.right:
        _require_no_underflow(blocks, work, tile)
    # A sum is finite only if its terms are; that of finite terms can overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        if all(np.isfinite(block.sum()) or np.isfinite(block).all() for block in blocks.values()):
            return
    require_finite_rows_and_columns(work)
    sides = (
        ("x", work.x, tile.rows, work.cotangents.left),
        ("x2", work.columns, tile.columns, work.cotangents.right),
    )
    for name, batch, rows, cotangents in sides:
        lost = _lost(work, part(batch, rows), cotangents)
        if lost:
            inputs = sorted(
                {row + rows.start for of_parameter in lost.values() for row in of_parameter}
            )
            said = ", ".join(map(str, inputs[:_NAMED])) + (", …" if len(inputs) > _NAMED else "")
            parameters = ", ".join(list(lost)[:3]) + (", …" if len(lost) > 3 else "")
            raise InputError(
                f"the gradient of input {said} of {name} by {parameters} is NaN or infinite (the "
                "root or norm of a zero, say): leave such inputs out"
            )
    raise InputError("the kernel is beyond what single precision holds: scale outputs down")


def _require_no_underflow(blocks: dict[str, FloatArray], work: Work, tile: Tile) -> None:
    zero = {name for name, block in blocks.items() if not block.any()}
    if not zero:
        return
    first = part(work.x, slice(tile.rows.start, tile.rows.start + 1))
    for name, factor in work.factors(first, work.cotangents.left[:_COTANGENTS]).items():
        if (name if work.by_layer else WHOLE) in zero and as_numpy(factor.rows().values).any():
            raise InputError(
                f"the kernel of {name} is below what single precision holds: scale outputs up"
            )


def _lost(work: Work, x: Inputs, cotangents: Combinations) -> dict[str, list[int]]:
    """By parameter, the inputs whose Jacobian is not finite."""
    lost: dict[str, list[int]] = {}
    for chosen in ranges(len(cotangents), _COTANGENTS):
        for name, factor in work.factors(x, cotangents[chosen]).items():
            rows = np.flatnonzero(~as_numpy(factor.finite()))
            if rows.size:
                lost[name] = rows.tolist()
        if lost:
            break
    return lost
