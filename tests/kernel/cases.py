"""What the functions of MLX and the layers of ``mlx.nn`` are tried with, and by which ways."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_entk import InputError, entk, entk_operator
from mlx_entk.kernel.engine import Strategy

Kernel = NDArray[np.float64]
Shape = tuple[int, ...]

# Inputs and outputs of a case.
N, C = 3, 2

STRATEGIES: tuple[Strategy, ...] = ("auto", "jacobian-contraction", "ntk-vector-products")


@dataclass(frozen=True, eq=False)
class Case:
    """A small model of N inputs and C outputs, with what it is there for.

    Attributes
    ----------
    name
        Of the test.
    covers
        Public functions, as in ``fast.rope`` for ``mx.fast.rope``.
    """

    name: str
    covers: tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def seeded(text: str) -> np.random.Generator:
    """Random numbers that depend on a text alone."""
    # With 5, no case is within the step of a difference of a kink.
    return np.random.default_rng([5, zlib.crc32(text.encode())])


def full_kernels(model: Any, x: Any, params: Any = None) -> dict[str, Kernel | str]:
    """The full kernel by entk's two ways and by the operator; the refusal of those that refuse."""

    def by_operator() -> Kernel:
        operator = entk_operator(model, x, params=params, reduction="full")
        return np.asarray(operator @ np.eye(N * C)).reshape(C, N, C, N).transpose(1, 3, 0, 2)

    ways: dict[str, Callable[[], NDArray[Any]]] = {
        "auto": lambda: entk(model, x, params=params),
        "jacobian-contraction": lambda: entk(
            model, x, params=params, strategy="jacobian-contraction"
        ),
        "operator": by_operator,
    }
    kernels: dict[str, Kernel | str] = {}
    for way, form in ways.items():
        try:
            kernels[way] = form()
        except InputError as error:
            kernels[way] = str(error)
    return kernels


def traces(model: Any, x: Any, **options: Any) -> list[NDArray[Any]]:
    """The trace kernel by every strategy and by the operator."""
    kernels = [
        np.asarray(entk(model, x, reduction="trace", strategy=strategy, **options))
        for strategy in STRATEGIES
    ]
    operator = entk_operator(model, x, reduction="trace", **options)
    return [*kernels, operator @ np.eye(operator.shape[0])]
