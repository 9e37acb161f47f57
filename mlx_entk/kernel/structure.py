"""How each parameter enters a function, and what its Jacobian looks like there.

The function of one input is traced into its primitives. Where a parameter meets data (a *use*),
a zero perturbation is added to the result; the derivative by it is δ, and the parameter's
Jacobian follows from δ and from what the primitive was given, without a backward pass by the
parameter itself. Dense products, convolutions and embeddings give outer products Σ δ ⊗ a; any
other primitive gives its Jacobian by a derivative of that primitive alone. A parameter used
several times sums over its uses, with all cross terms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.graph import Graph, Node, trace
from mlx_entk.jacobian import ParametricFunction, vmap_or_loop
from mlx_entk.kernel.factors import Factor, Outer, Outers, Rows

# Primitives of one input that only rearrange a parameter on its way to a use.
_VIEWS = frozenset(
    {"AsType", "Broadcast", "ExpandDims", "Flatten", "Full", "Reshape", "Squeeze", "Transpose",
     "Unflatten"}
)  # fmt: skip


# How far the gradient by the uses may be from the true one, over its largest entry: far more
# than rounding in float32 or bfloat16, far less than a branch cut off from differentiation.
_TOLERANCE = 0.03


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
    """

    node: Node
    slot: int
    views: tuple[Node, ...]

    @property
    def tap(self) -> str:
        """The value that is perturbed."""
        return self.node.outputs[0]

    @property
    def plain(self) -> bool:
        """Whether the parameter arrives as it is."""
        return all(view.primitive == "AsType" for view in self.views)

    @property
    def transposed(self) -> bool:
        """Whether the parameter, a matrix, arrives as its transpose; see :meth:`is_matrix`."""
        swaps = [view for view in self._transposes if list(view.arguments[0]) == [1, 0]]
        return len(swaps) % 2 == 1

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter arrives as it is or as its transpose."""
        return all(view.primitive in ("AsType", "Transpose") for view in self.views) and all(
            len(view.arguments[0]) == 2 for view in self._transposes
        )

    @property
    def _transposes(self) -> list[Node]:
        return [view for view in self.views if view.primitive == "Transpose"]


@dataclass(frozen=True)
class Structure:
    """The uses of the parameters of a function, seen on one input.

    Attributes
    ----------
    function
        The function.
    graph
        Its primitives on one input; the graph's inputs are x, then the parameters in order.
    uses
        By parameter name; those without structure are left out.
    """

    function: ParametricFunction
    graph: Graph
    uses: dict[str, list[Use]]

    @property
    def activations(self) -> int:
        """Floats that one input and one cotangent keep alive in a backward pass, at most."""
        depends = {self.graph.inputs[0]}
        total = 0
        for node in self.graph.nodes:
            if depends.intersection(node.inputs):
                depends.update(node.outputs)
                total += sum(math.prod(self.graph.shapes[name]) for name in node.outputs)
        return total

    def without(self, names: set[str]) -> "Structure":
        """The same for fewer parameters."""
        kept = {name: uses for name, uses in self.uses.items() if name not in names}
        return Structure(self.function, self.graph, kept)

    def factors(self, x: mx.array, cotangents: mx.array, paired: bool) -> dict[str, Factor]:
        """The Jacobian factor of every covered parameter on inputs x."""
        taps = list(dict.fromkeys(use.tap for uses in self.uses.values() for use in uses))
        given = list(
            dict.fromkeys(
                name
                for uses in self.uses.values()
                for use in uses
                for slot, name in enumerate(use.node.inputs)
                if slot != use.slot
            )
        )
        params = list(self.function.params.values())
        zeros = [mx.zeros(self.graph.shapes[tap], self.graph.dtypes[tap]) for tap in taps]
        (output,) = self.graph.outputs

        def outputs(row: mx.array, perturbations: Sequence[mx.array]) -> mx.array:
            perturbed = dict(zip(taps, perturbations, strict=True))
            return self.graph.run([row[None], *params], perturbed)[output].reshape(-1)

        def record(row: mx.array) -> list[mx.array]:
            values = self.graph.run([row[None], *params])
            return [values[name] for name in given]

        def pull(row: mx.array) -> list[mx.array]:
            return vmap_or_loop(
                lambda ct: mx.vjp(lambda *e: outputs(row, e), zeros, [ct])[1], cotangents
            )

        values = dict(zip(given, vmap_or_loop(record, x) if given else [], strict=True))
        deltas = dict(zip(taps, vmap_or_loop(pull, x), strict=True))
        return {
            name: _factor(uses, self.function.params[name], values, deltas, self.graph, paired)
            for name, uses in self.uses.items()
        }


def find_structure(function: ParametricFunction, x: mx.array) -> Structure:
    """Trace a function on the first input of x and find every use of every parameter.

    A graph does not tell of derivatives that a function hides, such as ``mx.stop_gradient``:
    the gradient that the uses give is compared with the true one on the first and the last
    input, and parameters where they differ are left out.

    Raises
    ------
    UntraceableError
        Where the function has a primitive without a known operation.
    """
    names = list(function.params)
    graph = trace(
        lambda row, *values: function.apply(dict(zip(names, values, strict=True)), row),
        x[:1],
        *function.params.values(),
    )
    uses = {
        name: found
        for name, value in zip(names, graph.inputs[1:], strict=True)
        if (found := _uses(graph, value))
    }
    structure = Structure(function, graph, uses)
    probe = mx.concatenate([x[:1], x[-1:]])
    return structure.without(_mistaken(structure, probe))


def _uses(graph: Graph, parameter: str) -> list[Use]:
    """Every use of a value; none where one of them cannot be perturbed."""
    found: list[Use] = []
    pending: list[tuple[str, tuple[Node, ...]]] = [(parameter, ())]
    while pending:
        value, views = pending.pop()
        if value in graph.outputs:
            return []
        for node in graph.nodes:
            for slot, name in enumerate(node.inputs):
                if name != value:
                    continue
                if node.primitive in _VIEWS:
                    pending.append((node.outputs[0], (*views, node)))
                elif len(node.outputs) == 1:
                    found.append(Use(node, slot, views))
                else:
                    return []
    return found


def _mistaken(structure: Structure, x: mx.array) -> set[str]:
    """The parameters whose gradient by their uses is not the true one."""
    function, names = structure.function, list(structure.uses)
    values = [function.params[name] for name in names]

    def outputs(*wrt: mx.array) -> mx.array:
        return function.apply(dict(zip(names, wrt, strict=True)), x)

    shape = function.apply({}, x).shape
    cotangent = mx.random.normal((1, shape[1]), key=mx.random.key(0))
    true = mx.vjp(outputs, values, [mx.broadcast_to(cotangent, shape)])[1]
    factors = structure.factors(x, cotangent, paired=True)
    mistaken = set()
    for name, gradient in zip(names, true, strict=True):
        factor = factors[name]
        rows = factor.rows(_matrix_shape(gradient)) if isinstance(factor, Outers) else factor
        assert isinstance(rows, Rows)
        found = rows.values.sum(axis=(0, 1)).reshape(gradient.shape)
        error = mx.abs(found - gradient).max()
        if not mx.all(error <= _TOLERANCE * mx.abs(gradient).max()):
            mistaken.add(name)
    return mistaken


def _matrix_shape(parameter: mx.array) -> tuple[int, int]:
    return parameter.shape[0], parameter.size // parameter.shape[0]


def _factor(
    uses: list[Use],
    parameter: mx.array,
    values: dict[str, mx.array],
    deltas: dict[str, mx.array],
    graph: Graph,
    paired: bool,
) -> Factor:
    found = [_outer(use, parameter, values, deltas[use.tap], graph) for use in uses]
    outers = tuple(outer for outer in found if outer is not None)
    if len(outers) == len(uses):
        whole, shape = Outers(outers), _matrix_shape(parameter)
        return whole.rows(shape) if whole.prefers_rows(paired, shape) else whole
    parts = [
        _local_rows(use, parameter, values, deltas[use.tap])
        if outer is None
        else outer.rows(_matrix_shape(parameter))
        for use, outer in zip(uses, found, strict=True)
    ]
    return Rows(sum(parts[1:], parts[0]))


def _outer(
    use: Use, parameter: mx.array, values: dict[str, mx.array], delta: mx.array, graph: Graph
) -> Outer | None:
    """The use as an outer product, along the first and the second axis of the parameter."""
    primitive, arguments = use.node.primitive, use.node.arguments
    n, R = delta.shape[:2]
    if primitive in ("Matmul", "AddMM") and use.slot < 2 and parameter.ndim == 2 and use.is_matrix:
        other = values[use.node.inputs[1 - use.slot]].astype(mx.float32)
        scale = arguments[0] if primitive == "AddMM" else 1.0
        delta = delta.astype(mx.float32) * scale if scale != 1 else delta.astype(mx.float32)
        if use.slot == 1:  # z = a W: axes of W are those of a, then of z
            a = other.reshape(n, 1, -1, other.shape[-1])
            sides = (a, delta.reshape(n, R, -1, delta.shape[-1]))
        elif other.ndim == 3:  # z = W a, a column of a being a position
            sides = (delta.swapaxes(-1, -2), other.swapaxes(-1, -2)[:, None])
        else:
            return None
        return Outer(*(sides[::-1] if use.transposed else sides))
    if primitive == "Gather" and use.slot == 0 and use.plain and parameter.ndim == 2:
        if list(arguments[0]) != [0]:
            return None
        tokens = values[use.node.inputs[1]].reshape(n, 1, -1)
        return Outer(tokens, delta.astype(mx.float32).reshape(n, R, -1, parameter.shape[1]))
    if primitive == "Convolution" and use.slot == 1 and use.plain:
        patches = _patches(values[use.node.inputs[0]], parameter.shape[1:-1], arguments)
        if patches is None:
            return None
        by_position = delta.astype(mx.float32).reshape(n, R, -1, delta.shape[-1])
        return Outer(by_position, patches.astype(mx.float32)[:, None])
    return None


def _patches(x: mx.array, kernel: tuple[int, ...], arguments: Sequence[object]) -> mx.array | None:
    """What a convolution multiplies its weight with, shape (n, positions, kernel · channels)."""
    stride, low, high, dilation, input_dilation, groups, flip = arguments
    if groups != 1 or flip or any(step != 1 for step in input_dilation):  # type: ignore[attr-defined]
        return None
    widths = [(0, 0), (0, 0), *zip(low, high, strict=True), (0, 0)]  # type: ignore[call-overload]
    x = mx.pad(x, widths)[:, 0]  # (n, *space, channels): each input was a batch of one
    dimensions = len(kernel)
    for axis, size in enumerate(kernel):
        at = 1 + 2 * axis  # each space axis before this one is now (position, tap)
        reach = dilation[axis] * (size - 1)  # type: ignore[index]
        starts = mx.arange(0, x.shape[at] - reach, stride[axis])  # type: ignore[index]
        index = starts[:, None] + dilation[axis] * mx.arange(size)  # type: ignore[index]
        x = mx.take(x, index, axis=at)
    order = [0, *range(1, 2 * dimensions, 2), *range(2, 2 * dimensions + 1, 2), 2 * dimensions + 1]
    x = x.transpose(order)
    positions = 1
    for size in x.shape[1 : 1 + dimensions]:
        positions *= size
    return x.reshape(x.shape[0], positions, -1)


def _local_rows(
    use: Use, parameter: mx.array, values: dict[str, mx.array], delta: mx.array
) -> mx.array:
    """Jacobian rows by the derivative of the one primitive, shape (n, R, P)."""
    others = [slot for slot in range(len(use.node.inputs)) if slot != use.slot]

    def rows(delta: mx.array, *given: mx.array) -> list[mx.array]:
        def primitive(value: mx.array) -> mx.array:
            for view in use.views:
                (value,) = view.run([value])
            inputs = dict(zip(others, given, strict=True))
            inputs[use.slot] = value
            (result,) = use.node.run([inputs[slot] for slot in range(len(inputs))])
            return result

        return vmap_or_loop(lambda ct: mx.vjp(primitive, [parameter], [ct])[1], delta)

    given = [values[use.node.inputs[slot]] for slot in others]
    (found,) = vmap_or_loop(rows, delta, *given)
    return found.astype(mx.float32).reshape(*delta.shape[:2], -1)
