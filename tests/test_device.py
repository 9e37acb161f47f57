"""What depends on the device, on each device that this machine has: the CPU, and a GPU if any."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import eigendecompose, entk, entk_operator
from mlx_entk._linalg import gram, matmul_backend
from mlx_entk._provenance import device
from mlx_entk.runs import Run
from tests.conftest import Command
from tests.models import MLP
from tests.reference import relative_error

DEVICES = [d for d in (mx.cpu, mx.gpu) if mx.is_available(mx.Device(d))]


@pytest.fixture(params=DEVICES, ids=lambda d: d.name)
def default_device(request: pytest.FixtureRequest) -> Iterator[mx.DeviceType]:
    """MLX's default device for the length of a test."""
    before = mx.default_device()
    mx.set_default_device(mx.Device(request.param))
    yield request.param
    mx.set_default_device(before)


def test_kernels_are_the_same_on_every_device(default_device: mx.DeviceType) -> None:
    model, x = MLP([3, 8, 2]), mx.random.normal((12, 3), key=mx.random.key(0))

    structured = entk(model, x, reduction="trace")

    formed = entk(model, x, reduction="trace", strategy="jacobian-contraction")
    assert relative_error(structured, formed) < 1e-4
    vector = np.random.default_rng(0).standard_normal(12)
    product = entk_operator(model, x, reduction="trace") @ vector
    np.testing.assert_allclose(product, structured @ vector, rtol=1e-3, atol=1e-3)
    assert eigendecompose(structured).values.dtype == np.float64


def test_products_run_where_the_device_wants_them(default_device: mx.DeviceType) -> None:
    a = mx.random.normal((30, 40), key=mx.random.key(0))

    product = np.array(gram(a))

    host = np.array(a, dtype=np.float64)
    np.testing.assert_allclose(product, host @ host.T, rtol=1e-4, atol=1e-3)
    assert default_device == mx.cpu or matmul_backend() == "mlx"
    assert device().startswith(f"{default_device.name}: ")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_command_computes_where_it_is_told_to(mlx_entk: Command, name: str) -> None:
    before = mx.default_device()
    try:
        command = ("tms", "--n", "4", "--m", "2", "--rows", "8", "--steps", "20", "--out", "run")
        code, output, errors = mlx_entk(*command, "--device", name)
    finally:
        mx.set_default_device(before)

    if mx.is_available(mx.Device(mx.gpu)) or name == "cpu":
        assert code == 0, errors
        assert Run.load(Path("run")).sessions[0].device.startswith(f"{name}: ")
    else:
        assert (code, output) == (2, "")
        assert errors == (
            "Error: --device gpu: MLX finds no GPU on this machine; leave the option out to use "
            "the CPU\n"
        )
