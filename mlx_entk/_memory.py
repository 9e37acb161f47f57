"""The memory that is available, and sizes as people write them."""

import re
from collections.abc import Callable

import mlx.core as mx
import psutil

from mlx_entk.errors import InputError

# The share of the available memory that a computation may take by default.
DEFAULT_SHARE = 0.5

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_bytes(text: str) -> int:
    """The number of bytes in ``4GB``, ``500 MB`` or ``100000``; units are decimal.

    Raises
    ------
    InputError
        If the text is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise InputError(f"{text!r} is not a size: write 500MB or 4GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_bytes(size: float) -> str:
    """A number of bytes as text: ``1.5 GB`` for 1500000000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def available_bytes() -> int:
    """Memory that can be used without swapping, in bytes."""
    return int(psutil.virtual_memory().available)


def default_limit() -> int:
    """Half of the available memory, in bytes."""
    return int(DEFAULT_SHARE * available_bytes())


def limit_of(memory_limit: int | str | None) -> int | None:
    """A user's ``memory_limit`` in bytes: a number, text such as ``4GB``, or None.

    Raises
    ------
    InputError
        For text that is not a size, and for a limit of 0 or less.
    """
    limit = parse_bytes(memory_limit) if isinstance(memory_limit, str) else memory_limit
    if limit is not None and limit <= 0:
        raise InputError(f"memory_limit is {limit}: pass a number of bytes above 0, or 4GB")
    return limit


def limit_in_bytes(memory_limit: int | str | None) -> int:
    """A limit that the caller gave, or half of the available memory; raises as ``limit_of``."""
    limit = limit_of(memory_limit)
    return default_limit() if limit is None else limit


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that MLX holds at most while something is done, in addition to those before."""
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    work()
    return max(0, int(mx.get_peak_memory()) - before)
