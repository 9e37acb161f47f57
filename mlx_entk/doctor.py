"""Examine a machine: what it has, what it lacks, and how to install that."""

import importlib.util
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk import _blas, _precision
from mlx_entk._linalg import on_gpu
from mlx_entk._provenance import PACKAGES, device, installed_version

# If MLX multiplies matrices at less than this share of NumPy's rate, it uses the reference BLAS.
_SLOW = 0.25

_EXTRAS = {
    "torch": ("torch", "kernels verified against torch.func"),
    "mlx_lm": ("lm", "language models"),
    "sklearn": ("sparse", "independent and sparse directions of modes"),
    "nbclient": ("notebooks", "notebooks"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was examined, what was found, and what to do."""

    subject: str
    found: str
    fine: bool = True
    remedy: str = ""
    required: bool = False


def examine() -> list[Finding]:
    """Examine versions, device, BLAS, the rate of matrix products, the compiler and the extras."""
    findings = [Finding("Python", sys.version.split()[0])]
    for package in PACKAGES:
        version = installed_version(package)
        findings.append(
            Finding(package, version)
            if version
            else Finding(package, "missing", False, f"pip install {package}", required=True)
        )
    findings.append(Finding("MLX device", device()))
    full = _precision.is_full()
    findings.append(
        Finding(
            "float32 products",
            "full" if full else "rounded to 11 bits",
            full,
            f"set {_precision.VARIABLE}=0",
            required=True,
        )
    )
    return [*findings, *_speed(), *_compiler(), *_extras()]


def matmul_rates(size: int = 1500, repeats: int = 5) -> tuple[float, float]:
    """The rates at which MLX and NumPy multiply float32 matrices of this size, in GFLOP/s."""
    a = mx.random.normal((size, size), key=mx.random.key(0))
    b = np.array(a)
    flops = 2 * size**3

    def best(multiply: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return flops / min(times) / 1e9

    return best(lambda: mx.eval(a @ a)), best(lambda: b @ b)


def _speed() -> list[Finding]:
    by_mlx, by_numpy = matmul_rates()
    slow = by_mlx < _SLOW * by_numpy
    findings = []
    if sys.platform == "linux":
        findings.append(
            Finding(
                "BLAS preloaded",
                _blas.LIBRARY or "none",
                _blas.LIBRARY is not None or not slow,
                "make install-blas, or apt install libopenblas0-pthread, or pip install mkl",
            )
        )
    findings.append(
        Finding(
            "matrix product",
            f"MLX {by_mlx:.0f} GFLOP/s, NumPy {by_numpy:.0f} GFLOP/s",
            not slow,
            "needs a fast BLAS",
            required=True,
        )
    )
    return findings


def _compiler() -> list[Finding]:
    if on_gpu():
        return []
    compiler = shutil.which("g++") or shutil.which("c++")
    return [
        Finding(
            "C++ compiler",
            compiler or "missing: mx.compile cannot fuse operations, so training takes longer",
            compiler is not None,
            "apt install g++" if sys.platform == "linux" else "xcode-select --install",
        )
    ]


def _extras() -> list[Finding]:
    return [
        Finding(
            f"extra {extra}",
            f"{purpose}: {'installed' if importlib.util.find_spec(module) else 'not installed'}",
            importlib.util.find_spec(module) is not None,
            f"pip install 'mlx-entk[{extra}]'",
        )
        for module, (extra, purpose) in _EXTRAS.items()
    ]
