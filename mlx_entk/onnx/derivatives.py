"""Derivatives of a model as exportable functions: no automatic differentiation is left in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import mlx.core as mx
import numpy as np

from mlx_entk._parameters import Params, flatten_tree
from mlx_entk.errors import InputError
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.onnx.checkpoints import hides, without_checkpoints
from mlx_entk.onnx.trial import agree
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import record
from mlx_entk.tracing.jacobian import Probe, gradient
from mlx_entk.tracing.primitives import TRANSPOSABLE, UntraceableError
from mlx_entk.tracing.rules import Examined, by_graph, examine

What = Literal["model", "jacobian", "entk", "vjp", "jvp"]

# More inputs than the number from which mlx-lm sorts the tokens by expert.
_MANY = 64

# Names of outputs. A kernel graph also returns the part of each parameter, as kernel.NAME.
OUTPUT = "output"
OUTPUT_TANGENT = "output_tangent"
KERNEL = "kernel"


@dataclass(frozen=True)
class Exported:
    """A function to export, with example inputs.

    Attributes
    ----------
    function
        ``function(params, *inputs)``, which returns arrays by name.
    inputs
        Example inputs by name.
    batches
        One tuple for each batch that may have any size: the numbers of the inputs whose first axis
        is that batch.
    """

    function: Callable[..., dict[str, mx.array]]
    inputs: dict[str, mx.array]
    batches: tuple[tuple[int, ...], ...]


def derivative(
    model: ParametricFunction, x: mx.array, what: What, reduction: Reduction = "trace"
) -> Exported:
    """Return the function that ``what`` names, ready to export.

    - ``model``: ``output`` (N, C) of ``x``.
    - ``jacobian``: ∂f/∂θ by parameter as ``jacobian.NAME``, (N, C, *shape*).
    - ``entk``: the kernel of ``x`` and ``x2``, whole as ``kernel`` and by parameter as
      ``kernel.NAME``, in the shape of the reduction, as ``mlx_entk.entk`` defines it.
    - ``vjp``: the gradient of Σ ``cotangent`` · f(x) by parameter as ``gradient.NAME``;
      ``cotangent`` has shape (N, C).
    - ``jvp``: J u as ``output_tangent`` (N, C), for a direction u given by parameter as
      ``tangent.NAME``.

    Gradients are those of ``mlx_entk.entk``: if a derivative rule of MLX is wrong, a correct
    one replaces it; and if mapping over inputs changes the gradients, they are taken input by
    input, and the graph then accepts only batches of the size of ``x``.

    Parameters
    ----------
    model
        The model and its parameters.
    x
        Example inputs, shape (N, …).
    what
        Which function.
    reduction
        Reduction of the kernel, for ``entk``.

    Raises
    ------
    InputError
        If ``what`` is unknown, the outputs for one input depend on the rest of the batch, or MLX
        cannot differentiate the model correctly.
    """
    if what not in get_args(What):
        raise InputError(f"{what!r} is not a graph of a model: use {', '.join(get_args(What))}")
    C = check_model(model, (x,))
    if what == "model":
        return Exported(
            lambda params, x: {OUTPUT: model.apply(flatten_tree(params), x)}, {"x": x}, ((0,),)
        )
    examined = examine(model, (x,), C)
    if hides(examined.untraceable):
        examined = examine(without_checkpoints(model, x[:1]), (x,), C)
    if what == "jacobian":
        rows_of, mapped = _find_rows(examined, x, C)
        basis = mx.eye(C)
        mx.eval(basis)

        def rows(params: Any, x: mx.array) -> dict[str, mx.array]:
            by_parameter = rows_of(flatten_tree(params), x, basis)
            return {f"jacobian.{name}": value for name, value in by_parameter.items()}

        return Exported(rows, {"x": x}, ((0,),) if mapped else ())
    if what == "entk":
        rows_of, mapped = _find_rows(examined, x, C)
        kernel = _kernel(rows_of, C, reduction)
        return Exported(kernel, {"x": x, "x2": x}, ((0,), (1,)) if mapped else ())
    many = mx.array(np.arange(max(_MANY, x.shape[0])) % x.shape[0])
    function = _reported(examined.function, x[many], C)
    if what == "vjp":

        def pull(params: Any, x: mx.array, cotangent: mx.array) -> dict[str, mx.array]:
            at = ParametricFunction(flatten_tree(params), function.apply)
            gradients = gradient(at, list(at.params), (x,), cotangent)
            return {f"gradient.{n}": g for n, g in zip(at.params, gradients, strict=True)}

        example = {"x": x, "cotangent": _example((x.shape[0], C), 0)}
        return Exported(pull, example, ((0, 1),))
    return Exported(
        _push(replace(examined, function=function), x, C),
        {
            "x": x,
            **{
                f"tangent.{name}": _example(value.shape, i).astype(value.dtype)
                for i, (name, value) in enumerate(model.params.items())
            },
        },
        ((0,),),
    )


def _example(shape: Sequence[int], seed: int) -> mx.array:
    """Return random numbers: for zeros, a wrong derivative would agree with a right one."""
    return mx.random.normal(shape, key=mx.random.key(seed))


def _push(examined: Examined, x: mx.array, C: int) -> Callable[..., dict[str, mx.array]]:
    """Return a function for J u that agrees with reverse mode."""
    function = examined.function
    way = find_push(examined, Probe.of(function, (x,), C)).way

    def push(params: Any, x: mx.array, *directions: mx.array) -> dict[str, mx.array]:
        at = ParametricFunction(flatten_tree(params), function.apply)
        return {OUTPUT_TANGENT: way(at, (x,), list(at.params), directions)}

    return push


# For parameters, N inputs and cotangents (R, C): the gradients of R combinations of each input's
# outputs, by parameter, shape (N, R, *shape*).
Rows = Callable[[Params, mx.array, mx.array], Params]


def _find_rows(examined: Examined, x: mx.array, C: int) -> tuple[Rows, bool]:
    """Return a function for the rows of the Jacobian, and whether it uses ``mx.vmap``.

    It does if that gives the plain gradients of a probe; otherwise rows are taken one by one.
    """
    probe = Probe.of(examined.function, (x,), C)
    (pair,) = probe.x
    reported = _reported(examined.function, x, C)
    candidates = [examined.rows, reported]
    if examined.graph is not None and not examined.hidden:
        # MLX maps no gradient of a convolution by its weight: that is a product of patches here.
        candidates.append(by_graph(examined.function, TRANSPOSABLE))
    for candidate in candidates:
        mapped = _mapped(candidate)
        try:
            by_parameter = mapped(examined.function.params, pair, probe.cotangents)
            if not probe.mistaken(by_parameter.items()):
                return mapped, True
        except Exception:  # MLX raises several types if a rule is missing
            continue
    return _one_by_one(reported), False


def _reported(function: ParametricFunction, x: mx.array, C: int) -> ParametricFunction:
    """Return a function whose gradients MLX can report, replaying its graph if need be.

    In a mixture of experts with many tokens, MLX sorts the tokens and cannot report the gradient.
    The replayed graph has to give the same gradients for all inputs.
    """
    names = list(function.params)
    cotangent = _example((x.shape[0], C), 1)

    def pull(x: mx.array, *params: mx.array) -> list[mx.array]:
        at = ParametricFunction(dict(zip(names, params, strict=True)), function.apply)
        return gradient(at, names, (x,), cotangent)

    mx.eval(cotangent)
    try:
        record(pull, x, *function.params.values())
        return function
    except UntraceableError:
        pass
    replayed = by_graph(function)
    try:
        by_replay = gradient(replayed, names, (x,), cotangent)
    except InputError:
        return function
    plain = gradient(function, names, (x,), cotangent)
    return replayed if agree(by_replay, plain) else function


def _mapped(function: ParametricFunction) -> Rows:
    def rows(values: Params, x: mx.array, cotangents: mx.array) -> Params:
        pull = _pull(function, values)
        by_cotangent = mx.vmap(pull, in_axes=(None, 0))
        gradients = mx.vmap(by_cotangent, in_axes=(0, None))(x, cotangents)
        return dict(zip(values, gradients, strict=True))

    return rows


def _one_by_one(function: ParametricFunction) -> Rows:
    def rows(values: Params, x: mx.array, cotangents: mx.array) -> Params:
        pull = _pull(function, values)
        each = [[pull(row, cotangent) for cotangent in cotangents] for row in x]
        return {
            name: mx.stack([mx.stack([gradients[i] for gradients in of_row]) for of_row in each])
            for i, name in enumerate(values)
        }

    return rows


def _pull(
    function: ParametricFunction, values: Params
) -> Callable[[mx.array, mx.array], list[mx.array]]:
    at = ParametricFunction(values, function.apply)
    return lambda row, cotangent: gradient(at, list(values), (row[None],), cotangent[None])


def _kernel(rows_of: Rows, C: int, reduction: Reduction) -> Callable[..., dict[str, mx.array]]:
    cotangents = cotangents_of(reduction, C)
    left_rows, right_rows = cotangents.left[:], cotangents.right[:]
    mx.eval(left_rows, right_rows)

    def kernel(params: Any, x: mx.array, x2: mx.array) -> dict[str, mx.array]:
        values = flatten_tree(params)
        left, right = rows_of(values, x, left_rows), rows_of(values, x2, right_rows)
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
    """Add arrays up."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
