"""Inputs drawn as what they are: which kind is guessed, and what is in the page of it."""

import base64
import re
import zlib
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from markupsafe import Markup

from mlx_entk import InputError
from mlx_entk.data import modular_addition
from mlx_entk.report import Window, Windows, drawn, inputs_html
from mlx_entk.report import inputs as kinds
from mlx_entk.report.inputs import Drawings, Images, Pairs, Rows, Texts, png

RANDOM = np.random.default_rng(0)
PAIRS = modular_addition(5, 0.7, 0)


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (RANDOM.random((9, 8, 8)), "images"),
        (RANDOM.random((9, 8, 8, 3)), "images"),
        (RANDOM.random((9, 1, 8, 6)), "images"),
        (RANDOM.integers(0, 256, (9, 8, 8, 4), np.uint8), "images"),
        (mx.array(RANDOM.random((9, 8, 8)).astype(np.float32)), "images"),
        (RANDOM.random((9, 2, 8)), "rows"),  # too flat for an image
        (RANDOM.random((9, 8, 8, 2)), "rows"),
        (RANDOM.random((9, 64)), "rows"),
        (RANDOM.random(9), "rows"),
        ({"a": RANDOM.random((9, 2)), "b": RANDOM.integers(0, 3, (9, 2))}, "rows"),
        (np.stack([PAIRS.n, PAIRS.m], axis=1), "pairs"),
        (PAIRS.tokens, "pairs"),
        (PAIRS.x, "pairs"),
        (PAIRS.tokens[::2], "pairs"),
        (PAIRS.tokens[:3], "tokens"),  # too few of ℤ_5²
        (RANDOM.integers(0, 50, (9, 7)), "tokens"),
        (["one", "two"], "texts"),
    ],
)
def test_the_kind_is_guessed_from_type_and_shape_and_said(x: Any, kind: str) -> None:
    inputs = drawn(x)

    assert inputs.kind == kind
    assert len(inputs) == len(next(iter(x.values())) if isinstance(x, dict) else x)
    if not isinstance(x, (dict, list)):  # which leave nothing to guess
        assert "guessed" in inputs.said


def test_a_kind_can_be_named() -> None:
    flat = drawn(RANDOM.random((9, 64)), "images")
    assert isinstance(flat, Images)
    assert flat.pixels.shape == (9, 8, 8, 1)
    assert drawn(PAIRS.tokens, "tokens").kind == "tokens"
    assert drawn(RANDOM.random((9, 8, 8)), "rows").kind == "rows"
    for x, draw, message in (
        (RANDOM.random((9, 63)), "images", "cannot be drawn as images"),
        (RANDOM.random((9, 4)), "pairs", "cannot be drawn as pairs"),
        (RANDOM.random((9, 4)), "photos", "draw is 'photos': use images, pairs, tokens, rows"),
        ((RANDOM.random(9), RANDOM.random(9)), "images", "several inputs at once"),
        (np.full((9, 8, 8), np.nan), None, "NaN or infinite"),
        ((RANDOM.random(9), RANDOM.random(8)), None, "different lengths"),
        ({}, None, "no arrays of numbers"),
    ):
        with pytest.raises(InputError, match=message):
            drawn(x, draw)  # type: ignore[arg-type]


def test_pairs_know_their_numbers_however_they_are_given() -> None:
    order = RANDOM.permutation(25)
    for x in (PAIRS.x, PAIRS.tokens):
        inputs = drawn(x[order])
        assert isinstance(inputs, Pairs)
        assert inputs.p == 5
        assert inputs.n.tolist() == PAIRS.n[order].tolist()
        assert inputs.data()["pairs"] == [inputs.n.tolist(), inputs.m.tolist()]
    assert drawn(PAIRS.x).data() == {"p": 5, "pairs": None}  # all of them, in order


def decoded(content: bytes) -> np.ndarray:
    """The pixels of a PNG that ``png`` wrote: one IDAT, no filters."""
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    channels = {0: 1, 2: 3, 6: 4}[content[25]]
    at = content.index(b"IDAT")
    size = int.from_bytes(content[at - 4 : at], "big")
    lines = np.frombuffer(zlib.decompress(content[at + 4 : at + 4 + size]), np.uint8)
    return lines.reshape(height, 1 + width * channels)[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_stand_in_one_png(channels: int) -> None:
    pixels = RANDOM.integers(0, 256, (70, 5, 4, channels), np.uint8)
    data = drawn(pixels).data()

    sprite = decoded(base64.b64decode(data["sprite"]))
    assert (data["columns"], data["rows"], data["size"]) == (64, 2, [4, 5])
    for number in (0, 63, 64, 69):
        row, column = divmod(number, 64)
        image = sprite[5 * row : 5 * row + 5, 4 * column : 4 * column + 4]
        assert np.array_equal(image, pixels[number])
    assert np.array_equal(decoded(png(pixels[3])), pixels[3])


def test_the_scale_of_images_is_said_and_large_ones_are_made_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for low, high, said in ((0, 1, "black is 0, white 1"), (-2, 3, "black is -2, white 3")):
        x = np.linspace(low, high, 160).reshape(10, 4, 4)
        inputs = drawn(x, "images")
        assert isinstance(inputs, Images)
        assert said in inputs.said
        assert (inputs.pixels.min(), inputs.pixels.max()) == (0, 255)
    monkeypatch.setattr(kinds, "MOST_PIXELS", 10 * 6 * 6)
    x = np.zeros((10, 12, 12))
    x[0, :2, :2] = 1
    data = drawn(x).data()
    assert (data["size"], data["original"]) == ([6, 6], [12, 12])
    small = decoded(base64.b64decode(data["sprite"]))
    assert small[0, 0, 0] == 255
    assert small.sum() == 255
    monkeypatch.setattr(kinds, "MOST_PIXELS", 10)
    with pytest.raises(InputError, match="cannot show 10 images"):
        drawn(x).data()


def test_rows_have_names_and_only_so_many_columns() -> None:
    two = drawn({"age": np.arange(3.0), "x": np.zeros((3, 2))})
    assert two.data()["columns"] == ["age", "x[0]", "x[1]"]
    wide = drawn(np.ones((3, 100))).data()
    assert (len(wide["columns"]), wide["left out"]) == (64, 36)


def test_a_readers_own_function_draws() -> None:
    x = RANDOM.random((4, 3))
    texts = drawn(x, lambda row: f"<b>{row.size}")
    svg = drawn(x, lambda row: '<svg viewBox="0 0 1 1"><script>alert(1)</script></svg>')
    image = drawn(x, lambda row: np.outer(np.ones(5), np.ones(6)) * row[0])
    several = drawn((x, x), lambda pair: str(len(pair)))

    assert isinstance(texts, Texts)
    assert texts.texts[0] == "<b>3"
    assert isinstance(svg, Drawings)
    assert svg.pictures[0].startswith('<svg xmlns="http://www.w3.org/2000/svg" viewBox')
    assert isinstance(image, Images)
    assert image.pixels.shape == (4, 5, 6, 1)
    assert isinstance(several, Texts)
    assert several.texts == ["2"] * 4
    for draw, message in (
        (lambda row: 1 / 0, "draw failed for input 0: division by zero"),
        (lambda row: None, "draw has to return"),
        (lambda row: np.full((5, 5), np.nan), "draw has to return"),
    ):
        with pytest.raises(InputError, match=message):
            drawn(x, draw)


def test_some_inputs_as_html_that_needs_no_script() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    by_kind = {
        "tokens": Windows([Window([hostile, "\n"], hostile)] * 3),
        "texts": drawn([hostile] * 3),
        "rows": Rows(np.eye(3), [hostile, "b", "c"]),
        "images": drawn(RANDOM.random((3, 8, 8))),
        "pairs": drawn(PAIRS.x),
        "drawings": Drawings(["<svg><script>alert(1)</script></svg>"] * 3),
    }
    for kind, inputs in by_kind.items():
        html = inputs_html(inputs, [2, 0], [0.5, -0.25])
        assert isinstance(html, Markup)
        assert html.count("<div") == 2
        assert "+0.5" in html
        assert "−0.25" in html
        assert "<script" not in html
        sources = re.findall(r'<img src="([^"]{11})', html)
        assert sources == (["data:image/"] * 2 if kind in ("images", "drawings") else [])
        assert "onerror=alert" not in html or "&lt;img" in html
    assert "n = 0, m = 2" in inputs_html(by_kind["pairs"], [2], [1.0])
