"""Each case needs a process of its own: a BLAS can be loaded only before MLX is."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_entk import _blas

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="macOS has Accelerate; nothing is preloaded there"
)


def outcome(program: str, blas: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLX_ENTK_BLAS": blas}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )


def test_it_can_be_turned_off() -> None:
    done = outcome(
        "import mlx_entk; print(mlx_entk._blas.LIBRARY, mlx_entk._linalg.matmul_backend())", "off"
    )

    assert done.stdout.split() == ["None", "numpy"]
    assert done.stderr == ""


def test_importing_mlx_first_warns_once_and_works() -> None:
    done = outcome("import mlx.core, mlx_entk, mlx_entk.kernel; print(mlx_entk._blas.LIBRARY)")

    assert done.stdout.strip() == "None"
    assert done.stderr.count("RuntimeWarning: mlx was imported before mlx_entk") == 1


def test_a_named_library_that_is_no_blas_warns() -> None:
    done = outcome("import mlx_entk; print(mlx_entk._blas.LIBRARY)", "/nowhere/libblas.so")

    assert done.stdout.strip() == "None"
    assert "MLX_ENTK_BLAS=/nowhere/libblas.so is not a BLAS that can be loaded" in done.stderr


CORE = """
import ctypes, os, mlx_entk
core = ctypes.CDLL(mlx_entk._blas.LIBRARY).openblas_get_corename
core.restype = ctypes.c_char_p
print(core().decode(), os.environ.get("OPENBLAS_CORETYPE"))
"""


def test_an_old_openblas_uses_the_extensions_of_a_newer_processor() -> None:
    """It took Prescott's kernels, of 2004, on processors that it did not know."""
    extensions = Path("/proc/cpuinfo").read_text()
    if "avx2" not in extensions or "openblas" not in str(_blas.LIBRARY):
        pytest.skip("needs OpenBLAS and a processor with AVX2")

    core, left_behind = outcome(CORE).stdout.split()

    assert core in ("SkylakeX", "Haswell")
    assert left_behind == "None"


def test_the_kernels_that_the_user_names_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    if "openblas" not in str(_blas.LIBRARY) or platform.machine() != "x86_64":
        pytest.skip("needs OpenBLAS on x86")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")

    core, kept = outcome(CORE).stdout.split()

    assert (core, kept) == ("Nehalem", "Nehalem")


KERNEL = """
import mlx_entk, mlx.core as mx, numpy as np
from mlx_entk.models import QuadraticMLP
model = QuadraticMLP(5, 16)
kernel = mlx_entk.entk(model, mx.random.normal((20, 10), key=mx.random.key(0)), reduction="trace")
print(" ".join(f"{value:.9e}" for value in kernel.ravel()))
"""


def test_kernels_are_the_same_with_and_without_a_fast_blas() -> None:
    fast, slow = (
        [float(value) for value in outcome(KERNEL, blas).stdout.split()] for blas in ("", "off")
    )

    assert slow == pytest.approx(fast, rel=1e-4, abs=1e-7)
