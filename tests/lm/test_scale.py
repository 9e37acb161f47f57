"""The real size: a 20M-parameter model on 1,024 windows of 64 tokens."""

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.language_model import ARGUMENTS, LENGTH, LIMIT, WINDOWS, make_model
from mlx_entk.kernel import entk_operator
from mlx_entk.lm.model import SELECTION, hidden_before, layer_function


@pytest.mark.slow
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
