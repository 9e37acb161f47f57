"""How each parameter enters a function, and what its Jacobian looks like there.

The function of one input is traced into its primitives. Where a parameter meets data (a *use*),
a zero perturbation is added to the result; the derivative by it is δ, and the parameter's
Jacobian follows from δ and from what the primitive was given, without a backward pass by the
parameter itself. Dense products, convolutions and embeddings give outer products Σ δ ⊗ a; any
other primitive gives its Jacobian by a derivative of that primitive alone. A parameter used
several times sums over its uses, with all cross terms.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import as_numpy, settle
from mlx_entk.kernel.delta import Base, Delta
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.tail import Tail, find_bottleneck, find_tail, pull_back
from mlx_entk.kernel.tiling import ranges
from mlx_entk.kernel.uses import VIEWS, Batch, Use, factor_of
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import Graph, Node, dependents
from mlx_entk.tracing.inputs import Inputs, alone, count, part
from mlx_entk.tracing.mapping import map_inputs, map_pairs
from mlx_entk.tracing.primitives import FAST

Made = TypeVar("Made")

# Values of a graph, by name.
Values = Mapping[str, mx.array]

# Primitives whose results both directions share.
_EXPENSIVE = frozenset({"AddMM", "Convolution", "Matmul"})

# Floats that passes keep alive at a time, at most: beyond the caches, and in arrays so large that
# their memory is new each time, everything takes longer.
_AT_ONCE = 2**24


@dataclass(frozen=True)
class Structure:
    """The uses of the parameters of a function, seen on one input.

    Attributes
    ----------
    function
        The function.
    graph
        Its primitives on one input; the graph's inputs are those of the function, then its
        parameters in order.
    uses
        By parameter name; those without structure are left out.
    """

    function: ParametricFunction
    graph: Graph
    uses: dict[str, list[Use]]
    _tails: dict[str, Tail | None] = field(default_factory=dict, repr=False)
    _shared: dict[tuple[str, ...], tuple[mx.array, Any]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def taps(self) -> list[str]:
        """Every value that is perturbed."""
        return list(dict.fromkeys(use.tap for uses in self.uses.values() for use in uses))

    @cached_property
    def tails(self) -> dict[str, Tail]:
        """The tails of those taps that have one."""
        for tap in self.taps:
            if tap not in self._tails:
                self._tails[tap] = find_tail(self.graph, tap, self.of_input)
        tails = {tap: self._tails[tap] for tap in self.taps}
        return {tap: tail for tap, tail in tails.items() if tail is not None}

    @cached_property
    def narrowed(self) -> tuple[str | None, list[str]]:
        """A bottleneck, and the taps before it whose parameters are used nowhere else."""
        taps = {tap for tap in self.taps if tap not in self.tails}
        for uses in self.uses.values():
            of_parameter = {use.tap for use in uses}
            if not of_parameter <= taps:
                taps -= of_parameter
        chosen = [tap for tap in self.taps if tap in taps]
        return (find_bottleneck(self.graph, chosen, self.of_input) if chosen else None), chosen

    @property
    def has_backward_passes(self) -> bool:
        """Whether some tap takes a backward pass for each cotangent."""
        return len(self.tails) < len(self.taps)

    @property
    def shared(self) -> int:
        """Floats for each cotangent of what is the same for all inputs."""
        cores = {(tail.core, tap) for tap, tail in self.tails.items()}
        return sum(math.prod(self.graph.shapes[core]) for core, _ in cores)

    @property
    def activations(self) -> int:
        """Floats that one input, or one cotangent of it, keeps alive in a pass, at most."""
        made = (name for node in self.graph.nodes for name in node.outputs)
        return sum(math.prod(self.graph.shapes[name]) for name in made if name in self.of_input)

    @cached_property
    def of_input(self) -> frozenset[str]:
        """Values that change from input to input."""
        number = len(self.graph.inputs) - len(self.function.params)
        return dependents(self.graph, self.graph.inputs[:number])

    @property
    def _parameters(self) -> list[str]:
        """The parameters in order, as values of the graph."""
        return self.graph.inputs[len(self.graph.inputs) - len(self.function.params) :]

    def without(self, names: Set[str]) -> "Structure":
        """The same for fewer parameters."""
        kept = {name: uses for name, uses in self.uses.items() if name not in names}
        return Structure(self.function, self.graph, kept, self._tails)

    def factors(
        self, x: Inputs, cotangents: mx.array, paired: bool, outer: bool = False
    ) -> dict[str, Factor]:
        """The Jacobian factor of every covered parameter on inputs x.

        ``outer`` keeps outer products even if Jacobian rows are cheaper.
        """
        return self.passes(x, cotangents, paired, outer)[0]

    def passes(
        self, x: Inputs, cotangents: mx.array, paired: bool, outer: bool = False
    ) -> tuple[dict[str, Factor], mx.array]:
        """``factors``, and whether the outputs that belong to them are finite, a boolean."""
        passes = len(cotangents) if self.has_backward_passes else 1
        most = max(1, _AT_ONCE // max(1, self.activations * passes))
        size = math.ceil(count(x) / math.ceil(count(x) / most))  # all nearly equal
        parts, finite = [], []
        for rows in ranges(count(x), size):
            factors, outputs = self._passes(part(x, rows), cotangents, paired, outer)
            parts.append(factors)
            finite.append(mx.all(mx.isfinite(outputs)))
            if size < count(x):
                arrays = (array for factor in factors.values() for array in factor.arrays)
                settle(*arrays, finite[-1])
        if len(parts) == 1:
            return parts[0], finite[0]
        joined = {name: _joined([of[name] for of in parts], size) for name in parts[0]}
        return joined, mx.all(mx.stack(finite))

    def _passes(
        self, x: Inputs, cotangents: mx.array, paired: bool, outer: bool
    ) -> tuple[dict[str, Factor], mx.array]:
        given = dict.fromkeys(
            name
            for uses in self.uses.values()
            for use in uses
            for slot, name in enumerate(use.node.inputs)
            if slot != use.slot
        )
        # Both directions need the products, which take nearly all of the time.
        products = [
            node.outputs[0]
            for node in self.graph.nodes
            if node.primitive in _EXPENSIVE and node.outputs[0] in self.of_input
        ]
        (output,) = self.graph.outputs
        names = list(given | dict.fromkeys([*products, output]))

        def meet(*row: mx.array) -> list[mx.array]:
            values = self.graph.run(self._at(row), instead=FAST)
            return [values[name] for name in names]

        values = dict(zip(names, map_inputs(meet, x), strict=True))
        known = {name: values[name] for name in products}
        batch = Batch(
            inputs=count(x),
            parameters=dict(zip(self._parameters, self.function.params.values(), strict=True)),
            values=values,
            deltas=self._deltas(x, known, cotangents, paired),
        )
        factors = {
            name: factor_of(uses, self.graph, batch, paired, outer)
            for name, uses in self.uses.items()
        }
        return factors, values[output]

    def _deltas(
        self, x: Inputs, known: Values, cotangents: mx.array, paired: bool
    ) -> dict[str, Delta]:
        """The derivative of the outputs by every tap, with as few backward passes as will do.

        ``known`` are some values of the graph, shapes (n, …).
        """
        deltas: dict[str, Delta] = {}
        for core in dict.fromkeys(tail.core for tail in self.tails.values()):
            deltas |= self._behind(core, x, known, cotangents)
        rest = [tap for tap in self.taps if tap not in self.tails]
        bottleneck, narrowed = self.narrowed
        if paired and bottleneck and math.prod(self.graph.shapes[bottleneck]) < len(cotangents):
            # Their sum over c is that over any rows with the same Gram matrix.
            deltas |= self._pull(
                bottleneck, x, known, self._narrow(bottleneck, cotangents, x), narrowed
            )
            rest = [tap for tap in rest if tap not in narrowed]
        (output,) = self.graph.outputs
        return deltas | self._pull(output, x, known, cotangents, rest)

    def _behind(
        self, core: str, x: Inputs, known: Values, cotangents: mx.array
    ) -> dict[str, Delta]:
        """The derivative by every tap from which an elementwise function leads to a core."""
        taps = [tap for tap, tail in self.tails.items() if tail.core == core]
        ones = mx.ones((1, *self.graph.shapes[core]))
        curved = [tap for tap in taps if tap != core]
        scales = self._pull(core, x, known, ones.reshape(1, -1), curved)
        deltas = {
            tap: Delta(tap, self._base(core, tap, cotangents, x), scale.rows[:, 0])
            for tap, scale in scales.items()
        }
        if core in taps:
            deltas[core] = Delta(core, self._base(core, core, cotangents, x))
        return deltas

    def _base(self, core: str, tap: str, cotangents: mx.array, x: Inputs) -> Base:
        """The derivative by a core, in the shape of a tap, computed once for all inputs."""

        def pull() -> mx.array:
            return pull_back(self.graph, core, self._at(tuple(array[0] for array in x)), cotangents)

        def shaped() -> Base:
            rows = self._once((core,), cotangents, pull)
            return Base(rows.reshape(-1, *self.graph.shapes[tap]))

        return self._once((core, tap), cotangents, shaped)

    def _narrow(self, bottleneck: str, cotangents: mx.array, x: Inputs) -> mx.array:
        """Cotangents of a bottleneck, no more than its entries, with the same Gram matrix."""

        def narrow() -> mx.array:
            base = self._base(bottleneck, bottleneck, cotangents, x).rows
            flat = as_numpy(base.astype(mx.float32).reshape(len(base), -1))
            return mx.array(np.linalg.qr(flat, mode="r")).astype(base.dtype)

        return self._once((bottleneck, "narrowed", "rows"), cotangents, narrow)

    def _once(self, key: tuple[str, ...], cotangents: mx.array, make: Callable[[], Made]) -> Made:
        """What is the same for all inputs, made once as long as the cotangents stay the same."""
        known = self._shared.get(key)
        if known is None or known[0] is not cotangents:
            known = self._shared[key] = (cotangents, make())
        made: Made = known[1]
        return made

    def _pull(
        self, value: str, x: Inputs, known: Values, cotangents: mx.array, taps: list[str]
    ) -> dict[str, Delta]:
        """The derivative of a value by taps: a backward pass for each input and each cotangent."""
        zeros = [mx.zeros(self.graph.shapes[tap], self.graph.dtypes[tap]) for tap in taps]

        def values(row: Inputs, perturbations: Sequence[mx.array]) -> mx.array:
            perturbed = dict(zip(taps, perturbations, strict=True))
            at, of_row = self._at(row[: len(x)]), dict(zip(known, row[len(x) :], strict=True))
            return self.graph.run(at, perturbed, FAST, of_row)[value].reshape(-1)

        def pull(row: Inputs, cotangent: mx.array) -> list[mx.array]:
            pulled: list[mx.array] = mx.vjp(lambda *e: values(row, e), zeros, [cotangent])[1]
            return pulled

        rows = map_pairs(pull, (*x, *known.values()), cotangents) if taps else []
        return {tap: Delta(tap, of_tap) for tap, of_tap in zip(taps, rows, strict=True)}

    def _at(self, row: Inputs) -> list[mx.array]:
        return [*alone(row), *self.function.params.values()]


def _joined(parts: Sequence[Factor], size: int) -> Factor:
    """The factor of all inputs; as rows if a smaller last part came in another form."""
    if len({type(part) for part in parts}) > 1:
        parts = [part.rows() for part in parts]
    return parts[0].joined(parts, size)


def structure_of(function: ParametricFunction, graph: Graph) -> Structure:
    """Every use of every parameter in the graph of a function on one input.

    The graph does not tell of derivatives that a function hides; see
    ``mlx_entk.kernel.guard``.
    """
    values = graph.inputs[len(graph.inputs) - len(function.params) :]
    uses = {
        name: of_parameter
        for name, value in zip(function.params, values, strict=True)
        if (of_parameter := _uses(graph, value))
    }
    return Structure(function, graph, uses)


def _uses(graph: Graph, parameter: str) -> list[Use]:
    """Every use of a value; none if one of them cannot be perturbed."""
    uses: list[Use] = []
    if math.prod(graph.shapes[parameter]) == 0:
        return []
    pending: list[tuple[str, tuple[Node, ...]]] = [(parameter, ())]
    while pending:
        value, views = pending.pop()
        if value in graph.outputs:
            return []
        for node in graph.nodes:
            for slot, name in enumerate(node.inputs):
                if name != value:
                    continue
                if any(graph.dtypes[other] == mx.complex64 for other in _values_at(node)):
                    return []  # δ of a complex value is none of the forms below
                if node.primitive in VIEWS:
                    pending.append((node.outputs[0], (*views, node)))
                elif len(node.outputs) == 1:
                    uses.append(Use(node, slot, views, _tap(graph, node.outputs[0])))
                else:
                    return []
    return uses


def _values_at(node: Node) -> tuple[str, ...]:
    return (*node.inputs, *node.outputs)


def _tap(graph: Graph, value: str) -> str:
    """The last value in a row of sums that has the derivative of this one."""
    takers = [node for node in graph.nodes if value in node.inputs]
    if value in graph.outputs or len(takers) != 1 or takers[0].primitive != "Add":
        return value
    (total,) = takers[0].outputs
    once = takers[0].inputs.count(value) == 1 and graph.shapes[total] == graph.shapes[value]
    return _tap(graph, total) if once else value
