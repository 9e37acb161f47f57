"""Give MLX a fast BLAS on Linux, before MLX is imported.

MLX's Linux wheel links the reference BLAS and LAPACK, whose float32 matrix product is about
30 times slower than that of OpenBLAS on the same cores. A library loaded with ``RTLD_GLOBAL``
takes precedence when the wheel's ``cblas_sgemm`` is resolved, so it is enough to load OpenBLAS,
MKL or BLIS before the first ``import mlx.core``. On macOS MLX uses Accelerate, and this module
does nothing.

``MLX_ENTK_BLAS=off`` turns this off; ``MLX_ENTK_BLAS=/path/to/lib.so`` names the library to load.
"""

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "MLX_ENTK_BLAS"

# NumPy, SciPy and MLX each bring an OpenBLAS, and while one computes, the threads of the others
# wait for work in a busy loop of 2^26 cycles. 2^20 cycles (under a millisecond) are enough to
# bridge successive calls: the modular-addition study took 37 s with this limit, 58 s without.
_THREAD_TIMEOUT = ("OPENBLAS_THREAD_TIMEOUT", "20")

# Builds with 32-bit integers (LP64), which MLX expects; 64-bit builds have other names.
_CANDIDATES = ("libopenblas.so.0", "libmkl_rt.so.3", "libmkl_rt.so.2", "libblis.so.4")

# An OpenBLAS takes a processor that is newer than itself for one of 2004: products then run at a
# seventh of the rate (0.3.21 of Debian 12 on Intel's fifth Xeon generation: 25 GFLOP/s instead of
# 170). It takes the kernels that this variable names; those, if the processor has these extensions.
_KERNELS_VARIABLE = "OPENBLAS_CORETYPE"
_KERNELS = {
    "SkylakeX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "Haswell": {"avx2", "fma"},
}

_TOO_LATE = (
    "mlx was imported before mlx_entk, so MLX keeps the slow BLAS of its Linux wheel; "
    f"import mlx_entk first, or set {VARIABLE}=off to silence this"
)


def _load(path: str) -> bool:
    try:
        with _kernels_of_this_processor():
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return hasattr(library, "cblas_sgemm")


@contextmanager
def _kernels_of_this_processor() -> Iterator[None]:
    """Name OpenBLAS's kernels while it is loaded, unless the user does or they are not known.

    The newer OpenBLAS of NumPy and of SciPy knows more processors and chooses by itself.
    """
    kernels = _kernels()
    if kernels is None or _KERNELS_VARIABLE in os.environ:
        yield
        return
    os.environ[_KERNELS_VARIABLE] = kernels
    try:
        yield
    finally:
        del os.environ[_KERNELS_VARIABLE]


def _kernels() -> str | None:
    """The name of the kernels for this processor's extensions; None if it has none of these."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    flags = set(line.split())
    return next((name for name, needed in _KERNELS.items() if needed <= flags), None)


def preload() -> str | None:
    """Load a fast BLAS into this process.

    Returns
    -------
    str or None
        The library that was loaded. None if none is needed (not on Linux), wanted
        (``MLX_ENTK_BLAS=off``) or installed, or if it is too late because MLX is already
        imported, which warns once.
    """
    wanted = os.environ.get(VARIABLE, "")
    if sys.platform != "linux" or wanted.lower() == "off":
        return None
    os.environ.setdefault(*_THREAD_TIMEOUT)
    if "mlx.core" in sys.modules:
        warnings.warn(_TOO_LATE, RuntimeWarning, stacklevel=2)
        return None
    if wanted:
        if _load(wanted):
            return wanted
        warnings.warn(
            f"{VARIABLE}={wanted} is not a BLAS that can be loaded: name a library file, or off",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    # pip and conda put libraries into the environment's own lib folder, which is not searched.
    environment = Path(sys.prefix) / "lib"
    for name in _CANDIDATES:
        for path in (name, str(environment / name)):
            if _load(path):
                return path
    return None


LIBRARY = preload()

_SYRK: Any = getattr(ctypes.CDLL(LIBRARY), "cblas_ssyrk", None) if LIBRARY else None
# Of the C interface to BLAS: rows are contiguous, the upper triangle, a aᵀ rather than aᵀ a.
_ROWS, _UPPER, _AS_IT_IS = 101, 121, 111
# Rows of a triangle that are mirrored at a time, few enough for the caches, and what is below the
# diagonal of as many.
_MIRRORED = 128
_BELOW = np.tri(_MIRRORED, k=-1, dtype=bool)


def multiplies_by_itself() -> bool:
    """Whether the preloaded library has ``ssyrk``."""
    return _SYRK is not None


def multiply_by_itself(a: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write a aᵀ into ``out`` by the preloaded library's ``ssyrk``, in half of the FLOPs.

    NumPy would call a BLAS of its own, and while MLX's computes, the threads of that one wait in a
    loop for more work and take its processors.

    Parameters
    ----------
    a, out
        Shapes (n, k) and (n, n), with contiguous rows.
    """
    n, k = a.shape
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    rows, result = (array.ctypes.data_as(ctypes.c_void_p) for array in (a, out))
    _SYRK(_ROWS, _UPPER, _AS_IT_IS, n, k, one, rows, k, zero, result, n)
    for start in range(0, n, _MIRRORED):
        below = slice(start, min(start + _MIRRORED, n))
        for left in range(0, start, _MIRRORED):
            columns = slice(left, left + _MIRRORED)
            out[below, columns] = out[columns, below].T
        corner = out[below, below]
        size = len(corner)
        np.copyto(corner, corner.T.copy(), where=_BELOW[:size, :size])
