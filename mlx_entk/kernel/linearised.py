"""A model linearised on a batch of inputs: what a product repeats, and what it need not.

Products K v = J (Jᵀ v) are taken at one point, over and over. The gradient Jᵀ v is traced as a
graph, from a model that computes only what its outputs read. What of it does not depend on v is
computed once for a batch and kept. J u is the transpose of the rest, which is linear in v, so that
both directions share what is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.tracing.diagonals import with_single_factors
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import Graph, record, require_known
from mlx_entk.tracing.inputs import Inputs
from mlx_entk.tracing.partial import folded, split
from mlx_entk.tracing.primitives import FAST, FAST_TRANSPOSABLE, RIGHT, Arrays
from mlx_entk.tracing.pruning import pruned


@dataclass(frozen=True)
class Linearised:
    """The derivative of a function of parameters, on batches of inputs of one shape.

    Attributes
    ----------
    ahead
        From the inputs to what depends on none of the parameters.
    kept
        From that to all that the derivative needs.
    derivative
        From a cotangent (n, C) and that to the gradient by each parameter.
    """

    ahead: Graph
    kept: Graph
    derivative: Graph

    @classmethod
    def of(cls, function: ParametricFunction, x: Inputs, C: int, lean: bool) -> "Linearised":
        """Trace the derivative of a function on inputs of these shapes.

        Parameters
        ----------
        function, x, C
            The function, its inputs and the number of its outputs.
        lean
            Whether its graph tells its whole derivative, so that the graph may be pruned to what
            the outputs read. Otherwise the derivative is the function's own.

        Raises
        ------
        UntraceableError
            If MLX cannot report the function or its gradient as a graph of known primitives.
        """
        number = len(x)
        placeholders = [
            mx.zeros(array.shape, array.dtype) for array in (*x, *function.params.values())
        ]
        outputs = _pruned(function, number, placeholders) if lean else _of_all(function, number)

        def pull(cotangent: mx.array, *given: mx.array) -> Arrays:
            def of_params(*params: mx.array) -> mx.array:
                return outputs(*given[:number], *params)

            pulled: Arrays = mx.vjp(of_params, list(given[number:]), [cotangent])[1]
            return pulled

        graph = record(pull, mx.zeros((x[0].shape[0], C)), *placeholders)
        require_known(graph)
        params = graph.inputs[1 + number :]
        graph.constants.update(zip(params, function.params.values(), strict=True))
        graph.inputs = graph.inputs[: 1 + number]
        whole = folded(graph, [*graph.inputs, *params])
        vector = whole.inputs[:1]
        first, derivative = split(with_single_factors(whole, vector), vector)
        return cls(*split(first, params), derivative)

    @property
    def bytes_ahead(self) -> int:
        """Bytes of what depends on none of the parameters."""
        return _bytes(self.ahead)

    @property
    def bytes_kept(self) -> int:
        """Bytes of all that the derivative needs."""
        return _bytes(self.kept)

    def pull(self, cotangent: mx.array, kept: Sequence[mx.array]) -> Arrays:
        """Σ over inputs and outputs of a cotangent (n, C) times the Jacobian, by parameter."""
        values = self.derivative.run([cotangent, *kept], instead=FAST)
        return [values[name] for name in self.derivative.outputs]

    def push(self, tangents: Sequence[mx.array], kept: Sequence[mx.array]) -> mx.array:
        """The change of the outputs along a tangent of each parameter, shape (n, C)."""

        def pull(cotangent: mx.array) -> Arrays:
            values = self.derivative.run([cotangent, *kept], instead=FAST_TRANSPOSABLE)
            return [values[name] for name in self.derivative.outputs]

        # Of a linear function any point will do; at zero some rules of MLX divide by zero.
        ones = mx.ones(self.derivative.shapes[self.derivative.inputs[0]])
        changes: mx.array = mx.vjp(pull, [ones], list(tangents))[1][0]
        return changes


def _of_all(function: ParametricFunction, number: int) -> Callable[..., mx.array]:
    """A function of its inputs, so many, and then its parameters in order."""
    names = list(function.params)

    def outputs(*given: mx.array) -> mx.array:
        return function.apply(dict(zip(names, given[number:], strict=True)), *given[:number])

    return outputs


def _pruned(
    function: ParametricFunction, number: int, placeholders: Sequence[mx.array]
) -> Callable[..., mx.array]:
    """The same by its graph on inputs of some shapes, without what the outputs do not read."""
    graph = record(_of_all(function, number), *placeholders)
    require_known(graph)
    graph = pruned(graph)
    return lambda *given: graph.run(given, instead=RIGHT)[graph.outputs[0]]


def run(graph: Graph, inputs: Sequence[mx.array]) -> Arrays:
    """The outputs of a graph, which keep nothing else in memory."""
    values = graph.run(inputs, instead=FAST)
    return [mx.contiguous(values[name]) for name in graph.outputs]


def _bytes(graph: Graph) -> int:
    return sum(
        math.prod(graph.shapes[name]) * graph.dtypes[name].size
        for name in graph.outputs
        if name not in graph.inputs
    )
