"""The nodes of a graph, one after another, in MLX: branches and loops are written out."""

import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mlx_entk._text import visible
from mlx_entk.errors import InputError, first_line
from mlx_entk.onnx.graph import OWN_DOMAINS, every_node, needed
from mlx_entk.onnx.limits import MOST_DEPTH, MOST_NODES, inferred_size, require_room, size_of
from mlx_entk.onnx.operators import OPERATORS, Value, as_mlx
from mlx_entk.onnx.operators.values import axis_of, note_indices, noting_indices
from mlx_entk.onnx.torch_calls import is_detached, padding_of

Host = NDArray[Any]
Values = MutableMapping[str, Value]

# Operators that are evaluated here, without a line in OPERATORS.
HOST_ONLY = frozenset({"Shape", "Size"})
_CONTROL = frozenset({"If", "Loop", "Scan"})

# Operators whose reference implementation is slow, or needs far more room than its result.
_HEAVY = frozenset(
    {
        "Attention", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "GRU",
        "GridSample", "GroupNormalization", "InstanceNormalization", "LRN", "LSTM",
        "LayerNormalization", "LpPool", "MaxPool", "RMSNormalization", "RNN", "Resize", "Upsample",
    }
)  # fmt: skip
# Operators that make what others are shaped and indexed by: always known on the host.
_OF_SHAPES = frozenset({"Concat", "ConstantOfShape", "Expand", "Range", "Reshape", "Tile"})
# Entries of known inputs up to which ONNX's reference implementation evaluates the others.
_LIGHT = 4096

# Why operators are refused for good.
_NEVER = {
    "TreeEnsemble": "a decision tree is constant between its splits, so it has no derivative",
    "Random": "it draws random numbers",
    "Multinomial": "it draws random numbers",
    "Bernoulli": "it draws random numbers",
}


def key_of(node: onnx.NodeProto) -> str:
    """The name of a node's operator in ``OPERATORS``."""
    return node.op_type if node.domain in OWN_DOMAINS else f"{node.domain}.{node.op_type}"


def require_known(nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise InputError for operators without an MLX counterpart; the message names all of them."""
    unknown = {key_of(node) for node in every_node(nodes)}
    unknown -= OPERATORS.keys() | HOST_ONLY | _CONTROL | {"Constant"}
    for operator in sorted(unknown):
        for start, reason in _NEVER.items():
            if operator.rpartition(".")[2].startswith(start):
                raise InputError(f"ONNX operator {visible(operator)}: {reason}")
    if unknown:
        raise InputError(
            f"ONNX operators without an MLX counterpart: "
            f"{', '.join(visible(name) for name in sorted(unknown))}; add them "
            "to OPERATORS in mlx_entk/onnx/operators"
        )


def require_depth(nodes: Sequence[onnx.NodeProto]) -> None:
    """Raise InputError for a chain of operators that MLX's recursion would not survive."""
    depths: dict[str, int] = {}
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        _require_short(depth)
        depths.update(dict.fromkeys(node.output, depth))


def _require_short(depth: int) -> None:
    if depth > MOST_DEPTH:
        raise InputError(f"the model is a chain of more than {MOST_DEPTH:,} operators")


class Evaluation:
    """One run of a graph.

    Parameters
    ----------
    opsets
        Version by domain.
    limit
        Bytes that a value may take.
    """

    def __init__(self, opsets: Mapping[str, int], limit: int) -> None:
        self._opsets = [helper.make_opsetid(domain, v) for domain, v in opsets.items()]
        self._limit = limit
        self._room = limit  # for values that are known without the inputs, which all stay
        self._left = MOST_NODES
        self._depths: dict[str, int] = {}
        self._needed: dict[tuple[str, ...], list[onnx.NodeProto]] = {}

    def run(self, nodes: Sequence[onnx.NodeProto], values: Values) -> None:
        """Compute nodes in their order; ``values`` has what they begin with, and gets the results.

        Raises
        ------
        InputError
            If an operator cannot be computed on these inputs, or a result is larger than the
            limit, which is said before it is computed.
        """
        for node in nodes:
            self._count()
            try:
                arguments = [_found(values, name) for name in node.input]
                depth = 1 + max((self._depths.get(name, 0) for name in node.input), default=0)
                _require_short(depth)
                self._depths.update(dict.fromkeys(node.output, depth))
                results = self._results(node, arguments, values)
                # Arrays of MLX are not computed yet.
                sizes = [size_of(value) for value in results]
                require_room(max(sizes, default=0), self._limit, "the result")
                if len(results) < len(node.output):
                    raise InputError(f"it has {len(results)} results here")
            except Exception as error:  # a damaged graph makes MLX raise almost anything
                message = first_line(error)
                if not message.startswith("ONNX operator"):
                    where = f"{visible(node.op_type)} {visible(node.name)}"
                    message = f"ONNX operator {where}: {message}"
                raise InputError(message) from error
            self._room -= sum(v.nbytes for v in results if isinstance(v, np.ndarray))
            # An output without a name is left out, as an input without one is.
            values.update((k, v) for k, v in zip(node.output, results, strict=False) if k)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise InputError(f"a run of the model takes more than {MOST_NODES:,} nodes")

    def _results(
        self, node: onnx.NodeProto, arguments: list[Value], values: Values
    ) -> Sequence[Value]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        operator = key_of(node)
        control = {"If": self._if, "Loop": self._loop, "Scan": self._scan}.get(operator)
        if control is not None:
            return control(node, arguments, attributes, values)
        if operator == "Shape":  # known while tracing, and never differentiated
            shape = np.array(arguments[0].shape, dtype=np.int64)  # type: ignore[union-attr]
            return [shape[attributes.get("start", 0) : attributes.get("end", len(shape))]]
        if operator == "Size":
            return [np.array(arguments[0].size, dtype=np.int64)]  # type: ignore[union-attr]
        known = [value for value in arguments if isinstance(value, np.ndarray)]
        if len(known) == sum(value is not None for value in arguments) and (
            operator not in OPERATORS or _is_light(node, known)
        ):
            try:
                return self._on_host(node, arguments)
            except InputError:
                raise
            except Exception:  # the reference implementation lacks some versions
                if operator not in OPERATORS:
                    raise
        if is_detached(node):
            return [mx.stop_gradient(as_mlx(arguments[0]))]
        if (row := padding_of(node)) is not None:
            table = as_mlx(arguments[0])
            trained = mx.expand_dims(mx.arange(table.shape[0]) != row, 1)
            arguments = [mx.where(trained, table, mx.stop_gradient(table)), *arguments[1:]]
        result = OPERATORS[operator](arguments, attributes, len(node.output))
        return result if isinstance(result, list | tuple) else [result]

    def _on_host(self, node: onnx.NodeProto, arguments: list[Value]) -> Sequence[Value]:
        """Evaluate a node that depends on no input, by ONNX's reference implementation."""
        if node.op_type == "Range":  # ONNX's inference of shapes takes no arrays with an axis
            arguments = [np.reshape(np.asarray(value), ()) for value in arguments]
        names = [f"i{k}" if value is not None else "" for k, value in enumerate(arguments)]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("input")
        copy.input.extend(names)
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for name, v in zip(names, arguments, strict=True)
            if isinstance(v, np.ndarray)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([copy], "one", given, outputs)
        model = helper.make_model(graph, opset_imports=self._opsets)
        feed = {n: v for n, v in zip(names, arguments, strict=True) if isinstance(v, np.ndarray)}
        size = max(inferred_size(model, feed), _broadcast_size(feed))
        require_room(size, self._room, "the result")
        results = iter(ReferenceEvaluator(model).run(None, feed))
        return [np.asarray(next(results)) if name else None for name in node.output]

    def _body(
        self, body: onnx.GraphProto, given: dict[str, Value], values: Values
    ) -> tuple[list[Value], list[int]]:
        """Results of a graph inside a node, and how long the chains are that end in them."""
        names = [value.name for value in body.output]
        inner: Values = ChainMap(given, values)
        self._count()
        key = tuple(names)  # no other graph has values of these names
        if key not in self._needed:
            self._needed[key] = needed(body.node, names)
        self.run(self._needed[key], inner)
        return [_found(inner, name) for name in names], [self._depths.get(n, 0) for n in names]

    def _if(
        self, node: onnx.NodeProto, arguments: list[Value], a: dict[str, Any], values: Values
    ) -> Sequence[Value]:
        """One branch, or of both the results where the condition holds, and where not."""
        (condition,) = arguments
        if isinstance(condition, np.ndarray):
            chosen = a["then_branch" if condition.reshape(()).item() else "else_branch"]
            results, depths = self._body(chosen, {}, values)
            self._depths.update(zip(node.output, depths, strict=False))
            return results
        holds = as_mlx(condition).reshape(())
        branches = []
        for name, taken in (("then_branch", holds), ("else_branch", ~holds)):
            with noting_indices() as indices:
                branches.append(self._body(a[name], {}, values))
            for one in indices:
                note_indices(one.within(taken))
        (then, depths), (other, others) = branches
        longest = [1 + max(pair) for pair in zip(depths, others, strict=True)]
        self._depths.update(zip(node.output, longest, strict=False))
        pairs = [(as_mlx(x), as_mlx(y)) for x, y in zip(then, other, strict=True)]
        for x, y in pairs:
            if x.shape != y.shape or x.dtype != y.dtype:
                raise InputError(
                    f"its condition depends on the data, and its branches give arrays of "
                    f"{x.shape} and {y.shape}: a fixed graph cannot follow"
                )
        return [mx.where(holds, x, y) for x, y in pairs]

    def _loop(
        self, node: onnx.NodeProto, arguments: list[Value], a: dict[str, Any], values: Values
    ) -> Sequence[Value]:
        """The rounds of a loop, whose number has to be known without the data."""
        body, (most, condition, *carried) = a["body"], [*arguments, None][:2] + arguments[2:]
        names = [value.name for value in body.input]
        if len(names) != 2 + len(carried):
            raise InputError(f"its body takes {len(names)} inputs, not {2 + len(carried)}")
        if isinstance(most, mx.array):
            raise InputError("the number of rounds depends on the data")
        rounds = None if most is None else int(most.reshape(()).item())
        depths = [self._depths.get(name, 0) for name in node.input[2:]]
        stacked: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
        done = deepest = 0
        going: Value = np.array(True) if condition is None else condition
        while rounds is None or done < rounds:
            if isinstance(going, mx.array):
                raise InputError("the number of rounds depends on the data")
            assert going is not None
            if not going.reshape(()).item():
                break
            self._depths.update(zip(names[2:], depths, strict=True))
            given = [np.array(done, np.int64), going, *carried]
            results, deep = self._body(body, dict(zip(names, given, strict=True)), values)
            going, carried = results[0], results[1 : 1 + len(carried)]
            depths, deepest = deep[1 : 1 + len(carried)], max(deepest, *deep)
            for one, value in zip(stacked, results[1 + len(carried) :], strict=True):
                one.append(value)
            done += 1
        depths += [1 + deepest] * len(stacked)
        self._depths.update(zip(node.output, depths, strict=False))
        return [*carried, *(self._stack(one, 0) for one in stacked)]

    def _scan(
        self, node: onnx.NodeProto, arguments: list[Value], a: dict[str, Any], values: Values
    ) -> Sequence[Value]:
        """A step for each entry along an axis of the last inputs."""
        body, count = a["body"], a["num_scan_inputs"]
        states, scanned = arguments[:-count], [as_mlx(value) for value in arguments[-count:]]
        names = [value.name for value in body.input]
        outputs = len(body.output) - len(states)
        axes = a.get("scan_input_axes", [0] * count)
        backwards = a.get("scan_input_directions", [0] * count)
        axes = [axis_of(axis, v.ndim) for axis, v in zip(axes, scanned, strict=True)]
        lengths = {v.shape[axis] for axis, v in zip(axes, scanned, strict=True)}
        if len(lengths) != 1 or len(names) != len(arguments) or outputs < 0:
            raise InputError("what it goes along differs in length, or its body does not fit")
        (length,) = lengths
        depths = [self._depths.get(name, 0) for name in node.input[: len(states)]]
        stacked: list[list[Value]] = [[] for _ in range(outputs)]
        deepest = 0
        for step in range(length):
            places = [length - 1 - step if back else step for back in backwards]
            entries = [
                mx.take(v, mx.array(place), axis=axis)
                for v, place, axis in zip(scanned, places, axes, strict=True)
            ]
            self._depths.update(zip(names, depths, strict=False))
            given = dict(zip(names, [*states, *entries], strict=True))
            results, deep = self._body(body, given, values)
            states, depths = results[: len(states)], deep[: len(states)]
            deepest = max(deepest, *deep)
            for one, value in zip(stacked, results[len(states) :], strict=True):
                one.append(value)
        out_axes = a.get("scan_output_axes", [0] * outputs)
        reverse = a.get("scan_output_directions", [0] * outputs)
        joined = [
            self._stack(one[::-1] if back else one, axis)
            for one, back, axis in zip(stacked, reverse, out_axes, strict=True)
        ]
        depths += [1 + deepest] * outputs
        self._depths.update(zip(node.output, depths, strict=False))
        return [*states, *joined]

    def _stack(self, values: Sequence[Value], axis: int) -> Value:
        """What every round gave, along a new axis; None if there was no round."""
        if not values:
            return None
        require_room(sum(map(size_of, values)), self._limit, "the results of all rounds")
        if all(isinstance(value, np.ndarray) for value in values):
            return np.stack([np.asarray(value) for value in values], axis=axis)
        return mx.stack([as_mlx(value) for value in values], axis=axis)


def _found(values: Mapping[str, Value], name: str) -> Value:
    try:
        return values[name]
    except KeyError:
        raise InputError(f"nothing defines {visible(name)}") from None


def _is_light(node: onnx.NodeProto, known: Sequence[Host]) -> bool:
    """Whether ONNX's reference implementation may evaluate a node whose inputs are known.

    MLX does the rest. What graphs compute of shapes is small.
    """
    if node.op_type in _HEAVY:
        return False
    return node.op_type in _OF_SHAPES or all(value.size <= _LIGHT for value in known)


def _broadcast_size(feed: Mapping[str, Host]) -> int:
    """Bytes that inputs may take once they are broadcast with one another, if they can be."""
    try:
        shape = np.broadcast_shapes(*(value.shape for value in feed.values()))
    except ValueError:
        return 0
    return math.prod(shape) * max((value.itemsize for value in feed.values()), default=0)
