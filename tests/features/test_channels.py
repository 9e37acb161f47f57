from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, jacobian_modes
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

    recovered = recovery(channel_alignment(modes, x), rows=600)

    assert recovered.count == 20
    assert recovered.random == 0
    assert recovered.rotated < 3
    np.testing.assert_allclose(recovered.contained, 1)


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


def test_a_kernel_of_zeros_recovers_no_features() -> None:
    x = np.random.default_rng(0).random((6, 3))
    spectrum, _ = jacobian_modes(np.zeros((18, 5)), 4)

    recovered = recovery(channel_alignment(spectrum.vectors, x), rows=18)

    assert recovered.best.tolist() == recovered.contained.tolist() == [0, 0, 0]
    assert (recovered.count, recovered.rotated, recovered.random) == (0, 0, 0)


def test_features_of_any_kind_are_aligned() -> None:
    whole = np.array([[1, 0], [1, 1]])
    for x in (whole, whole.astype(bool), mx.array(whole).astype(mx.bfloat16), whole.tolist()):
        np.testing.assert_allclose(
            channel_alignment(mx.eye(4), x), indicator_columns(whole), atol=1e-7
        )
        np.testing.assert_allclose(constant_alignment(x), [1, np.sqrt(0.5)])
    assert constant_alignment(np.zeros((3, 1))) == [0]


nan = np.array([[1, 2], [np.nan, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: channel_alignment(np.eye(4), nan), r"1 of 2 inputs \(1\) has NaN or infinite"),
        (lambda: channel_alignment(nan, np.ones((2, 1))), "NaN or infinite modes"),
        (lambda: channel_alignment(np.eye(4), np.ones(4)), r"features have shape \(4,\)"),
        (lambda: channel_alignment(np.ones(4), np.ones((2, 2))), r"modes have shape \(4,\)"),
        (lambda: constant_alignment(nan), "NaN or infinite features"),
        (lambda: constant_alignment(np.zeros((0, 2))), r"features have shape \(0, 2\)"),
        (lambda: recovery(nan, 9), r"1 of 2 modes \(1\) has NaN or infinite cosines"),
        (lambda: recovery(np.ones(3), 9), r"cosines have shape \(3,\)"),
        (lambda: recovery(np.ones((3, 2)), 2), "rows is 2: 3 modes need at least 3"),
        (lambda: recovery(np.zeros((0, 2)), 0), "rows is 0"),
    ],
)
def test_what_cannot_be_aligned_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
