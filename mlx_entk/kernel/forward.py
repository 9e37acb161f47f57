"""Products J u: by forward mode if MLX's rules for a model are right, else by other ways.

Some primitives have no forward rule in MLX, some a wrong one (``addmm`` drops its factors), and a
custom ``vjp`` is no part of forward mode at all. Reverse mode is what defines a kernel, so each way
is held against it on a probe, ⟨c, J u⟩ = ⟨Jᵀc, u⟩, and the first that agrees is taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.errors import InputError, first_line
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import Graph, record, require_known
from mlx_entk.tracing.inputs import Inputs
from mlx_entk.tracing.jacobian import Probe, gradient
from mlx_entk.tracing.mapping import map_inputs
from mlx_entk.tracing.primitives import TRANSPOSABLE, Arrays
from mlx_entk.tracing.rules import Examined

# (function, x, names, tangents) → J u of shape (n, C).
_Way = Callable[[ParametricFunction, Inputs, Sequence[str], Sequence[mx.array]], mx.array]


# A gradient smaller than this part of the largest counts in proportion.
_LEAST = 1e-4


def _values(function: ParametricFunction, names: Sequence[str]) -> Arrays:
    return [function.params[name] for name in names]


def _zeros(function: ParametricFunction, x: Inputs) -> mx.array:
    return mx.zeros_like(function.apply({}, *x))


def by_forward_mode(
    function: ParametricFunction, x: Inputs, names: Sequence[str], tangents: Sequence[mx.array]
) -> mx.array:
    """The change of the outputs along tangents, by MLX's forward rules."""

    def outputs(*wrt: mx.array) -> mx.array:
        return function.apply(dict(zip(names, wrt, strict=True)), *x)

    changes: mx.array = mx.jvp(outputs, _values(function, names), list(tangents))[1][0]
    return changes


def by_transpose(
    function: ParametricFunction, x: Inputs, names: Sequence[str], tangents: Sequence[mx.array]
) -> mx.array:
    """The reverse rule is linear in the cotangent, and its own reverse is J u."""

    def pull(cotangents: mx.array) -> Arrays:
        return gradient(function, names, x, cotangents)

    # Of a linear function any point will do; at zero some rules of MLX divide by zero.
    drawn = mx.random.normal(_zeros(function, x).shape, key=mx.random.key(0))
    changes: mx.array = mx.vjp(pull, [drawn], list(tangents))[1][0]
    return changes


def by_graph_of_reverse_mode(
    function: ParametricFunction, x: Inputs, names: Sequence[str], tangents: Sequence[mx.array]
) -> mx.array:
    """The same by the graph of the reverse rule, run by operations whose derivatives are right."""
    params, number = _values(function, names), len(x)

    def pull_of(cotangents: mx.array, *given: mx.array) -> Arrays:
        values = dict(zip(names, given[number:], strict=True))
        return gradient(
            ParametricFunction(values, function.apply), names, given[:number], cotangents
        )

    # Of placeholders, so that this works inside another trace too.
    zeros = _zeros(function, x)
    graph: Graph = record(pull_of, *(mx.zeros(v.shape, v.dtype) for v in (zeros, *x, *params)))
    require_known(graph)

    def pull(cotangents: mx.array) -> Arrays:
        values = graph.run([cotangents, *x, *params], instead=TRANSPOSABLE)
        return [values[name] for name in graph.outputs]

    changes: mx.array = mx.vjp(pull, [zeros], list(tangents))[1][0]
    return changes


_WAYS: tuple[_Way, ...] = (by_forward_mode, by_transpose, by_graph_of_reverse_mode)


@dataclass(frozen=True)
class Push:
    """J u of a function, by a way that agrees with reverse mode.

    Attributes
    ----------
    function
        The function.
    way
        How.
    mapped
        Whether it is right under ``mx.vmap`` over tangents too.
    """

    function: ParametricFunction
    way: _Way
    mapped: bool = False

    def __call__(self, x: Inputs, names: Sequence[str], tangents: Sequence[mx.array]) -> mx.array:
        """J u for a tangent of each of some parameters, shape (n, C)."""
        return self.way(self.function, x, names, tangents)

    def along(self, x: Inputs, names: Sequence[str], tangents: tuple[mx.array, ...]) -> Arrays:
        """The same for S tangents of each, shapes (S, …): one array of shape (S, n, C)."""

        def one(*tangent: mx.array) -> Arrays:
            return [self(x, names, tangent)]

        return map_inputs(one, tangents, loop=not self.mapped)


def find_push(examined: Examined, probe: Probe) -> Push:
    """The first way that agrees with reverse mode on a probe.

    Forward mode passes over custom derivatives, perhaps for inputs that are not in the probe. MLX
    cannot report a graph with one, so without a graph it is not tried.

    Raises
    ------
    InputError
        If none does.
    """
    function = examined.function
    names = list(function.params)
    tangents = _tangents(function, probe)
    expected = _pulled(probe, names, tangents)
    # Each parameter adds about 1, by the scale of its tangent.
    allowed = probe.tolerance * len(names) ** 0.5
    reasons = []
    for way in _WAYS if examined.graph is not None else _WAYS[1:]:
        push = Push(function, way)
        try:
            if _agrees(push, probe, names, tangents, expected, allowed):
                mapped = Push(function, way, mapped=True)
                also = _agrees(mapped, probe, names, tangents, expected, allowed)
                return mapped if also else push
            reasons.append("differs from reverse mode")
        except Exception as error:  # MLX raises several types if a rule is missing
            reasons.append(first_line(error))
    raise InputError(
        f"MLX has no right forward rule for this model ({'; '.join(dict.fromkeys(reasons))}): form "
        "the kernel by entk, with strategy auto"
    )


def _tangents(function: ParametricFunction, probe: Probe) -> tuple[mx.array, ...]:
    """Two random tangents of each parameter, scaled by its gradient: shapes (2, …)."""
    sizes = {}
    for name in function.params:
        norms = [mx.sqrt(mx.square(g.astype(mx.float32)).sum()) for g in probe.flat(name)]
        size = float(mx.stack(norms).max())
        sizes[name] = size if math.isfinite(size) else 0.0
    # A gradient that is zero but for rounding is not blown up.
    least = _LEAST * max(sizes.values())
    tangents = []
    for number, (name, value) in enumerate(function.params.items()):
        scale = 1 / max(sizes[name], least) if sizes[name] > 0 else 0.0
        drawn = mx.random.normal((2, *value.shape), key=mx.random.key(number)) * scale
        tangents.append(drawn.astype(value.dtype))
    return tuple(tangents)


def _pulled(probe: Probe, names: Sequence[str], tangents: Sequence[mx.array]) -> mx.array:
    """⟨Jᵀc, u⟩ for each tangent, input and cotangent, shape (2, 2, 2)."""
    total = mx.zeros((2, 2, 2))
    for name, tangent in zip(names, tangents, strict=True):
        flat = mx.stack([g.astype(mx.float32).reshape(-1) for g in probe.flat(name)])
        product = tangent.astype(mx.float32).reshape(2, -1) @ flat.T
        total = total + product.reshape(2, 2, 2)
        mx.eval(total)  # one parameter at a time
    return total


def _agrees(
    push: Push,
    probe: Probe,
    names: Sequence[str],
    tangents: tuple[mx.array, ...],
    expected: mx.array,
    allowed: float,
) -> bool:
    (changes,) = push.along(probe.x, names, tangents)  # tangents, inputs, outputs
    products = changes.astype(mx.float32) @ probe.cotangents.T
    finite = mx.isfinite(expected)
    return bool(mx.all(mx.where(finite, mx.abs(products - expected), 0) <= allowed))
