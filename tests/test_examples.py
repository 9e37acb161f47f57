"""The examples: what they compute, at sizes that take no time."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from examples import large_modulus, number_sorting
from mlx_entk import entk


def test_the_sorter_tells_a_number_from_what_comes_before_it() -> None:
    tokens, ordered = number_sorting.lists(20, seed=0)
    model = number_sorting.make_model()
    told = number_sorting.TOLD
    later = tokens.copy()
    later[:, number_sorting.LENGTH + told + 1 :] = 0

    assert (np.sort(tokens[:, : number_sorting.LENGTH], axis=1) == ordered).all()
    assert (tokens[:, number_sorting.LENGTH + 1 :] == ordered[:, :-1]).all()
    np.testing.assert_allclose(
        np.array(model(mx.array(tokens))), np.array(model(mx.array(later))), atol=1e-6
    )
    bank = number_sorting.features(tokens, ordered)
    assert (bank["the answer"].argmax(axis=1) == ordered[:, told]).all()


def test_the_large_modulus_writes_what_the_command_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"P": 7, "WIDTH": 16, "EPOCHS": 10}.items():
        monkeypatch.setattr(large_modulus, name, value)

    large_modulus.main(tmp_path)

    model = large_modulus.make_model()
    before = np.array(model.readout.weight)
    model.load_weights(str(tmp_path / "weights.safetensors"))
    assert not np.array_equal(np.array(model.readout.weight), before)
    x, bank = np.load(tmp_path / "inputs.npz")["x"], np.load(tmp_path / "features.npz")
    assert entk(model, mx.array(x), reduction="trace").shape == (49, 49)
    assert {bank[name].shape[0] for name in large_modulus.FAMILIES} == {49}
