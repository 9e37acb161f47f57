"""Inputs of a model drawn as what they are: images, pairs, windows of tokens, rows, or text.

The page of modes holds all inputs of a kind as data, which its script draws; ``inputs_html`` draws
some of them without a script.
"""

import base64
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from mlx_entk._files import Json
from mlx_entk._linalg import Float64Array
from mlx_entk._text import visible
from mlx_entk.errors import InputError, first_line

Kind = Literal["images", "pairs", "tokens", "rows"]
"""What inputs can be drawn as."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All of them."""

Draw = Kind | Callable[[Any], Any]
"""A kind; or a function of one input, which returns text, the array of an image, or SVG."""

# What a page can hold of all inputs together: about 4 MB of images and 8 MB of anything else.
MOST_PIXELS, MOST_NUMBERS, MOST_TOKENS, MOST_TEXT = 4_000_000, 1_000_000, 1_000_000, 8_000_000
# Columns of a row that are drawn; a page would be too wide for more, and nobody would read them.
MOST_COLUMNS = 64
# A longer token, word or label is cut, and so is a longer text.
LONGEST, _LONGEST_TEXT = 100, 600
# The width and height from which an array of inputs with several axes is taken for images.
_SMALLEST_IMAGE = 4
_CHANNELS = (1, 3, 4)
# An image that is drawn larger than this has fewer pixels than the input.
_LARGEST_IMAGE = 256
# Images of a sprite stand in so many columns.
_SPRITE_COLUMNS = 64

Pixels = NDArray[np.uint8]


class Inputs(Protocol):
    """All inputs of a model, of one kind."""

    @property
    def kind(self) -> str:
        """What the page's script calls them."""

    @property
    def said(self) -> str:
        """In a sentence, what they are drawn as and why."""

    @property
    def at_ends(self) -> int:
        """How many of them a page shows at each end of a mode."""

    def __len__(self) -> int:
        """How many there are."""

    def data(self) -> Json:
        """What the page's script draws them from."""

    def html(self, number: int) -> Markup:
        """One input, drawn without a script."""


@dataclass(frozen=True)
class Window:
    """What a language model reads, and what follows.

    Attributes
    ----------
    tokens
        The text of each token, with its spaces.
    word
        The word that follows; empty if it is unknown.
    labels
        Labels of that word by name, such as ``{"upos": "NOUN"}``.
    """

    tokens: Sequence[str]
    word: str = ""
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Windows:
    """Windows of tokens."""

    windows: Sequence[Window]
    said: str = ""
    kind: str = "tokens"
    at_ends: int = 8

    def __len__(self) -> int:
        return len(self.windows)

    def data(self) -> Json:
        """Tokens, words and labels of each window."""
        most = sum(len(window.tokens) for window in self.windows)
        _require(most, MOST_TOKENS, "tokens")
        return {
            "tokens": [[_token(token) for token in window.tokens] for window in self.windows],
            "words": [visible(window.word, LONGEST) for window in self.windows],
            "labels": [
                [visible(f"{name}={value}", LONGEST) for name, value in (w.labels or {}).items()]
                for w in self.windows
            ],
        }

    def html(self, number: int) -> Markup:
        """The text of a window, and the word that follows."""
        window = self.windows[number]
        text = escape("".join(_token(token) for token in window.tokens))
        word = Markup(" → <b>{}</b>").format(visible(window.word, LONGEST)) if window.word else ""
        return Markup('<span style="white-space:pre-wrap">{}</span>{}').format(text, word)


@dataclass(frozen=True)
class Images:
    """Images of one size, shape (N, H, W, C) with one, three or four channels."""

    pixels: Pixels
    said: str = ""
    kind: str = "images"
    at_ends: int = 24

    def __len__(self) -> int:
        return len(self.pixels)

    def data(self) -> Json:
        """All images as one PNG, a grid in row-major order."""
        small = self._small()
        N, H, W, C = small.shape
        columns = min(N, _SPRITE_COLUMNS)
        rows = -(-N // columns)
        padded = np.zeros((rows * columns, H, W, C), np.uint8)
        padded[:N] = small
        grid = padded.reshape(rows, columns, H, W, C).transpose(0, 2, 1, 3, 4)
        sprite = png(grid.reshape(rows * H, columns * W, C))
        return {
            "sprite": base64.b64encode(sprite).decode("ascii"),
            "columns": columns,
            "rows": rows,
            "size": [W, H],
            "original": [self.pixels.shape[2], self.pixels.shape[1]],
        }

    def _small(self) -> Pixels:
        """The images, with as few pixels as a page can hold."""
        N, H, W, _ = self.pixels.shape
        most = min(_LARGEST_IMAGE, int((MOST_PIXELS / N) ** 0.5))
        step = -(-max(H, W) // max(1, most))
        if step == 1:
            return self.pixels
        if most < _SMALLEST_IMAGE:
            raise InputError(f"a page cannot show {N:,} images: choose another way to draw them")
        h, w = H // step, W // step
        blocks = self.pixels[:, : max(1, h) * step, : max(1, w) * step].astype(np.float32)
        if h == 0 or w == 0:  # a strip that is narrower than a block
            return self.pixels[:, :: min(step, H), :: min(step, W)]
        means = blocks.reshape(N, h, step, w, step, -1).mean(axis=(2, 4))
        small: Pixels = np.rint(means).astype(np.uint8)
        return small

    def html(self, number: int) -> Markup:
        """The image as a PNG."""
        image = self.pixels[number]
        side = max(64, min(160, max(image.shape[:2])))
        return _picture("png", png(image), side, f"image {number}")


@dataclass(frozen=True)
class Pairs:
    """All or some pairs (n, m) of numbers below p; their modes are maps.

    Attributes
    ----------
    n, m
        Shape (N,) each.
    p
        The modulus.
    """

    n: NDArray[np.int64]
    m: NDArray[np.int64]
    p: int
    said: str = ""
    kind: str = "pairs"
    at_ends: int = 8

    def __len__(self) -> int:
        return len(self.n)

    def data(self) -> Json:
        """The pairs, or p alone if there are all of them in row-major order."""
        all_pairs = np.array_equal(self.n * self.p + self.m, np.arange(self.p**2))
        pairs = None if all_pairs else [self.n.tolist(), self.m.tolist()]
        return {"p": self.p, "pairs": pairs}

    def html(self, number: int) -> Markup:
        """The two numbers."""
        return Markup("n = {}, m = {}").format(int(self.n[number]), int(self.m[number]))


@dataclass(frozen=True)
class Rows:
    """Rows of a table, shape (N, D), and the names of its columns."""

    values: Float64Array
    columns: Sequence[str]
    said: str = ""
    kind: str = "rows"
    at_ends: int = 12

    def __len__(self) -> int:
        return len(self.values)

    def data(self) -> Json:
        """Names and values of the columns, as many as a page can show."""
        shown = max(1, min(MOST_COLUMNS, MOST_NUMBERS // max(1, len(self.values))))
        kept = self.values[:, :shown]
        _require(kept.size, MOST_NUMBERS, "numbers of inputs")
        return {
            "columns": [visible(name, LONGEST) for name in self.columns[:shown]],
            "left out": self.values.shape[1] - kept.shape[1],
            "values": [[float(f"{v:.4g}") for v in row] for row in kept.tolist()],
            "largest": np.abs(kept).max(axis=0, initial=0).tolist(),
        }

    def html(self, number: int) -> Markup:
        """Each column's name and value, with a bar for the value."""
        row = self.values[number, :MOST_COLUMNS]
        largest = np.abs(self.values[:, : row.size]).max(axis=0, initial=0)
        cells = Markup("").join(
            _cell(name, value, most)
            for name, value, most in zip(self.columns, row, largest, strict=False)
        )
        more = self.values.shape[1] - row.size
        left = Markup(" and {} more").format(more) if more else ""
        return Markup('<span style="display:flex;flex-wrap:wrap;gap:0 .8em">{}{}</span>').format(
            cells, left
        )


@dataclass(frozen=True)
class Texts:
    """A text for each input."""

    texts: Sequence[str]
    said: str = ""
    kind: str = "texts"
    at_ends: int = 12

    def __len__(self) -> int:
        return len(self.texts)

    def data(self) -> Json:
        """The texts, cut if they are long."""
        texts = [visible(text, _LONGEST_TEXT) for text in self.texts]
        _require(sum(map(len, texts)), MOST_TEXT, "characters of inputs")
        return {"texts": texts}

    def html(self, number: int) -> Markup:
        """The text."""
        return escape(visible(self.texts[number], _LONGEST_TEXT))


@dataclass(frozen=True)
class Drawings:
    """An SVG picture for each input, which no script in it can leave: it is shown as an image."""

    pictures: Sequence[str]
    said: str = ""
    kind: str = "drawings"
    at_ends: int = 12

    def __len__(self) -> int:
        return len(self.pictures)

    def data(self) -> Json:
        """The pictures as text."""
        _require(sum(map(len, self.pictures)), MOST_TEXT, "characters of drawings")
        return {
            "pictures": [
                base64.b64encode(picture.encode()).decode("ascii") for picture in self.pictures
            ]
        }

    def html(self, number: int) -> Markup:
        """The picture."""
        return _picture("svg+xml", self.pictures[number].encode(), 160, f"input {number}")


def drawn(x: Any, draw: Draw | None = None) -> Inputs:
    """What inputs are drawn as.

    Parameters
    ----------
    x
        Inputs as a model takes them: an array with the batch first, or a tuple or dictionary of
        arrays; or a list of texts.
    draw
        One of ``KINDS``; or a function of one input, which returns a text, an image (an array of
        shape (H, W) or (H, W, C)), or a text that begins with ``<svg``. By default the kind is
        guessed from type and shape: integers (N, 2) that are pairs of numbers below p, and one-hot
        pairs, are pairs; other integers (N, T) are tokens; arrays (N, H, W), (N, H, W, C) and
        (N, C, H, W) are images; everything else is rows.

    Raises
    ------
    InputError
        For an unknown kind, inputs that cannot be drawn as that kind, inputs that are not finite,
        and a function that fails or returns something else.
    """
    if callable(draw):
        return _drawn_by(x, draw)
    if draw is not None and draw not in KINDS:
        raise InputError(f"draw is {draw!r}: use {', '.join(KINDS)}, or a function of one input")
    if isinstance(x, Sequence) and not isinstance(x, tuple):
        return Texts([str(text) for text in x], "Each input is a text.")
    named = _named(x)
    if not all(np.isfinite(array).all() for array in named.values()):
        raise InputError("the inputs have NaN or infinite entries, which cannot be drawn")
    if len(named) > 1:
        if draw not in (None, "rows"):
            raise InputError(f"several inputs at once cannot be drawn as {draw}: use rows")
        return _rows(named)
    (array,) = named.values()
    makers: dict[Kind, Callable[[], Inputs | None]] = {
        "pairs": lambda: _pairs(array),
        "tokens": lambda: _tokens(array),
        "images": lambda: _images(array, flat=draw == "images"),
        "rows": lambda: _rows(named),
    }
    if draw is None:
        for kind, make in makers.items():
            if (made := make()) is not None:
                *others, last = [other for other in KINDS if other != kind]
                said = (
                    f"{made.said} This was guessed from type and shape; {', '.join(others)} or "
                    f"{last} can be asked for."
                )
                return replace(made, said=said)  # type: ignore[type-var]
    made = makers[draw or "rows"]()
    if made is None:
        raise InputError(
            f"inputs of shape {array.shape} and type {array.dtype} cannot be drawn as {draw}"
        )
    return made


def inputs_html(
    inputs: Inputs, numbers: Sequence[int], values: Sequence[float] | Float64Array
) -> Markup:
    """Some inputs with their values, as HTML that needs neither style sheet nor script.

    Parameters
    ----------
    inputs
        All inputs, as ``drawn`` gives them.
    numbers
        Which of them to show, in order.
    values
        What to write beside each.
    """
    across = inputs.kind in ("images", "drawings")
    style = (
        "display:inline-block;margin:0 .6em .6em 0;text-align:center"
        if across
        else "display:flex;gap:1em;align-items:baseline;margin:.15em 0"
    )
    items = [
        Markup(
            '<div style="{}"><span style="font-variant-numeric:tabular-nums;min-width:4.5em;'
            'display:inline-block" title="input {}">{}</span>{}{}</div>'
        ).format(
            style,
            number,
            f"{value:+.3g}".replace("-", "−"),
            Markup("<br>") if across else "",
            inputs.html(number),
        )
        for number, value in zip(numbers, values, strict=True)
    ]
    return Markup("").join(items)


def png(pixels: Pixels) -> bytes:
    """An image (H, W, C) with one, three or four channels as PNG (ISO/IEC 15948)."""
    H, W, C = pixels.shape
    color = {1: 0, 3: 2, 4: 6}[C]
    # Every line begins with its filter; 0 is none.
    lines = np.concatenate([np.zeros((H, 1), np.uint8), pixels.reshape(H, W * C)], axis=1)

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", W, H, 8, color, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 6)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _require(found: int, most: int, what: str) -> None:
    if found > most:
        raise InputError(f"a page of modes cannot hold {found:,} {what}: {most:,} are the most")


def _token(text: str) -> str:
    return visible(text.replace("\n", "↵"), LONGEST)


def _named(x: Any) -> dict[str, NDArray[Any]]:
    """Each array of the inputs, by name."""
    parts = (
        dict(x)
        if isinstance(x, Mapping)
        else {f"x[{i}]": part for i, part in enumerate(x)}
        if isinstance(x, tuple)
        else {"x": x}
    )
    arrays = {str(name): np.asarray(part) for name, part in parts.items()}
    if not arrays or any(a.ndim == 0 or a.dtype.kind not in "biuf" for a in arrays.values()):
        raise InputError("the inputs are no arrays of numbers with the batch first: pass draw=")
    if len({len(array) for array in arrays.values()}) > 1:
        raise InputError("the inputs have different lengths: all need the same batch axis")
    return arrays


def _pairs(array: NDArray[Any]) -> Pairs | None:
    """Pairs of numbers below p: as integers (N, 2), one constant more or not; or one-hot."""
    N = len(array)
    if array.ndim != 2:
        return None
    if array.dtype.kind in "iu":
        varying = array[:, (array != array[:1]).any(axis=0)]
        if varying.shape[1] != 2:
            return None
        n, m = varying.T.astype(np.int64)
    else:
        halves = array.reshape(N, 2, -1) if array.shape[1] % 2 == 0 and array.shape[1] else None
        if halves is None or not (((halves == 1).sum(2) == 1) & ((halves != 0).sum(2) == 1)).all():
            return None
        n, m = halves.argmax(axis=2).T.astype(np.int64)
    p = int(max(n.max(initial=0), m.max(initial=0))) + 1
    # Other integers are no pairs of ℤ_p: of these, all or many are there, and each once.
    if min(n.min(), m.min()) < 0 or p < 2 or p * p > 4 * N or len(np.unique(n * p + m)) < N:
        return None
    return Pairs(n, m, p, f"Each input is a pair (n, m) of numbers below {p}; a mode is a map.")


def _tokens(array: NDArray[Any]) -> Windows | None:
    if array.ndim != 2 or array.dtype.kind not in "iu":
        return None
    windows = [Window([f"{token} " for token in row]) for row in array.tolist()]
    return Windows(windows, f"Each input is a window of {array.shape[1]} tokens, by their numbers.")


def _images(array: NDArray[Any], flat: bool = False) -> Images | None:
    if flat and array.ndim == 2:
        side = round(array.shape[1] ** 0.5)
        if side * side != array.shape[1]:
            return None
        array = array.reshape(-1, side, side)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        return None
    if array.shape[3] not in _CHANNELS and array.shape[1] in _CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    if array.shape[3] not in _CHANNELS or min(array.shape[1:3]) < _SMALLEST_IMAGE:
        return None
    if array.dtype == np.uint8:
        return Images(array, _size_of(array))
    low, high = float(array.min()), float(array.max())
    scale = f"black is {low:.3g}, white {high:.3g}"
    if low >= 0 and high <= 1:
        low, high, scale = 0.0, 1.0, "black is 0, white 1"
    elif low >= 0 and high <= 255 and array.dtype.kind in "iu":
        low, high, scale = 0.0, 255.0, "black is 0, white 255"
    # Some at a time, since in float64 all may not fit into memory.
    pixels = np.empty(array.shape, np.uint8)
    for i in range(0, len(array), 1000):
        part = (array[i : i + 1000].astype(np.float64) - low) / ((high - low) or 1)
        pixels[i : i + 1000] = np.rint(255 * part)
    return Images(pixels, _size_of(pixels)[:-1] + f"; {scale}.")


def _size_of(pixels: Pixels) -> str:
    _, H, W, C = pixels.shape
    return f"Each input is an image of {W} × {H} pixels{'' if C == 1 else f', {C} channels'}."


def _rows(named: Mapping[str, NDArray[Any]]) -> Rows:
    values, columns = [], []
    for name, array in named.items():
        values.append(array.reshape(len(array), -1).astype(np.float64))
        places = list(np.ndindex(array.shape[1:]))
        columns += [name + (f"[{', '.join(map(str, place))}]" if place else "") for place in places]
    table = np.concatenate(values, axis=1)
    return Rows(table, columns, f"Each input is a row of {table.shape[1]} numbers.")


def _drawn_by(x: Any, draw: Callable[[Any], Any]) -> Inputs:
    """Inputs as a reader's own function draws them: all as texts, as images or as SVG."""
    if isinstance(x, (Mapping, tuple)):
        arrays = _named(x)
        parts: list[Any] = [
            {name: array[i] for name, array in arrays.items()}
            if isinstance(x, Mapping)
            else tuple(array[i] for array in arrays.values())
            for i in range(len(next(iter(arrays.values()))))
        ]
    else:
        parts = list(x) if isinstance(x, Sequence) else list(np.asarray(x))
    results = []
    for number, part in enumerate(parts):
        try:
            results.append(draw(part))
        except Exception as error:
            raise InputError(f"draw failed for input {number}: {first_line(error)}") from error
    said = f"Drawn by {visible(getattr(draw, '__name__', 'a function'), LONGEST)}."
    if results and all(isinstance(result, str) for result in results):
        if all(result.lstrip()[:4].lower() == "<svg" for result in results):
            return Drawings([_with_namespace(result.lstrip()) for result in results], said)
        return Texts(results, said)
    try:
        stacked = np.stack([np.asarray(result) for result in results])
        numbers = stacked.dtype.kind in "biuf" and np.isfinite(stacked).all()
        images = _images(stacked) if numbers else None
    except ValueError:
        images = None
    if images is None:
        raise InputError(
            "draw has to return a text or SVG for each input, or for each an image of the same "
            f"size, shape (H, W) or (H, W, C); it returned {type(results[0]).__name__}"
            if results
            else "there are no inputs to draw"
        )
    return replace(images, said=said)


def _with_namespace(svg: str) -> str:
    """SVG as a picture of its own, which needs its namespace."""
    if "xmlns=" in svg[: svg.find(">") + 1]:
        return svg
    return f'<svg xmlns="http://www.w3.org/2000/svg"{svg[4:]}'


def _picture(kind: str, content: bytes, side: int, label: str) -> Markup:
    return Markup(
        '<img src="data:image/{};base64,{}" alt="{}" style="height:{}px;max-width:{}px;'
        'object-fit:contain;image-rendering:pixelated">'
    ).format(kind, base64.b64encode(content).decode("ascii"), label, side, 2 * side)


def _cell(name: str, value: float, largest: float) -> Markup:
    size = abs(value) / largest if largest else 0.0
    color = "#0072b2" if value > 0 else "#d55e00"
    return Markup(
        '<span style="display:inline-block">{} <b>{}</b><span style="display:block;height:3px;'
        'width:{}%;background:{}"></span></span>'
    ).format(visible(name, LONGEST), f"{value:.3g}".replace("-", "−"), round(100 * size), color)
