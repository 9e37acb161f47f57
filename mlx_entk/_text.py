"""Text from files and names, made safe to show: one function for whatever prints it.

A name may hold anything: the escape sequences of a terminal, characters that reverse the direction
of writing, half of a surrogate pair, ten megabytes. It is shown, never parsed.
"""

import unicodedata

# A longer text is cut where it is shown.
_LONGEST = 10_000

# Unprintable to Python, but harmless: spaces, private-use and unassigned characters, and the
# joiners, which emoji and Persian are written with.
_HARMLESS_CATEGORIES = frozenset({"Zs", "Co", "Cn"})
_JOINERS = "\u200c\u200d"


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
