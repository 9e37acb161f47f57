"""Derivatives of a model as functions that can be exported: no autodiff is left in the graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.functions import ParametricFunction
from mlx_entk.jacobian import Probe
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.parameters import Params, flatten_tree

What = Literal["model", "jacobian", "entk", "vjp", "jvp"]

# Names of outputs. A kernel graph also gives the part of each parameter, as kernel.NAME.
OUTPUT = "output"
OUTPUT_TANGENT = "output_tangent"
KERNEL = "kernel"


@dataclass(frozen=True)
class Exported:
    """A function to export with its inputs.

    Attributes
    ----------
    function
        ``function(params, *inputs)``, which gives arrays by name.
    inputs
        Examples by name.
    batches
        Numbers of the inputs whose first axis is one batch, for each batch.
    """

    function: Callable[..., dict[str, mx.array]]
    inputs: dict[str, mx.array]
    batches: tuple[tuple[int, ...], ...]


def derivative(
    model: ParametricFunction, x: mx.array, what: What, reduction: Reduction = "trace"
) -> Exported:
    """The function of a model that ``what`` names.

    - ``model``: ``output`` (N, C) of ``x``.
    - ``jacobian``: ∂f/∂θ by parameter as ``jacobian.NAME``, (N, C, *shape*).
    - ``entk``: the kernel of ``x`` and ``x2``, whole as ``kernel`` and by parameter as
      ``kernel.NAME``, in the shape of the reduction, as :func:`mlx_entk.entk` defines it.
    - ``vjp``: the gradient of Σ ``cotangent`` · f(x) by parameter as ``gradient.NAME``;
      ``cotangent`` is (N, C).
    - ``jvp``: J u as ``output_tangent`` (N, C), for a direction u given by parameter as
      ``tangent.NAME``.

    Raises
    ------
    InputError
        For an unknown ``what``, or a model whose outputs depend on the rest of the batch.
    """
    C = check_model(model, (x,))

    if what == "model":
        return Exported(
            lambda params, x: {OUTPUT: model.apply(flatten_tree(params), x)}, {"x": x}, ((0,),)
        )
    if what == "jacobian":
        basis = mx.eye(C)
        mx.eval(basis)

        def rows(params: Any, x: mx.array) -> dict[str, mx.array]:
            found = _rows(model, flatten_tree(params), x, basis)
            return {f"jacobian.{name}": value for name, value in found.items()}

        return Exported(rows, {"x": x}, ((0,),))
    if what == "entk":
        return Exported(_kernel(model, C, reduction), {"x": x, "x2": x}, ((0,), (1,)))
    if what == "vjp":

        def pull(params: Any, x: mx.array, cotangent: mx.array) -> dict[str, mx.array]:
            values = flatten_tree(params)
            gradients = _vjp(model, values, x, cotangent)
            return {f"gradient.{n}": g for n, g in zip(values, gradients, strict=True)}

        return Exported(pull, {"x": x, "cotangent": mx.zeros((x.shape[0], C))}, ((0, 1),))
    if what == "jvp":
        way = find_push(model, Probe.of(model, (x,), C)).way

        def push(params: Any, x: mx.array, *directions: mx.array) -> dict[str, mx.array]:
            values = flatten_tree(params)
            at = ParametricFunction(values, model.apply)
            return {OUTPUT_TANGENT: way(at, (x,), list(values), directions)}

        inputs = {f"tangent.{name}": mx.zeros_like(v) for name, v in model.params.items()}
        return Exported(push, {"x": x, **inputs}, ((0,),))
    raise InputError(f"{what!r} is no graph of a model: use model, jacobian, entk, vjp or jvp")


def _vjp(
    model: ParametricFunction, values: Params, x: mx.array, cotangent: mx.array
) -> list[mx.array]:
    _, gradients = mx.vjp(
        lambda *p: model.apply(dict(zip(values, p, strict=True)), x),
        list(values.values()),
        [cotangent],
    )
    return list(gradients)


def _rows(
    model: ParametricFunction, values: Params, x: mx.array, cotangents: mx.array
) -> dict[str, mx.array]:
    """Gradients of R combinations of the outputs of each input, by parameter: (N, R, *shape*)."""

    def of_input(row: mx.array, cotangent: mx.array) -> list[mx.array]:
        return _vjp(model, values, row[None], cotangent[None])

    try:
        by_cotangent = mx.vmap(of_input, in_axes=(None, 0))
        rows = list(mx.vmap(by_cotangent, in_axes=(0, None))(x, cotangents))
    except ValueError as error:
        if "vmap" not in str(error):
            raise
        # A convolution's weight gradient, say: one by one, so that the graph has a fixed batch.
        each = [[of_input(row, cotangent) for cotangent in cotangents] for row in x]
        rows = [
            mx.stack([mx.stack([found[i] for found in of_row]) for of_row in each])
            for i in range(len(values))
        ]
    return dict(zip(values, rows, strict=True))


def _kernel(
    model: ParametricFunction, C: int, reduction: Reduction
) -> Callable[..., dict[str, mx.array]]:
    cotangents = cotangents_of(reduction, C)
    left_rows, right_rows = cotangents.left[:], cotangents.right[:]
    mx.eval(left_rows, right_rows)

    def kernel(params: Any, x: mx.array, x2: mx.array) -> dict[str, mx.array]:
        values = flatten_tree(params)
        left = _rows(model, values, x, left_rows)
        right = _rows(model, values, x2, right_rows)
        parts = {
            f"{KERNEL}.{name}": _contract(left[name], right[name], cotangents.paired)
            for name in values
        }
        return {KERNEL: sum_of(list(parts.values())), **parts}

    return kernel


def _contract(left: mx.array, right: mx.array, paired: bool) -> mx.array:
    N, R = left.shape[:2]
    M = right.shape[0]
    if paired:  # Σ over r and the parameter: one product of (N, R·P) with (R·P, M)
        return left.reshape(N, -1) @ right.reshape(M, -1).T
    a, b = left.reshape(N, R, -1), right.reshape(M, R, -1)
    # (N, 1, R, P) with (1, M, P, R)
    return mx.matmul(a[:, None], mx.swapaxes(b, 1, 2)[None])


def sum_of(parts: Sequence[mx.array]) -> mx.array:
    """Arrays added up."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
