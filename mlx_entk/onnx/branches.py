"""Branches that a file decides by numbers of its own, taken before anything runs."""

from collections import ChainMap
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mlx_entk.errors import InputError
from mlx_entk.onnx.evaluation import HOST_ONLY, Evaluation, key_of
from mlx_entk.onnx.graph import bodies_of
from mlx_entk.onnx.operators import OPERATORS, Value

# Entries of numbers by which a branch may be chosen.
_FEW = 64


def taken(
    nodes: Iterable[onnx.NodeProto],
    known: Mapping[str, NDArray[np.generic]],
    opsets: Mapping[str, int],
    limit: int,
) -> list[onnx.NodeProto]:
    """Nodes, with the branch in the place of each If whose condition depends on no input.

    Parameters
    ----------
    nodes
        In their order, with names that are given once in all of them.
    known
        What the file stores.
    opsets, limit
        As for ``Evaluation``.
    """
    values: dict[str, Value] = {"": None}
    values |= {name: array for name, array in known.items() if array.size <= _FEW}
    written: list[onnx.NodeProto] = []
    waiting = list(nodes)[::-1]
    while waiting:
        node = waiting.pop()
        condition = values.get(node.input[0]) if node.op_type == "If" and node.input else None
        if isinstance(condition, np.ndarray) and condition.size == 1:
            name = "then_branch" if condition.reshape(()) else "else_branch"
            (body,) = [a.g for a in node.attribute if a.name == name]
            ends = [
                helper.make_node("Identity", [value.name], [output])
                for value, output in zip(body.output, node.output, strict=False)
                if output
            ]
            waiting += [*body.node, *ends][::-1]
            continue
        written.append(node)
        if all(name in values for name in node.input) and not bodies_of(node):
            _compute(node, values, opsets, limit)
    return written


def _compute(
    node: onnx.NodeProto, values: dict[str, Value], opsets: Mapping[str, int], limit: int
) -> None:
    """Put what a node gives into values if it is small; what fails is said when the graph runs."""
    if key_of(node) not in OPERATORS and key_of(node) not in HOST_ONLY:
        return
    found = ChainMap[str, Value]({}, values)
    try:
        Evaluation(opsets, limit).run([node], found)
    except InputError:
        return
    for name in node.output:
        value = found.get(name)
        if name and isinstance(value, np.ndarray) and value.size <= _FEW:
            values[name] = value
