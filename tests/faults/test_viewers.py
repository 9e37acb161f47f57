"""What only shows runs computes nothing, so a stranger's model cannot keep it busy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.conftest import Command

SLOW = pytest.mark.slow
RUNS = {
    "kernel": ("kernel", "--model", "examples.sparse_parity:make_model", "--inputs", "x.npy"),
    "mlp": ("modular", "mlp", "--p", "5", "--width", "8", "--epochs", "20"),
    "tms": ("tms", "--n", "4", "--m", "2", "--rows", "8", "--steps", "20"),
}


@pytest.mark.parametrize(
    "study", ["kernel", *(pytest.param(s, marks=SLOW) for s in ("mlp", "tms"))]
)
def test_viewers_compute_nothing(
    mlx_entk: Command, monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    np.save("x.npy", np.sign(np.random.default_rng(0).standard_normal((12, 8))))
    assert mlx_entk(*RUNS[study], "--out", "run", "-q")[0] == 0

    def refuse(what: str) -> Callable[..., Any]:
        def refused(*_: object, **__: object) -> None:
            raise AssertionError(f"a viewer calls mx.{what}")

        return refused

    for name in ("eval", "vjp", "jvp", "vmap", "grad", "value_and_grad", "compile", "load"):
        monkeypatch.setattr(mx, name, refuse(name))
    for model in (*Path("run").rglob("*.onnx"), *Path("run").rglob("*.safetensors")):
        model.unlink()  # not even looked at

    for viewer in (("show", "run"), ("runs", "."), ("compare", "run", "run"), ("report", "run")):
        code, _, errors = mlx_entk(*viewer, "-q")
        assert (code, errors) == (0, ""), viewer
