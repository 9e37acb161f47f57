"""Mapping a function over inputs and cotangents: by ``mx.vmap``, or one by one.

A function inside ``mx.vmap`` cannot be evaluated, so what MLX has no rule for is found out by
trying: both axes mapped, then the cotangents alone, then neither.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_entk._linalg import settle
from mlx_entk.tracing.fast_convolutions import inside_vmap
from mlx_entk.tracing.inputs import Inputs
from mlx_entk.tracing.primitives import Arrays


def map_inputs(function: Callable[..., Arrays], x: Inputs, *, loop: bool = False) -> Arrays:
    """``function(*row)`` for every row of x, stacked; with ``loop`` one by one at once."""
    if not loop:
        try:
            mapped: Arrays = mx.vmap(inside_vmap(function))(*x)
            return mapped
        except Exception:  # MLX raises several types if a rule is missing
            pass
    return _one_by_one(function, x)


def map_pairs(
    pull: Callable[[Inputs, mx.array], Arrays],
    x: Inputs,
    cotangents: mx.array,
    *,
    own: bool = False,
    loop: bool = False,
) -> Arrays:
    """``pull(row, cotangent)`` for every pair of an input and a cotangent.

    Parameters
    ----------
    pull
        Gives arrays of any shapes.
    x
        n rows.
    cotangents
        Shape (R, …), the same for every row; or (n, R, …) if each row has its ``own``.
    loop
        True takes the pairs one by one, outside of any transform of this function's.

    Returns
    -------
    list of mlx.array
        Shapes (n, R, …).
    """

    def of_row(mapped: bool) -> Callable[..., Arrays]:
        def over_cotangents(*given: mx.array) -> Arrays:
            row, of_input = (given[:-1], given[-1]) if own else (given, cotangents)
            if mapped:
                by_cotangent: Arrays = mx.vmap(inside_vmap(lambda ct: pull(row, ct)))(of_input)
                return by_cotangent
            return _one_by_one(lambda ct: pull(row, ct), (of_input,))

        return over_cotangents

    rows = (*x, cotangents) if own else x
    if not loop:
        try:
            mapped: Arrays = mx.vmap(inside_vmap(of_row(mapped=True)))(*rows)
            return mapped
        except Exception:  # MLX raises several types if a rule is missing
            pass
        try:
            return _one_by_one(of_row(mapped=True), rows)
        except Exception:
            pass
    return _one_by_one(of_row(mapped=False), rows)


def _one_by_one(function: Callable[..., Arrays], over: Sequence[mx.array]) -> Arrays:
    parts = []
    for items in zip(*over, strict=True):
        parts.append(function(*items))
        settle(*parts[-1])  # bounds the graph: one backward pass at a time
    return [mx.stack(list(part)) for part in zip(*parts, strict=True)]
