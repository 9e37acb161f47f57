"""How each parameter enters a function, and what its Jacobian looks like there.

The function of one input is traced into its primitives. Where a parameter meets data (a *use*),
a zero perturbation is added to the result; the derivative by it is δ, and the parameter's
Jacobian follows from δ and from what the primitive was given, without a backward pass by the
parameter itself. Dense products, convolutions and embeddings give outer products Σ δ ⊗ a; any
other primitive gives its Jacobian by a derivative of that primitive alone. A parameter used
several times sums over its uses, with all cross terms.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import as_numpy
from mlx_entk.kernel.factors import Factor, Outer, Outers, Rows
from mlx_entk.kernel.tail import Tail, dependents, envelope, find_bottleneck, find_tail, pull_back
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import Graph, Node
from mlx_entk.tracing.inputs import Inputs, alone, count
from mlx_entk.tracing.mapping import map_inputs, map_pairs
from mlx_entk.tracing.primitives import RIGHT, patches

# Primitives of one input that only rearrange a parameter on its way to a use, and those that
# leave its last axis where it is, if they leave its size.
_VIEWS = frozenset(
    {"AsType", "Broadcast", "ExpandDims", "Flatten", "Full", "Reshape", "Squeeze", "Transpose",
     "Unflatten"}
)  # fmt: skip


_BROADCASTS = _VIEWS - {"Transpose"}

# The last two axes of a transpose, of a matrix and of a stack of them, that swap them.
_SWAPPED = ([1, 0], [2, 1])


@dataclass(frozen=True)
class Use:
    """A parameter as one input of a primitive.

    Attributes
    ----------
    node
        The primitive.
    slot
        Which of its inputs.
    views
        The rearrangements that the parameter went through on the way.
    tap
        The value that is perturbed: what the primitive gives or, where only an addition takes
        that, the sum, which has the same derivative. A weight and its bias so share theirs.
    """

    node: Node
    slot: int
    views: tuple[Node, ...]
    tap: str

    @property
    def plain(self) -> bool:
        """Whether the parameter arrives as it is."""
        return all(view.primitive == "AsType" for view in self.views)

    @property
    def transposed(self) -> bool:
        """Whether a matrix, or every matrix of a stack, arrives as its transpose."""
        swaps = [view for view in self._transposes if list(view.arguments[0])[-2:] in _SWAPPED]
        return len(swaps) % 2 == 1

    @property
    def multiplies_from_the_left(self) -> bool:
        """Whether the parameter stands in front of what it is multiplied with: W a, not a W."""
        return self.node.primitive in ("Matmul", "AddMM") and self.slot == 0

    @property
    def is_stack(self) -> bool:
        """Whether the parameter is a stack of matrices, which arrive as they are or transposed."""
        return all(view.primitive in ("AsType", "Transpose") for view in self.views) and all(
            list(view.arguments[0]) in ([0, 1, 2], [0, 2, 1]) for view in self._transposes
        )

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter arrives as it is or as its transpose."""
        return all(view.primitive in ("AsType", "Transpose") for view in self.views) and all(
            len(view.arguments[0]) == 2 for view in self._transposes
        )

    def adds_vector(self, graph: Graph) -> bool:
        """Whether the parameter is a vector added along the last axis, such as a bias."""
        if self.node.primitive != "Add" and (self.node.primitive, self.slot) != ("AddMM", 2):
            return False
        shapes = [graph.shapes[view.inputs[0]] for view in self.views]
        shapes += [graph.shapes[self.node.inputs[self.slot]], graph.shapes[self.node.outputs[0]]]
        stays = {view.primitive for view in self.views} <= _BROADCASTS
        return stays and len(shapes[0]) == 1 and {shape[-1] for shape in shapes} == {*shapes[0]}

    @property
    def _transposes(self) -> list[Node]:
        return [view for view in self.views if view.primitive == "Transpose"]


@dataclass(frozen=True)
class Delta:
    """The derivative of R combinations of the outputs by one tap, on n inputs.

    Attributes
    ----------
    base
        Shape (n, R, *tap), or (1, R, *tap) where ``shared``.
    scale
        Shape (n, *tap): what the entries of a shared base are multiplied with for each input;
        None for nothing.
    shared
        Whether all inputs have the same base.
    """

    base: mx.array
    scale: mx.array | None = None
    shared: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it is the same for every input."""
        return self.shared and self.scale is None

    @cached_property
    def rows(self) -> mx.array:
        """Shape (n, R, *tap), or (1, R, *tap) where fixed."""
        return self.base if self.scale is None else self.scale[:, None] * self.base

    @cached_property
    def by_position(self) -> mx.array:
        """The same, float32, all axes but the last as one: shape (n or 1, R, T, entries)."""
        inputs, R, *shape = self.rows.shape
        entries = shape[-1] if shape else 1
        return self.rows.astype(mx.float32).reshape(inputs, R, math.prod(shape[:-1]), entries)

    @cached_property
    def merged(self) -> "Delta":
        """One row, which stands for all in a sum over r of products entry by entry, if it can."""
        one = envelope(self.base[0]) if self.shared and self.base.shape[1] > 1 else None
        return self if one is None else Delta(one[None, None], self.scale, shared=True)


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

    @cached_property
    def taps(self) -> list[str]:
        """Every value that is perturbed."""
        return list(dict.fromkeys(use.tap for uses in self.uses.values() for use in uses))

    @cached_property
    def tails(self) -> dict[str, Tail]:
        """Of the taps that have one."""
        for tap in self.taps:
            if tap not in self._tails:
                self._tails[tap] = find_tail(self.graph, tap, self.of_input)
        found = {tap: self._tails[tap] for tap in self.taps}
        return {tap: tail for tap, tail in found.items() if tail is not None}

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
    def activations(self) -> int:
        """Floats that one input and one cotangent keep alive in a backward pass, at most."""
        made = (name for node in self.graph.nodes for name in node.outputs)
        return sum(math.prod(self.graph.shapes[name]) for name in made if name in self.of_input)

    @cached_property
    def of_input(self) -> frozenset[str]:
        """Values that change from input to input."""
        number = len(self.graph.inputs) - len(self.function.params)
        return dependents(self.graph, self.graph.inputs[:number])

    def without(self, names: Set[str]) -> "Structure":
        """The same for fewer parameters."""
        kept = {name: uses for name, uses in self.uses.items() if name not in names}
        return Structure(self.function, self.graph, kept, self._tails)

    def factors(self, x: Inputs, cotangents: mx.array, paired: bool) -> dict[str, Factor]:
        """The Jacobian factor of every covered parameter on inputs x."""
        given = list(
            dict.fromkeys(
                name
                for uses in self.uses.values()
                for use in uses
                for slot, name in enumerate(use.node.inputs)
                if slot != use.slot
            )
        )

        def meet(*row: mx.array) -> list[mx.array]:
            values = self.graph.run(self._at(row), instead=RIGHT)
            return [values[name] for name in given]

        values = dict(zip(given, map_inputs(meet, x) if given else [], strict=True))
        found = _Record(count(x), self.graph, values, self._deltas(x, cotangents, paired))
        return {
            name: _factor(found, uses, self.function.params[name], paired)
            for name, uses in self.uses.items()
        }

    def _deltas(self, x: Inputs, cotangents: mx.array, paired: bool) -> dict[str, Delta]:
        """The derivative of the outputs by every tap, with as few backward passes as will do."""
        found: dict[str, Delta] = {}
        for core in dict.fromkeys(tail.core for tail in self.tails.values()):
            found |= self._behind(core, x, cotangents)
        rest = [tap for tap in self.taps if tap not in self.tails]
        bottleneck, narrowed = self.narrowed
        if paired and bottleneck and math.prod(self.graph.shapes[bottleneck]) < len(cotangents):
            # Their sum over c is that over any rows with the same Gram matrix.
            base = pull_back(
                self.graph, bottleneck, self._at(tuple(array[0] for array in x)), cotangents
            )
            rows = np.linalg.qr(as_numpy(base.reshape(len(cotangents), -1)), mode="r")
            found |= self._pull(bottleneck, x, mx.array(rows), narrowed)
            rest = [tap for tap in rest if tap not in narrowed]
        (output,) = self.graph.outputs
        return found | self._pull(output, x, cotangents, rest)

    def _behind(self, core: str, x: Inputs, cotangents: mx.array) -> dict[str, Delta]:
        """Of the taps from which an elementwise function leads to a core."""
        taps = [tap for tap, tail in self.tails.items() if tail.core == core]
        base = pull_back(self.graph, core, self._at(tuple(array[0] for array in x)), cotangents)
        ones = mx.ones((1, *self.graph.shapes[core]))
        curved = [tap for tap in taps if tap != core]
        scales = self._pull(core, x, ones.reshape(1, -1), curved)
        found = {
            tap: Delta(base.reshape(1, -1, *scale.base.shape[2:]), scale.base[:, 0], shared=True)
            for tap, scale in scales.items()
        }
        return found | ({core: Delta(base[None], shared=True)} if core in taps else {})

    def _pull(
        self, value: str, x: Inputs, cotangents: mx.array, taps: list[str]
    ) -> dict[str, Delta]:
        """By one backward pass for each input and each of the cotangents of a value."""
        zeros = [mx.zeros(self.graph.shapes[tap], self.graph.dtypes[tap]) for tap in taps]

        def values(row: Inputs, perturbations: Sequence[mx.array]) -> mx.array:
            perturbed = dict(zip(taps, perturbations, strict=True))
            return self.graph.run(self._at(row), perturbed, RIGHT)[value].reshape(-1)

        def pull(row: Inputs, cotangent: mx.array) -> list[mx.array]:
            found: list[mx.array] = mx.vjp(lambda *e: values(row, e), zeros, [cotangent])[1]
            return found

        rows = map_pairs(pull, x, cotangents) if taps else []
        return {tap: Delta(of_tap) for tap, of_tap in zip(taps, rows, strict=True)}

    def _at(self, row: Inputs) -> list[mx.array]:
        return [*alone(row), *self.function.params.values()]


def structure_of(function: ParametricFunction, graph: Graph) -> Structure:
    """Every use of every parameter in the graph of a function on one input.

    The graph does not tell of derivatives that a function hides; see
    :mod:`mlx_entk.kernel.guard`.
    """
    values = graph.inputs[len(graph.inputs) - len(function.params) :]
    uses = {
        name: found
        for name, value in zip(function.params, values, strict=True)
        if (found := _uses(graph, value))
    }
    return Structure(function, graph, uses)


def _uses(graph: Graph, parameter: str) -> list[Use]:
    """Every use of a value; none where one of them cannot be perturbed."""
    found: list[Use] = []
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
                if any(graph.dtypes[other] == mx.complex64 for other in _beside(node)):
                    return []  # δ of a complex value is none of the forms below
                if node.primitive in _VIEWS:
                    pending.append((node.outputs[0], (*views, node)))
                elif len(node.outputs) == 1:
                    found.append(Use(node, slot, views, _tap(graph, node.outputs[0])))
                else:
                    return []
    return found


def _beside(node: Node) -> tuple[str, ...]:
    return (*node.inputs, *node.outputs)


def _tap(graph: Graph, value: str) -> str:
    """The last value in a row of sums that has the derivative of this one."""
    takers = [node for node in graph.nodes if value in node.inputs]
    if value in graph.outputs or len(takers) != 1 or takers[0].primitive != "Add":
        return value
    (total,) = takers[0].outputs
    once = takers[0].inputs.count(value) == 1 and graph.shapes[total] == graph.shapes[value]
    return _tap(graph, total) if once else value


def _matrix_shape(parameter: mx.array) -> tuple[int, int]:
    first = parameter.shape[0] if parameter.ndim else 1
    return first, parameter.size // first


@dataclass(frozen=True)
class _Record:
    """What is known of n inputs: the values that uses meet parameters with, and the deltas."""

    inputs: int
    graph: Graph
    values: dict[str, mx.array]
    deltas: dict[str, Delta]


def _factor(record: _Record, uses: list[Use], parameter: mx.array, paired: bool) -> Factor:
    shape = _matrix_shape(parameter)
    found = [_outer(record, use, parameter, record.deltas[use.tap]) for use in uses]
    outers = tuple(outer for outer in found if outer is not None)
    if len(outers) < len(uses):
        parts = [
            _local_rows(record, use, parameter) if outer is None else outer.rows(shape)
            for use, outer in zip(uses, found, strict=True)
        ]
        return Rows(sum(parts[1:], parts[0]))
    if paired and len(uses) == 1 and not uses[0].multiplies_from_the_left:
        merged = _outer(record, uses[0], parameter, record.deltas[uses[0].tap].merged)
        outers = (merged,) if merged is not None else outers
    whole = Outers(outers, shape)
    return whole.rows() if whole.prefers_rows(paired) else whole


def _outer(record: _Record, use: Use, parameter: mx.array, delta: Delta) -> Outer | None:
    """The use as an outer product, along the first and the second axis of the parameter.

    A vector that is added counts as a matrix of one column, multiplied with 1.
    """
    primitive, arguments, values = use.node.primitive, use.node.arguments, record.values
    by_position = delta.by_position
    if primitive in ("Matmul", "AddMM") and use.slot < 2 and parameter.ndim == 2 and use.is_matrix:
        other = values[use.node.inputs[1 - use.slot]].astype(mx.float32)
        by_position = _scaled(by_position, arguments[0] if primitive == "AddMM" else 1)
        if use.slot == 1:  # z = a W: axes of W are those of a, then of z
            sides = (other.reshape(other.shape[0], 1, -1, other.shape[-1]), by_position)
        elif other.ndim == 3:  # z = W a, a column of a being a position
            sides = (by_position.swapaxes(-1, -2), other.swapaxes(-1, -2)[:, None])
        else:
            return None
        left, right = sides[::-1] if use.transposed else sides
        return Outer(left, right, fixed=delta.fixed)
    if use.adds_vector(record.graph):
        by_position = _scaled(by_position, arguments[1] if primitive == "AddMM" else 1)
        ones = mx.ones((record.inputs, 1, by_position.shape[2], 1))
        return Outer(by_position, ones, fixed=delta.fixed)
    if primitive == "Gather" and use.slot == 0 and use.plain and parameter.ndim == 2:
        if list(arguments[0]) != [0]:
            return None
        tokens = values[use.node.inputs[1]]
        tokens = _counted(tokens.reshape(tokens.shape[0], 1, -1), parameter.shape[0])
        embedded = by_position.reshape(*by_position.shape[:2], -1, parameter.shape[1])
        return Outer(tokens, embedded, fixed=delta.fixed)
    if primitive == "Convolution" and use.slot == 1 and use.plain and arguments[5] == 1:
        found = _patches(values[use.node.inputs[0]], parameter, arguments)
        return Outer(by_position, found[:, None], fixed=delta.fixed)
    if primitive == "GatherMM" and use.slot == 1 and parameter.ndim == 3 and use.is_stack:
        source, chosen = (values[use.node.inputs[slot]] for slot in (0, 2))
        matrices = source.reshape(record.inputs, -1, *source.shape[-2:])
        at = chosen.reshape(record.inputs, -1, *[1] * 2)
        taken = mx.take_along_axis(matrices, at.astype(mx.int32), axis=1).astype(mx.float32)
        experts = _counted(values[use.node.inputs[3]], parameter.shape[0])
        experts = experts.reshape(record.inputs, -1)
        experts = mx.repeat(experts, taken.shape[2], axis=1)
        sides = (taken.reshape(record.inputs, 1, -1, taken.shape[-1]), by_position)
        left, right = sides[::-1] if use.transposed else sides
        return Outer(left, right, fixed=delta.fixed, blocks=experts)
    return None


def _counted(indices: mx.array, size: int) -> mx.array:
    """Indices from the start: MLX counts negative ones from the end."""
    indices = indices.astype(mx.int64)
    return mx.where(indices < 0, indices + size, indices)


def _scaled(values: mx.array, factor: float) -> mx.array:
    return values if factor == 1 else values * factor


def _patches(x: mx.array, weight: mx.array, arguments: Sequence[object]) -> mx.array:
    """What a convolution multiplies its weight with, shape (n, positions, kernel · channels)."""
    kernel = weight.shape[1:-1]
    found = patches(x[:, 0].astype(mx.float32), kernel, arguments)  # each input was a batch of one
    return found.reshape(x.shape[0], math.prod(found.shape[1 : 1 + len(kernel)]), -1)


def _grouped_rows(record: _Record, use: Use, weight: mx.array) -> mx.array:
    """Jacobian rows of a convolution in groups: patches times δ for each, shape (n, R, P)."""
    groups = use.node.arguments[5]
    found = _patches(record.values[use.node.inputs[0]], weight, use.node.arguments)
    n, T, _ = found.shape
    by_group = found.reshape(n, T, -1, groups, weight.shape[-1]).transpose(0, 3, 1, 2, 4)
    by_group = by_group.reshape(n, 1, groups, T, -1)
    delta = record.deltas[use.tap].by_position
    outputs = delta.reshape(*delta.shape[:3], groups, -1).transpose(0, 1, 3, 4, 2)
    return (outputs @ by_group).reshape(n, delta.shape[1], -1)  # groups, their outputs, taps


def _local_rows(record: _Record, use: Use, parameter: mx.array) -> mx.array:
    """Jacobian rows by the derivative of the one primitive, shape (n, R, P)."""
    if use.node.primitive == "Convolution" and use.slot == 1 and use.plain:
        return _grouped_rows(record, use, parameter)
    others = [slot for slot in range(len(use.node.inputs)) if slot != use.slot]
    delta = record.deltas[use.tap].rows
    delta = mx.broadcast_to(delta, (record.inputs, *delta.shape[1:]))

    def pull(given: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
        def primitive(value: mx.array) -> mx.array:
            for view in use.views:
                (value,) = view.run([value], RIGHT)
            inputs = dict(zip(others, given, strict=True))
            inputs[use.slot] = value
            (result,) = use.node.run([inputs[slot] for slot in range(len(inputs))], RIGHT)
            return result

        found: list[mx.array] = mx.vjp(primitive, [parameter], [cotangent])[1]
        return found

    given = tuple(record.values[use.node.inputs[slot]] for slot in others)
    (found,) = map_pairs(pull, given, delta, own=True)
    return found.astype(mx.float32).reshape(*delta.shape[:2], -1)
