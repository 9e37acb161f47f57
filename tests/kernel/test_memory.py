"""Peak memory, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Prints the growth of the peak resident memory, in bytes, over that after a small kernel.
PROGRAM = """
import resource, sys
from pathlib import Path
import mlx_entk, mlx.core as mx
from tests.models import MLP

def peak():
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size

N, limit, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
model = MLP([8, 32, 4])
x = mx.random.normal((N, 8), key=mx.random.key(0))
mlx_entk.entk(model, x[:600], reduction="trace", memory_limit=limit)
before = peak()
mlx_entk.entk(model, x, reduction="trace", memory_limit=limit, out=out)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("N", "limit"),
    [(5_000, 40_000_000), pytest.param(22_500, 100_000_000, marks=pytest.mark.slow)],
    ids=["100 MB in 40 MB", "2 GB in 100 MB"],
)
def test_a_kernel_in_files_is_computed_within_the_limit(N: int, limit: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(N), str(limit), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(done.stdout) <= limit
    kernel = np.load(tmp_path / "kernel.npy", mmap_mode="r")
    assert kernel.shape == (N, N)
    assert kernel.nbytes > limit
    np.testing.assert_array_equal(kernel[:50, -50:], kernel[-50:, :50].T)


def test_what_all_inputs_share_stays_within_the_limit() -> None:
    """The derivative behind the last nonlinearity, and the basis of many outputs."""
    program = """
import resource, sys
import mlx_entk, mlx.core as mx

def peak():
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size

params = {
    "first": mx.random.normal((8, 1024), key=mx.random.key(0)),
    "last": mx.random.normal((1024, 3000), key=mx.random.key(1)),
}
model = lambda params, x: mx.tanh(x @ params["first"]) @ params["last"]
x = mx.random.normal((4, 8), key=mx.random.key(2))
few = params | {"last": params["last"][:, :40]}
mlx_entk.entk(model, x, params=few, reduction="trace", memory_limit=30_000_000)
before = peak()
mlx_entk.entk(model, x, params=params, reduction="trace", memory_limit=30_000_000)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) <= 30_000_000


def test_views_of_the_host_take_no_memory() -> None:
    program = """
import resource, sys
import mlx_entk, mlx.core as mx
from mlx_entk._linalg import as_numpy
a = mx.ones((10_000, 5_000))
mx.eval(a)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
views = [as_numpy(a) for _ in range(20)]
assert all(view[-1, -1] == 1 for view in views)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 20_000_000  # a tenth of one copy
