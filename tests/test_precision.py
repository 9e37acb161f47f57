"""Products of float32, which some GPUs round to 11 bits unless they are told not to."""

import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, _precision, entk
from tests.models import MLP


def variable_after_import(before: str | None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != _precision.VARIABLE}
    if before is not None:
        environment[_precision.VARIABLE] = before
    program = f"import mlx_entk, os; print(os.environ[{_precision.VARIABLE!r}])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.strip()


def test_rounding_is_turned_off_unless_the_user_wants_it() -> None:
    assert variable_after_import(None) == "0"
    assert variable_after_import("1") == "1"


def to_11_bits(values: mx.array) -> mx.array:
    bits = np.array(values).view(np.uint32)
    return mx.array(((bits + (1 << 12)) & ~np.uint32((1 << 13) - 1)).view(np.float32))


def test_rounded_products_are_told_from_full_ones() -> None:
    assert _precision.is_full()
    assert not _precision.is_full(lambda a, b: to_11_bits(a) @ to_11_bits(b))


def test_a_kernel_is_refused_where_products_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_precision, "_default_is_full", lambda device: False)
    with pytest.raises(InputError, match="MLX rounds float32 products to 11 bits on this device"):
        entk(MLP([3, 4, 2]), mx.ones((2, 3)), reduction="trace")
