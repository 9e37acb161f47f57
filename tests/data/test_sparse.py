import numpy as np

from mlx_entk.data import sparse_features


def test_features_are_absent_with_their_probability_and_uniform_otherwise() -> None:
    x = sparse_features(4000, 50, 0.9, np.random.default_rng(0), normalised=False)

    assert x.dtype == np.float32
    assert abs((x == 0).mean() - 0.9) < 0.003
    assert abs(x[x > 0].mean() - 0.5) < 0.01
    assert x.max() <= 1


def test_normalised_inputs_have_unit_length_unless_nothing_is_there() -> None:
    x = sparse_features(500, 5, 0.9, np.random.default_rng(0))

    norms = np.linalg.norm(x, axis=1)
    assert set(np.round(norms, 5)) == {0.0, 1.0}
