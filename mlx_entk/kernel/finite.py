"""Say which inputs and which parameter make a kernel NaN or infinite."""

import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.inputs import Inputs, part
from mlx_entk.kernel.reduction import Combinations
from mlx_entk.kernel.tiling import Tile, ranges
from mlx_entk.kernel.work import Work
from mlx_entk.linalg import FloatArray, as_numpy

# So many inputs are named, and so many cotangents looked at together.
_NAMED, _COTANGENTS = 5, 64


def require_finite_blocks(
    blocks: dict[str, FloatArray], work: Work, x: Inputs, x2: Inputs, tile: Tile
) -> None:
    """Raise InputError for blocks with NaN or infinite entries, naming where they come from."""
    # A sum is finite only if its terms are; that of finite terms can overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        if all(np.isfinite(block.sum()) or np.isfinite(block).all() for block in blocks.values()):
            return
    sides = (
        ("x", x, tile.rows, work.cotangents.left),
        ("x2", x2, tile.columns, work.cotangents.right),
    )
    for name, batch, rows, cotangents in sides:
        lost = _lost(work, part(batch, rows), cotangents)
        if lost:
            inputs = sorted({number + rows.start for found in lost.values() for number in found})
            said = ", ".join(map(str, inputs[:_NAMED])) + (", …" if len(inputs) > _NAMED else "")
            parameters = ", ".join(list(lost)[:3]) + (", …" if len(lost) > 3 else "")
            raise InputError(
                f"the gradient of input {said} of {name} by {parameters} is NaN or infinite (the "
                "root or norm of a zero, say): leave such inputs out"
            )
    raise InputError("the kernel is beyond what single precision holds: scale outputs down")


def _lost(work: Work, x: Inputs, cotangents: Combinations) -> dict[str, list[int]]:
    """By parameter, the inputs whose Jacobian is not finite."""
    found: dict[str, list[int]] = {}
    for chosen in ranges(len(cotangents), _COTANGENTS):
        for name, factor in work.factors(x, cotangents[chosen]).items():
            lost = np.flatnonzero(~as_numpy(factor.finite()))
            if lost.size:
                found[name] = lost.tolist()
        if found:
            break
    return found
