"""Small graphs of one operator each, on data and parameters, to differentiate.

Names of parameters have one upper case letter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.onnx import test_recurrent
from tests.onnx.small_graphs import Array, graph_of, node

Graph = tuple[onnx.ModelProto, Array]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def for_each_input(name: str, value: Array) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes that repeat a constant, whose first axis is 1, for every input: ``every NAME``."""
    nodes = [
        node("Shape", ["x"], [f"batch of {name}"], start=0, end=1),
        node("Concat", [f"batch of {name}", f"rest of {name}"], [f"shape of {name}"], axis=0),
        node("Expand", [name, f"shape of {name}"], [f"every {name}"]),
    ]
    return nodes, {name: value, f"rest of {name}": np.array(value.shape[1:], dtype=np.int64)}


def positive_steps(axes: Sequence[int]) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes that count the steps, axis 1 of x, with a positive sum over axes: ``lengths``."""
    nodes = [
        node("ReduceSum", ["x", "features"], ["sums"], keepdims=0),
        node("Greater", ["sums", "zero"], ["positive"]),
        node("Cast", ["positive"], ["ones"], to=TensorProto.INT64),
        node("ReduceSum", ["ones", "steps"], ["lengths"], keepdims=0),
    ]
    zero = np.zeros((), np.float32)
    return nodes, {"features": np.array(axes), "zero": zero, "steps": np.array([1])}


def behind(
    operator: str,
    shape: Sequence[int],
    constants: dict[str, Array] | None = None,
    repeated: dict[str, Array] | None = None,
    opset: int = 23,
    **attributes: Any,
) -> Graph:
    """An operator on tanh(x W) for x of a shape behind the batch, and on further inputs.

    Parameters
    ----------
    constants
        Further inputs by name; an empty array stands for one that is left out.
    repeated
        Further inputs after these, one for each row of x.
    """
    x, W = numbers(2, *shape), numbers(*shape, seed=1)
    nodes = [node("Mul", ["x", "W"], ["product"]), node("Tanh", ["product"], ["h"])]
    every = {"W": W, **(constants or {})}
    inputs = ["h", *(name if value.size else "" for name, value in (constants or {}).items())]
    for name, value in (repeated or {}).items():
        more, needed = for_each_input(name, value)
        nodes += more
        every |= needed
        inputs.append(f"every {name}")
    nodes.append(node(operator, inputs, ["y"], **attributes))
    return graph_of(nodes, {"x": x}, every, opset=opset), x


def recurrent(kind: str, direction: str, lengths: bool = False, **attributes: Any) -> Graph:
    """A recurrent layer as PyTorch exports it, whose sequences begin in the same state."""
    states = ("h", "c") if kind == "LSTM" else ("h",)
    more = ("B", *states, *(("P",) if kind == "LSTM" else ()))
    layer, x = test_recurrent.layer(kind, direction, more, **attributes)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in layer.graph.initializer}
    made = layer.graph.node[0]
    made.input[0], made.output[0] = "turned", "all"
    nodes = [node("Transpose", ["x"], ["turned"], perm=[1, 0, 2])]
    constants: dict[str, Array] = {}
    for k, name in enumerate(states):
        weights[name.upper()] = weights.pop(name)[:, :1].swapaxes(0, 1)
        repeat, needed = for_each_input(name.upper(), weights[name.upper()])
        nodes += [*repeat, node("Transpose", [f"every {name.upper()}"], [name], perm=[1, 0, 2])]
        constants |= needed
        made.input[5 + k] = name
    if lengths:
        count, needed = positive_steps([2])
        nodes += [*count, node("Cast", ["lengths"], ["short"], to=TensorProto.INT32)]
        constants |= needed
        made.input[4] = "short"
    nodes += [made, node("Transpose", ["all"], ["y"], perm=[2, 0, 1, 3])]
    turned = x.swapaxes(0, 1).copy()
    return graph_of(nodes, {"x": turned}, weights | constants), turned


def convolution(operator: str, shape: Sequence[int], weight: Sequence[int], **more: Any) -> Graph:
    return behind(operator, shape, {"V": numbers(*weight, seed=2)}, **more)


def resize(sizes: tuple[int, ...], **attributes: Any) -> Graph:
    roi = np.array([0.1, 0.0, 0.9, 1.1], dtype=np.float32)
    constants = {"roi": roi, "scales": np.array([], np.float32), "sizes": np.array(sizes)}
    return behind("Resize", (1, 3, 4), constants, axes=[2, 3], **attributes)


def reverse_sequence() -> Graph:
    nodes, constants = positive_steps([2])
    nodes += [
        node("Mul", ["x", "W"], ["product"]),
        node("ReverseSequence", ["product", "lengths"], ["y"], batch_axis=0, time_axis=1),
    ]
    x = numbers(3, 4, 2, seed=6)  # no sum of a step is near zero
    return graph_of(nodes, {"x": x}, {"W": numbers(4, 2, seed=1), **constants}), x


def attention(**attributes: Any) -> Graph:
    """Queries, keys and values from x; no key may be seen from the last query."""
    constants = {name: numbers(4, 6, seed=i) for i, name in enumerate("QKV")}
    constants["K"], constants["V"] = constants["K"][:, :2], constants["V"][:, :4]
    nodes = [node("MatMul", ["x", name], [name.lower()]) for name in "QKV"]
    nodes.append(
        node(
            "Attention", ["q", "k", "v", "seen"], ["y"], q_num_heads=3, kv_num_heads=1, **attributes
        )
    )
    seen = np.array([[True, False, True], [True, True, False], [False] * 3])
    x = numbers(2, 3, 4, seed=5)
    return graph_of(nodes, {"x": x}, {**constants, "seen": seen}, opset=23), x


def rotary_embedding(**attributes: Any) -> Graph:
    angles = numbers(5, 2, seed=3)
    tables = {"C": np.cos(angles), "S": np.sin(angles)}
    at = {"at": np.array([[0, 4, 1]])}
    return behind("RotaryEmbedding", (2, 3, 6), tables, at, rotary_embedding_dim=4, **attributes)


def grid_sample(mode: str, padding: str) -> Graph:
    # Places that lie well between entries, one of them outside.
    grid = np.array([[-0.6, 0.25], [0.1, -0.4], [0.65, 0.55], [1.2, 0.2]], np.float32)
    grid = grid.reshape(1, 2, 2, 2)
    return behind("GridSample", (1, 3, 4), None, {"G": grid}, mode=mode, padding_mode=padding)


def affine_grid() -> Graph:
    nodes = [
        node("Mul", ["x", "W"], ["theta"]),
        node("Shape", ["x"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "rest"], ["size"], axis=0),
        node("AffineGrid", ["theta", "size"], ["y"]),
    ]
    x = numbers(2, 2, 3)
    return graph_of(nodes, {"x": x}, {"W": numbers(2, 3), "rest": np.array([1, 2, 3])}, opset=20), x


GRAPHS: dict[str, Callable[[], Graph]] = {
    "LSTM": lambda: recurrent("LSTM", "bidirectional", lengths=True),
    "LSTM, coupled": lambda: recurrent("LSTM", "forward", input_forget=1),
    "GRU": lambda: recurrent("GRU", "reverse", lengths=True),
    "GRU, reset last": lambda: recurrent("GRU", "forward", linear_before_reset=1),
    "RNN": lambda: recurrent("RNN", "bidirectional", lengths=True),
    "Resize, nearest": lambda: resize((6, 8)),
    "Resize, nearest, fewer": lambda: resize((2, 5)),
    "Resize, linear": lambda: resize((7, 3), mode="linear"),
    "Resize, cubic, smooth": lambda: resize((2, 6), mode="cubic", antialias=1),
    "Resize, cropped": lambda: resize(
        (2, 5), mode="linear", coordinate_transformation_mode="tf_crop_and_resize"
    ),
    "Conv, 3 axes, in groups": lambda: convolution(
        "Conv", (2, 2, 3, 3), (4, 1, 2, 2, 1), group=2, pads=[1, 0, 0, 0, 1, 0], strides=[1, 2, 1]
    ),
    "ConvTranspose, 1 axis": lambda: convolution(
        "ConvTranspose", (2, 3), (2, 2, 3), strides=[3], pads=[1, 2], output_padding=[2]
    ),
    "ConvTranspose, zeros at its end": lambda: convolution(
        "ConvTranspose", (2, 3), (2, 2, 1), strides=[3], output_padding=[2]
    ),
    "ConvTranspose, 2 axes": lambda: convolution(
        "ConvTranspose", (2, 3, 2), (2, 1, 2, 3), strides=[2, 1], dilations=[2, 1],
        auto_pad="SAME_UPPER",
    ),
    "ConvTranspose, 3 axes, in groups": lambda: convolution(
        "ConvTranspose", (2, 2, 2, 1), (2, 2, 1, 2, 2), group=2, strides=[2, 1, 2],
        output_padding=[1, 0, 0],
    ),
    "Attention": lambda: attention(is_causal=1),
    "Attention, softcap": lambda: attention(softcap=0.8),
    "RotaryEmbedding": lambda: rotary_embedding(),
    "RotaryEmbedding, interleaved": lambda: rotary_embedding(interleaved=1),
    "GridSample, linear": lambda: grid_sample("linear", "zeros"),
    "GridSample, cubic": lambda: grid_sample("cubic", "reflection"),
    "GridSample, nearest": lambda: grid_sample("nearest", "border"),
    "AffineGrid": affine_grid,
    "PRelu": lambda: behind("PRelu", (3, 2), {"S": numbers(3, 1, seed=2)}),
    "LpNormalization": lambda: behind("LpNormalization", (3, 2), axis=1),
    "LRN": lambda: behind("LRN", (3, 2, 2), size=3, alpha=0.9, beta=0.6),
    "MeanVarianceNormalization": lambda: behind("MeanVarianceNormalization", (3, 4), axes=[2]),
    "LpPool": lambda: behind("LpPool", (2, 4, 3), opset=22, p=3, kernel_shape=[2, 2]),
    "GlobalLpPool": lambda: behind("GlobalLpPool", (2, 3, 2), opset=18),
    "ReverseSequence": reverse_sequence,
    "Compress": lambda: behind("Compress", (3, 2), {"kept": np.array([True, False, True])}, axis=1),
    "CenterCropPad": lambda: behind(
        "CenterCropPad", (3, 2), {"sizes": np.array([1, 5])}, axes=[1, 2]
    ),
}  # fmt: skip
