"""The real size: a 20M-parameter model on 1,024 windows of 64 tokens, and the example trained."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.language_model import ARGUMENTS, LENGTH, LIMIT, WINDOWS, make_model
from examples import small_language_model
from mlx_entk.kernel import entk_operator
from mlx_entk.lm.model import SELECTION, hidden_before, layer_function
from mlx_entk.studies.lm import METHODS
from tests.cli.conftest import Command, mlx_entk

__all__ = ["mlx_entk"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_product_stays_within_its_memory() -> None:
    model = make_model()
    tokens = mx.random.randint(0, ARGUMENTS.vocab_size, (WINDOWS, LENGTH), key=mx.random.key(1))
    hidden = hidden_before(model, tokens, 7, batch=16)
    function = layer_function(model, 7, SELECTION, None)
    v = np.random.default_rng(0).standard_normal(WINDOWS * ARGUMENTS.hidden_size)
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    operator = entk_operator(function, hidden, memory_limit=LIMIT)
    product = operator @ v

    assert mx.get_peak_memory() - before < LIMIT
    assert v @ product > 0  # of a positive semidefinite operator


def test_a_trained_model_from_text_to_table(mlx_entk: Command, tmp_path: Path) -> None:
    small_language_model.main(tmp_path / "model", small_language_model.Settings())
    texts = tmp_path / "model" / "held-out.txt"
    built = mlx_entk(
        "lm", "contexts", "--model", "model", "--texts", texts, "--count", "256",
        "--window", "24", "--out", "contexts.jsonl",
    )  # fmt: skip
    ran = mlx_entk(
        "lm", "--model", "model", "--contexts", "contexts.jsonl", "--modes", "10", "--out", "run"
    )

    assert (built[0], ran[0]) == (0, 0)
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["layers"]
    assert row["layer"] == 3
    assert max(row["residuals"]) < 1e-2
    found = {name: row["scores"][name]["average_precision"] for name in METHODS}
    assert all(low < f["mean"] < high for f in found.values() for low, high in [f["interval"]])
    # What training has put there: more than the same architecture drawn anew can tell.
    assert found["eNTK"]["mean"] > found["eNTK at initialisation"]["mean"]
