"""Which positions of a window make its score by a mode: one term of J w for each position.

A mode is an eigenvector v of R J Jᵀ R, so v = R J w with w = Jᵀ R v / λ, a change of the weights.
A linear module is used once at every position t of a window, as y_t = W a_t, so the window's part
of R J w is a sum over positions, R ∂h/∂y_t (w a_t): what the mode writes at t, as far as it
reaches the last hidden state h.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk._parameters import Params
from mlx_entk.errors import InputError
from mlx_entk.lm.model import LanguageModel, layer_function
from mlx_entk.tracing.functions import ParametricFunction, resolve
from mlx_entk.tracing.jacobian import gradient


def mode_tangent(
    function: ParametricFunction,
    hidden: mx.array,
    vector: Float64Array,
    value: float,
    batch: int,
) -> list[mx.array]:
    """Compute the change of the weights whose effect on the outputs is a mode: w = Jᵀv / λ.

    Parameters
    ----------
    function
        As ``mlx_entk.lm.model.layer_function`` makes it, with the readout of the kernel.
    hidden
        What the layer reads, for all the windows of the kernel, shape (N, T, d).
    vector
        Eigenvector of the kernel of ``function``, channel-major, shape (d·N,).
    value
        Its eigenvalue λ.
    batch
        Windows of one pass.

    Returns
    -------
    list of mx.array
        One array for each of ``function.params``, in their order and of their shapes.

    Raises
    ------
    InputError
        If the vector is not one of (N, d) values, the eigenvalue is not positive, or MLX cannot
        differentiate the model.
    """
    N = hidden.shape[0]
    if vector.ndim != 1 or vector.size == 0 or vector.size % N:
        raise InputError(f"a mode over {N} windows has d·{N} entries, not shape {vector.shape}")
    if not value > 0:
        raise InputError(f"the eigenvalue is {value:g}: only a positive one has a mode in weights")
    cotangents = mx.array((vector.reshape(-1, N).T / value).astype(np.float32))
    return pulled_back(function, hidden, cotangents, batch)


def pulled_back(
    function: ParametricFunction, hidden: mx.array, cotangents: mx.array, batch: int
) -> list[mx.array]:
    """Compute Jᵀ c: the gradient of the sum of all outputs times their cotangents.

    Parameters
    ----------
    function
        As ``mlx_entk.lm.model.layer_function`` makes it.
    hidden
        What the layer reads, shape (N, T, d).
    cotangents
        Shape (N, d).
    batch
        Windows of one pass.

    Returns
    -------
    list of mx.array
        One array for each of ``function.params``, in their order and of their shapes.
    """
    names = list(function.params)
    total = [mx.zeros_like(array) for array in function.params.values()]
    for start in range(0, hidden.shape[0], batch):
        rows = slice(start, start + batch)
        parts = gradient(function, names, (hidden[rows],), cotangents[rows])
        total = [one + part for one, part in zip(total, parts, strict=True)]
        mx.eval(total)  # bounds the graph to one batch
    return total


def position_shares(
    model: LanguageModel,
    layer: int,
    selection: Sequence[str],
    hidden: mx.array,
    readout: mx.array | None,
    direction: mx.array,
    tangent: Sequence[mx.array],
    batch: int,
) -> mx.array:
    """Split the scores of windows by a mode into what each position adds to them.

    Parameters
    ----------
    model, layer, selection, readout
        As for ``mlx_entk.lm.model.layer_function``; the names must be weights or biases of
        ``mlx.nn.Linear`` modules, which work on each position by itself.
    hidden
        What the layer reads, for the windows to split, shape (n, T, d).
    direction
        Top right singular vector of the mode's (N, d) values, shape (d,): the score of a window
        is its product with the window's row.
    tangent
        The mode in weights, as ``mode_tangent`` gives it: one array for each name of
        ``selection``.
    batch
        Windows of one pass.

    Returns
    -------
    mx.array
        Shape (n, T), float32. The sum of a row is the score of its window.

    Raises
    ------
    InputError
        If a name is not a weight or bias of a linear module, if such a module does not run once
        for each position, if shapes do not fit, or as ``layer_function``.
    """
    function = layer_function(model, layer, selection, readout)
    own = list(function.params.values())
    if len(tangent) != len(own) or any(
        w.shape != array.shape for w, array in zip(tangent, own, strict=True)
    ):
        raise InputError("tangent does not have one array of the shape of each selected weight")
    changes: dict[str, Params] = {}  # of each linear module, by the names weight and bias
    for name, w in zip(selection, tangent, strict=True):
        path, _, leaf = name.rpartition(".")
        changes.setdefault(path, {})[leaf] = w

    def split(states: mx.array) -> mx.array:
        cotangents = mx.broadcast_to(direction, (states.shape[0], direction.shape[0]))

        def apply(values: Params, inputs: mx.array) -> mx.array:
            with _with_shares(model.layers[layer], changes, values["shares"]):
                return function.apply({}, inputs)

        of_shares = ParametricFunction({"shares": mx.zeros(states.shape[:2])}, apply)
        (shares,) = gradient(of_shares, ["shares"], (states,), cotangents)
        mx.eval(shares)
        return shares

    n = hidden.shape[0]
    return mx.concatenate([split(hidden[i : i + batch]) for i in range(0, n, batch)])


class _Shared(nn.Module):
    """A linear module whose output at each position takes a share of a change of its weights."""

    def __init__(self, path: str, linear: nn.Linear, change: Params, shares: mx.array):
        super().__init__()
        for name, array in linear.parameters().items():  # a block's weights are set by name
            self[name] = array
        self._path, self._linear, self._change, self._shares = path, linear, change, shares
        self.calls = 0

    def __call__(self, x: mx.array) -> mx.array:
        self.calls += 1
        if x.shape[:-1] != self._shares.shape:
            raise InputError(
                f"{self._path} does not run once for each position, but on values of shape "
                f"{x.shape}: scores cannot be split by position"
            )
        output: mx.array = self._linear(x)
        if "weight" in self._change:
            output = output + self._shares[..., None] * (x @ self._change["weight"].T)
        if "bias" in self._change:
            output = output + self._shares[..., None] * self._change["bias"]
        return output


@contextmanager
def _with_shares(
    block: nn.Module, changes: Mapping[str, Params], shares: mx.array
) -> Iterator[None]:
    """Replace linear modules of a block by ones with shares, and restore them later."""
    replaced: list[tuple[Any, Any, nn.Linear]] = []
    stand_ins = []
    try:
        for path, change in changes.items():
            owner, key = _place(block, path) if path else ([block], 0)
            linear = owner[key]
            if type(linear) is not nn.Linear:
                raise InputError(
                    f"{path or 'the layer'} is no nn.Linear but {type(linear).__name__}: "
                    "scores cannot be split by position"
                )
            replaced.append((owner, key, linear))
            stand_ins.append(_Shared(path, linear, change, shares))
            owner[key] = stand_ins[-1]
        yield
        idle = [stand_in._path for stand_in in stand_ins if not stand_in.calls]
        if idle:
            raise InputError(
                f"the model reads the weights of {', '.join(idle)} without calling the module: "
                "scores cannot be split by position"
            )
    finally:
        for owner, key, linear in replaced:
            owner[key] = linear


def _place(block: nn.Module, path: str) -> tuple[Any, Any]:
    """The container of a module inside a block, and its key there."""
    owner, leaf = resolve(block, *path.rpartition(".")[::2])
    return owner, int(leaf) if isinstance(owner, list) else leaf
