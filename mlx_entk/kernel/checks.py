"""What a kernel needs of its inputs and its model, said before anything is computed."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.errors import InputError, first_line
from mlx_entk.kernel.tiling import ranges
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, as_inputs, count, described, different, joined, part
from mlx_entk.tracing.module_state import random_or_batch_dependent

# Inputs of the batch in which outputs are compared with those of an input alone.
_BATCH = 8
# Inputs at a time whose outputs are looked at.
_AT_ONCE = 64
# How far an output may move over the largest: if its batch is larger, by the rounding of products
# cut otherwise, in half precision perhaps; if its batch holds other inputs, not at all.
_BY_SIZE, _BY_CONTENT = 0.03, 1e-4


def check_second(x: Any, x2: Any) -> Inputs:
    """The inputs x2, which need the names, shapes and types of x, in the order of x."""
    (arrays, names), (others, other_names) = as_inputs(x), as_inputs(x2, "x2")
    if set(names or ()) != set(other_names or ()):
        said = [", ".join(of or ()) or "no names" for of in (other_names, names)]
        raise InputError(f"x2 has inputs called {said[0]}, x has {said[1]}")
    if names is not None and other_names is not None:
        others = tuple(others[other_names.index(name)] for name in names)
    kinds, other_kinds = (
        [f"{array.shape[1:]} of {array.dtype}" for array in batch] for batch in (arrays, others)
    )
    if kinds != other_kinds:
        raise InputError(
            f"x2 has inputs of shape {', '.join(other_kinds)}, x of {', '.join(kinds)}"
        )
    return others


def check_model(function: ParametricFunction, x: Inputs, module: object = None) -> int:
    """``check_some``, and that the outputs of every input are finite.

    Raises
    ------
    InputError
        As ``check_some`` does, and for a model that returns NaN or infinity for any input.
    """
    C = check_some(function, x, module)
    require_finite_outputs(function, x)
    return C


def check_some(function: ParametricFunction, x: Inputs, module: object = None) -> int:
    """C, of a model that gives an input the same finite outputs each time and in any batch.

    A few inputs are tried.

    Parameters
    ----------
    module
        What the user passed: of an ``mlx.nn.Module`` the layers that draw numbers or mix a
        batch while they train are named.

    Raises
    ------
    InputError
        For a model that cannot be called on x, draws random numbers (dropout) or mixes the inputs
        of a batch (batch norm).
    """
    if isinstance(module, nn.Module) and (named := random_or_batch_dependent(module)):
        raise InputError(
            f"model is in training mode, in which {', '.join(named[:3])} is random or mixes the "
            "batch: call model.eval() first"
        )
    first, other = (part(different(x), slice(n, n + 1)) for n in range(2))
    # Among the user's own inputs, and between two that differ whatever those are.
    batch = joined(first, other, part(x, slice(_BATCH - 2)))
    others = joined(*[first] * count(batch))
    try:
        alone, again = (function.apply({}, *first) for _ in range(2))
        all_among, among_others = function.apply({}, *batch), function.apply({}, *others)[:1]
        among = all_among[:1]
        mx.eval(alone, again, all_among, among_others)
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise InputError(
            f"model cannot be called on x of {described(x)}: {first_line(error)}"
        ) from error
    if alone.size == 0:
        raise InputError("model returns no outputs for an input: a kernel needs at least one")
    if not mx.all(mx.isfinite(all_among)):
        require_finite_outputs(function, x)
    if not mx.array_equal(alone, again):
        raise InputError("model is random (dropout in training mode?): call model.eval() first")
    size = mx.abs(alone).max()
    by_size, by_content = mx.abs(among - alone).max(), mx.abs(among - among_others).max()
    if not (by_size <= _BY_SIZE * size and by_content <= _BY_CONTENT * size):
        raise InputError(
            "the outputs of an input depend on the rest of its batch (batch norm in training "
            "mode, attention over the batch?): call model.eval() first, or treat each input by "
            "itself"
        )
    return alone.shape[1]


def require_finite_outputs(function: ParametricFunction, x: Inputs) -> None:
    """Raise InputError if an output is not finite; the message names the inputs.

    A derivative need not tell: that of a value which was replaced by NaN may be 0.
    """
    bad: list[int] = []
    for rows in ranges(count(x), _AT_ONCE):
        outputs = function.apply({}, *part(x, rows))
        if not mx.all(mx.isfinite(outputs)):
            each = [
                function.apply({}, *part(x, slice(n, n + 1))) for n in range(rows.start, rows.stop)
            ]
            bad += [
                rows.start + n for n, one in enumerate(each) if not mx.all(mx.isfinite(one)).item()
            ]
    if bad:
        named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise InputError(
            f"model returns NaN or infinity on {len(bad)} of {count(x)} inputs ({named}): look at "
            "its weights and at these inputs"
        )
