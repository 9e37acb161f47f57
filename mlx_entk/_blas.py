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
from pathlib import Path

VARIABLE = "MLX_ENTK_BLAS"

# NumPy, SciPy and MLX each bring an OpenBLAS, and while one computes, the threads of the others
# wait for work in a busy loop of 2^26 cycles. 2^20 cycles (under a millisecond) are enough to
# bridge successive calls: the modular-addition study took 37 s with this limit, 58 s without.
_THREAD_TIMEOUT = ("OPENBLAS_THREAD_TIMEOUT", "20")

# Builds with 32-bit integers (LP64), which MLX expects; 64-bit builds have other names.
_CANDIDATES = ("libopenblas.so.0", "libmkl_rt.so.3", "libmkl_rt.so.2", "libblis.so.4")

_TOO_LATE = (
    "mlx was imported before mlx_entk, so MLX keeps the slow BLAS of its Linux wheel; "
    f"import mlx_entk first, or set {VARIABLE}=off to silence this"
)


def _load(path: str) -> bool:
    try:
        library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return hasattr(library, "cblas_sgemm")


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
