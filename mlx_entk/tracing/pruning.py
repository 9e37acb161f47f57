"""A graph that computes only the entries that its outputs read.

A model that ends in ``state[:, -1]`` computes its last block at every position and then drops all
but one. Going backwards from the outputs, this module finds which entries of each value are read,
axis by axis, and has every primitive compute those alone. If a primitive's rule is not known here,
it computes everything, as before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_entk.tracing.graph import Graph, Node
from mlx_entk.tracing.primitives import ELEMENTWISE, REGROUPED

# Which entries of a value are read: a range of indices for each axis.
_Box = tuple[range, ...]
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Part:
    """How a primitive computes a part of its outputs.

    Attributes
    ----------
    own
        What it computes of each of its outputs, at least what was asked for.
    given
        What it reads of each of its inputs.
    primitive, arguments
        What it is then.
    """

    own: list[_Box]
    given: list[_Box]
    primitive: str
    arguments: tuple[Any, ...]


# (node, shapes of its inputs, shapes of its outputs, what is read of them) → how, or None if it has
# to compute everything.
_Rule = Callable[[Node, list[_Shape], list[_Shape], list[_Box]], _Part | None]


def pruned(graph: Graph) -> Graph:
    """Return a graph with the same outputs that computes only what they depend on."""
    reads = {name: _whole(graph.shapes[name]) for name in graph.outputs}
    parts: list[tuple[Node, _Part]] = []
    for node in reversed(graph.nodes):
        if not any(name in reads for name in node.outputs):
            continue
        part = _part_of(graph, node, reads)
        parts.append((node, part))
        reads.update(zip(node.outputs, part.own, strict=True))
        for name, box in zip(node.inputs, part.given, strict=True):
            reads[name] = _hull(reads[name], box) if name in reads else box

    result = Graph(list(graph.inputs), list(graph.outputs), dict(graph.constants))
    result.dtypes = dict(graph.dtypes)
    sources = {*graph.inputs, *graph.constants}
    for name in sources:
        result.shapes[name] = graph.shapes[name]
        reads[name] = _whole(graph.shapes[name])
    cut: dict[tuple[str, _Box], str] = {}
    for node, part in reversed(parts):
        inputs = [
            _cut(result, cut, name, reads[name], box)
            for name, box in zip(node.inputs, part.given, strict=True)
        ]
        result.nodes.append(Node(part.primitive, tuple(inputs), node.outputs, part.arguments))
        result.shapes.update(zip(node.outputs, map(_sizes, part.own), strict=True))
    return result


def _part_of(graph: Graph, node: Node, reads: dict[str, _Box]) -> _Part:
    inputs = [graph.shapes[name] for name in node.inputs]
    outputs = [graph.shapes[name] for name in node.outputs]
    boxes = [
        reads.get(name, tuple(range(0) for _ in shape))
        for name, shape in zip(node.outputs, outputs, strict=True)
    ]
    rule = _RULES.get(node.primitive)
    part = rule(node, inputs, outputs, boxes) if rule else None
    if part is None:
        everything = [_whole(shape) for shape in outputs], [_whole(shape) for shape in inputs]
        part = _Part(*everything, node.primitive, node.arguments)
    return part


def _cut(
    graph: Graph, cut: dict[tuple[str, _Box], str], name: str, available: _Box, box: _Box
) -> str:
    """The name of a part of a value that the graph computes some entries of."""
    if box == available:
        return name
    if (name, box) not in cut:
        places = [_places(whole, part) for whole, part in zip(available, box, strict=True)]
        bounds = tuple(zip(*((p.start, p.stop, p.step) for p in places), strict=True))
        part = f"{name} cut {len(cut)}"
        graph.nodes.append(Node("Slice", (name,), (part,), bounds))
        graph.shapes[part], graph.dtypes[part] = _sizes(box), graph.dtypes[name]
        cut[name, box] = part
    return cut[name, box]


def _whole(shape: Sequence[int]) -> _Box:
    return tuple(range(size) for size in shape)


def _sizes(box: _Box) -> _Shape:
    return tuple(map(len, box))


def _hull(a: _Box, b: _Box) -> _Box:
    """A box with both: the range of either where they are equal, else one without gaps."""
    return tuple(
        one if one == other or not len(other)
        else other if not len(one)
        else range(min(one[0], other[0]), max(one[-1], other[-1]) + 1)
        for one, other in zip(a, b, strict=True)
    )  # fmt: skip


def _places(whole: range, part: range) -> range:
    """Where the entries of a part lie among those of the whole."""
    return _range(whole.index(part[0]), part.step // whole.step, len(part))


def _range(start: int, step: int, count: int) -> range:
    """A range of so many indices; of one index, always the same one."""
    step = step if count > 1 else 1
    return range(start, start + step * (count - 1) + 1, step)


def _elementwise(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    if any(shape != outputs[0] for shape in inputs) or len(outputs) > 1:
        return None
    return _Part(boxes, [boxes[0]] * len(inputs), node.primitive, node.arguments)


def _broadcast(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    (box,), (source, *_) = boxes, inputs
    ahead = len(box) - len(source)
    given = tuple(
        box[ahead + axis] if size == outputs[0][ahead + axis] else range(size)
        for axis, size in enumerate(source)
    )
    # Further inputs, which only lend their shape, are left as they are.
    others = [_whole(shape) for shape in inputs[1:]]
    return _Part(boxes, [given, *others], "Broadcast", (_sizes(box),))


def _transpose(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    (axes,) = node.arguments
    given = [range(0)] * len(axes)
    for place, axis in enumerate(axes):
        given[axis] = boxes[0][place]
    return _Part(boxes, [tuple(given)], "Transpose", node.arguments)


def _regroup(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    (source,), (target,), (box,) = inputs, outputs, boxes
    given, own = list(_whole(source)), list(_whole(target))
    for of_source, of_target in _groups(source, target):
        flat = _merged([box[axis] for axis in of_target], [target[axis] for axis in of_target])
        parts = _divided(flat, [source[axis] for axis in of_source]) if flat else None
        if parts is None:
            continue
        for axis, part in zip(of_source, parts, strict=True):
            given[axis] = part
        for axis in of_target:
            own[axis] = box[axis]
    return _Part([tuple(own)], [tuple(given)], "Reshape", (_sizes(tuple(own)),))


def _groups(source: _Shape, target: _Shape) -> list[tuple[list[int], list[int]]]:
    """Axes before and after a change of shape that hold the same entries, in order."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        of_source: list[int] = []
        of_target: list[int] = []
        a = b = 1
        while True:
            if i < len(source) and (a < b or not of_source):
                a *= source[i]
                of_source.append(i)
                i += 1
            elif j < len(target) and (b < a or not of_target):
                b *= target[j]
                of_target.append(j)
                j += 1
            else:
                break
        groups.append((of_source, of_target))
    return groups


def _merged(ranges: Sequence[range], sizes: Sequence[int]) -> range | None:
    """Indices on one axis in place of several, if they are evenly spaced there."""
    flat = range(1)
    for part, size in zip(ranges, sizes, strict=True):
        if len(part) == 1:
            flat = _range(flat.start * size + part[0], flat.step * size, len(flat))
        elif len(flat) == 1:
            flat = _range(flat.start * size + part.start, part.step, len(part))
        elif part == range(size) and flat.step == 1:
            flat = range(flat.start * size, flat.start * size + len(flat) * size)
        else:
            return None
    return flat


def _divided(flat: range, sizes: Sequence[int]) -> list[range] | None:
    """Indices on several axes in place of one, if there is a range of them for each axis."""
    ranges: list[range] = []
    for size in reversed(sizes):
        start, step, count = flat.start, flat.step, len(flat)
        if count == 1 or step % size == 0:
            ranges.append(_range(start % size, 1, 1))
            flat = _range(start // size, step // size, count)
        elif start // size == flat[-1] // size:
            ranges.append(_range(start % size, step, count))
            flat = _range(start // size, 1, 1)
        elif step == 1 and start % size == 0 and count % size == 0:
            ranges.append(range(size))
            flat = range(start // size, start // size + count // size)
        else:
            return None
    return ranges[::-1]


def _slice(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    starts, _, strides = node.arguments
    if any(stride < 1 for stride in strides):
        return None
    given = tuple(
        _range(start + stride * part.start, stride * part.step, len(part))
        for start, stride, part in zip(starts, strides, boxes[0], strict=True)
    )
    sizes = _sizes(boxes[0])
    bounds = ((0,) * len(sizes), sizes, (1,) * len(sizes))
    return _Part(boxes, [given], "Slice", bounds)


def _along(axes_of: Callable[[Node, _Shape], Sequence[int]]) -> _Rule:
    """The rule of a primitive that acts along some axes, at every place of the others alone."""

    def rule(
        node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
    ) -> _Part | None:
        axes = {axis % len(inputs[0]) for axis in axes_of(node, inputs[0])}
        box = boxes[0]
        for other in boxes[1:]:
            box = _hull(box, other)

        def along(shape: _Shape) -> _Box:
            return tuple(
                range(size) if axis in axes else part
                for axis, (size, part) in enumerate(zip(shape, box, strict=True))
            )

        if any(len(shape) != len(box) for shape in inputs):
            return None
        return _Part([*map(along, outputs)], [*map(along, inputs)], node.primitive, node.arguments)

    return rule


def _gather_axis(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    (axis,), (box,) = node.arguments, boxes
    source, index = inputs
    others = [k for k in range(len(box)) if k != axis % len(box)]
    if index != outputs[0] or any(source[k] != index[k] for k in others):
        return None
    given = tuple(box[k] if k in others else range(source[k]) for k in range(len(box)))
    return _Part(boxes, [given, box], node.primitive, node.arguments)


def _matmul(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    (box,), (a, b, *added) = boxes, inputs
    ahead = outputs[0][:-2]
    if a[:-2] != ahead or b[:-2] != ahead or len(box) < 2:
        return None
    if any(shape != outputs[0] for shape in added):
        return None
    *batch, rows, columns = box
    given = [(*batch, rows, range(a[-1])), (*batch, range(b[-2]), columns), *[box] * len(added)]
    return _Part(boxes, given, node.primitive, node.arguments)


def _gather_mm(
    node: Node, inputs: list[_Shape], outputs: list[_Shape], boxes: list[_Box]
) -> _Part | None:
    *batch, _, _ = boxes[0]
    a, b, left, right = inputs
    if left != outputs[0][:-2] or right != left:
        return None
    own = (*batch, *_whole(outputs[0][-2:]))
    given = [_whole(a), _whole(b), tuple(batch), tuple(batch)]
    return _Part([own], given, node.primitive, node.arguments)


def _last(node: Node, shape: _Shape) -> tuple[int]:
    return (len(shape) - 1,)


def _first_argument(node: Node, shape: _Shape) -> tuple[int]:
    return (node.arguments[0],)


def _second_argument(node: Node, shape: _Shape) -> tuple[int]:
    return (node.arguments[1],)


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REGROUPED, _regroup),
    **dict.fromkeys(("AddMM", "Matmul"), _matmul),
    **dict.fromkeys(("LogSumExp", "Softmax"), _along(_last)),
    **dict.fromkeys(("ArgSort", "Concatenate", "Sort"), _along(_first_argument)),
    **dict.fromkeys(
        ("ArgPartition", "ArgReduce", "Partition", "Scan", "Split"), _along(_second_argument)
    ),
    "Broadcast": _broadcast,
    "GatherAxis": _gather_axis,
    "GatherMM": _gather_mm,
    "Reduce": _along(lambda node, shape: node.arguments[1]),
    "Slice": _slice,
    "Transpose": _transpose,
}
