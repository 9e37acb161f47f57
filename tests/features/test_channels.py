import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.features import RECOVERED, channel_alignment, constant_alignment, recovery


def indicator_columns(x: np.ndarray) -> np.ndarray:
    """The features' columns as the paper writes them, channel-major, unit norm."""
    N, C = x.shape
    columns = np.zeros((C * N, C))
    for c in range(C):
        columns[c * N : (c + 1) * N, c] = x[:, c]
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def test_cosines_are_those_with_the_indicator_columns() -> None:
    generator = np.random.default_rng(0)
    x = generator.random((6, 3))
    modes = np.linalg.qr(generator.standard_normal((18, 4)))[0]

    np.testing.assert_allclose(channel_alignment(modes, x), modes.T @ indicator_columns(x))


def test_features_as_modes_are_recovered_and_their_rotation_is_not() -> None:
    x = np.random.default_rng(1).random((30, 20))
    modes = np.linalg.qr(indicator_columns(x))[0]

    found = recovery(channel_alignment(modes, x), rows=600)

    assert found.count == 20
    assert found.random == 0
    assert found.rotated < 3
    np.testing.assert_allclose(found.contained, 1)


def test_half_a_feature_is_on_the_edge() -> None:
    cosines = np.array([[RECOVERED, RECOVERED - 0.01]])

    assert recovery(cosines, rows=50).count == 1


def test_an_absent_feature_is_recovered_by_nothing() -> None:
    x = np.array([[1.0, 0.0], [0.5, 0.0]])

    assert channel_alignment(np.eye(4), x)[:, 1].max() == 0


def test_modes_of_other_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="modes have 5 rows"):
        channel_alignment(np.eye(5), np.ones((2, 3)))


def test_features_that_are_always_there_resemble_a_constant() -> None:
    x = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])

    np.testing.assert_allclose(constant_alignment(x), [1.0, 0.5])
