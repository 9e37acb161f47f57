import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError, orthonormal_basis
from mlx_entk.features import METHODS, Method, disentangle

N, K = 3000, 8


def planted(active: float = 0.05) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Independent functions, each zero on most inputs, and a random rotation of their span."""
    generator = np.random.default_rng(0)
    sources = generator.standard_normal((N, K)) * (generator.random((N, K)) < active)
    sources /= np.linalg.norm(sources, axis=0)
    rotation = np.linalg.qr(generator.standard_normal((K, K)))[0]
    return sources, orthonormal_basis(sources) @ rotation


def found(sources: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """|cosine| of each source with its best direction."""
    best: NDArray[np.float64] = np.abs(vectors.T @ sources).max(axis=0)
    return best


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_sparse_sources_come_out_of_a_random_rotation(method: Method, seed: int) -> None:
    sources, modes = planted()
    assert found(sources, modes).max() < 0.9

    rotated = disentangle(modes, method, seed=seed)

    assert found(sources, rotated.vectors).min() > 0.98


@pytest.mark.parametrize("method", METHODS)
def test_sources_of_other_inputs_are_not_found(method: Method) -> None:
    sources, modes = planted()
    shuffled = np.random.default_rng(1).permutation(sources)

    assert found(shuffled, disentangle(modes, method).vectors).max() < 0.2


@pytest.mark.parametrize("method", ["varimax", "ica"])
def test_a_rotation_is_an_orthonormal_basis_of_the_same_span(method: Method) -> None:
    _, modes = planted()

    rotated = disentangle(modes, method)

    V = rotated.vectors
    np.testing.assert_allclose(V.T @ V, np.eye(K), atol=1e-10)
    np.testing.assert_allclose(V @ V.T, modes @ modes.T, atol=1e-10)
    assert rotated.converged


@pytest.mark.parametrize(
    ("method", "components"), [("varimax", None), ("ica", None), ("dictionary", 20)]
)
def test_directions_have_length_one_in_the_span_with_signs_and_an_order(
    method: Method, components: int | None
) -> None:
    _, modes = planted()

    first, again = (disentangle(modes, method, components=components, seed=3) for _ in range(2))

    V = first.vectors
    np.testing.assert_array_equal(V, again.vectors)
    assert K <= V.shape[1] <= (components or K)
    np.testing.assert_allclose(np.linalg.norm(V, axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(V, modes @ (modes.T @ V), atol=1e-10)
    np.testing.assert_allclose(V, modes @ first.coordinates, atol=1e-12)
    assert (V.max(axis=0) >= -V.min(axis=0)).all()
    np.testing.assert_allclose(first.kurtosis, N * (V**4).sum(axis=0))
    assert (np.diff(first.kurtosis) <= 0).all()


def test_varimax_is_at_a_maximum_of_its_criterion() -> None:
    """No rotation in the plane of two directions raises the variance of their squares."""
    _, modes = planted(active=0.5)
    V = disentangle(modes).vectors

    def criterion(columns: NDArray[np.float64]) -> float:
        return float((columns**2).var(axis=0).sum())

    for i in range(K):
        for j in range(i):
            for angle in np.linspace(0.01, np.pi / 2 - 0.01, 50):
                c, s = np.cos(angle), np.sin(angle)
                turned = V.copy()
                turned[:, [i, j]] = V[:, [i, j]] @ np.array([[c, -s], [s, c]])
                assert criterion(turned) <= criterion(V) * (1 + 1e-4)


def test_modes_that_are_as_far_from_sparse_as_can_be_do_not_stay_so() -> None:
    hadamard = np.array([[1, 1], [1, -1]])
    modes = np.kron(hadamard, hadamard) / 2

    assert disentangle(modes).kurtosis == pytest.approx([4, 4, 4, 4])


@pytest.mark.parametrize("method", METHODS)
def test_no_modes_and_one_come_back(method: Method) -> None:
    assert disentangle(np.zeros((N, 0)), method).vectors.shape == (N, 0)
    single = -np.full((N, 1), N**-0.5)
    np.testing.assert_allclose(disentangle(single, method).vectors, -single)


_MODES = np.eye(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: disentangle(_MODES, "pca"), "method 'pca' is unknown: use varimax, ica, dict"),  # type: ignore[arg-type]
        (lambda: disentangle(2 * _MODES), "modes are not orthonormal"),
        (lambda: disentangle(np.ones(4)), r"modes have shape \(4,\)"),
        (lambda: disentangle(np.full((4, 2), np.nan)), "4 of 4 inputs .* modes"),
        (lambda: disentangle(_MODES, "ica", components=3), "ica has none"),
        (lambda: disentangle(_MODES, "dictionary", components=0), "components is 0: it must"),
        (lambda: disentangle(_MODES, "dictionary", components=2.5), "components is 2.5: pass"),  # type: ignore[arg-type]
        (lambda: disentangle(_MODES, seed=-1), "seed is -1"),
    ],
)
def test_what_has_no_directions_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_only_varimax_does_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert disentangle(_MODES).vectors.shape == (4, 2)
    for method in ("ica", "dictionary"):
        with pytest.raises(InputError, match=rf"method {method} needs the extra sparse: pip"):
            disentangle(_MODES, method)
