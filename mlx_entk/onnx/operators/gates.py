"""The activation functions of the gates of recurrent layers."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.activations import ACTIVATIONS
from mlx_entk.onnx.operators.values import Attributes

Function = Callable[[mx.array], mx.array]

# Functions that take numbers of their own, and those for which onnxruntime takes 0 and ONNX, if it
# says anything, something else.
_NUMBERS = {
    "Affine": ("alpha", "beta"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "ScaledTanh": ("alpha", "beta"),
    "ThresholdedRelu": ("alpha",),
}
_WITHOUT_DEFAULT = frozenset({"Affine", "ScaledTanh", "ThresholdedRelu"})

_FUNCTIONS: dict[str, Callable[..., mx.array]] = {
    "Affine": lambda v, alpha, beta: alpha * v + beta,
    "ScaledTanh": lambda v, alpha, beta: alpha * mx.tanh(beta * v),
    "Tanh": mx.tanh,
    **{
        name: lambda v, operator=ACTIVATIONS[name], **numbers: operator([v], numbers, 1)
        for name in (
            "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Softsign",
            "ThresholdedRelu",
        )
    },
}  # fmt: skip


def activations(
    a: Attributes, usual: Sequence[str], clipped: int, count: int
) -> list[list[Function]]:
    """Return the activation functions of every direction.

    Parameters
    ----------
    a
        Attributes of the layer.
    usual
        Names of the functions of one direction, unless others are chosen.
    clipped
        How many of these clip what they are given: those of the gates, which come first.
        onnxruntime does not clip the cell.
    count
        Number of directions.

    Raises
    ------
    InputError
        If their number is wrong, one is unknown, or one lacks a number without a default, or if
        the bound of what they are given is not positive.
    """
    names = [name.decode() for name in a.get("activations", [])] or [*usual] * count
    if len(names) != count * len(usual):
        raise InputError(f"{len(names)} activations are given for {count} directions")
    bound = a.get("clip", math.inf)
    if not bound > 0:
        raise InputError(f"clip is {bound}: it has to be positive")
    numbers = {word: iter(a.get(f"activation_{word}", [])) for word in ("alpha", "beta")}
    each = len(usual)
    functions = [
        _function(name, numbers, bound if i % each < clipped else math.inf)
        for i, name in enumerate(names)
    ]
    return [functions[k * each : (k + 1) * each] for k in range(count)]


def _function(name: str, numbers: dict[str, Iterator[float]], bound: float) -> Function:
    """A function that takes the numbers it needs from those that are left."""
    if name not in _FUNCTIONS:
        raise InputError(f"activation {name!r} is unknown: it may be {', '.join(_FUNCTIONS)}")
    own = {}
    for word in _NUMBERS.get(name, ()):
        number = next(numbers[word], None)
        if number is not None:
            own[word] = number
        elif name in _WITHOUT_DEFAULT:
            raise InputError(f"activation {name} needs activation_{word}")
    function = partial(_FUNCTIONS[name], **own)
    return function if bound == math.inf else lambda v: function(mx.clip(v, -bound, bound))
