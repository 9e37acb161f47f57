"""An ONNX model in one form: every stored number by a name of its own, functions written out.

Files keep numbers as initializers, sparse ones too, in Constant nodes, in attributes, and in the
graphs of branches and loops. Here all of them are in one table, so that what follows need not care.
"""

import math
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mlx_entk._text import visible
from mlx_entk.errors import InputError, first_line
from mlx_entk.onnx.limits import MOST_NODES, checked_shape, require_room
from mlx_entk.onnx.tensors import array_of

Host = NDArray[Any]
Origin = Literal["initializer", "constant", "attribute"]

OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Stored:
    """Numbers that a file stores.

    Attributes
    ----------
    array
        The numbers; of a sparse tensor those that are not zero.
    origin
        An initializer, a Constant node, or an attribute of another node.
    facts
        What the file says about them, by key.
    """

    array: Host
    origin: Origin
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Graph:
    """A model's nodes in their order, and what they begin with.

    Attributes
    ----------
    nodes
        No name is given twice in all of them, the graphs inside nodes included.
    stored
        Numbers by name.
    unusable
        Why a tensor is not among them, by name: MLX has no text, for example.
    inputs, outputs
        As the file declares them, without inputs that have a stored value.
    opsets
        Version by domain.
    """

    nodes: list[onnx.NodeProto]
    stored: dict[str, Stored]
    unusable: dict[str, str]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    opsets: dict[str, int]


def graph_of(model: onnx.ModelProto, limit: int) -> Graph:
    """The graph of a model that ``mlx_entk.onnx.files.read_model`` has checked.

    Parameters
    ----------
    limit
        Bytes that one tensor may take, if it is sparse in the file.

    Raises
    ------
    InputError
        If a tensor is damaged or too large, or functions call one another without end.
    """
    try:
        return _Builder(model, limit).build()
    except InputError:
        raise
    except Exception as error:  # attributes of other types than their names say, for example
        raise InputError(f"the model is damaged: {first_line(error)}") from error


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node: branches, or what a loop repeats."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def uses(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, in the graphs inside it too."""
    yield from node.input
    for body in bodies_of(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from uses(inner)


def needed(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some outputs depend on, in their order."""
    values = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        if values.intersection(node.output):
            kept.append(node)
            values.update(uses(node))
    return kept[::-1]


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from every_node(body.node)


Names = MutableMapping[str, str]
Scope = tuple[int, str]


class _Builder:
    """Writes nodes out one after another, with a scope of names for each graph."""

    def __init__(self, model: onnx.ModelProto, limit: int) -> None:
        self._model, self._limit = model, limit
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        for function in model.functions:
            if function.domain in (*OWN_DOMAINS, "ai.onnx.ml"):
                raise InputError(f"it has a function {visible(function.name)} in ONNX's own domain")
        self._taken: set[str] = {""}
        self._repeats: Counter[str] = Counter()
        self._count = self._bytes = 0
        self._shared: dict[tuple[str, str], str] = {}
        self._told: dict[str, dict[str, str]] = {}
        self.stored: dict[str, Stored] = {}
        self.unusable: dict[str, str] = {}

    def build(self) -> Graph:
        graph = self._model.graph
        for value in (*graph.value_info, *graph.input):
            self._told[value.name] = {p.key: p.value for p in value.metadata_props}
        kept = {value.name for value in (*graph.input, *graph.output)}
        self._taken |= kept | {name for node in graph.node for name in node.output}
        self._taken |= {tensor.name for tensor in graph.initializer}
        names: Names = {}
        nodes = self._store(graph, names, top=True)
        for node in graph.node:
            nodes += self._written(node, names, {}, top=True)
        stored = self.stored.keys() | self.unusable.keys()
        stored |= {sparse.values.name for sparse in graph.sparse_initializer}
        return Graph(
            nodes=nodes,
            stored=self.stored,
            unusable=self.unusable,
            inputs=[value for value in graph.input if value.name not in stored],
            outputs=list(graph.output),
            opsets=_versions(self._model.opset_import),
        )

    def _fresh(self, name: str) -> str:
        """A name that nothing else has."""
        new = name
        while new in self._taken:
            self._repeats[name] += 1
            new = f"{name}~{self._repeats[name]}"
        self._taken.add(new)
        return new

    def _store(
        self, graph: onnx.GraphProto, names: Names, scope: Scope = (0, ""), top: bool = False
    ) -> list[onnx.NodeProto]:
        """Put a graph's initializers into the table; returns nodes that write sparse ones out."""
        for tensor in graph.initializer:
            if self._is_shared(scope, tensor.name, names):
                continue
            name = tensor.name if top else self._fresh(tensor.name)
            self._share(scope, tensor.name, name)
            names[tensor.name] = name
            facts = {p.key: p.value for p in tensor.metadata_props}
            self._keep(name, tensor, "initializer", self._told.get(name, {}) | facts)
        nodes = []
        for sparse in graph.sparse_initializer:
            dense = self._fresh(f"{sparse.values.name}/dense")
            nodes += self._dense(sparse, self._fresh(sparse.values.name), dense, "initializer")
            names[sparse.values.name] = dense
        return nodes

    def _is_shared(self, scope: Scope, name: str, names: Names) -> bool:
        """Whether an earlier call of a function stored a tensor, whose name ``names`` then gets."""
        stored = self._shared.get((scope[1], name)) if scope[1] else None
        if stored is not None:
            names[name] = stored
        return stored is not None

    def _share(self, scope: Scope, name: str, stored: str) -> None:
        if scope[1]:
            self._shared[scope[1], name] = stored

    def _put(self, name: str, stored: Stored) -> None:
        self._bytes += stored.array.nbytes
        require_room(self._bytes, self._limit, "what the model stores, functions written out,")
        self.stored[name] = stored

    def _keep(
        self, name: str, tensor: onnx.TensorProto, origin: Origin, facts: Mapping[str, str]
    ) -> None:
        if tensor.data_type == onnx.TensorProto.STRING:
            self.unusable[name] = f"{name} is text, which MLX lacks"
        else:
            self._put(name, Stored(array_of(tensor), origin, facts))

    def _dense(
        self, sparse: onnx.SparseTensorProto, name: str, result: str, origin: Origin
    ) -> list[onnx.NodeProto]:
        """Nodes that spread the numbers of a sparse tensor, which keep its name, among zeros."""
        values = array_of(sparse.values)
        shape = checked_shape(sparse.dims)
        size = math.prod(shape)
        require_room(8 * size, self._limit, f"the sparse tensor {name}")
        try:
            at = np.asarray(numpy_helper.to_array(sparse.indices)).astype(np.int64)
            flat = at if at.ndim == 1 else np.ravel_multi_index(tuple(at.T), shape)
            places = np.full(size, len(values), np.int64)
            if flat.size and (flat.min() < 0 or len(np.unique(flat)) < flat.size):
                raise ValueError("an index is negative, or given twice")
            places[flat] = np.arange(len(values))
        except Exception as error:  # what a damaged tensor makes NumPy raise
            raise InputError(f"the sparse tensor {visible(name)} is damaged: {error}") from error
        parts = {part: self._fresh(f"{name}/{part}") for part in ("zero", "places", "shape")}
        padded, spread = self._fresh(f"{name}/padded"), self._fresh(f"{name}/spread")
        self._put(name, Stored(values, origin))
        for part, array in {
            "zero": np.zeros(1, values.dtype),
            "places": places,
            "shape": np.array(shape, np.int64),
        }.items():
            self._put(parts[part], Stored(array, "constant"))
        return [
            helper.make_node("Concat", [name, parts["zero"]], [padded], axis=0),
            helper.make_node("Gather", [padded, parts["places"]], [spread], axis=0),
            helper.make_node("Reshape", [spread, parts["shape"]], [result]),
        ]

    def _written(
        self,
        node: onnx.NodeProto,
        names: Names,
        attributes: Mapping[str, onnx.AttributeProto],
        scope: Scope = (0, ""),
        top: bool = False,
    ) -> list[onnx.NodeProto]:
        """A node with the names and attributes of its scope; several for a function.

        ``names`` gets those of its outputs. The names at the top are kept. ``scope`` says how
        many functions call one another here, and where in the last of them this is.
        """
        self._count += 1
        if self._count > MOST_NODES:
            raise InputError(f"the model has more than {MOST_NODES:,} nodes, functions written out")
        inputs = [names.get(name, name) for name in node.input]
        for name in node.output:
            if name:
                names[name] = name if top else self._fresh(name)
        outputs = [names[name] if name else "" for name in node.output]
        function = self._functions.get((node.domain, node.op_type, node.overload))
        resolved = (_resolved(a, attributes) for a in node.attribute)
        own = [a for a in resolved if a is not None]
        if function is not None:
            return self._called(function, node, inputs, outputs, own, scope)
        if top and node.op_type == "Identity" and self._is_separate(inputs[0]):
            self.stored[outputs[0]] = self.stored[inputs[0]]
            return []
        if node.op_type == "Constant" and node.domain in OWN_DOMAINS:
            fixed = not any(a.ref_attr_name for a in node.attribute)
            if fixed and self._is_shared(scope, node.output[0], names):
                return []
            lifted = self._constant(outputs[0], own)
            if lifted is not None:
                if fixed and outputs[0] in self.stored:
                    self._share(scope, node.output[0], outputs[0])
                return lifted
        for weights in _LIFTED.get((node.domain, node.op_type), ()):
            held = [a for a in own if a.name == weights]
            own = [a for a in own if a.name != weights]
            name = f"{node.name or node.op_type}.{weights}"
            inputs.append(self._fresh(name) if held else "")
            if held:
                array = np.asarray(held[0].floats, np.float32)
                self._put(inputs[-1], Stored(array, "attribute"))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for part in ("input", "output", "attribute"):
            copy.ClearField(part)
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        for attribute in own:
            kept = copy.attribute.add()
            if attribute.type == onnx.AttributeProto.GRAPH:
                kept.name, kept.type = attribute.name, attribute.type
                place = f"{scope[1]}/{node.output[0]}/{attribute.name}" if scope[1] else ""
                inner = (scope[0], place)
                kept.g.CopyFrom(self._body(attribute.g, names, attributes, inner))
            else:
                kept.CopyFrom(attribute)
        return [copy]

    def _is_separate(self, name: str) -> bool:
        """Whether an Identity of an initializer was a tensor of its own.

        PyTorch's older exporter stores equal tensors once, under one of their names, and gives the
        others back theirs. Tied ones have one name.
        """
        pytorch = self._model.producer_name == "pytorch"
        return pytorch and name in self.stored and not self._told.get(name)

    def _body(
        self,
        graph: onnx.GraphProto,
        outer: Names,
        attributes: Mapping[str, onnx.AttributeProto],
        scope: Scope,
    ) -> onnx.GraphProto:
        """A graph inside a node, its numbers in the table."""
        names: Names = ChainMap({}, *(outer.maps if isinstance(outer, ChainMap) else (outer,)))
        body = onnx.GraphProto(name=graph.name)
        for value in graph.input:
            names[value.name] = self._fresh(value.name)
            body.input.add().CopyFrom(value)
            body.input[-1].name = names[value.name]
        nodes = self._store(graph, names, scope)
        for node in graph.node:
            nodes += self._written(node, names, attributes, scope)
        body.node.extend(nodes)
        for value in graph.output:
            body.output.add().CopyFrom(value)
            body.output[-1].name = names.get(value.name, value.name)
        return body

    def _called(
        self,
        function: onnx.FunctionProto,
        node: onnx.NodeProto,
        inputs: Sequence[str],
        outputs: Sequence[str],
        own: Sequence[onnx.AttributeProto],
        scope: Scope,
    ) -> list[onnx.NodeProto]:
        """The nodes of a function, in the place of a call of it.

        What it stores is stored once: calls of one function share its weights.
        """
        self._count += (len(function.input) + len(function.output)) // 16
        if scope[0] > _MOST_CALLS:
            raise InputError(f"the function {function.name} calls itself, or others, without end")
        if len(inputs) > len(function.input) or len(outputs) > len(function.output):
            raise InputError(f"the function {function.name} is called with too many names")
        own_version = _versions(self._model.opset_import).get("")
        version = _versions(function.opset_import).get("", own_version)
        if version != own_version:
            raise InputError(
                f"the function {function.name} is of opset {version}, the model of {own_version}: "
                "export it with one opset"
            )
        names = dict.fromkeys(function.input, "") | dict(zip(function.input, inputs, strict=False))
        attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in own}
        here = (scope[0] + 1, f"{function.domain}:{function.name}:{function.overload}")
        nodes: list[onnx.NodeProto] = []
        for inner in function.node:
            nodes += self._written(inner, names, attributes, here)
        for name, given in zip(function.output, outputs, strict=False):
            if given:
                nodes.append(helper.make_node("Identity", [names.get(name, name)], [given]))
        return nodes

    def _constant(
        self, name: str, attributes: Sequence[onnx.AttributeProto]
    ) -> list[onnx.NodeProto] | None:
        """Put what a Constant node holds into the table; None if it holds something else."""
        if len(attributes) != 1:
            return None
        (attribute,) = attributes
        if attribute.name == "value":
            self._keep(name, attribute.t, "constant", self._told.get(name, {}))
        elif attribute.name == "sparse_value":
            return self._dense(attribute.sparse_tensor, self._fresh(f"{name}/values"), name,
                                "constant")  # fmt: skip
        elif attribute.name in _TYPES:
            value = helper.get_attribute_value(attribute)
            self._put(name, Stored(np.asarray(value, _TYPES[attribute.name]), "constant"))
        elif attribute.name in ("value_string", "value_strings"):
            self.unusable[name] = f"{name} is text, which MLX lacks"
        else:
            return None
        return []


# The longest chain of functions that call one another.
_MOST_CALLS = 64
# Attributes that hold weights, which become inputs here, in this order.
_LIFTED = {
    ("ai.onnx.ml", "LinearClassifier"): ("coefficients", "intercepts"),
    ("ai.onnx.ml", "LinearRegressor"): ("coefficients", "intercepts"),
}
# Attributes of Constant that hold plain numbers.
_TYPES = {
    "value_float": np.float32, "value_floats": np.float32,
    "value_int": np.int64, "value_ints": np.int64,
}  # fmt: skip


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators, which a checked model has once."""
    return _versions(model.opset_import)[""]


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain, of ONNX's own operators under the empty name."""
    return {"" if one.domain in OWN_DOMAINS else one.domain: one.version for one in imports}


def _resolved(
    attribute: onnx.AttributeProto, given: Mapping[str, onnx.AttributeProto]
) -> onnx.AttributeProto | None:
    """An attribute, or the one of the calling node that it refers to; None if that has none."""
    if not attribute.ref_attr_name:
        return attribute
    referred = given.get(attribute.ref_attr_name)
    if referred is None:
        return None
    resolved = onnx.AttributeProto()
    resolved.CopyFrom(referred)
    resolved.name = attribute.name
    return resolved
