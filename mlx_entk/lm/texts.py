"""Texts to draw contexts from: plain files, folders of them, and compressed ones."""

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError

# What separates documents inside a file.
SEPARATOR = "<|endoftext|>"
_ENDINGS = (".txt", ".md", ".txt.gz")
# Characters of a file, uncompressed: what a small archive may hold is not read to its end.
_MOST = 200_000_000


def read_texts(paths: Iterable[Path]) -> list[str]:
    """Read documents from files, and from the text files below folders.

    Parameters
    ----------
    paths
        Files, or folders of ``.txt``, ``.md`` and ``.txt.gz`` files. A line ``<|endoftext|>``
        inside a file begins another document.

    Raises
    ------
    InputError
        If there is no such file, or one cannot be read or is too large.
    """
    paths = list(paths)
    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.name.endswith(_ENDINGS))
        files += inside if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"there is no .txt, .md or .txt.gz file below {', '.join(map(str, paths))}"
        )
    return [document for file in files for document in _documents(file)]


def _documents(file: Path) -> list[str]:
    try:
        opened = gzip.open if file.name.endswith(".gz") else open
        with opened(file, "rt", encoding="utf-8") as stream:
            text = stream.read(_MOST + 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if len(text) > _MOST:
        raise InputError(f"{file} has more than {format_bytes(_MOST)} of text: split it")
    return [document for document in text.split(SEPARATOR) if document.strip()]
