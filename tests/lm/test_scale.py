"""The real size: a model of Gemma-3-270M's shape on 1,024 windows of 64 tokens."""

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.language_model import ARGUMENTS, make_model, make_tokens
from mlx_entk.kernel import entk_operator
from mlx_entk.lm.model import SELECTION, hidden_before, layer_function

WINDOWS, LIMIT = 1024, 1_500_000_000


@pytest.mark.slow
def test_products_stay_within_their_memory() -> None:
    model = make_model()
    hidden = hidden_before(model, make_tokens(WINDOWS), 16, batch=32)
    function = layer_function(model, 16, SELECTION, None)
    v = np.random.default_rng(0).standard_normal(WINDOWS * ARGUMENTS.hidden_size)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    operator = entk_operator(function, hidden, memory_limit=LIMIT)
    first, second = operator @ v, operator @ v

    assert mx.get_peak_memory() - before < LIMIT
    assert v @ first > 0  # of a positive semidefinite operator
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5 * np.abs(first).max())
