"""How much memory there is, and sizes as people write them."""

import os
import re
import sys
from pathlib import Path

from mlx_entk.errors import InputError

# The share of available memory that a computation may take unless told otherwise.
DEFAULT_SHARE = 0.5

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_bytes(text: str) -> int:
    """The bytes of ``4GB``, ``500 MB`` or ``100000``; units are decimal.

    Raises
    ------
    InputError
        For anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise InputError(f"{text!r} is no size: write 500MB or 4GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_bytes(size: float) -> str:
    """``1.5 GB`` for 1500000000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def available_bytes() -> int:
    """Memory that can be had without swapping; on macOS, half of what is built in."""
    if sys.platform == "linux":
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def default_limit() -> int:
    """Half of the available memory."""
    return int(DEFAULT_SHARE * available_bytes())
