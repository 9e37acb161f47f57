"""Text from files and names, made safe to show: one function for whatever prints it.

A name may hold anything: the escape sequences of a terminal, characters that reverse the direction
of writing, half of a surrogate pair, ten megabytes. It is shown, never parsed.
"""

import codecs
import unicodedata

# A longer text is cut where it is shown.
_LONGEST = 10_000

# Unprintable to Python, but harmless: spaces, private-use and unassigned characters, and the
# joiners, which emoji and Persian are written with.
_HARMLESS_CATEGORIES = frozenset({"Zs", "Co", "Cn"})
_JOINERS = "\u200c\u200d"

# The name of a way to encode, for streams and ``str.encode``: what an encoding lacks is spelled.
ASCII_ERRORS = "mlx-entk-ascii"

# What our own texts use beyond ASCII, as an ASCII terminal shows it.
_IN_ASCII = {
    "–": "-", "—": "-", "−": "-", "‑": "-", "×": "x", "·": "*", "±": "+-", "≤": "<=", "≥": ">=",
    "≈": "~", "≡": "=", "→": "->", "←": "<-", "…": "...", "⋮": ":", "‖": "||", "ᵀ": "^T", "²": "^2",
    "³": "^3", "⁻": "^-", "√": "sqrt", "∂": "d", "∪": "u", "∘": "o", "⊗": "x", "′": "'", "’": "'",
    "‘": "'", "“": '"', "”": '"', "λ": "lambda", "θ": "theta", "α": "alpha", "β": "beta",
    "δ": "delta", "σ": "sigma", "µ": "u", "μ": "u", "Σ": "sum", "ℤ": "Z", "₀": "0", "₁": "1",
    "₂": "2", "°": " deg", "↵": " ",
}  # fmt: skip


def in_ascii(text: str) -> str:
    r"""A text for a terminal that knows ASCII alone: ``λ ≥ 1`` becomes ``lambda >= 1``.

    Characters without such a spelling, as in names of the user, become escapes like ``\u5b9f``.
    """
    return text.encode("ascii", ASCII_ERRORS).decode("ascii")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    spelled = (_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return "".join(spelled), error.end


codecs.register_error(ASCII_ERRORS, _spelled)


def visible(text: str, longest: int = _LONGEST) -> str:
    r"""Replace what cannot be seen by its escape, such as ``\x1b``, and cut what is too long.

    Control characters, line breaks, characters that set the direction of writing, and lone
    surrogates are replaced, so the result is one line that any terminal and any encoding of
    Unicode can take.

    Parameters
    ----------
    text
        Any text.
    longest
        The number of characters of the text after which it is cut; the cut is marked by ``…``.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) in _HARMLESS_CATEGORIES
    ):
        return character
    return character.encode("unicode_escape").decode("ascii")
