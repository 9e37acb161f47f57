"""Give MLX a fast BLAS on Linux, before MLX is imported.

MLX's Linux wheel links the reference BLAS and LAPACK, whose float32 matrix product runs some
30 times slower than OpenBLAS on the same cores. A library loaded with ``RTLD_GLOBAL`` comes
first when the wheel's ``cblas_sgemm`` is resolved, so loading OpenBLAS, MKL or BLIS before the
first ``import mlx.core`` is enough. On macOS MLX uses Accelerate and nothing is done.

``MLX_ENTK_BLAS=off`` turns this off; ``MLX_ENTK_BLAS=/path/to/lib.so`` names the library.
"""

import ctypes
import os
import sys
import warnings
from pathlib import Path

VARIABLE = "MLX_ENTK_BLAS"

# NumPy, SciPy and MLX bring an OpenBLAS each, and the threads of one wait for work in a busy
# loop of 2^26 cycles while another computes. 2^20 cycles (under a millisecond) are enough to
# bridge successive calls: the modular-addition study took 37 s with it and 58 s without.
_THREAD_TIMEOUT = ("OPENBLAS_THREAD_TIMEOUT", "20")

# Names with 32-bit integers (LP64), as MLX expects; the 64-bit builds carry other names.
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
        The library that was loaded; None where none is needed (not Linux), wanted
        (``MLX_ENTK_BLAS=off``), found, or possible any more (MLX is already imported, which
        warns once).
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
            f"{VARIABLE}={wanted} is no BLAS that can be loaded", RuntimeWarning, stacklevel=2
        )
        return None
    # pip and conda put libraries into the environment's own lib folder, off the search path.
    environment = Path(sys.prefix) / "lib"
    for name in _CANDIDATES:
        for path in (name, str(environment / name)):
            if _load(path):
                return path
    return None


LIBRARY = preload()
