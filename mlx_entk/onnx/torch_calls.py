"""What PyTorch's exporter notes of the calls that nodes were made of, for which ONNX has no word.

ONNX has no derivatives, so that its operators do not tell which values PyTorch takes none of.
"""

import re

import onnx

_CALL = "pkg.torch.onnx.fx_node"
_PADDED = re.compile(r"aten\.embedding\.default\]\(args = \(%[\w.]+, %[\w.]+, (\d{1,9})[,)]")


def call_of(node: onnx.NodeProto) -> str:
    """The call that a node was made of, as text; empty if none is noted."""
    return next((entry.value for entry in node.metadata_props if entry.key == _CALL), "")


def arguments_of(node: onnx.NodeProto) -> set[str]:
    """Names in the call that a node was made of."""
    return set(re.findall(r"%([\w.]+)", call_of(node).partition("](")[2]))


def is_detached(node: onnx.NodeProto) -> bool:
    """Whether PyTorch takes no derivative of what a node passes on."""
    return node.op_type == "Identity" and "aten.detach.default](" in call_of(node)


def padding_of(node: onnx.NodeProto) -> int | None:
    """The row of an embedding that PyTorch takes no derivative by; None if there is no such row."""
    found = _PADDED.search(call_of(node)) if node.op_type == "Gather" else None
    return None if found is None else int(found.group(1))
