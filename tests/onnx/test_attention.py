"""Attention and rotary embeddings: as onnxruntime and ONNX's reference implementation have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from mlx_entk import InputError
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal

RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = (
    RNG.standard_normal(shape).astype(np.float32)
    for shape in ((2, 4, 3, 6), (2, 2, 5, 6), (2, 2, 5, 8))
)
MASK = RNG.standard_normal((2, 1, 3, 5)).astype(np.float32)
SEEN = np.array([[True, False, True, True, False]] * 2 + [[False] * 5])
PAST_KEY, PAST_VALUE = (RNG.standard_normal((2, 2, 4, size)).astype(np.float32) for size in (6, 8))
OUTPUTS = ("y", "key", "value", "products")


def attention(
    more: dict[str, Array], outputs: Sequence[str] = ("y",), opset: int = 23, **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    flat = "q_num_heads" in attributes
    inputs = {
        name: value.swapaxes(1, 2).reshape(2, value.shape[2], -1) if flat else value
        for name, value in {"q": QUERY, "k": KEY, "v": VALUE}.items()
    }
    inputs |= more
    names = ["q", "k", "v", *(n if n in more else "" for n in ("mask", "pk", "pv", "lengths"))]
    while not names[-1]:
        names.pop()
    made = node("Attention", names, outputs, **attributes)
    return graph_of([made], inputs, {}, outputs, opset), inputs


CASES: dict[str, tuple[dict[str, Array], dict[str, Any]]] = {
    "shared keys": ({}, {}),
    "scale and softcap": ({}, {"scale": 0.3, "softcap": 0.7}),
    "causal": ({}, {"is_causal": 1}),
    "mask": ({"mask": MASK}, {}),
    "short mask": ({"mask": MASK[..., :4]}, {"is_causal": 1}),
    "mask of booleans": ({"mask": SEEN}, {}),
    "heads in a row": ({"mask": SEEN}, {"q_num_heads": 4, "kv_num_heads": 2}),
    "past": ({"pk": PAST_KEY, "pv": PAST_VALUE}, {}),
    "past, causal": ({"pk": PAST_KEY, "pv": PAST_VALUE}, {"is_causal": 1, "softcap": 2.0}),
}


# The reference implementation shows products with the cap where they should be without.
WRONG_IN_REFERENCE = [("scale and softcap", 0), ("past, causal", 0)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", range(4))
def test_attention(case: str, mode: int) -> None:
    more, attributes = CASES[case]
    model, inputs = attention(more, OUTPUTS, qk_matmul_output_mode=mode, **attributes)

    # onnxruntime does not make a mask longer, and shows the smallest float in place of -∞.
    if case != "short mask" and mode != 2:
        require_equal(model, inputs)
    if (case, mode) not in WRONG_IN_REFERENCE:
        expected = ReferenceEvaluator(model).run(None, inputs)
        for one, other in zip(
            ours(model, *inputs.values(), outputs=OUTPUTS), expected, strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_lengths_of_keys_and_windows() -> None:
    lengths = np.array([2, 5])
    for causal in (0, 1):
        model, inputs = attention({"lengths": lengths}, opset=24, is_causal=causal)
        require_equal(model, inputs)
    for left, right in ((1, -1), (2, 0)):
        windows = {"left_window_size": left, "right_window_size": right}
        model, inputs = attention({"lengths": lengths}, ("y",), 25, **windows)
        expected = ReferenceEvaluator(model).run(["y"], inputs)
        for one, other in zip(ours(model, *inputs.values()), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "attributes", "message"),
    [
        ({"pk": PAST_KEY}, {}, "given together"),
        ({}, {"scale": -1.0}, "a scale of -1.0"),
        ({}, {"qk_matmul_output_mode": 4}, "output mode 4"),
        ({}, {"q_num_heads": 5, "kv_num_heads": 2}, "has not 5 heads"),
        ({}, {"q_num_heads": 3, "kv_num_heads": 2}, "do not fit"),
    ],
)
def test_attention_that_cannot_be_is_refused(
    more: dict[str, Array], attributes: dict[str, Any], message: str
) -> None:
    model, inputs = attention(more, **attributes)

    with pytest.raises(InputError, match=message):
        ours(model, *inputs.values())


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("heads", [0, 2])
def test_rotary_embeddings(interleaved: int, size: int, heads: int) -> None:
    x = RNG.standard_normal((2, 3, 12) if heads else (2, 2, 3, 6)).astype(np.float32)
    angles = RNG.standard_normal((7, (size or 6) // 2))
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    positions = np.array([[0, 1, 6], [3, 3, 2]])
    attributes: dict[str, Any] = {
        "interleaved": interleaved,
        "rotary_embedding_dim": size,
        "num_heads": heads,
    }
    made = node("RotaryEmbedding", ["x", "cos", "sin", "at"], ["y"], **attributes)
    require_equal(graph_of([made], {"x": x}, {**tables, "at": positions}, opset=23), {"x": x})

    every = {name: table[positions] for name, table in tables.items()}
    del made.input[3]
    require_equal(graph_of([made], {"x": x}, every, opset=23), {"x": x})


def test_rotary_embeddings_that_cannot_be_are_refused() -> None:
    x = np.ones((1, 1, 2, 4), np.float32)
    table = np.ones((3, 2), np.float32)
    made = node("RotaryEmbedding", ["x", "c", "s", "at"], ["y"])
    given = {"c": table, "s": table, "at": np.array([[0, 3]])}
    with pytest.raises(InputError, match="outside an axis of 3"):
        ours(graph_of([made], {"x": x}, given, opset=23), x)
    given |= {"s": table[:, :1], "at": np.array([[0, 2]])}
    with pytest.raises(InputError, match="do not fit 4 features"):
        ours(graph_of([made], {"x": x}, given, opset=23), x)
