"""Whether two graphs compute the same values whatever their inputs are, as far as can be told.

A value's fingerprint is a digest of how it comes about: primitives, arguments, shapes and the
fingerprints of what goes in. A value is a sum of terms, each with a factor, and whatever is
linear in one input takes the terms one by one, so that neither the order of a sum nor where it
is taken counts. Equal fingerprints are equal functions, except that of large constants only some
entries are read; equal functions may have unequal fingerprints.
"""

import hashlib
from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.tracing.graph import Graph, Node
from mlx_entk.tracing.primitives import REDUCE_SUM, REGROUPED

# A digest, and the shape that its entries were regrouped into, or None for its own.
_Term = tuple[str, tuple[int, ...] | None]
_Sum = dict[_Term, int]

# Linear in their first input, if the others stay what they are.
_LINEAR = frozenset({"AsType", "Broadcast", "Full", "Slice", "Split", "Transpose"})

# A longer sum counts as one value.
_LONGEST = 200
# Entries of a constant that are read, evenly spaced.
_SAMPLE = 2**16


def fingerprints(graph: Graph) -> list[str]:
    """Of every output of a graph, in order."""
    shapes: dict[str, tuple[int, ...]] = {}  # of what digests stand for
    sums: dict[str, _Sum] = {}

    def single(value: str, *parts: Any) -> _Sum:
        digest = digest_of(*parts, graph.shapes[value], str(graph.dtypes[value]))
        shapes[digest] = graph.shapes[value]
        return {(digest, None): 1}

    def regrouped(term: _Term, shape: tuple[int, ...]) -> _Term:
        digest, _ = term
        return digest, None if shapes[digest] == shape else shape

    for number, name in enumerate(graph.inputs):
        sums[name] = single(name, "input", number)
    for name, value in graph.constants.items():
        sums[name] = single(name, "constant", _sample(value))
    for node in graph.nodes:
        given = [sums[name] for name in node.inputs]
        for number, name in enumerate(node.outputs):
            shape = graph.shapes[name]
            if _keeps(graph, node, name):
                sums[name] = given[0]
            elif node.primitive in REGROUPED:
                sums[name] = {regrouped(term, shape): k for term, k in given[0].items()}
            elif node.primitive == "Negative":
                sums[name] = {term: -k for term, k in given[0].items()}
            elif node.primitive in ("Add", "Subtract") and not _is_whole(graph, name):
                sign = 1 if node.primitive == "Add" else -1
                sums[name] = _added(given[0], given[1], sign)
            elif _is_linear(graph, node):
                terms: Counter[_Term] = Counter()
                for term, k in given[0].items():
                    others = [_key(part) for part in given[1:]]
                    (made,) = single(name, node.primitive, node.arguments, term, others, number)
                    terms[made] += k
                sums[name] = {term: k for term, k in terms.items() if k}
            else:
                keys = [_key(part) for part in given]
                sums[name] = single(name, node.primitive, node.arguments, keys, number)
            if len(sums[name]) > _LONGEST:
                sums[name] = single(name, "sum", _key(sums[name]))
    return [_key(sums[name]) for name in graph.outputs]


def _keeps(graph: Graph, node: Node, output: str) -> bool:
    """Whether a node gives its input as it is."""
    if node.primitive not in ("AsType", "Broadcast", "Full") or len(node.inputs) != 1:
        return False
    (source,) = node.inputs
    same_shape = graph.shapes[source] == graph.shapes[output]
    return same_shape and graph.dtypes[source] == graph.dtypes[output]


def _is_whole(graph: Graph, value: str) -> bool:
    return not mx.issubdtype(graph.dtypes[value], mx.inexact)


def _is_linear(graph: Graph, node: Node) -> bool:
    if any(_is_whole(graph, name) for name in (node.inputs[:1] + node.outputs)):
        return False
    if node.primitive == "Reduce":
        return bool(node.arguments[0] == REDUCE_SUM)
    return node.primitive in _LINEAR


def _added(one: _Sum, other: _Sum, sign: int) -> _Sum:
    total = dict(one)
    for term, k in other.items():
        total[term] = total.get(term, 0) + sign * k
    return {term: k for term, k in total.items() if k}


def _key(terms: _Sum) -> str:
    return digest_of(sorted(terms.items(), key=repr))


def digest_of(*parts: Any) -> str:
    """A short text that other parts seldom have too."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _sample(value: mx.array) -> str:
    flat = value.reshape(-1)
    step = max(1, flat.size // _SAMPLE)
    host = np.array(mx.contiguous(flat[::step]).view(mx.uint8))
    return hashlib.blake2b(host.tobytes(), digest_size=16).hexdigest()
